//! Random stacks of layers, through the store and out again, against a model that knows only maps.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use suijuris_oci::image::Platform;
use suijuris_oci::source::Source;
use suijuris_oci::store::{How, ImageStore, StoreOptions, Unobserved};
use suijuris_oci::unpack::{self, Limits};
use tar::EntryType;

use super::make::{Made, MadeLayer};
use super::tarball::{Fields, Tarball, expected};

/// A file as the model has it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    File(Vec<u8>, u32),
    Dir(u32),
    Link(String),
}

type Model = BTreeMap<String, Node>;

/// One change that a layer makes.
#[derive(Debug, Clone)]
enum Change {
    File(String, u8, u32),
    Dir(String, u32),
    Symlink(String),
    /// Another name of the file that the layer had last.
    Hardlink(String),
    Whiteout(String),
    Opaque(String),
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| names.join("/"))
}

fn change() -> impl Strategy<Value = Change> {
    let mode = prop::sample::select(vec![0o644, 0o755, 0o700]);
    prop_oneof![
        3 => (path(), any::<u8>(), mode.clone()).prop_map(|(path, byte, mode)| Change::File(path, byte, mode)),
        2 => (path(), mode).prop_map(|(path, mode)| Change::Dir(path, mode)),
        1 => path().prop_map(Change::Symlink),
        1 => path().prop_map(Change::Hardlink),
        2 => path().prop_map(Change::Whiteout),
        1 => path().prop_map(Change::Opaque),
    ]
}

fn archive(changes: &[Change]) -> Tarball {
    let fields = |mode| Fields {
        mode,
        ..Fields::default()
    };
    let beside = |path: &str, prefix: &str| match path.rsplit_once('/') {
        Some((dir, name)) => format!("{dir}/{prefix}{name}"),
        None => format!("{prefix}{path}"),
    };
    let mut last = "absent";
    changes
        .iter()
        .fold(Tarball::default(), |archive, change| match change {
            Change::File(path, byte, mode) => {
                last = path;
                archive.member(
                    EntryType::Regular,
                    path.as_bytes(),
                    b"",
                    &[*byte; 3],
                    fields(*mode),
                )
            }
            Change::Dir(path, mode) => {
                archive.member(EntryType::Directory, path.as_bytes(), b"", b"", fields(*mode))
            }
            Change::Symlink(path) => archive.symlink(path, "/nowhere"),
            Change::Hardlink(path) => archive.link(path, last),
            Change::Whiteout(path) => archive.file(&beside(path, ".wh."), b""),
            Change::Opaque(path) => archive.file(&format!("{path}/.wh..wh..opq"), b""),
        })
}

fn remove(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|other, _| other != path && !other.starts_with(&below));
}

fn remove_below(model: &mut Model, path: &str) {
    let below = format!("{path}/");
    model.retain(|other, _| !other.starts_with(&below));
}

/// Directories on the way; what else stands there in lower layers goes.
fn parents(model: &mut Model, path: &str) {
    for (at, _) in path.match_indices('/') {
        let dir = &path[..at];
        if !matches!(model.get(dir), Some(Node::Dir(_))) {
            remove(model, dir);
            model.insert(dir.to_owned(), Node::Dir(0o755));
        }
    }
}

/// What the layer has of its own, applied in the order of its members, on an empty model. None for a link to what is not
/// there yet, which has a test of its own.
fn own(changes: &[Change]) -> Option<Model> {
    let mut own = Model::new();
    let mut last = None;
    for change in changes {
        match change {
            Change::File(path, byte, mode) => {
                parents(&mut own, path);
                remove(&mut own, path);
                own.insert(path.clone(), Node::File(vec![*byte; 3], *mode));
                last = Some(path);
            }
            Change::Dir(path, mode) => {
                parents(&mut own, path);
                if !matches!(own.get(path), Some(Node::Dir(_))) {
                    remove(&mut own, path);
                }
                own.insert(path.clone(), Node::Dir(*mode));
            }
            Change::Symlink(path) => {
                parents(&mut own, path);
                remove(&mut own, path);
                own.insert(path.clone(), Node::Link("/nowhere".to_owned()));
            }
            Change::Hardlink(path) => {
                let node = own.get(last?)?.clone();
                parents(&mut own, path);
                remove(&mut own, path);
                own.insert(path.clone(), node);
            }
            Change::Whiteout(_) | Change::Opaque(_) => {}
        }
    }
    for change in changes {
        if let Change::Opaque(path) = change {
            parents(&mut own, &format!("{path}/x"));
        }
    }
    Some(own)
}

/// A layer on a model: first what it hides, then what it has, as image-spec says.
fn apply(model: &mut Model, changes: &[Change]) {
    let own = own(changes).unwrap();
    let named = |dir: &str| {
        changes
            .iter()
            .any(|change| matches!(change, Change::Dir(path, _) if path == dir))
    };
    let hidden: Vec<&str> = changes
        .iter()
        .filter_map(|change| match change {
            Change::Whiteout(path) => Some(path.as_str()),
            _ => None,
        })
        .collect();
    for path in &hidden {
        remove(model, path);
    }
    for change in changes {
        if let Change::Opaque(path) = change {
            remove_below(model, path);
        }
    }
    for change in changes {
        // A whiteout stands in a directory, unless that is hidden itself.
        if let Change::Whiteout(path) = change {
            let is_above = |other: &str| path.starts_with(&format!("{other}/"));
            let in_hidden = hidden
                .iter()
                .any(|other| is_above(other) && !own.contains_key(*other));
            if !in_hidden && !own.contains_key(path) {
                parents(model, path);
            }
        }
    }
    for (path, node) in own {
        let implied = matches!(node, Node::Dir(_)) && !named(&path);
        if implied && matches!(model.get(&path), Some(Node::Dir(_))) {
            continue;
        }
        if !matches!(node, Node::Dir(_)) {
            remove(model, &path);
        }
        model.insert(path, node);
    }
}

fn look(dir: &Path) -> Model {
    let mut found = Model::new();
    let mut open = vec![dir.to_owned()];
    while let Some(here) = open.pop() {
        for entry in fs::read_dir(&here).unwrap() {
            let path = entry.unwrap().path();
            let about = fs::symlink_metadata(&path).unwrap();
            let mode = about.permissions().mode() & 0o7777;
            let node = if about.is_dir() {
                open.push(path.clone());
                Node::Dir(mode)
            } else if about.is_symlink() {
                Node::Link(
                    String::from_utf8(fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec()).unwrap(),
                )
            } else {
                Node::File(fs::read(&path).unwrap(), mode)
            };
            found.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), node);
        }
    }
    found
}

/// Whether a layer is taken by itself; layers that contradict themselves are refused, and not looked at here.
fn is_sound(changes: &[Change]) -> bool {
    if own(changes).is_none() {
        return false;
    }
    let plain = archive(changes).end();
    let dir = tempfile::tempdir().unwrap();
    let all = &mut |_| ControlFlow::Continue(());
    unpack::layer(
        &*plain,
        &expected(&plain, &plain),
        dir.path(),
        false,
        Limits::default(),
        all,
    )
    .is_ok()
}

/// What the kernel makes of the layers of a stack: names and contents, by `find` and `cat` in a mount of overlayfs. None
/// where this user may not mount one.
fn overlay(layers: &[&Path]) -> Option<String> {
    let lower: Vec<&str> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
    // A mount of lower layers alone needs two; an empty one hides nothing.
    let empty = tempfile::tempdir().unwrap();
    let at = tempfile::tempdir().unwrap();
    let script = "mount -t overlay overlay -o \"$1\" \"$2\" && cd \"$2\" && find . | sort && find . -type f | sort | xargs cat";
    let options = format!(
        "userxattr,lowerdir={}:{}",
        lower.join(":"),
        empty.path().display()
    );
    let out = std::process::Command::new("unshare")
        .args(["-rm", "sh", "-c", script, "sh", &options])
        .arg(at.path())
        .output()
        .ok()?;
    let said = String::from_utf8(out.stderr).unwrap();
    if !out.status.success() {
        assert!(said.contains("ermi") || said.contains("unshare"), "{said}");
        return None;
    }
    Some(String::from_utf8(out.stdout).unwrap())
}

#[tokio::test]
async fn the_kernel_sees_the_same_as_the_copy() {
    let base = Tarball::default()
        .file("kept", b"1")
        .file("gone", b"2")
        .file("changed", b"3")
        .file("dir/a", b"4")
        .file("dir/b", b"5")
        .file("hidden/a", b"6")
        .file("hidden/deep/b", b"7")
        .file("whole/a", b"8")
        .file("to-file/a", b"9");
    let middle = Tarball::default()
        .file(".wh.gone", b"")
        .file("changed", b"three")
        .file("dir/.wh.a", b"")
        .file("hidden/.wh..wh..opq", b"")
        .file("hidden/new", b"n")
        .file(".wh.whole", b"")
        .file("whole/fresh", b"f")
        .file("to-file", b"file");
    let top = Tarball::default()
        .file("hidden/deep/again", b"x")
        .file("dir/.wh.b", b"")
        .file(".wh.to-file", b"");
    let made = Made::new([base, middle, top].map(MadeLayer::gzip).into());
    let dir = tempfile::tempdir().unwrap();
    made.write_layout(&dir.path().join("layout"), "v1");
    let options = StoreOptions {
        as_root: false,
        ..StoreOptions::default()
    };
    let store = ImageStore::open(&dir.path().join("store"), options).unwrap();
    let source = Source::layout(&dir.path().join("layout"), None).unwrap();
    let hold = store
        .pull(&source, "a", &Platform::host(), Arc::new(Unobserved))
        .await
        .unwrap();
    let root = hold.root().unwrap();
    root.copy_to(&dir.path().join("root")).unwrap();
    let copy = look(&dir.path().join("root"));
    let names: Vec<&str> = copy.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "changed",
            "dir",
            "hidden",
            "hidden/deep",
            "hidden/deep/again",
            "hidden/new",
            "kept",
            "whole",
            "whole/fresh"
        ]
    );
    let Some(seen) = root.overlay().and_then(|layers| overlay(&layers)) else {
        return; // Not allowed here; the copy is then what there is.
    };
    let list: Vec<&str> = seen.lines().filter_map(|line| line.strip_prefix("./")).collect();
    assert_eq!(list, names);
    assert!(seen.ends_with("threexn1f"), "{seen}");
}

proptest! {
    #[test]
    fn a_stack_of_layers_is_what_the_model_says(stack in prop::collection::vec(prop::collection::vec(change(), 0..8), 1..5)) {
        let stack: Vec<Vec<Change>> = stack.into_iter().filter(|layer| is_sound(layer)).collect();
        let mut model = Model::new();
        for layer in &stack {
            apply(&mut model, layer);
        }
        // In memory where there is such a file system: each layer is synced, which on a busy disk takes long.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let layers = stack.iter().enumerate().map(|(number, layer)| match number % 2 {
            0 => MadeLayer::plain(archive(layer)),
            _ => MadeLayer::gzip(archive(layer)),
        });
        Made::new(layers.collect()).write_layout(&dir.path().join("layout"), "v1");
        let options = StoreOptions { as_root: false, ..StoreOptions::default() };
        let store = ImageStore::open(&dir.path().join("store"), options).unwrap();
        let source = Source::layout(&dir.path().join("layout"), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let hold = runtime.block_on(store.pull(&source, "a", &Platform::host(), Arc::new(Unobserved))).unwrap();
        let root = hold.root().unwrap();
        let copied = root.copy_to(&dir.path().join("root")).unwrap();
        // Rights of the owner are always there where we are not root.
        let ours = |node: &Node| match node {
            Node::Dir(mode) => Node::Dir(mode | 0o700),
            node => node.clone(),
        };
        let wanted: Model = model.iter().map(|(path, node)| (path.clone(), ours(node))).collect();
        prop_assert_eq!(look(&dir.path().join("root")), wanted, "{:?}", stack);
        prop_assert!(copied.how() != Some(How::Mixed));
        let entries = root.entries().unwrap();
        prop_assert_eq!(entries.len(), model.len() + usize::from(!stack.is_empty()));
    }
}
