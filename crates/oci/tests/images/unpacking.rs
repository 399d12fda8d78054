//! Honest layers: what becomes of them, as root and not.

use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use suijuris_oci::unpack::{self, EntryPath, Expected, Kind, Limits, UnpackError, Unpacked};
use tar::EntryType;

use super::tarball::{Fields, Tarball, expected, gzip, zstd};
use super::text;

fn unpack(blob: &[u8], wanted: &Expected, into: &Path) -> Result<Unpacked, UnpackError> {
    unpack::layer(blob, wanted, into, false, Limits::default(), &mut |_| {
        ControlFlow::Continue(())
    })
}

fn path(text: &str) -> EntryPath {
    EntryPath::parse(text.as_bytes()).unwrap()
}

#[test]
fn the_same_archive_comes_out_of_every_compression() {
    let plain = Tarball::default()
        .dir("./")
        .dir("etc/")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .file("etc/large", &vec![7; 300_000])
        .symlink("etc/mtab", "/proc/mounts")
        .link("etc/names", "etc/hosts")
        .file("opt/implied/file", b"x")
        .end();
    let members = [gzip(&plain[..700]), gzip(&plain[700..])].concat();
    let mut frames = zstd(&plain[..1024]);
    // A frame to be skipped, as packers put indexes into.
    frames.extend_from_slice(&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    frames.extend(zstd(&plain[1024..]));
    let mut reports = Vec::new();
    for blob in [plain.clone(), gzip(&plain), members, zstd(&plain), frames] {
        let dir = tempfile::tempdir().unwrap();
        let unpacked = unpack(&blob, &expected(&blob, &plain), dir.path()).unwrap();
        let at = |name: &str| dir.path().join(name);
        assert_eq!(fs::read(at("etc/hosts")).unwrap(), b"127.0.0.1 localhost\n");
        assert_eq!(fs::read(at("etc/large")).unwrap(), vec![7; 300_000]);
        assert_eq!(fs::read_link(at("etc/mtab")).unwrap(), Path::new("/proc/mounts"));
        let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
        assert_eq!(inode("etc/names"), inode("etc/hosts"));
        assert_eq!(fs::metadata(at("etc/hosts")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(fs::metadata(at("etc")).unwrap().mtime(), 1_700_000_000);
        assert_eq!(unpacked.entries[&path("etc/names")].link, Some(path("etc/hosts")));
        let implied = Kind::Directory {
            opaque: false,
            implied: true,
        };
        assert_eq!(unpacked.entries[&path("opt/implied")].kind, implied);
        reports.push(unpacked.report);
    }
    let [first, rest @ ..] = reports.as_slice() else {
        panic!()
    };
    assert_eq!(
        (first.files, first.directories, first.symlinks, first.links),
        (3, 4, 1, 1)
    );
    assert_eq!(first.bytes, 20 + 300_000 + 1);
    assert!(first.overlay && rest.iter().all(|report| report == first));
}

#[test]
fn another_blob_or_another_archive_than_named_is_refused() {
    let plain = Tarball::default().file("a", b"x").end();
    let (blob, other) = (gzip(&plain), Tarball::default().file("a", b"y").end());
    let fails = |blob: &[u8], wanted: Expected, expect: &str| {
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(blob, &wanted, dir.path()).unwrap_err();
        assert!(text(&error).contains(expect), "{}", text(&error));
    };
    fails(&blob, expected(&blob, &other), "its image says");
    fails(
        &gzip(&other),
        expected(&blob, &plain),
        "not the one that is named",
    );
    let longer = Expected {
        size: blob.len() as u64 + 1,
        ..expected(&blob, &plain)
    };
    fails(&blob, longer, "not the one that is named");
    let shorter = Expected {
        size: blob.len() as u64 - 1,
        ..expected(&blob, &plain)
    };
    fails(&blob, shorter, "longer than it says");
    let cut = &blob[..blob.len() - 5];
    fails(cut, expected(cut, &plain), "cannot be read");
    fails(
        b"no archive at all",
        expected(b"no archive at all", &plain),
        "cannot be read",
    );
    fails(
        b"\x28\xb5\x2f\xfdnonsense",
        expected(b"\x28\xb5\x2f\xfdnonsense", &plain),
        "cannot be read",
    );
    // What follows the end of the archive is part of the layer.
    let padded = [&*plain, &[0; 10_240]].concat();
    fails(&padded, expected(&padded, &plain), "its image says");
    unpack(
        &padded,
        &expected(&padded, &padded),
        tempfile::tempdir().unwrap().path(),
    )
    .unwrap();
}

#[test]
fn rights_owners_and_devices_are_kept_as_data_where_we_are_not_root() {
    let theirs = Fields {
        mode: 0o4711,
        uid: 70_000,
        gid: 70_001,
        ..Fields::default()
    };
    let plain = Tarball::default()
        .member(EntryType::Regular, b"sudo", b"", b"#!", theirs)
        .member(
            EntryType::Directory,
            b"tmp",
            b"",
            b"",
            Fields {
                mode: 0o1777,
                ..theirs
            },
        )
        .member(
            EntryType::Directory,
            b"closed",
            b"",
            b"",
            Fields { mode: 0, ..theirs },
        )
        .file("closed/file", b"x")
        .special(EntryType::Char, "null")
        .special(EntryType::Fifo, "pipe")
        .link("void", "null")
        .pax(&[
            ("mtime", b"9223372036854775807"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
        ])
        .file("ping", b"")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let unpacked = unpack(&plain, &expected(&plain, &plain), dir.path()).unwrap();
    let mode = |name: &str| fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("sudo"), mode("tmp"), mode("closed")), (0o711, 0o777, 0o700));
    let sudo = &unpacked.entries[&path("sudo")];
    assert_eq!((sudo.mode, sudo.uid, sudo.gid), (0o4711, 70_000, 70_001));
    assert_eq!(unpacked.entries[&path("closed")].mode, 0);
    for name in ["null", "pipe", "void"] {
        assert!(fs::symlink_metadata(dir.path().join(name)).is_err(), "{name}");
    }
    assert_eq!(
        unpacked.entries[&path("null")].kind,
        Kind::Device {
            block: false,
            major: 1,
            minor: 3
        }
    );
    assert_eq!(unpacked.entries[&path("ping")].xattrs.len(), 2);
    let report = unpacked.report;
    assert_eq!(report.devices, ["null", "pipe", "void"].map(path));
    assert_eq!(
        (report.devices_kept, report.special_bits_kept, report.xattrs_kept),
        (3, 2, 1)
    );
    assert!(report.owners_kept >= 3);
}

#[test]
fn as_root_all_is_made_as_the_layer_says() {
    if !unpack::is_root() {
        return; // The test before this one is then the whole truth.
    }
    let theirs = Fields {
        mode: 0o4711,
        uid: 70_000,
        gid: 70_001,
        ..Fields::default()
    };
    let plain = Tarball::default()
        .member(EntryType::Regular, b"sudo", b"", b"#!", theirs)
        .special(EntryType::Fifo, "pipe")
        .special(EntryType::Char, "null")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let all = &mut |_| ControlFlow::Continue(());
    let unpacked = unpack::layer(
        &*plain,
        &expected(&plain, &plain),
        dir.path(),
        true,
        Limits::default(),
        all,
    )
    .unwrap();
    let found = fs::metadata(dir.path().join("sudo")).unwrap();
    assert_eq!(found.permissions().mode() & 0o7777, 0o4711);
    assert_eq!((found.uid(), found.gid()), (70_000, 70_001));
    assert!(
        fs::symlink_metadata(dir.path().join("pipe"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    // A container's root may not make devices; then it is reported.
    let device = fs::symlink_metadata(dir.path().join("null"));
    assert_eq!(unpacked.report.devices_kept, u64::from(device.is_err()));
}

/// Overlayfs would take it for a whiteout and hide what is below.
#[test]
fn the_device_of_whiteouts_is_not_made_for_a_layer() {
    let fields = Fields {
        device: (0, 0),
        ..Fields::default()
    };
    let plain = Tarball::default()
        .member(EntryType::Char, b"below", b"", b"", fields)
        .end();
    for as_root in [false, unpack::is_root()] {
        let dir = tempfile::tempdir().unwrap();
        let all = &mut |_| ControlFlow::Continue(());
        let wanted = expected(&plain, &plain);
        let unpacked = unpack::layer(&*plain, &wanted, dir.path(), as_root, Limits::default(), all).unwrap();
        assert_eq!(unpacked.report.devices, [path("below")]);
        assert!(fs::symlink_metadata(dir.path().join("below")).is_err());
    }
}

#[test]
fn later_members_replace_earlier_ones() {
    let plain = Tarball::default()
        .file("a", b"first")
        .link("b", "a")
        .file("a", b"second")
        .dir("d")
        .file("d/inner", b"x")
        .file("d", b"file now")
        .symlink("e", "/etc")
        .dir("e")
        .file("e/f", b"inside")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let unpacked = unpack(&plain, &expected(&plain, &plain), dir.path()).unwrap();
    let read = |name: &str| fs::read(dir.path().join(name)).unwrap();
    assert_eq!((read("a"), read("b")), (b"second".to_vec(), b"first".to_vec()));
    assert_eq!(
        (read("d"), read("e/f")),
        (b"file now".to_vec(), b"inside".to_vec())
    );
    assert!(!unpacked.entries.contains_key(&path("d/inner")));
    assert_eq!(
        unpacked.entries[&path("b")].link,
        None,
        "it is the only name of what it was linked to"
    );
}

#[test]
fn links_may_come_before_their_targets() {
    let plain = Tarball::default()
        .link("c", "b")
        .link("b", "a")
        .file("a", b"x")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let unpacked = unpack(&plain, &expected(&plain, &plain), dir.path()).unwrap();
    assert_eq!(fs::read(dir.path().join("c")).unwrap(), b"x");
    assert_eq!(unpacked.entries[&path("c")].link, Some(path("a")));
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_of_the_layer() {
    let plain = Tarball::default()
        .file("kept", b"x")
        .file(".wh.kept", b"")
        .file("dir/.wh.gone", b"")
        .file("fresh/file", b"x")
        .file(".wh.fresh", b"")
        .file("opaque/.wh..wh..opq", b"")
        .file("opaque/new", b"x")
        .file(".wh.deep", b"")
        .file("deep/.wh.deeper", b"")
        .file(".wh..wh.plnk", b"")
        .end();
    let dir = tempfile::tempdir().unwrap();
    let unpacked = unpack(&plain, &expected(&plain, &plain), dir.path()).unwrap();
    let kind = |name: &str| unpacked.entries.get(&path(name)).map(|entry| entry.kind.clone());
    assert_eq!(kind("kept"), Some(Kind::File { size: 1 }));
    assert_eq!(kind("dir/gone"), Some(Kind::Whiteout));
    assert_eq!(
        kind("fresh"),
        Some(Kind::Directory {
            opaque: true,
            implied: false
        })
    );
    assert_eq!(
        kind("opaque"),
        Some(Kind::Directory {
            opaque: true,
            implied: true
        })
    );
    assert_eq!((kind("deep"), kind("deep/deeper")), (Some(Kind::Whiteout), None));
    assert!(unpacked.report.overlay, "{:?}", unpacked.report);
    let gone = fs::symlink_metadata(dir.path().join("dir/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(dir.path().join("opaque"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
}
