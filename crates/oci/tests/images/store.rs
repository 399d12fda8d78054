//! The store: what is pulled, shared, held and collected, by several processes, some of which end in the middle.

use std::fs;
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::{
    Collected, Event, Hold, ImageStore, Observer, StoreError, StoreOptions, Unobserved,
};

use super::make::{Made, MadeLayer};
use super::tarball::Tarball;
use super::text;

/// A store in a directory that ends with the test.
pub(crate) struct Shop {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: ImageStore,
}

impl Shop {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm")
            .or_else(|_| tempfile::tempdir())
            .unwrap();
        let store = ImageStore::open(&dir.path().join("store"), StoreOptions::default()).unwrap();
        Self { dir, store }
    }

    pub(crate) fn layout(&self, made: &Made) -> Source {
        let dir = self.dir.path().join(made.digest().hex());
        made.write_layout(&dir, "v1");
        Source::layout(&dir, None).unwrap()
    }

    pub(crate) async fn pull(&self, made: &Made, name: &str) -> Result<Hold, StoreError> {
        self.store
            .pull(&self.layout(made), name, &Platform::host(), Arc::new(Unobserved))
            .await
    }

    /// How many entries a directory of the store has.
    pub(crate) fn count(&self, name: &str) -> usize {
        fs::read_dir(self.store.dir().join(name)).unwrap().count()
    }

    fn trees(&self) -> Vec<PathBuf> {
        let layers = fs::read_dir(self.store.dir().join("layers")).unwrap();
        layers.map(|layer| layer.unwrap().path().join("tree")).collect()
    }
}

fn layer(path: &str) -> MadeLayer {
    MadeLayer::gzip(Tarball::default().file(path, path.as_bytes()))
}

/// Remembers what happened, and ends the pull where the test says so.
#[derive(Default)]
pub(crate) struct Witness {
    seen: Mutex<Vec<String>>,
    ends_at: Option<&'static str>,
}

impl Witness {
    pub(crate) fn until(word: &'static str) -> Arc<Self> {
        Arc::new(Self {
            ends_at: Some(word),
            ..Self::default()
        })
    }

    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Observer for Witness {
    fn observe(&self, event: Event<'_>) -> ControlFlow<()> {
        let word = match event {
            Event::Resolved(image) => format!("resolved {}", image.layers().len()),
            Event::Present { layer } => format!("present {layer}"),
            Event::Fetching { layer, done, total } => format!("fetching {layer} {done}/{total}"),
            Event::Unpacking { layer, step } => format!("unpacking {layer} {}", step.entries),
            Event::Stored { layer } => format!("stored {layer}"),
            _ => String::new(),
        };
        let ends = self.ends_at.is_some_and(|end| word.starts_with(end));
        self.seen.lock().unwrap().push(word);
        if ends {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

#[tokio::test]
async fn layers_are_unpacked_once_and_shared() {
    let shop = Shop::new();
    let (base, one, two) = (layer("base"), layer("one"), layer("two"));
    let first = Made::new(vec![base.clone(), one.clone(), one.clone()]);
    let second = Made::new(vec![base, two]);
    let witness = Arc::new(Witness::default());
    let hold = shop
        .store
        .pull(
            &shop.layout(&first),
            "first",
            &Platform::host(),
            Arc::clone(&witness) as _,
        )
        .await
        .unwrap();
    assert_eq!(hold.image().digest(), first.digest());
    assert_eq!(
        hold.root().unwrap().layers().len(),
        3,
        "in the order of the image, though one stands twice"
    );
    assert_eq!(
        hold.root().unwrap().overlay().unwrap().len(),
        2,
        "overlayfs takes no directory twice"
    );
    let seen = witness.seen();
    assert_eq!(seen[0], "resolved 3");
    assert_eq!(
        seen.iter().filter(|word| word.starts_with("stored")).count(),
        2,
        "{seen:?}"
    );
    let witness = Arc::new(Witness::default());
    shop.store
        .pull(
            &shop.layout(&second),
            "second",
            &Platform::host(),
            Arc::clone(&witness) as _,
        )
        .await
        .unwrap();
    assert!(
        witness.seen().contains(&"present 0".to_owned()),
        "{:?}",
        witness.seen()
    );
    assert_eq!(shop.count("layers"), 3);
    let names: Vec<String> = shop
        .store
        .list()
        .unwrap()
        .into_iter()
        .map(|listed| listed.name)
        .collect();
    assert_eq!(names, ["first", "second"]);
    let copied = hold
        .root()
        .unwrap()
        .copy_to(&shop.dir.path().join("root"))
        .unwrap();
    assert_eq!(copied.reflinked + copied.copied, 2);
    assert_eq!(fs::read(shop.dir.path().join("root/one")).unwrap(), b"one");
    let again = hold.root().unwrap().copy_to(&shop.dir.path().join("root"));
    assert!(matches!(again, Err(StoreError::NotEmpty(_))));
}

#[tokio::test]
async fn what_nobody_needs_is_collected_and_nothing_else() {
    let shop = Shop::new();
    let (base, one, two) = (layer("base"), layer("one"), layer("two"));
    let first = Made::new(vec![base.clone(), one]);
    let second = Made::new(vec![base, two]);
    let held = shop.pull(&first, "first").await.unwrap();
    drop(shop.pull(&second, "second").await.unwrap());
    assert_eq!(shop.store.gc().unwrap(), Collected::default());
    assert!(shop.store.remove("first").unwrap());
    assert!(!shop.store.remove("first").unwrap());
    assert!(matches!(
        shop.store.image("first"),
        Err(StoreError::NoSuchImage(_))
    ));
    assert_eq!(shop.store.gc().unwrap(), Collected::default(), "it is held");
    let tree = held.root().unwrap().layers()[1].tree.clone();
    assert!(tree.join("one").exists());
    drop(held);
    assert_eq!(
        shop.store.gc().unwrap(),
        Collected {
            layers: 1,
            blobs: 2,
            ..Collected::default()
        }
    );
    assert!(!tree.exists());
    assert_eq!(
        (shop.count("trash"), shop.count("holds"), shop.count("stage")),
        (0, 0, 0)
    );
    let hold = shop.store.image("second").unwrap();
    assert_eq!(hold.root().unwrap().layers().len(), 2);
    // A name that moves lets go of what it had.
    shop.pull(&first, "second").await.unwrap();
    drop(hold);
    assert_eq!(shop.store.gc().unwrap().layers, 1);
    assert!(
        shop.store.image("second").unwrap().root().unwrap().layers()[1]
            .tree
            .join("one")
            .exists()
    );
}

#[tokio::test]
async fn an_image_whose_layers_are_gone_is_not_held() {
    let shop = Shop::new();
    let made = Made::new(vec![layer("a")]);
    let image = shop.pull(&made, "a").await.unwrap().image().clone();
    shop.store.remove("a").unwrap();
    shop.store.gc().unwrap();
    let gone = shop.store.hold(image);
    assert!(matches!(gone, Err(StoreError::NoLayer(_))));
    drop(gone);
    assert_eq!(
        shop.store.gc().unwrap().blobs,
        2,
        "the attempt left nothing that stays"
    );
}

#[tokio::test]
async fn a_child_holds_on_after_its_parent() {
    let shop = Shop::new();
    let hold = shop.pull(&Made::new(vec![layer("a")]), "a").await.unwrap();
    shop.store.remove("a").unwrap();
    // A child that inherits the descriptor, as a machine does: standard input is the simplest way there.
    let inherited = hold.as_fd().try_clone_to_owned().unwrap();
    let mut child = Command::new("cat")
        .stdin(std::process::Stdio::piped())
        .stdout(inherited)
        .spawn()
        .unwrap();
    drop(hold);
    assert_eq!(shop.store.gc().unwrap().layers, 0);
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(shop.store.gc().unwrap().layers, 1);
    assert_eq!(shop.count("holds"), 0);
}

#[tokio::test]
async fn a_pull_that_is_ended_leaves_no_name_and_no_layer() {
    let shop = Shop::new();
    let made = Made::new(vec![layer("a"), layer("b")]);
    for word in ["resolved", "fetching", "unpacking", "stored"] {
        let witness = Witness::until(word);
        let ended = shop
            .store
            .pull(&shop.layout(&made), "a", &Platform::host(), witness)
            .await;
        assert!(matches!(ended, Err(StoreError::Cancelled)), "{word}");
        assert!(shop.store.list().unwrap().is_empty());
        // Threads that were in the middle end soon; a collection waits for none of them.
        while shop.count("stage") > 0 {
            tokio::task::yield_now().await;
        }
        shop.store.gc().unwrap();
        assert_eq!(
            (shop.count("layers"), shop.count("blobs"), shop.count("holds")),
            (0, 0, 0)
        );
    }
    shop.pull(&made, "a").await.unwrap();
}

#[tokio::test]
async fn a_bad_layer_spoils_nothing() {
    let shop = Shop::new();
    let evil = Made::new(vec![
        layer("good"),
        MadeLayer::gzip(Tarball::default().file("../evil", b"x")),
    ]);
    let error = shop.pull(&evil, "evil").await.unwrap_err();
    assert!(text(&error).contains("contains `..`"), "{}", text(&error));
    assert!(shop.store.list().unwrap().is_empty());
    assert!(!shop.store.dir().join("evil").exists() && !shop.store.dir().join("stage/evil").exists());
    let mut other = Made::usual();
    other.layers[1].blob[20] ^= 1;
    let dir = shop.dir.path().join("tampered");
    Made::usual().write_layout(&dir, "v1");
    let name = suijuris_oci::ContentDigest::of(&Made::usual().layers[1].blob).hex();
    fs::write(dir.join("blobs/sha256").join(name), &other.layers[1].blob).unwrap();
    let source = Source::layout(&dir, None).unwrap();
    let error = shop
        .store
        .pull(&source, "x", &Platform::host(), Arc::new(Unobserved))
        .await
        .unwrap_err();
    assert!(text(&error).contains("cannot be unpacked"), "{}", text(&error));
}

#[test]
fn another_directory_is_not_made_a_store() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine"), "x").unwrap();
    let error = ImageStore::open(dir.path(), StoreOptions::default()).unwrap_err();
    assert!(
        error.to_string().contains("neither empty nor an image store"),
        "{error}"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let fresh = dir.path().join("a/b");
    let store = ImageStore::open(&fresh, StoreOptions::default()).unwrap();
    fs::write(store.dir().join("version"), "suijuris image store 9\n").unwrap();
    assert!(matches!(
        ImageStore::open(&fresh, StoreOptions::default()),
        Err(StoreError::NotAStore(_))
    ));
    for name in ["", "a\nb", &"x".repeat(513)] {
        assert!(matches!(store.image(name), Err(StoreError::Name(_))), "{name:?}");
    }
}

#[tokio::test]
async fn damage_is_found_and_nothing_is_collected_by_mistake() {
    let shop = Shop::new();
    let made = Made::new(vec![layer("a")]);
    drop(shop.pull(&made, "a").await.unwrap());
    let config = shop
        .store
        .dir()
        .join("blobs")
        .join(suijuris_oci::ContentDigest::of(&made.config).hex());
    fs::write(&config, "{}").unwrap();
    let error = shop.store.image("a").unwrap_err();
    assert!(
        text(&error).contains("remove it and pull it again"),
        "{}",
        text(&error)
    );
    assert!(shop.store.gc().is_err());
    assert_eq!(shop.count("layers"), 1);
    // Pulling again mends it.
    drop(shop.pull(&made, "a").await.unwrap());
    assert_eq!(shop.store.gc().unwrap(), Collected::default());
    shop.store.image("a").unwrap();
}

/// Where a child of the next test finds its orders; without them it is no test.
const ORDERS: &str = "SUIJURIS_TEST_STORE";

/// Ends its whole process, as a crash does.
struct Crash(&'static str);

impl Observer for Crash {
    fn observe(&self, event: Event<'_>) -> ControlFlow<()> {
        let word = match event {
            Event::Unpacking { step, .. } if step.entries >= 2 => "unpacking",
            Event::Stored { .. } => "stored",
            Event::Resolved(_) => "resolved",
            _ => "",
        };
        if word == self.0 {
            std::process::abort();
        }
        ControlFlow::Continue(())
    }
}

fn pull_in_child(store: &Path, layout: &Path, crash: &str) -> std::process::ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::child_that_pulls", "--nocapture"])
        .env(
            ORDERS,
            format!("{}|{}|{crash}", store.display(), layout.display()),
        )
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}

/// The child of the tests below; by itself it has nothing to do.
#[tokio::test]
async fn child_that_pulls() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let [store, layout, crash] = orders.split('|').collect::<Vec<_>>()[..] else {
        panic!()
    };
    let store = ImageStore::open(Path::new(store), StoreOptions::default()).unwrap();
    let source = Source::layout(Path::new(layout), None).unwrap();
    let crash = ["unpacking", "stored", "resolved"]
        .into_iter()
        .find(|word| *word == crash);
    let observer: Arc<dyn Observer> = match crash {
        Some(word) => Arc::new(Crash(word)),
        None => Arc::new(Unobserved),
    };
    store
        .pull(&source, "child", &Platform::host(), observer)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_crash_in_the_middle_leaves_nothing_half() {
    let shop = Shop::new();
    let made = Made::usual();
    let layout = shop.dir.path().join("layout");
    made.write_layout(&layout, "v1");
    for crash in ["resolved", "unpacking", "stored"] {
        assert!(!pull_in_child(shop.store.dir(), &layout, crash).success());
        assert!(shop.store.list().unwrap().is_empty());
        for tree in shop.trees() {
            // A layer that is there is whole.
            assert!(tree.parent().unwrap().join("layer.json").exists());
            assert!(tree.join("bin/app").exists() || tree.join("srv/data").exists());
        }
        let stages = shop.count("stage");
        assert!(crash != "unpacking" || stages > 0, "it was in the middle");
        shop.store.gc().unwrap();
        assert_eq!(
            (
                shop.count("stage"),
                shop.count("holds"),
                shop.count("layers"),
                shop.count("blobs")
            ),
            (0, 0, 0, 0)
        );
    }
    assert!(pull_in_child(shop.store.dir(), &layout, "none").success());
    let hold = shop.store.image("child").unwrap();
    assert_eq!(hold.root().unwrap().layers().len(), 2);
}

#[tokio::test]
async fn processes_pull_and_collect_at_once() {
    let shop = Shop::new();
    let made = Made::usual();
    let layout = shop.dir.path().join("layout");
    made.write_layout(&layout, "v1");
    let (store, layout) = (shop.store.dir().to_owned(), layout);
    let children: Vec<_> = (0..3)
        .map(|_| {
            let (store, layout) = (store.clone(), layout.clone());
            std::thread::spawn(move || pull_in_child(&store, &layout, "none").success())
        })
        .collect();
    let (again, made) = (
        ImageStore::open(&store, StoreOptions::default()).unwrap(),
        shop.layout(&made),
    );
    while !children.iter().all(std::thread::JoinHandle::is_finished) {
        // Collections of two at once, while this process pulls and lets go as well.
        let other = again.clone();
        let collecting = std::thread::spawn(move || other.gc().unwrap());
        let pulled = again
            .pull(&made, "mine", &Platform::host(), Arc::new(Unobserved))
            .await
            .unwrap();
        shop.store.gc().unwrap();
        drop(pulled);
        again.remove("mine").unwrap();
        collecting.join().unwrap();
        // The name goes, and comes again with the next child that is done.
        shop.store.remove("child").unwrap();
    }
    for child in children {
        assert!(child.join().unwrap());
    }
    assert!(pull_in_child(&store, &layout, "none").success());
    shop.store.gc().unwrap();
    let hold = shop.store.image("child").unwrap();
    let copied = hold
        .root()
        .unwrap()
        .copy_to(&shop.dir.path().join("root"))
        .unwrap();
    assert_eq!(copied.bytes, 10 + 3 + 100_000);
    assert_eq!(fs::read(shop.dir.path().join("root/etc/motd")).unwrap(), b"top");
    assert!(!shop.dir.path().join("root/etc/gone").exists());
}

/// Counts the layers that are under way, and the members that were unpacked.
#[derive(Default)]
struct Counting {
    under_way: Mutex<std::collections::BTreeSet<usize>>,
    most: std::sync::atomic::AtomicUsize,
    members: std::sync::atomic::AtomicU64,
}

impl Observer for Counting {
    fn observe(&self, event: Event<'_>) -> ControlFlow<()> {
        use std::sync::atomic::Ordering::SeqCst;
        let mut under_way = self.under_way.lock().unwrap();
        match event {
            Event::Fetching { layer, .. } => drop(under_way.insert(layer)),
            Event::Unpacking { step, .. } => self.members.store(step.entries, SeqCst),
            Event::Stored { layer } => drop(under_way.remove(&layer)),
            _ => {}
        }
        self.most.fetch_max(under_way.len(), SeqCst);
        ControlFlow::Continue(())
    }
}

#[tokio::test]
async fn no_more_layers_are_under_way_than_allowed() {
    let shop = Shop::new();
    let names: Vec<String> = (0..8).map(|number| format!("layer{number}")).collect();
    let made = Made::new(names.iter().map(|name| layer(name)).collect());
    let source = shop.layout(&made);
    for parallel in [1, 3] {
        let dir = shop.dir.path().join(format!("store{parallel}"));
        let options = StoreOptions {
            parallel,
            ..StoreOptions::default()
        };
        let store = ImageStore::open(&dir, options).unwrap();
        let counting = Arc::new(Counting::default());
        store
            .pull(&source, "a", &Platform::host(), Arc::clone(&counting) as _)
            .await
            .unwrap();
        let most = counting.most.load(std::sync::atomic::Ordering::SeqCst);
        assert!((1..=parallel).contains(&most), "{most} of {parallel}");
    }
}

#[tokio::test]
async fn a_pull_that_is_dropped_stops_its_threads() {
    let shop = Shop::new();
    let many = (0..100_000).fold(Tarball::default(), |many, number| {
        many.file(&format!("dir/{number}"), b"")
    });
    let made = Made::new(vec![MadeLayer::plain(many)]);
    let (store, source) = (shop.store.clone(), shop.layout(&made));
    let counting = Arc::new(Counting::default());
    let observer = Arc::clone(&counting);
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        store
            .pull(&source, "a", &Platform::host(), observer)
            .await
            .map(drop)
    });
    let members = || counting.members.load(std::sync::atomic::Ordering::SeqCst);
    while members() == 0 {
        tokio::task::yield_now().await;
    }
    tasks.shutdown().await;
    while shop.count("stage") > 0 {
        tokio::task::yield_now().await;
    }
    assert!(members() < 100_000, "it went on to the end");
    shop.store.gc().unwrap();
    assert_eq!(
        (shop.count("layers"), shop.count("holds"), shop.count("blobs")),
        (0, 0, 0)
    );
}
