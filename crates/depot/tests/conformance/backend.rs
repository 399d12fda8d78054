//! The backends that run the suite, each with its own way to make a depot.

#[cfg(any(feature = "object", feature = "etcd"))]
use std::net::SocketAddr;
use std::sync::Arc;

#[cfg(any(feature = "object", feature = "etcd"))]
use suijuris_depot::Answer;

use suijuris_depot::faults::Faulty;
use suijuris_depot::local::Local;
use suijuris_depot::memory::Memory;

use crate::names;
use crate::promises::{self, Shared};
use crate::samples::run;
#[cfg(any(feature = "object", feature = "etcd"))]
use suijuris_testkit::servers;

/// A depot and what must live as long as it does.
pub(crate) struct Made {
    pub(crate) depot: Shared,
    _keep: Box<dyn std::any::Any>,
}

impl Made {
    pub(crate) fn new(depot: Shared, keep: impl std::any::Any) -> Self {
        Self {
            depot,
            _keep: Box::new(keep),
        }
    }
}

fn memory() -> Made {
    Made::new(Arc::new(Memory::with_presence()), ())
}

fn local() -> Made {
    let directory = tempfile::tempdir().unwrap();
    let depot = Local::open(&directory.path().join("depot")).unwrap();
    Made::new(Arc::new(depot), directory)
}

fn faulty() -> Made {
    Made::new(Arc::new(Faulty::new(Arc::new(Memory::new()))), ())
}

/// A prefix that no other depot of this run has.
#[cfg(any(feature = "object", feature = "etcd"))]
pub(crate) fn prefix() -> String {
    crate::samples::object().to_string()
}

#[cfg(feature = "object")]
pub(crate) fn s3_at(address: SocketAddr, prefix: &str) -> Answer<'static, Shared> {
    let url = format!("s3://depot/{prefix}?endpoint=http://{address}&region=us-east-1");
    suijuris_depot::open(&url, &|name| {
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
            .contains(&name)
            .then(|| "testing".to_owned())
    })
}

#[cfg(feature = "object")]
fn s3() -> Made {
    Made::new(run(s3_at(servers::s3(), &prefix())).unwrap(), ())
}

#[cfg(feature = "object")]
pub(crate) fn azure_at(address: SocketAddr, prefix: &str) -> Answer<'static, Shared> {
    let (account, key) = servers::AZURE_ACCOUNT;
    let url = format!("az://depot/{prefix}?endpoint=http://{address}/{account}&account={account}");
    suijuris_depot::open(&url, &|name| {
        (name == "AZURE_STORAGE_ACCOUNT_KEY").then(|| key.to_owned())
    })
}

#[cfg(feature = "object")]
fn azure() -> Made {
    Made::new(run(azure_at(servers::azure(), &prefix())).unwrap(), ())
}

#[cfg(feature = "etcd")]
pub(crate) fn etcd_at(address: SocketAddr, prefix: &str) -> Answer<'static, Shared> {
    suijuris_depot::open(&format!("etcd://{address}/{prefix}"), &|_| None)
}

#[cfg(feature = "etcd")]
fn etcd() -> Made {
    Made::new(run(etcd_at(servers::etcd(), &prefix())).unwrap(), ())
}

macro_rules! suite {
    ($backend:ident: $($room:ident::$promise:ident)*) => {
        mod $backend {
            use super::*;
            $(
                #[test]
                fn $promise() {
                    let made = super::$backend();
                    run($room::$promise(Arc::clone(&made.depot)));
                }
            )*
        }
    };
    ($($backend:ident)*) => {
        $(suite! { $backend:
            promises::unknown_objects_have_nothing
            promises::a_mark_changes_only_from_the_version_that_is_expected
            promises::a_version_does_not_come_again_with_the_same_mark
            promises::an_expected_mark_that_is_not_there_is_a_conflict_with_nothing
            promises::of_many_writers_exactly_one_wins_each_round
            promises::counting_together_loses_no_step
            promises::a_mark_that_cannot_be_read_back_is_not_stored
            promises::whoever_attends_is_here_until_it_lets_go
            promises::a_fresh_name_is_here_and_the_former_is_not
            promises::a_copy_that_rests_is_here_until_it_lets_go
            promises::announcements_are_replaced_with_their_due_times
            promises::due_objects_come_earliest_first_and_no_more_than_asked_for
            promises::announced_objects_are_listed_page_by_page
            promises::segments_and_bundles_are_kept_as_they_were_first_put
            promises::a_segment_that_is_removed_is_gone_and_its_place_is_free
            promises::the_largest_segment_and_bundle_fit_and_larger_ones_do_not
            promises::messages_wait_in_order_and_once
            promises::a_message_posted_by_many_at_once_is_stored_once
            promises::a_message_that_is_not_allowed_is_not_stored
            promises::one_look_into_an_inbox_is_bounded_in_bytes
            promises::whoever_waits_for_the_inbox_hears_of_a_message
            promises::whoever_waits_already_is_woken_by_a_message
            names::an_entry_changes_only_from_the_version_that_is_expected
            names::an_entry_is_removed_only_in_the_version_that_is_expected
            names::of_many_founders_of_one_key_exactly_one_wins
            names::entries_are_listed_page_by_page_and_counted
            names::an_entry_that_cannot_be_read_back_is_not_stored
            names::a_founder_whose_answer_is_lost_finds_its_entry
        })*
    };
}

suite! { memory local faulty }

#[cfg(feature = "object")]
suite! { s3 azure }

#[cfg(feature = "etcd")]
suite! { etcd }
