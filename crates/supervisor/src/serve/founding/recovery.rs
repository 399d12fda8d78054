//! After a restart: instances that were founded are taken in, what was being founded is brought to its end.

use std::path::PathBuf;
use std::rc::Rc;

use suijuris_core::ObjectId;
use suijuris_core::class::Key;
use suijuris_core::class::founding::{Founding, Stage, recover};
use suijuris_custody::chain;
use suijuris_vehicle::Driver;

use super::{Failed, object_at};
use crate::serve::class_entry::ClassEntry;
use crate::serve::entry::OPEN_WITHIN;
use crate::serve::roster::Roster;

impl<D: Driver> Roster<D> {
    /// Waits until what was here at the start is taken in, for as long as a connection would wait.
    pub(in crate::serve) async fn recovered(&self) {
        let all = async {
            for class in self.classes() {
                let mut left = class.recovering.subscribe();
                // It is dropped with the class, which we have.
                let _ = left.wait_for(|left| *left == 0).await;
            }
        };
        let _late = tokio::time::timeout(OPEN_WITHIN, all).await;
    }

    /// An instance that has data here: kept, or its founding is gone on with.
    pub(in crate::serve) fn recover(self: Rc<Self>, class: Rc<ClassEntry>, key: String) {
        let path = self
            .catalog
            .root()
            .join("instances")
            .join(&class.note.name)
            .join(&key);
        self.recover_at(class, key, path, true);
    }

    /// Something that was staged.
    pub(in crate::serve) fn recover_staged(
        self: Rc<Self>,
        class: Rc<ClassEntry>,
        key: String,
        path: PathBuf,
    ) {
        self.recover_at(class, key, path, false);
    }

    fn recover_at(self: Rc<Self>, class: Rc<ClassEntry>, key: String, path: PathBuf, placed: bool) {
        class.recovering.send_modify(|left| *left += 1);
        tokio::task::spawn_local(async move {
            self.recover_now(&class, key, path, placed).await;
            class.recovering.send_modify(|left| *left -= 1);
        });
    }

    async fn recover_now(self: &Rc<Self>, class: &Rc<ClassEntry>, text: String, path: PathBuf, placed: bool) {
        let label = format!("{}/{text}", class.note.name);
        let Ok(key) = class.class.key.asked(text.as_bytes()) else {
            return self.say_broken(&label, "its directory has no key of its class: move it away");
        };
        let read = {
            let _turn = self.opening.acquire().await;
            object_at(&path).await
        };
        // Something else may be here for the same key.
        loop {
            let under_way = class.founding.borrow().get(&text).cloned();
            let Some(under_way) = under_way else { break };
            under_way.notified().await;
        }
        if placed && class.object(&text).is_some() {
            // Whoever asked for it was faster.
            return;
        }
        let object = match read {
            Ok(object) => object,
            // It was whole when it was put there, and may have served: nothing of it is removed.
            Err(why) if placed => {
                let why = format!(
                    "it is damaged: {why}; restore it, or move {} away",
                    path.display()
                );
                return self.say_broken(&label, &why);
            }
            Err(_cut_short) => {
                // Cut short before its inception: nobody knows of it, but for an entry that may have been written beside it.
                self.forget_founding(class, &key).await;
                if let Err(error) = self.catalog.discard(&path) {
                    self.say_broken(&label, &chain(&error));
                }
                return;
            }
        };
        let under_way = Rc::new(tokio::sync::Notify::new());
        class
            .founding
            .borrow_mut()
            .insert(text.clone(), under_way.clone());
        let recovered = self.go_on(class, &key, object, path).await;
        class.founding.borrow_mut().remove(&text);
        under_way.notify_waiters();
        if let Err(failed) = recovered {
            let _ = self.trouble(class, &failed);
        }
    }

    /// Removes an entry that says that somebody founds who is gone, and whose object never came to be.
    async fn forget_founding(&self, class: &ClassEntry, key: &Key) {
        let Some(depot) = &self.depot else { return };
        if let Ok(Some((name, version))) = depot.name(class.id, key).await
            && self.replaceable(depot, &name).await
        {
            // What stays is replaced by whoever asks next.
            let _ = depot.remove_name(class.id, key, &version).await;
        }
    }

    pub(super) async fn go_on(
        self: &Rc<Self>,
        class: &Rc<ClassEntry>,
        key: &Key,
        object: ObjectId,
        path: PathBuf,
    ) -> Result<(), Failed> {
        let Some(depot) = &self.depot else {
            let mut birth = self.birth(class, key, object, path).await;
            self.publish(&mut birth).await?;
            self.claimed(&mut birth).await?;
            self.founded(object, &mut birth);
            return Ok(());
        };
        let read = depot.name(class.id, key).await.map_err(Failed::Depot)?;
        if let Some((name, _)) = &read
            && name.object == object
            && name.state == Stage::Founded
        {
            self.kept(class, key, object);
            return Ok(());
        }
        let entry = match read.clone() {
            Some((name, _)) => {
                let may = self.replaceable(depot, &name).await;
                Some((name, may))
            }
            None => None,
        };
        let found = recover(object, entry);
        let mut birth = self.birth(class, key, object, path).await;
        birth.read = read;
        let founding = Founding::resume(object, self.holder, self.who.clone(), found);
        self.walk(founding, &mut birth).await.map(drop)
    }
}
