//! Somebody or something changes the files: each change is refused precisely, and no history is ever silently shorter.

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use suijuris_core::lineage::Head;
use suijuris_store::frame::{FRAME_BYTES, Frame, HEADER_BYTES, Header};
use suijuris_store::{Depth, OpenError, Reader, Sizes, Writer, frames_of};
use suijuris_testkit::disk::{FaultyDisk, Loss};

use crate::support::{
    PATH, SIZES, chain, commit, count, create_at, dir_on, dormant, note, open, seal, wait_all, wake,
};

/// A life over several segments, closed in good order.
fn lived(nonce: u8) -> FaultyDisk {
    let disk = FaultyDisk::default();
    drop(active(&disk, nonce, SIZES));
    disk
}

fn active(disk: &FaultyDisk, nonce: u8, sizes: Sizes) -> Writer {
    let object_dir = dir_on(disk);
    create_at(&object_dir, nonce).unwrap();
    let (writer, _) = Writer::open(&object_dir, Depth::Tail, sizes).unwrap();
    wake(&writer, nonce + 1).unwrap();
    commit(&writer, note(&"x".repeat(700)));
    for n in 0..4 {
        let group: Vec<_> = (0..4).map(|m| writer.stage(count(n * 10 + m)).unwrap()).collect();
        wait_all(&group).unwrap();
    }
    commit(&writer, seal());
    commit(&writer, dormant());
    writer
}

fn segments(disk: &FaultyDisk) -> Vec<PathBuf> {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|end| end == "seg");
    disk.paths().into_iter().filter(is_segment).collect()
}

/// Where the records of a segment begin and end.
fn frames(content: &[u8]) -> Vec<(usize, usize)> {
    let mut at = HEADER_BYTES;
    let mut frames = Vec::new();
    while let Some(frame) = content
        .get(at..)
        .and_then(Frame::decode)
        .filter(|frame| !frame.is_end())
    {
        frames.push((at, at + FRAME_BYTES + frame.record_bytes()));
        at = frames.last().unwrap().1;
    }
    frames
}

fn head(disk: &FaultyDisk) -> Head {
    open(&dir_on(disk), Depth::Whole).published().head().clone()
}

fn refused(disk: &FaultyDisk, depth: Depth, context: &str) -> OpenError {
    let before: Vec<_> = disk.paths().iter().map(|path| disk.content(path)).collect();
    let Err(error) = Writer::open(&dir_on(disk), depth, SIZES) else {
        panic!("accepted: {context}")
    };
    let after: Vec<_> = disk.paths().iter().map(|path| disk.content(path)).collect();
    assert_eq!(before, after, "a refusal changes nothing: {context}");
    error
}

fn with(disk: &FaultyDisk, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> FaultyDisk {
    let copy = disk.copy();
    let mut content = copy.content(path).unwrap();
    change(&mut content);
    copy.set_content(path, content);
    copy
}

// proves A6
#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let disk = lived(1);
    let whole = head(&disk);
    let last = segments(&disk).pop().unwrap();
    for path in disk.paths() {
        let content = disk.content(&path).unwrap();
        let used = content.iter().rposition(|byte| *byte != 0).unwrap_or_default();
        let lineage = path.extension().is_some_and(|end| end == "seg");
        let step = if lineage { 47 } else { 13 };
        for at in (0..HEADER_BYTES.min(used))
            .step_by(7)
            .chain((0..content.len()).step_by(step))
        {
            let flipped = with(&disk, &path, |content| content[at] ^= 1 << (at % 8));
            let context = format!("{} byte {at}", path.display());
            if path == last && at > used {
                // Behind the last record nothing is lost: the bytes are nobody's.
                assert_eq!(head(&flipped), whole, "{context}");
            } else {
                refused(&flipped, Depth::Whole, &context);
            }
        }
    }
}

// proves A6
#[test]
fn damage_is_named_by_file_byte_and_record() {
    let disk = lived(1);
    let path = &segments(&disk)[0];
    let (at, _) = frames(&disk.content(path).unwrap())[1];
    let error = refused(
        &with(&disk, path, |content| content[at + 40] ^= 1),
        Depth::Whole,
        "flip",
    );
    let text = chain(&error);
    let place = format!("record 1 (lineage/00000000000000000000.seg, byte {at})");
    assert!(text.contains(&place) && text.contains("damaged"), "{text}");
}

// proves A6
#[test]
fn dropped_swapped_repeated_and_cut_records_are_refused() {
    let disk = lived(1);
    for path in segments(&disk) {
        let content = disk.content(&path).unwrap();
        let frames = frames(&content);
        for (index, &(start, end)) in frames.iter().enumerate() {
            let record = content[start..end].to_vec();
            let context = format!("{} record {index}", path.display());
            let dropped = with(&disk, &path, |content| {
                content.drain(start..end);
                content.extend(vec![0; end - start]);
            });
            refused(&dropped, Depth::Whole, &format!("dropped {context}"));
            let repeated = with(&disk, &path, |content| {
                drop(content.splice(end..end, record.clone()));
            });
            refused(&repeated, Depth::Whole, &format!("repeated {context}"));
            if let Some(&(_, next_end)) = frames.get(index + 1) {
                let swapped = with(&disk, &path, |content| {
                    content[start..next_end].rotate_left(end - start);
                });
                refused(&swapped, Depth::Whole, &format!("swapped {context}"));
            }
            refused(
                &with(&disk, &path, |content| content.truncate(start)),
                Depth::Whole,
                &format!("cut at {context}"),
            );
            refused(
                &with(&disk, &path, |content| content[start..].fill(0)),
                Depth::Whole,
                &format!("zeroed from {context}"),
            );
        }
    }
}

// proves A6
#[test]
fn the_short_way_in_sees_a_cut_end_too() {
    let disk = lived(1);
    let path = segments(&disk).pop().unwrap();
    let (start, end) = *frames(&disk.content(&path).unwrap()).last().unwrap();
    for at in [start, start + 1, end - 1] {
        refused(
            &with(&disk, &path, |content| content.truncate(at)),
            Depth::Tail,
            "cut",
        );
        refused(
            &with(&disk, &path, |content| content[at..].fill(0)),
            Depth::Tail,
            "zeroed",
        );
        refused(
            &with(&disk, &path, |content| content[at] ^= 4),
            Depth::Tail,
            "flipped",
        );
    }
}

// proves A6
#[test]
fn missing_swapped_and_foreign_files_are_refused() {
    let (disk, other) = (lived(1), lived(50));
    let segments = segments(&disk);
    assert!(segments.len() >= 2, "{segments:?}");
    for path in disk.paths() {
        let is_checkpoint = path == Path::new(PATH).join("checkpoint");
        let gone = disk.copy();
        gone.take_away(&path);
        if !is_checkpoint {
            assert!(
                Writer::open(&dir_on(&gone), Depth::Whole, SIZES).is_err(),
                "missing {}",
                path.display()
            );
        }
        if let Some(foreign) = other
            .content(&path)
            .filter(|foreign| Some(foreign) != disk.content(&path).as_ref())
        {
            let context = format!("foreign {}", path.display());
            let mixed = with(&disk, &path, |content| *content = foreign);
            refused(&mixed, Depth::Whole, &context);
        }
    }
    let swapped = with(&disk, &segments[0], |content| {
        *content = disk.content(&segments[1]).unwrap();
    });
    refused(&swapped, Depth::Whole, "one segment in place of another");
}

#[test]
fn without_its_checkpoint_the_whole_history_is_read() {
    let disk = lived(1);
    let whole = head(&disk);
    disk.take_away(&Path::new(PATH).join("checkpoint"));
    let reader = Reader::open(&dir_on(&disk), Depth::Tail).unwrap();
    assert_eq!(
        (reader.state().head(), reader.records_read()),
        (&whole, whole.seq + 1)
    );
}

// proves A6
#[test]
fn after_a_crash_a_changed_acknowledged_record_is_no_torn_end() {
    let never = Sizes {
        checkpoint_records: u64::MAX,
        segment_bytes: 1 << 20,
        ..SIZES
    };
    let live = FaultyDisk::default();
    let object_dir = dir_on(&live);
    create_at(&object_dir, 1).unwrap();
    let (writer, _) = Writer::open(&object_dir, Depth::Tail, never).unwrap();
    wake(&writer, 2).unwrap();
    for n in 0..6 {
        commit(&writer, count(n));
    }
    let disk = live.crash(Loss::Nothing);
    drop(writer);
    let path = segments(&disk).pop().unwrap();
    let frames = frames(&disk.content(&path).unwrap());
    let (last, acknowledged) = frames.split_last().unwrap();
    for &(start, end) in acknowledged {
        for at in (start..end).step_by(9) {
            for depth in [Depth::Tail, Depth::Whole] {
                let flipped = with(&disk, &path, |content| content[at] ^= 1);
                refused(&flipped, depth, &format!("byte {at}"));
            }
        }
    }
    // The very last group cannot be told from one that was never acknowledged.
    let torn = with(&disk, &path, |content| content[last.0 + 20] ^= 1);
    let (_, recovery) = Writer::open(&dir_on(&torn), Depth::Whole, SIZES).unwrap();
    assert!(recovery.torn);
}

#[test]
fn a_changed_bundle_names_the_file() {
    let disk = lived(1);
    let path = disk
        .paths()
        .into_iter()
        .find(|path| path.ends_with("governance.cedar"))
        .unwrap();
    let text = chain(&refused(
        &with(&disk, &path, |content| content.push(b' ')),
        Depth::Tail,
        "bundle",
    ));
    assert!(
        text.contains("governance is not the one its manifest names"),
        "{text}"
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = Header::decode(&bytes);
        let _ = frames_of(&bytes);
    }

    #[test]
    fn changed_segments_are_read_without_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        static SEGMENT: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
            let disk = lived(1);
            disk.content(&segments(&disk)[0]).unwrap()
        });
        let mut bytes = SEGMENT.clone();
        let whole = frames_of(&bytes);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert!(frames_of(&bytes) <= whole);
    }
}
