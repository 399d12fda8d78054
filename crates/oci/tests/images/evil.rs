//! Layers that want out, want too much, or make no sense. Beside the directory of the layer stand things to be reached,
//! and none of them may change.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use suijuris_oci::unpack::{self, Limits, UnpackError};
use tar::EntryType;

use super::tarball::{Fields, Tarball, expected, gzip, zstd};
use super::text;

/// A directory with a place for the layer in it, and things around that.
struct Room(tempfile::TempDir);

type Seen = BTreeMap<PathBuf, (u32, u64, Vec<u8>)>;

impl Room {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("layer")).unwrap();
        fs::create_dir_all(dir.path().join("around/inner")).unwrap();
        fs::write(dir.path().join("around/file"), "mine").unwrap();
        fs::write(dir.path().join("victim"), "mine").unwrap();
        Self(dir)
    }

    fn layer(&self) -> PathBuf {
        self.0.path().join("layer")
    }

    /// Everything but the layer: rights, number of names, content.
    fn around(&self) -> Seen {
        let mut seen = Seen::new();
        let mut open = vec![self.0.path().to_owned()];
        while let Some(dir) = open.pop() {
            for found in fs::read_dir(&dir).unwrap() {
                let path = found.unwrap().path();
                if path == self.layer() {
                    continue;
                }
                let about = fs::symlink_metadata(&path).unwrap();
                let content = if about.is_file() {
                    fs::read(&path).unwrap()
                } else {
                    Vec::new()
                };
                seen.insert(path.clone(), (about.permissions().mode(), about.nlink(), content));
                if about.is_dir() {
                    open.push(path);
                }
            }
        }
        seen
    }

    fn unpack(&self, plain: &[u8], as_root: bool) -> Result<(), UnpackError> {
        let before = self.around();
        let all = &mut |_| ControlFlow::Continue(());
        let done = unpack::layer(
            plain,
            &expected(plain, plain),
            &self.layer(),
            as_root,
            Limits::default(),
            all,
        );
        assert_eq!(self.around(), before, "something outside was changed");
        done.map(|_| ())
    }
}

#[track_caller]
fn refused(layer: Tarball, expect: &str) {
    let plain = layer.end();
    for as_root in [false, unpack::is_root()] {
        match Room::new().unpack(&plain, as_root) {
            Ok(()) => panic!("succeeded instead of: {expect}"),
            Err(error) => assert!(text(&error).contains(expect), "{}", text(&error)),
        }
    }
}

#[test]
fn every_way_out_is_refused() {
    let new = Tarball::default;
    for path in ["../victim", "a/../../victim", "..", "/../victim", "./../victim"] {
        refused(new().file(path, b"x"), "contains `..`");
        refused(new().dir(path), "contains `..`");
        refused(new().symlink(path, "x"), "contains `..`");
        refused(new().file("a", b"").link(path, "a"), "contains `..`");
        refused(new().link("a", path), "contains `..`");
        refused(new().special(EntryType::Fifo, path), "contains `..`");
        refused(new().file(&format!("{path}/.wh.x"), b""), "contains `..`");
    }
    for target in ["..", "/", "../around", "."] {
        let through = "through the symbolic link `/s`";
        refused(new().symlink("s", target).file("s/file", b"x"), through);
        refused(new().symlink("s", target).dir("s/inner"), through);
        refused(new().symlink("s", target).file("s/.wh.victim", b""), through);
        refused(
            new().symlink("s", target).file("s/.wh..wh..opq", b""),
            "is no directory",
        );
        refused(new().symlink("s", target).symlink("s/t", "x"), through);
        refused(new().symlink("s", target).special(EntryType::Fifo, "s/p"), "s");
        refused(
            new().file("f", b"").symlink("s", target).link("s/l", "f"),
            through,
        );
        refused(
            new().symlink("s", target).link("l", "s/victim"),
            "no file of the same layer",
        );
    }
    refused(new().link("l", "victim"), "no file of the same layer");
    refused(new().link("l", "/etc/passwd"), "no file of the same layer");
    refused(new().link("l", "l"), "no file of the same layer");
    refused(new().link("a", "b").link("b", "a"), "no file of the same layer");
    refused(new().dir("d").link("l", "d"), "no file of the same layer");
    refused(new().link("l", "/"), "no file of the same layer");
    for name in [".wh.", ".wh..", ".wh..."] {
        refused(new().file(name, b""), "which is no name");
        refused(new().file(&format!("d/{name}"), b""), "which is no name");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let new = Tarball::default;
    refused(
        new().file("a", b"").file("a/b", b"x"),
        "through `/a`, which is no directory",
    );
    refused(new().file(".", b""), "something else than a directory");
    refused(new().symlink("/", "/etc"), "something else than a directory");
    refused(new().link(".", "a"), "something else than a directory");
    refused(new().symlink("s", ""), "refused");
    refused(new().file(&"x".repeat(300), b""), "longer");
    refused(new().file(&"d/".repeat(200), b""), "longer");
    refused(new().pax(&[("path", b"a\0b")]).file("x", b""), "zero byte");
    refused(new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y"), "refused");
    refused(new().pax(&[("size", b"99999")]).file("x", b""), "ends inside");
    refused(
        new().file("a/b", b"").file("a", b"").file("a/b", b""),
        "which is no directory",
    );
}

#[test]
fn a_link_that_leads_out_is_only_said() {
    let room = Room::new();
    let plain = Tarball::default()
        .symlink("s", "../victim")
        .link("t", "s")
        .file("s", b"new")
        .end();
    room.unpack(&plain, false).unwrap();
    assert_eq!(fs::read(room.layer().join("s")).unwrap(), b"new");
    assert_eq!(
        fs::read_link(room.layer().join("t")).unwrap(),
        Path::new("../victim")
    );
}

/// Unpacks a blob under limits.
fn limited(blob: &[u8], plain: &[u8], limits: Limits) -> String {
    let room = Room::new();
    let all = &mut |_| ControlFlow::Continue(());
    let error = unpack::layer(blob, &expected(blob, plain), &room.layer(), false, limits, all).unwrap_err();
    let written: u64 = fs::read_dir(room.layer())
        .unwrap()
        .map(|found| found.unwrap().metadata().unwrap().len())
        .sum();
    format!("{}; {} MiB written", text(&error), written >> 20)
}

#[test]
fn bombs_are_stopped_while_they_grow() {
    let plain = Tarball::default().file("zeros", &vec![0; 80 << 20]).end();
    for blob in [gzip(&plain), zstd(&plain)] {
        let stopped = limited(&blob, &plain, Limits::default());
        assert!(stopped.contains("200 times the size of its blob"), "{stopped}");
        assert!(!stopped.contains("80 MiB written"), "{stopped}");
    }
    let tight = Limits {
        bytes: 1 << 20,
        ..Limits::default()
    };
    // What a header declares is refused before a byte of it is written.
    assert!(
        limited(&plain, &plain, tight)
            .contains("more than 1048576 bytes; raise the limit if you trust the image; 0 MiB")
    );
    let mut many = Tarball::default();
    for number in 0..20 {
        many = many.file(&format!("file{number}"), b"");
    }
    let many = many.end();
    let few = Limits {
        entries: 19,
        ..Limits::default()
    };
    assert!(limited(&many, &many, few).contains("more than 19 entries"));
    let short = Limits {
        name_bytes: 50,
        ..Limits::default()
    };
    assert!(limited(&many, &many, short).contains("more than 50 bytes"));
    // Padding behind the end is a bomb as well.
    let padded = [Tarball::default().file("a", b"x").end(), vec![0; 80 << 20]].concat();
    assert!(limited(&gzip(&padded), &padded, Limits::default()).contains("200 times"));
}

#[test]
fn who_watches_can_end_it() {
    let plain = Tarball::default()
        .file("a", b"x")
        .file("b", &vec![1; 1 << 20])
        .file("c", b"x")
        .end();
    for last in 1..7 {
        let room = Room::new();
        let mut looks = 0;
        let ended = unpack::layer(
            &*plain,
            &expected(&plain, &plain),
            &room.layer(),
            false,
            Limits::default(),
            &mut |_| {
                looks += 1;
                if looks == last {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        );
        assert!(matches!(ended, Err(UnpackError::Cancelled)), "{last}");
        assert!(!room.layer().join("c").exists());
    }
}

fn names() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "a",
        "b",
        "s",
        "..",
        ".",
        "",
        "victim",
        ".wh.a",
        ".wh..",
        ".wh..wh..opq",
        "/",
    ]);
    prop::collection::vec(part, 1..4).prop_map(|parts| parts.join("/"))
}

fn members() -> impl Strategy<Value = Tarball> {
    let kind = prop::sample::select(vec![
        EntryType::Regular,
        EntryType::Directory,
        EntryType::Symlink,
        EntryType::Symlink,
        EntryType::Link,
        EntryType::Link,
        EntryType::Fifo,
        EntryType::Char,
    ]);
    let target = prop_oneof![
        names(),
        Just("..".to_owned()),
        Just("../victim".to_owned()),
        Just("/".to_owned())
    ];
    let modes = prop::sample::select(vec![0, 0o755, 0o4755, 0o644]);
    prop::collection::vec((kind, names(), target, modes), 1..12).prop_map(|members| {
        members
            .into_iter()
            .fold(Tarball::default(), |archive, (kind, path, link, mode)| {
                let content: &[u8] = if kind == EntryType::Regular { b"evil" } else { b"" };
                let fields = Fields {
                    mode,
                    ..Fields::default()
                };
                archive.member(kind, path.as_bytes(), link.as_bytes(), content, fields)
            })
    })
}

thread_local! {
    static PACKED: Vec<Vec<u8>> = packed();
}

/// A few compressed layers, small and with something to repeat in them.
fn packed() -> Vec<Vec<u8>> {
    let text = b"the quick brown fox jumps over the lazy dog ".repeat(40);
    let plain = Tarball::default().file("a", &text).file("b", &[7; 5000]).end();
    vec![gzip(&plain), zstd(&plain), zstd_of_the_tool(&plain), plain]
}

/// As the tool itself packs it, with entropy coding, which the encoder of the library leaves out.
fn zstd_of_the_tool(plain: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("plain"), plain).unwrap();
    let mut command = std::process::Command::new("zstd");
    command.args(["-q", "-19", "plain"]).current_dir(dir.path());
    let status = command
        .status()
        .unwrap_or_else(|_| panic!("no zstd: run tools/setup --test"));
    assert!(status.success());
    fs::read(dir.path().join("plain.zst")).unwrap()
}

/// Unpacks whatever it is; only that it ends is of interest.
fn attempt(blob: &[u8]) {
    let room = Room::new();
    let all = &mut |_| ControlFlow::Continue(());
    let _ = unpack::layer(
        blob,
        &expected(blob, blob),
        &room.layer(),
        false,
        Limits::default(),
        all,
    );
}

#[test]
fn what_the_tool_packs_is_unpacked() {
    let plain = Tarball::default().file("a", &b"abcdefgh".repeat(100_000)).end();
    let blob = zstd_of_the_tool(&plain);
    let room = Room::new();
    let all = &mut |_| ControlFlow::Continue(());
    unpack::layer(
        &*blob,
        &expected(&blob, &plain),
        &room.layer(),
        false,
        Limits::default(),
        all,
    )
    .unwrap();
    assert_eq!(
        fs::read(room.layer().join("a")).unwrap(),
        b"abcdefgh".repeat(100_000)
    );
}

proptest! {
    /// Damaged streams of either compression are errors and nothing worse.
    #[test]
    fn damaged_streams_never_panic(
        which in 0usize..4,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        whole: bool,
    ) {
        let mut blob = PACKED.with(|packed| packed[which].clone());
        for (at, byte) in damage {
            let at = at.index(blob.len());
            blob[at] = byte;
        }
        if !whole {
            blob.truncate(cut.index(blob.len()));
        }
        attempt(&blob);
    }

    #[test]
    fn arbitrary_streams_never_panic(bytes: Vec<u8>, magic in prop::sample::select(vec![&b""[..], b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"])) {
        attempt(&[magic, &bytes].concat());
    }

    /// Whatever comes in whatever order: nothing outside changes, nothing panics, and what is said is what is there.
    #[test]
    fn no_mixture_of_members_gets_out(layer in members(), as_root: bool) {
        let plain = layer.end();
        let room = Room::new();
        let as_root = as_root && unpack::is_root();
        let before = room.around();
        let all = &mut |_| ControlFlow::Continue(());
        let done = unpack::layer(&*plain, &expected(&plain, &plain), &room.layer(), as_root, Limits::default(), all);
        prop_assert_eq!(room.around(), before);
        if let Ok(unpacked) = done {
            let left_out = unpacked.report.devices_kept;
            let found = unpacked.entries.keys().filter(|path| fs::symlink_metadata(room.layer().join(path.as_path())).is_ok());
            let found = found.count() as u64;
            let all = unpacked.entries.len() as u64;
            prop_assert!(found <= all && all - found <= left_out, "{found} of {all}, {left_out} left out");
        }
    }
}
