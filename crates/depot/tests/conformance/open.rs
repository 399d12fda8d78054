//! URLs that name a depot, and those that do not.

use std::path::Path;

use suijuris_depot::local::Local;
use suijuris_depot::{Archive as _, Error, Inbox as _, Marks as _, Posted, open};

use crate::promises::done;
use crate::samples::{mark, message, object, run};

fn refused(url: &str, says: &str) {
    let secret = |name: &str| (name == "AWS_SECRET_ACCESS_KEY").then(|| "hunter2".to_owned());
    let error = run(open(url, &secret)).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Url { .. }), "{url}: {text}");
    assert!(text.contains(says), "{url}: {text}");
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn what_names_no_depot_is_told_what_to_write() {
    refused("", "write file:///directory");
    refused("depot", "write file:///directory");
    refused("./depot", "write file:///directory");
    refused("ftp://host/x", "`ftp` is no kind of depot");
    refused("file://host/x", "three slashes");
    refused("file:///x?region=a", "it takes none");
    refused("file:///x/../y", "`..`");
    refused("file:///x#y", "fragment");
    refused("file:///%zz", "hexadecimal");
    refused("s3://key:hunter2@bucket", "environment");
}

#[cfg(not(feature = "object"))]
#[test]
fn object_storage_that_is_not_built_in_says_so() {
    refused("s3://bucket/prefix", "feature `object`");
    refused("az://container", "feature `object`");
}

#[cfg(not(feature = "etcd"))]
#[test]
fn an_etcd_that_is_not_built_in_says_so() {
    refused("etcd://host:2379", "feature `etcd`");
}

#[cfg(feature = "object")]
#[test]
fn object_storage_needs_a_bucket_and_known_parameters() {
    refused("s3:///prefix", "names no bucket");
    refused("az://", "names no container");
    refused("s3://bucket?regoin=x", "it takes endpoint, region");
    refused("s3://bucket?region=a&region=b", "twice");
    refused("s3://bucket?endpoint=localhost:9000", "https://");
    refused(
        "s3://bucket?endpoint=http://a:hunter2@localhost",
        "no credentials",
    );
    refused("az://container?region=x", "it takes endpoint, account");
}

#[cfg(any(feature = "object", feature = "etcd"))]
#[test]
fn credentials_are_not_shown() {
    let secrets = |name: &str| (!name.contains("ENDPOINT")).then(|| "c2VjcmV0".to_owned());
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    for url in [
        #[cfg(feature = "object")]
        format!("s3://bucket/p?endpoint=http://{address}&region=x"),
        #[cfg(feature = "object")]
        format!("az://container/p?endpoint=http://{address}/a&account=a"),
        #[cfg(feature = "etcd")]
        format!("etcd://{address}/p?user=root"),
    ] {
        run(async {
            let depot = open(&url, &secrets).await.unwrap();
            let error = depot.mark(object()).await.unwrap_err();
            let mut text = format!("{depot:?} {} {error} {error:?}", depot.describe());
            let mut source = std::error::Error::source(&error);
            while let Some(cause) = source {
                text += &format!(" {cause} {cause:?}");
                source = cause.source();
            }
            assert!(!text.contains("c2VjcmV0"), "{text}");
            assert!(matches!(error, Error::Unreachable(..)), "{error}");
        });
    }
}

#[cfg(feature = "etcd")]
#[test]
fn etcd_needs_hosts_with_ports_and_a_password_for_its_user() {
    refused("etcd://", "host with a port");
    refused("etcd://host", "host with a port");
    refused("etcd://a:1,b", "host with a port");
    refused("etcd://a:1?user=root", "ETCD_PASSWORD");
    refused("etcd://a:1?tls=maybe", "`on` or `off`");
    refused("etcd://a:1?password=hunter2", "it takes user, tls");
}

#[test]
fn a_directory_of_something_else_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("letters.txt"), "dear").unwrap();
    let path = directory.path().to_str().unwrap();
    refused(path, "`letters.txt`");
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1);

    let later = tempfile::tempdir().unwrap();
    std::fs::write(later.path().join("format"), "suijuris depot 2\n").unwrap();
    refused(later.path().to_str().unwrap(), "newer suijuris");
    refused("/dev/null/depot", "");
}

#[test]
fn what_a_directory_holds_is_there_when_it_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}/a%20depot", directory.path().display());
    let object = object();
    run(async {
        let depot = open(&url, &|_| None).await.unwrap();
        done(depot.swap(&mark(object, 1), None).await.unwrap());
        depot.post(object, &message("a")).await.unwrap();
        depot.post(object, &message("b")).await.unwrap();
        depot.acknowledge(object, &[message("a").key()]).await.unwrap();
        depot.put_segment(object, 0..=9, b"bytes").await.unwrap();
        let before = depot.mark(object).await.unwrap();
        drop(depot);

        let path = directory.path().join("a depot");
        let depot = open(path.to_str().unwrap(), &|_| None).await.unwrap();
        assert_eq!(depot.mark(object).await.unwrap(), before);
        assert_eq!(
            depot.post(object, &message("a")).await.unwrap(),
            Posted::Duplicate
        );
        assert_eq!(depot.inbox(object, 9).await.unwrap().len(), 1);
        assert_eq!(depot.segments(object).await.unwrap(), [0..=9]);
    });
}

#[test]
fn files_are_for_their_owner_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path().join("depot");
    let object = object();
    run(async {
        let depot = Local::open(&root).unwrap();
        done(depot.swap(&mark(object, 1), None).await.unwrap());
        depot
            .announce(object, b"asleep", Some(suijuris_core::time::Timestamp(1)))
            .await
            .unwrap();
        depot.post(object, &message("a")).await.unwrap();
        let _held = depot.register(object, crate::samples::holder(1)).await.unwrap();
    });
    let mut seen = 0;
    let mut left = vec![root];
    while let Some(path) = left.pop() {
        let metadata = std::fs::metadata(&path).unwrap();
        let mode = metadata.permissions().mode() & 0o777;
        assert_eq!(
            mode,
            if metadata.is_dir() { 0o700 } else { 0o600 },
            "{}",
            path.display()
        );
        seen += 1;
        if metadata.is_dir() {
            let entry = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().path();
            left.extend(std::fs::read_dir(&path).unwrap().map(entry));
        }
    }
    assert!(seen > 12, "{seen}");
    assert!(!Path::new("depot").exists());
}
