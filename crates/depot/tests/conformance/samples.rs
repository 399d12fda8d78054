//! Marks, messages and ids to test with, and a way to run futures.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};

use suijuris_core::ObjectId;
use suijuris_core::id::RecordId;
use suijuris_core::message::Message;
use suijuris_core::time::{Span, Timestamp};
use suijuris_core::witness::{Holder, HolderId, Mark};

/// Runs a test in tokio, as callers do.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("tokio starts");
    runtime.block_on(test)
}

/// An object that no other test of this run uses.
pub(crate) fn object() -> ObjectId {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    ObjectId::of(format!("object {count} of {}", std::process::id()).as_bytes())
}

pub(crate) fn holder(number: u8) -> HolderId {
    HolderId([number; 16])
}

/// A mark that counts: everything in it follows from `count`.
pub(crate) fn mark(object: ObjectId, count: u64) -> Mark {
    Mark {
        v: 1,
        object,
        epoch: count / 10,
        seq: count,
        head: RecordId::of(&count.to_be_bytes()),
        holder: Some(Holder {
            id: holder(1),
            who: "a test".to_owned(),
            lease: Span(10_000),
            at: Timestamp(1_700_000_000_000),
            beat: count,
        }),
    }
}

pub(crate) fn message(id: &str) -> Message {
    Message {
        v: 1,
        id: id.to_owned(),
        source: "/tests".to_owned(),
        topic: "org.example.test".to_owned(),
        subject: None,
        time: None,
        datacontenttype: Some("text/plain".to_owned()),
        dataschema: None,
        extensions: BTreeMap::new(),
        data: id.as_bytes().to_vec(),
        accepted: Timestamp(1_700_000_000_000),
    }
}
