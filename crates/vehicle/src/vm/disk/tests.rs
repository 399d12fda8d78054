//! Directories that go onto disks and come back, whoever is killed in between.

use super::*;

struct Rig {
    temp: tempfile::TempDir,
    dir: PathBuf,
    disk: PathBuf,
    tools: DiskTools,
}

fn rig() -> Rig {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("a dir, with = and \"");
    fs::create_dir_all(dir.join("lineage")).unwrap();
    fs::create_dir_all(dir.join("run")).unwrap();
    fs::write(dir.join("lineage/1.seg"), "first").unwrap();
    fs::write(dir.join("next.key"), "key").unwrap();
    fs::write(dir.join("lock"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("run/up.sock")).unwrap();
    Rig {
        disk: temp.path().join("disk"),
        dir,
        temp,
        tools: DiskTools::find().expect("e2fsprogs is not there: run `sh tools/setup --test`"),
    }
}

/// What a machine would do to its disk.
fn change(rig: &Rig) {
    let new = rig.temp.path().join("new");
    fs::write(&new, "second").unwrap();
    let request = format!(
        "write {} lineage/2.seg\nrm next.key\nmkdir volume\n",
        new.display()
    );
    let mut child = Command::new(&rig.tools.debugfs)
        .args(["-w", "-f", "/dev/stdin"])
        .arg(&rig.disk)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn holds(rig: &Rig, changed: bool) {
    let read = |name: &str| fs::read_to_string(rig.dir.join(name)).ok();
    assert_eq!(read("lineage/1.seg").as_deref(), Some("first"));
    assert_eq!(read("lineage/2.seg").as_deref(), changed.then_some("second"));
    assert_eq!(read("next.key").as_deref(), (!changed).then_some("key"));
    assert_eq!(rig.dir.join("volume").is_dir(), changed);
    assert!(rig.dir.join("run/up.sock").exists(), "what is of this host stays");
    assert!(!rig.dir.join(COMING).exists());
    assert!(!rig.dir.join(GOING).exists());
}

#[test]
fn a_directory_goes_and_comes_back_changed() {
    let rig = rig();
    let mut taken = Taken::take(&rig.tools, &rig.dir, &rig.disk, "suijuris-0").unwrap();
    assert!(is_away(&rig.dir));
    assert!(matches!(recover(&rig.tools, &rig.dir), Err(DiskError::InUse(_))));
    change(&rig);
    holds(&rig, false);
    taken.copy_back(&rig.tools).unwrap();
    assert!(is_away(&rig.dir), "its machine may go on");
    holds(&rig, true);
    taken.bring_back(&rig.tools).unwrap();
    assert!(!is_away(&rig.dir));
    holds(&rig, true);
    assert!(!rig.disk.exists());
    assert!(!recover(&rig.tools, &rig.dir).unwrap());
}

#[test]
fn what_a_driver_left_that_was_killed_comes_back() {
    let rig = rig();
    drop(Taken::take(&rig.tools, &rig.dir, &rig.disk, "suijuris-0").unwrap());
    change(&rig);
    assert!(recover(&rig.tools, &rig.dir).unwrap());
    holds(&rig, true);
    // Killed at any step of bringing back.
    let rig = self::rig();
    drop(Taken::take(&rig.tools, &rig.dir, &rig.disk, "suijuris-0").unwrap());
    change(&rig);
    read_back(&rig.tools, &rig.dir, &rig.disk, &rig.disk).unwrap();
    fs::create_dir(rig.dir.join(GOING)).unwrap();
    fs::rename(rig.dir.join("lineage"), rig.dir.join(GOING).join("lineage")).unwrap();
    fs::rename(rig.dir.join(COMING).join("lineage"), rig.dir.join("lineage")).unwrap();
    assert!(recover(&rig.tools, &rig.dir).unwrap());
    holds(&rig, true);
}

#[test]
fn a_disk_that_is_gone_is_told_and_nothing_is_touched() {
    let rig = rig();
    drop(Taken::take(&rig.tools, &rig.dir, &rig.disk, "suijuris-0").unwrap());
    fs::rename(&rig.disk, rig.temp.path().join("elsewhere")).unwrap();
    let error = recover(&rig.tools, &rig.dir).unwrap_err();
    assert!(matches!(error, DiskError::Gone { .. }), "{error}");
    assert!(is_away(&rig.dir));
    fs::rename(rig.temp.path().join("elsewhere"), &rig.disk).unwrap();
    assert!(recover(&rig.tools, &rig.dir).unwrap());
    holds(&rig, false);
}

#[test]
fn a_start_that_came_to_nothing_leaves_the_directory_as_it_was() {
    let rig = rig();
    Taken::take(&rig.tools, &rig.dir, &rig.disk, "suijuris-0")
        .unwrap()
        .give_up()
        .unwrap();
    assert!(!is_away(&rig.dir));
    holds(&rig, false);
}
