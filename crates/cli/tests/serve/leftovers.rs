//! What is left of a daemon that is killed together with the keepers of its machines.

use std::path::{Path, PathBuf};

use crate::home::{Home, OPEN, STAY, until};

/// Control groups of machines that process `pid` started.
fn groups_of(pid: u32) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![Path::new("/sys/fs/cgroup").to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("suijuris") && name.contains(&format!("-{pid}-")) {
                found.push(entry.path());
            } else if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn control_groups_of_a_daemon_that_was_killed_with_its_shims_go_with_the_next_start() {
    let home = Home::new();
    let daemon = home.serve();
    home.add(&home.object("hello", &[OPEN, STAY].concat()));
    daemon.get("hello", "/").status(200);
    let pid = daemon.pid();
    println!("machines have {} groups", groups_of(pid).len());
    home.kill_everybody();
    daemon.kill();
    home.nobody_is_left();
    let next = home.serve();
    next.get("hello", "/").status(200);
    until("no group is left", || groups_of(pid).is_empty());
    next.terminate();
    home.nobody_is_left();
}
