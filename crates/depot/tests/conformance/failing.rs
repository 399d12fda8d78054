//! Depots that lose requests and answers, are slow, full, read-only or not there at all.

use std::sync::Arc;

use suijuris_core::ClassId;
use suijuris_core::time::Timestamp;
use suijuris_depot::faults::{Call, Fault, Faulty};
use suijuris_depot::local::Local;
use suijuris_depot::memory::Memory;
use suijuris_depot::{Archive as _, Directory as _, Error, Inbox as _, Marks as _, Posted, Swap};

use crate::child;
use crate::names;
use crate::promises::{Shared, done};
use crate::samples::{mark, message, object, run};

fn lost<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert!(
        matches!(error, Error::Unreachable(..)) && error.is_retryable(),
        "{error}"
    );
}

/// What a caller does after a lost answer: it looks, and goes on from what it finds.
pub(crate) async fn a_lost_answer_leaves_what_was_written(depot: Shared) {
    let faulty = Faulty::new(Arc::clone(&depot));
    let object = object();
    let first = done(faulty.swap(&mark(object, 1), None).await.unwrap());
    faulty.once(Some(Call::Swap), Fault::LostAnswer);
    lost(faulty.swap(&mark(object, 2), Some(&first)).await);
    let (found, second) = faulty.mark(object).await.unwrap().unwrap();
    assert_eq!(found, mark(object, 2));
    let again = faulty.swap(&mark(object, 2), Some(&first)).await.unwrap();
    assert_eq!(again, Swap::Conflict(Some((mark(object, 2), second.clone()))));
    done(faulty.swap(&mark(object, 3), Some(&second)).await.unwrap());

    faulty.once(Some(Call::Post), Fault::LostAnswer);
    lost(faulty.post(object, &message("a")).await);
    assert_eq!(
        faulty.post(object, &message("a")).await.unwrap(),
        Posted::Duplicate
    );
    assert_eq!(faulty.inbox(object, 9).await.unwrap().len(), 1);
    faulty.once(Some(Call::Acknowledge), Fault::LostAnswer);
    lost(faulty.acknowledge(object, &[message("a").key()]).await);
    faulty.acknowledge(object, &[message("a").key()]).await.unwrap();
    assert_eq!(faulty.inbox(object, 9).await.unwrap(), []);

    faulty.once(Some(Call::PutSegment), Fault::LostAnswer);
    lost(faulty.put_segment(object, 0..=3, b"bytes").await);
    faulty.put_segment(object, 0..=3, b"bytes").await.unwrap();
    faulty.once(Some(Call::Announce), Fault::LostAnswer);
    lost(
        faulty
            .announce(object, b"asleep", Some(Timestamp(-9_000_000_000_000)))
            .await,
    );
    faulty.announce(object, b"asleep", None).await.unwrap();
    let due = faulty.due(Timestamp(-9_000_000_000_000), 100).await.unwrap();
    assert!(!due.iter().any(|(_, found)| *found == object));
}

pub(crate) async fn a_lost_request_changes_nothing(depot: Shared) {
    let faulty = Faulty::new(depot);
    let object = object();
    faulty.always(Some(Fault::LostRequest));
    lost(faulty.swap(&mark(object, 1), None).await);
    lost(faulty.post(object, &message("a")).await);
    lost(faulty.announce(object, b"x", None).await);
    faulty.always(None);
    assert_eq!(faulty.mark(object).await.unwrap(), None);
    assert_eq!(faulty.inbox(object, 9).await.unwrap(), []);
    assert_eq!(faulty.announcement(object).await.unwrap(), None);
    let calls = faulty.calls();
    assert_eq!(calls[..3], [Call::Swap, Call::Post, Call::Announce]);
}

#[test]
fn faults_are_as_they_are_named() {
    run(async {
        let memory: Shared = Arc::new(Memory::new());
        a_lost_answer_leaves_what_was_written(Arc::clone(&memory)).await;
        a_lost_request_changes_nothing(Arc::clone(&memory)).await;
        let faulty = Faulty::new(memory);
        let object = object();
        for (fault, wanted) in [(Fault::Full, "full"), (Fault::ReadOnly, "takes no writes")] {
            faulty.always(Some(fault));
            let error = faulty.swap(&mark(object, 1), None).await.unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
            assert_eq!(faulty.mark(object).await.unwrap(), None);
        }
        faulty.always(Some(Fault::DelayBefore(std::time::Duration::from_millis(5))));
        let version = done(faulty.swap(&mark(object, 1), None).await.unwrap());
        faulty.always(Some(Fault::DelayAfter(std::time::Duration::from_millis(5))));
        done(faulty.swap(&mark(object, 2), Some(&version)).await.unwrap());
    });
}

#[test]
fn a_local_directory_survives_lost_answers() {
    let directory = tempfile::tempdir().unwrap();
    let depot: Shared = Arc::new(Local::open(directory.path()).unwrap());
    run(a_lost_answer_leaves_what_was_written(Arc::clone(&depot)));
    run(a_lost_request_changes_nothing(depot));
}

/// With files of at most a few KiB, as if the disk were full.
#[test]
fn a_full_directory_says_so_and_keeps_what_it_has() {
    let Some(path) = child::argument("full") else {
        let directory = tempfile::tempdir().unwrap();
        let name = "failing::a_full_directory_says_so_and_keeps_what_it_has";
        let child = child::command(name, "full", directory.path().to_str().unwrap());
        let limited = child::through_shell("trap '' XFSZ; ulimit -f 8; exec \"$@\"", &child);
        return child::passes(limited);
    };
    run(async {
        let depot = Local::open(path.as_ref()).unwrap();
        let object = object();
        let version = done(depot.swap(&mark(object, 1), None).await.unwrap());
        depot
            .announce(object, b"small", Some(Timestamp(5)))
            .await
            .unwrap();
        let large = vec![1; 100_000];
        let full = |error: Error| assert!(matches!(error, Error::Full(_)) && error.is_retryable(), "{error}");
        full(
            depot
                .announce(object, &large, Some(Timestamp(6)))
                .await
                .unwrap_err(),
        );
        full(depot.put_segment(object, 0..=9, &large).await.unwrap_err());
        let mut letter = message("large");
        letter.data.clone_from(&large);
        full(depot.post(object, &letter).await.unwrap_err());
        assert_eq!(
            depot.announcement(object).await.unwrap().as_deref(),
            Some(&b"small"[..])
        );
        assert_eq!(
            depot.due(Timestamp(9), 9).await.unwrap(),
            [(Timestamp(5), object)]
        );
        assert_eq!(depot.segments(object).await.unwrap(), []);
        assert_eq!(depot.inbox(object, 9).await.unwrap(), []);
        done(depot.swap(&mark(object, 2), Some(&version)).await.unwrap());
        let left = std::fs::read_dir(std::path::Path::new(&path).join("tmp"))
            .unwrap()
            .count();
        assert_eq!(left, 0, "drafts that did not fit are removed");
    });
}

/// A class that parent and child both know.
fn class(object: suijuris_core::ObjectId) -> ClassId {
    ClassId::of(object.to_string().as_bytes())
}

async fn names_can_only_be_read(depot: &Local, class: ClassId, refused: impl Fn(Error)) {
    let acme = names::key("acme");
    let (entry, version) = depot.name(class, &acme).await.unwrap().unwrap();
    let swapped = depot.swap_name(class, &acme, &entry, Some(&version)).await;
    refused(swapped.unwrap_err());
    refused(depot.remove_name(class, &acme, &version).await.unwrap_err());
    assert_eq!(depot.names(class, None, 9).await.unwrap().len(), 1);
    assert_eq!(depot.count_names(class).await.unwrap(), 1);
}

/// As a user who may read everything and write nothing.
#[test]
fn a_read_only_directory_says_so_and_can_be_read() {
    use std::os::unix::process::CommandExt as _;
    let Some(path) = child::argument("read-only") else {
        let directory = tempfile::tempdir().unwrap();
        let object = object();
        run(async {
            let depot = Local::open(&directory.path().join("depot")).unwrap();
            done(depot.swap(&mark(object, 1), None).await.unwrap());
            depot.announce(object, b"asleep", None).await.unwrap();
            names::done(
                depot
                    .swap_name(class(object), &names::key("acme"), &names::founding(), None)
                    .await
                    .unwrap(),
            );
        });
        // The test program, too, must be readable by that user.
        let program = directory.path().join("program");
        suijuris_testkit::program::copy(std::env::current_exe().unwrap(), &program);
        let mut open = std::process::Command::new("chmod");
        open.args(["-R", "a=rX"]).arg(directory.path());
        assert!(open.status().unwrap().success());
        let name = "failing::a_read_only_directory_says_so_and_can_be_read";
        let argument = format!("{} {object}", directory.path().join("depot").display());
        let mut command = child::command(name, "read-only", &argument);
        let mut moved = std::process::Command::new(&program);
        moved.args(command.get_args()).envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        std::mem::swap(&mut command, &mut moved);
        if std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0) {
            command.uid(65_534).current_dir("/");
        }
        child::passes(command);
        let mut close = std::process::Command::new("chmod");
        close.args(["-R", "u+w"]).arg(directory.path());
        assert!(close.status().unwrap().success());
        return;
    };
    let (path, id) = path.split_once(' ').unwrap();
    let object = id.parse().unwrap();
    run(async {
        let depot = Local::open(path.as_ref()).unwrap();
        let (found, version) = depot.mark(object).await.unwrap().unwrap();
        assert_eq!(found, mark(object, 1));
        assert_eq!(
            depot.announcement(object).await.unwrap().as_deref(),
            Some(&b"asleep"[..])
        );
        let refused = |error: Error| {
            assert!(
                matches!(error, Error::ReadOnly(..)) && !error.is_retryable(),
                "{error}"
            );
        };
        refused(depot.swap(&mark(object, 2), Some(&version)).await.unwrap_err());
        refused(depot.announce(object, b"x", None).await.unwrap_err());
        refused(depot.post(object, &message("a")).await.unwrap_err());
        refused(depot.put_segment(object, 0..=0, b"x").await.unwrap_err());
        names_can_only_be_read(&depot, class(object), refused).await;
        refused(
            depot
                .swap(&mark(crate::samples::object(), 1), None)
                .await
                .unwrap_err(),
        );
        depot
            .inbox_changed(object, std::time::Duration::from_millis(20))
            .await
            .unwrap();
    });
}

#[cfg(any(feature = "object", feature = "etcd"))]
mod servers {
    use std::net::SocketAddr;

    use suijuris_core::class::founding::Stage;
    use suijuris_depot::Answer;

    use super::*;
    use crate::backend::{self, prefix};
    use suijuris_testkit::proxy::Proxy;

    /// Until the write has arrived, by a look past the proxy.
    async fn arrives(direct: &Shared, object: suijuris_core::ObjectId, seq: u64) {
        while direct
            .mark(object)
            .await
            .unwrap()
            .is_none_or(|(mark, _)| mark.seq != seq)
        {}
    }

    async fn loses_answers_on_the_way(
        server: SocketAddr,
        at: fn(SocketAddr, &str) -> Answer<'static, Shared>,
    ) {
        let (proxy, prefix, object) = (Proxy::before(server), prefix(), object());
        let direct = at(server, &prefix).await.unwrap();
        let depot = at(proxy.address, &prefix).await.unwrap();
        let version = done(depot.swap(&mark(object, 1), None).await.unwrap());
        proxy.hold_answers();
        let (answer, ()) = tokio::join!(depot_swap(&depot, object, &version), async {
            arrives(&direct, object, 2).await;
            proxy.cut();
        });
        lost(answer);
        let (found, version) = depot.mark(object).await.unwrap().unwrap();
        assert_eq!(found, mark(object, 2));
        done(depot.swap(&mark(object, 3), Some(&version)).await.unwrap());

        proxy.hold_answers();
        let posted = async || depot.post(object, &message("a")).await;
        let (answer, ()) = tokio::join!(posted(), async {
            // Several requests make a post: the first of them is enough to be under way.
            direct.mark(object).await.unwrap();
            proxy.cut();
        });
        assert!(!matches!(answer, Ok(Posted::Duplicate)), "it was posted once");
        let again = depot.post(object, &message("a")).await.unwrap();
        assert!(answer.is_err() || again == Posted::Duplicate);
        assert_eq!(depot.inbox(object, 9).await.unwrap().len(), 1);

        let (class, acme, entry) = (names::class(), names::key("acme"), names::founding());
        proxy.hold_answers();
        let founds = async || depot.swap_name(class, &acme, &entry, None).await;
        let (answer, ()) = tokio::join!(founds(), async {
            while direct.name(class, &acme).await.unwrap().is_none() {}
            proxy.cut();
        });
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Unreachable(..)), "{error}");
        let (found, version) = depot.name(class, &acme).await.unwrap().unwrap();
        assert_eq!(found, entry);
        let founded = entry.at(Stage::Founded);
        names::done(
            depot
                .swap_name(class, &acme, &founded, Some(&version))
                .await
                .unwrap(),
        );
    }

    async fn depot_swap(
        depot: &Shared,
        object: suijuris_core::ObjectId,
        version: &suijuris_depot::Version,
    ) -> Result<Swap, Error> {
        depot.swap(&mark(object, 2), Some(version)).await
    }

    /// Every call gives up by itself; this ends because it does.
    async fn does_not_wait_for_ever(server: SocketAddr, at: fn(SocketAddr, &str) -> Answer<'static, Shared>) {
        let (proxy, prefix, object) = (Proxy::before(server), prefix(), object());
        let depot = at(proxy.address, &prefix).await.unwrap();
        let version = done(depot.swap(&mark(object, 1), None).await.unwrap());
        proxy.refuse();
        lost(depot.mark(object).await);
        lost(depot.swap(&mark(object, 2), Some(&version)).await);
        proxy.cut();
        assert_eq!(
            depot.mark(object).await.unwrap(),
            Some((mark(object, 1), version.clone()))
        );

        proxy.hold_answers();
        let next = mark(object, 2);
        let (one, two, three) = tokio::join!(
            depot.mark(object),
            depot.swap(&next, Some(&version)),
            depot.inbox(object, 9)
        );
        lost(one);
        lost(two);
        lost(three);
        proxy.cut();
        // The swap may have happened; whoever looks knows.
        let (found, _) = depot.mark(object).await.unwrap().unwrap();
        assert!([1, 2].contains(&found.seq));
    }

    macro_rules! failing {
        ($($backend:ident: $at:ident)*) => {
            $(mod $backend {
                use super::*;

                #[test]
                fn a_lost_answer_is_told_from_a_conflict() {
                    run(loses_answers_on_the_way(suijuris_testkit::servers::$backend(), backend::$at));
                }

                #[test]
                fn a_silent_or_absent_server_is_given_up() {
                    run(does_not_wait_for_ever(suijuris_testkit::servers::$backend(), backend::$at));
                }

                #[test]
                fn callers_survive_lost_answers() {
                    let depot = run(backend::$at(suijuris_testkit::servers::$backend(), &prefix())).unwrap();
                    run(a_lost_answer_leaves_what_was_written(Arc::clone(&depot)));
                    run(a_lost_request_changes_nothing(depot));
                }
            })*
        };
    }

    #[cfg(feature = "object")]
    failing! { s3: s3_at azure: azure_at }
    #[cfg(feature = "etcd")]
    failing! { etcd: etcd_at }

    #[cfg(feature = "etcd")]
    #[test]
    fn an_etcd_over_its_quota_is_full_and_can_be_read() {
        let server = suijuris_testkit::servers::start_etcd(&["--quota-backend-bytes", "25165824"]);
        run(async {
            let depot = backend::etcd_at(server.address, &prefix()).await.unwrap();
            let object = object();
            let version = done(depot.swap(&mark(object, 1), None).await.unwrap());
            let bytes = vec![7; suijuris_depot::MAX_SEGMENT];
            let mut answer = Ok(());
            for n in 0..4 {
                answer = answer.and(depot.put_segment(object, n..=n, &bytes).await);
            }
            let error = answer.unwrap_err();
            assert!(matches!(error, Error::Full(_)), "{error}");
            let error = depot.swap(&mark(object, 2), Some(&version)).await.unwrap_err();
            assert!(matches!(error, Error::Full(_)), "{error}");
            assert_eq!(
                depot.mark(object).await.unwrap(),
                Some((mark(object, 1), version))
            );
        });
    }
}

#[cfg(feature = "object")]
mod odd_servers {
    use std::io::{Read as _, Write as _};
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::backend::s3_at;

    /// A server that gives every request the same answer.
    fn answering(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = Vec::new();
                let mut bytes = [0; 4096];
                while !request.windows(4).any(|part| part == b"\r\n\r\n") {
                    match stream.read(&mut bytes) {
                        Ok(count @ 1..) => request.extend_from_slice(&bytes[..count]),
                        _ => break,
                    }
                }
                let _ = stream.write_all(answer.as_bytes());
                let _ = stream.shutdown(std::net::Shutdown::Write);
                // What is left of the request is read, so that the answer is not cut off.
                while matches!(stream.read(&mut bytes), Ok(1..)) {}
            }
        });
        address
    }

    const LENGTH: &str = "Content-Length: 0\r\nConnection: close\r\n\r\n";

    fn status(line: &str) -> &'static str {
        format!("HTTP/1.1 {line}\r\n{LENGTH}").leak()
    }

    #[test]
    fn a_server_that_ignores_conditions_is_refused_when_it_is_opened() {
        let answer = format!("HTTP/1.1 200 OK\r\nETag: \"same\"\r\n{LENGTH}").leak();
        let error = run(s3_at(answering(answer), "p")).unwrap_err();
        let text = error.to_string();
        assert!(
            matches!(error, Error::Url { .. }) && text.contains("ignores the conditions"),
            "{text}"
        );
    }

    #[test]
    fn what_servers_refuse_is_told_apart() {
        run(async {
            let object = object();
            let forbidden = s3_at(answering(status("403 Forbidden")), "p").await.unwrap();
            let error = forbidden.swap(&mark(object, 1), None).await.unwrap_err();
            assert!(matches!(error, Error::ReadOnly(..)), "{error}");
            let error = s3_at(answering(status("507 Insufficient Storage")), "p")
                .await
                .unwrap_err();
            assert!(matches!(error, Error::Full(_)), "{error}");
            for line in [
                "500 Internal Server Error",
                "503 Slow Down",
                "200 OK",
                "400 Bad Request",
            ] {
                let Ok(broken) = s3_at(answering(status(line)), "p").await else {
                    continue;
                };
                let error = broken.swap(&mark(object, 1), None).await.unwrap_err();
                assert!(
                    matches!(error, Error::Unreachable(..) | Error::Url { .. }),
                    "{line}: {error}"
                );
                lost(broken.inbox(object, 1).await);
            }
            let nonsense = s3_at(answering("nonsense\r\n\r\n"), "p").await.unwrap();
            lost(nonsense.mark(object).await);
        });
    }
}
