//! One request for the access log, from its head to the end of its answer. Nothing is kept of it where nobody asked for that.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use suijuris_api::access::{Access, Detail, MAX_TARGET};

use crate::gate::Shared;
use crate::refusal::Refusal;
use crate::{Authorizer, RequestHead, Version};

/// A request that has not ended; told when its last holder drops it.
pub(crate) struct Underway {
    access: RefCell<Option<Access>>,
    bytes: Cell<u64>,
    began: Instant,
    tell: Box<dyn Fn(Access)>,
}

impl std::fmt::Debug for Underway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Underway").finish_non_exhaustive()
    }
}

/// The beginning of `head`, where requests are told.
pub(crate) fn begin<A: Authorizer>(gate: &Rc<Shared<A>>, head: &RequestHead<'_>) -> Option<Rc<Underway>> {
    let detail = gate.authorizer.logs()?;
    let gate = Rc::clone(gate);
    Some(Rc::new(Underway {
        access: RefCell::new(Some(of(head, detail))),
        bytes: Cell::new(0),
        began: Instant::now(),
        tell: Box::new(move |access| gate.authorizer.logged(access)),
    }))
}

/// What is told of a request that has no answer yet.
#[must_use]
pub fn of(head: &RequestHead<'_>, detail: Detail) -> Access {
    let query = head.query.filter(|_| detail == Detail::Query);
    Access {
        at: String::new(),
        peer: head.peer.ip().to_canonical(),
        version: match head.version {
            Version::Http10 => "1.0",
            Version::Http11 => "1.1",
            Version::Http2 => "2",
        }
        .to_owned(),
        method: head.method.to_owned(),
        host: head.host.to_string(),
        path: cut(&head.path),
        query: query.map(cut),
        status: None,
        code: None,
        bytes: 0,
        took_ms: 0,
        lost: 0,
    }
}

fn cut(text: &str) -> String {
    text.get(..text.floor_char_boundary(MAX_TARGET))
        .unwrap_or_default()
        .to_owned()
}

impl Underway {
    /// The answer began; `code` where it is no answer of a workload.
    pub(crate) fn answered(&self, status: u16, code: Option<&str>) {
        if let Some(access) = &mut *self.access.borrow_mut() {
            access.status = Some(status);
            access.code = code.map(str::to_owned);
        }
    }

    pub(crate) fn refused(&self, refusal: &Refusal) {
        self.answered(refusal.problem.status, Some(&refusal.problem.code));
    }

    /// So many bytes more of its body left.
    pub(crate) fn sent(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        if let Some(mut access) = self.access.take() {
            access.bytes = self.bytes.get();
            access.took_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
            (self.tell)(access);
        }
    }
}

/// Bytes behind the head of a rendered answer.
pub(crate) fn body_of(answer: &[u8]) -> usize {
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
    head.map_or(0, |end| answer.len() - end - 4)
}
