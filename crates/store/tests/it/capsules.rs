//! Capsules as files: what a sound one says, and that nothing else passes for one.

use std::io::Read;

use proptest::prelude::*;
use suijuris_core::id::Digest;
use suijuris_core::lineage::{Fault as ChainFault, Record, Stored};
use suijuris_store::capsule::{
    self, CapsuleError, FRAME_BYTES, Fault, Frame, HEADER_BYTES, Kind, Progress, Spot, sound, verify,
};
use suijuris_store::{Depth, Reader};
use suijuris_testkit::disk::FaultyDisk;

use crate::lives::{FULL, OBJECT, SHORT, Step, any_steps, exported, lived};
use crate::support::{chain, commit, dir_at, note, open, wake};

/// A capsule's sections: kind, and the bytes from its frame on.
fn sections(capsule: &[u8]) -> Vec<(Kind, Vec<u8>)> {
    let (_, mut rest) = capsule.split_at(HEADER_BYTES);
    let mut sections = Vec::new();
    while let Some(head) = rest.first_chunk::<FRAME_BYTES>() {
        let frame = Frame::decode(head).unwrap();
        let (section, behind) = rest.split_at(FRAME_BYTES + frame.size as usize);
        sections.push((frame.kind, section.to_vec()));
        rest = behind;
    }
    sections
}

fn joined(sections: &[(Kind, Vec<u8>)]) -> Vec<u8> {
    let bytes = sections.iter().flat_map(|(_, bytes)| bytes);
    capsule::header().iter().chain(bytes).copied().collect()
}

fn section(kind: Kind, content: &[u8]) -> (Kind, Vec<u8>) {
    let frame = Frame::of(kind, content.len(), &Digest::of(content)).encode();
    (kind, [&frame, content].concat())
}

/// A capsule of these sections with the end that belongs to them: what a forger makes.
fn ended(mut sections: Vec<(Kind, Vec<u8>)>) -> Vec<u8> {
    sections.retain(|(kind, _)| *kind != Kind::End);
    let records = sections.iter().filter(|(kind, _)| *kind == Kind::Record).count() as u64;
    let digest = Digest::of(&joined(&sections));
    sections.push(section(
        Kind::End,
        &[&records.to_be_bytes()[..], &digest.0].concat(),
    ));
    joined(&sections)
}

fn fault(bytes: &[u8]) -> (Spot, Fault) {
    match verify(bytes, |_| {}) {
        Err(CapsuleError::Bad { spot, fault }) => (spot, fault),
        Err(CapsuleError::Read(error)) => panic!("{error}"),
        Ok(_) => panic!("it was accepted"),
    }
}

fn full() -> Vec<u8> {
    exported(&dir_at(&lived(1, FULL), OBJECT))
}

fn short() -> Vec<u8> {
    exported(&dir_at(&lived(1, SHORT), OBJECT))
}

/// Where each section begins.
fn offsets(capsule: &[u8]) -> Vec<usize> {
    let mut at = HEADER_BYTES;
    let starts = sections(capsule).into_iter().map(|(_, bytes)| {
        at += bytes.len();
        at - bytes.len()
    });
    starts.collect()
}

// proves B8
#[test]
fn a_capsule_says_what_the_directory_says_and_needs_none() {
    let disk = lived(1, FULL);
    let reader = Reader::verify(&dir_at(&disk, OBJECT), |_| {}).unwrap();
    let capsule = full();
    let mut told = Vec::new();
    let verified = verify(&capsule[..], |progress| told.push(progress)).unwrap();
    let head = reader.state().head();
    assert_eq!(verified.state.head(), head);
    assert_eq!(verified.memory_root(), reader.state().memory().root());
    assert_eq!((verified.object(), verified.head()), (head.object, head.record));
    assert_eq!((verified.seq(), verified.bundle()), (head.seq, head.bundle));
    assert_eq!(verified.records, head.seq + 1);
    assert_eq!(verified.bytes, capsule.len() as u64);
    assert_eq!(verified.sealed.as_deref(), Some(&b"sealed for somebody"[..]));
    assert!(verified.announcement.is_some() && verified.parent.is_none());
    let counted: Vec<u64> = told.iter().map(|progress: &Progress| progress.records).collect();
    assert_eq!(counted, (1..=head.seq + 1).collect::<Vec<_>>());
    assert!(told.is_sorted_by_key(|progress| progress.bytes));
}

// proves B10
#[test]
fn neither_key_nor_secret_stands_in_a_capsule() {
    let disk = lived(1, FULL);
    // As it is while a machine starts.
    dir_at(&disk, OBJECT).prepare_spare(&[9; 32]).unwrap();
    let capsule = exported(&dir_at(&disk, OBJECT));
    let contains = |needle: &[u8]| capsule.windows(needle.len()).any(|window| window == needle);
    for file in disk.paths() {
        let secret = file.extension().is_some_and(|extension| extension == "key")
            || file.parent().is_some_and(|dir| dir.ends_with("secrets"));
        if secret {
            assert!(!contains(&disk.content(&file).unwrap()), "{}", file.display());
        }
    }
    assert!(disk.paths().iter().any(|path| path.ends_with("spare.key")));
    assert!(!contains(b"hush") && !contains(&[9; 32]));
}

/// Gives one byte at a time, and counts them.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = buffer.len().min(1);
        let (first, _) = buffer.split_at_mut(len);
        self.0.read(first)
    }
}

#[test]
fn a_capsule_may_come_byte_by_byte() {
    assert!(verify(Drip(&full()), |_| {}).is_ok());
}

// proves A6, B8
#[test]
fn every_byte_matters_and_the_refusal_names_its_section() {
    let capsule = short();
    let starts = offsets(&capsule);
    for at in 0..capsule.len() {
        let mut altered = capsule.clone();
        altered[at] ^= 1 << (at % 8);
        let (spot, _) = fault(&altered);
        let start = starts
            .iter()
            .rev()
            .find(|start| **start <= at)
            .copied()
            .unwrap_or(0);
        assert_eq!(spot.offset, start as u64, "byte {at}");
    }
}

// proves A6, B8
#[test]
fn a_capsule_cut_anywhere_is_refused_where_it_ends() {
    let capsule = short();
    let starts = offsets(&capsule);
    for len in 0..capsule.len() {
        let (spot, fault) = fault(&capsule[..len]);
        let start = starts
            .iter()
            .rev()
            .find(|start| **start <= len)
            .copied()
            .unwrap_or(0);
        assert_eq!(spot.offset, start as u64, "cut at {len}");
        assert!(matches!(fault, Fault::Cut | Fault::NotACapsule), "{fault:?}");
    }
    let longer = [&capsule[..], b"\0"].concat();
    assert!(matches!(fault(&longer).1, Fault::Trailing));
    let twice = [&capsule[..], &capsule[..]].concat();
    assert!(matches!(fault(&twice).1, Fault::Trailing));
}

// proves A6
#[test]
fn dropped_swapped_and_repeated_sections_are_refused_even_with_a_fitting_end() {
    let whole = sections(&short());
    let last = whole.len() - 1;
    for one in 0..last {
        let (kind, _) = whole[one];
        let mut dropped = whole.clone();
        dropped.remove(one);
        // What may be left out without changing the history: the announcement and what is sealed.
        let spared = matches!(kind, Kind::Announcement | Kind::Sealed);
        assert_eq!(
            sound(&ended(dropped.clone())),
            spared,
            "section {one}, a {kind}, dropped"
        );
        assert!(
            !sound(&joined(&dropped)),
            "section {one} dropped under the old end"
        );
        for to in [one, last] {
            let mut repeated = whole.clone();
            repeated.insert(to, whole[one].clone());
            assert!(!sound(&ended(repeated)), "section {one} repeated at {to}");
        }
        for other in one + 1..last {
            let mut swapped = whole.clone();
            swapped.swap(one, other);
            let (spot, _) = fault(&ended(swapped));
            assert!(
                spot.offset >= offsets(&joined(&whole))[one] as u64,
                "{one} and {other} swapped"
            );
        }
    }
    let cut: Vec<_> = whole[..last].to_vec();
    assert!(matches!(fault(&joined(&cut)).1, Fault::Cut), "an end cut off");
}

/// The first capsule with one record replaced by another, under a fitting check and end.
fn with_record(sections: &[(Kind, Vec<u8>)], seq: usize, change: impl Fn(&mut Record)) -> Vec<u8> {
    let mut sections = sections.to_vec();
    let records = sections.iter_mut().filter(|(kind, _)| *kind == Kind::Record);
    let (_, bytes) = records.into_iter().nth(seq).unwrap();
    let (_, content) = bytes.split_at(FRAME_BYTES);
    let mut record = Stored::decode(content.to_vec()).unwrap().record;
    change(&mut record);
    let (_, forged) = section(Kind::Record, &suijuris_core::codec::encode(&record).unwrap());
    *bytes = forged;
    ended(sections)
}

// proves A6, B8
#[test]
fn a_forged_record_is_named_by_position_and_byte() {
    let capsule = full();
    let sections = sections(&capsule);
    let is_record: Vec<bool> = sections.iter().map(|(kind, _)| *kind == Kind::Record).collect();
    let starts: Vec<usize> = offsets(&capsule)
        .into_iter()
        .zip(is_record)
        .filter_map(|(start, is_record)| is_record.then_some(start))
        .collect();
    for (seq, start) in starts.iter().enumerate() {
        let forged = with_record(&sections, seq, |record| {
            record.epoch += 7;
        });
        let (spot, fault) = fault(&forged);
        assert_eq!(
            spot,
            Spot {
                offset: *start as u64,
                seq: seq as u64
            }
        );
        assert!(matches!(fault, Fault::Chain(_)), "{fault:?}");
    }
    // A record that fits but for its signature.
    let forged = with_record(&sections, starts.len() - 1, |record| record.at.0 += 1);
    let Err(error) = verify(&forged[..], |_| {}) else {
        panic!("it was accepted")
    };
    let told = chain(&error);
    let seq = starts.len() - 1;
    let place = format!("record {seq} (byte {})", starts[seq]);
    assert!(
        told.contains(&place) && told.contains("signature is not valid"),
        "{told}"
    );
    let CapsuleError::Bad {
        fault: Fault::Chain(broken),
        ..
    } = error
    else {
        panic!("{told}")
    };
    assert!(matches!(broken.fault, ChainFault::Signature));
}

#[test]
fn the_announcement_must_be_of_the_state() {
    let early = sections(&exported(&dir_at(&lived(1, &FULL[..8]), OBJECT)));
    let announcement = early
        .into_iter()
        .find(|(kind, _)| *kind == Kind::Announcement)
        .unwrap();
    let mut sections = sections(&full());
    let place = sections
        .iter_mut()
        .find(|(kind, _)| *kind == Kind::Announcement)
        .unwrap();
    *place = announcement;
    assert!(matches!(fault(&ended(sections)).1, Fault::OtherAnnouncement));
}

#[test]
fn bundles_stand_once_before_the_record_that_names_them() {
    let sections = sections(&full());
    let kinds: Vec<Kind> = sections.iter().map(|(kind, _)| *kind).collect();
    let bundles = kinds.iter().filter(|kind| **kind == Kind::Bundle).count();
    assert_eq!(bundles, 3, "three rules in force, the first of them twice");
    assert_eq!(kinds[..2], [Kind::Bundle, Kind::Record]);
    assert_eq!(
        kinds[kinds.len() - 3..],
        [Kind::Announcement, Kind::Sealed, Kind::End]
    );
    let foreign = section(Kind::Bundle, &crate::lives::rules(9).encode().unwrap());
    let mut stray = sections;
    stray.insert(3, foreign);
    assert!(matches!(fault(&ended(stray)).1, Fault::OtherBundle));
}

#[test]
fn sizes_are_refused_before_anything_is_read() {
    for kind in [
        Kind::Bundle,
        Kind::Record,
        Kind::Parent,
        Kind::Announcement,
        Kind::Sealed,
        Kind::End,
    ] {
        let mut frame = Frame::of(kind, 0, &Digest::of(b"")).encode();
        frame[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        let bytes = [&capsule::header()[..], &frame].concat();
        let (spot, fault) = fault(&bytes);
        assert!(
            matches!(fault, Fault::TooLong { size: u32::MAX, .. }),
            "{fault:?}"
        );
        assert_eq!(spot, Spot { offset: 16, seq: 0 });
    }
    let mut frame = Frame::of(Kind::End, 0, &Digest::of(b"")).encode();
    frame[3] = 9;
    assert!(matches!(
        fault(&[&capsule::header()[..], &frame].concat()).1,
        Fault::Kind(9)
    ));
    let mut newer = full();
    newer[11] = 2;
    assert!(matches!(fault(&newer).1, Fault::Version(2)));
    assert!(matches!(
        fault(b"PK\x03\x04 and so on, no capsule").1,
        Fault::NotACapsule
    ));
}

#[test]
fn an_export_beside_a_writer_is_a_prefix_that_stays() {
    let disk = lived(1, &[]);
    let object_dir = dir_at(&disk, OBJECT);
    let writer = open(&object_dir, Depth::Tail);
    wake(&writer, 2).unwrap();
    commit(&writer, note("durable"));
    let before = Reader::open(&object_dir, Depth::Tail).unwrap();
    commit(&writer, note("later"));
    let mut bytes = Vec::new();
    let told = capsule::export(&before, &mut bytes, None, |_| {}).unwrap();
    assert_eq!((told.seq, told.head), (2, before.state().head().record));
    assert_eq!(verify(&bytes[..], |_| {}).unwrap().head(), told.head);
}

#[test]
fn what_a_capsule_holds_no_crash_takes_from_the_object() {
    use suijuris_testkit::disk::{Fault, Loss};
    let disk = lived(1, &[]);
    let object_dir = dir_at(&disk, OBJECT);
    let writer = open(&object_dir, Depth::Tail);
    wake(&writer, 2).unwrap();
    commit(&writer, note("allocated"));
    // The next group is written, but its sync fails: nobody is told of it, and a reader sees it.
    let ticket = writer.stage(note("seen")).unwrap();
    disk.fail(2, Fault::Eio);
    assert!(ticket.wait().is_err());
    drop(writer);
    let capsule = exported(&object_dir);
    assert_eq!(verify(&capsule[..], |_| {}).unwrap().seq(), 3);
    let after: FaultyDisk = disk.crash(Loss::All);
    let reader = Reader::open(&dir_at(&after, OBJECT), Depth::Whole).unwrap();
    assert_eq!(
        reader.state().head().seq,
        3,
        "the capsule would be another history"
    );
}

#[test]
fn a_history_that_cannot_be_read_is_not_exported() {
    let disk = lived(1, FULL);
    let object_dir = dir_at(&disk, OBJECT);
    let reader = Reader::open(&object_dir, Depth::Tail).unwrap();
    let segment = disk
        .paths()
        .into_iter()
        .find(|path| path.extension().is_some_and(|e| e == "seg"))
        .unwrap();
    let mut bytes = disk.content(&segment).unwrap();
    bytes[200] ^= 1;
    disk.set_content(&segment, bytes);
    let mut out = Vec::new();
    let Err(error) = capsule::export(&reader, &mut out, None, |_| {}) else {
        panic!("exported")
    };
    assert!(chain(&error).contains("record 0"), "{}", chain(&error));
    assert!(!sound(&out));
    let large = vec![0; capsule::MAX_SEALED_BYTES + 1];
    let Err(error) = capsule::export(&reader, &mut out, Some(&large), |_| {}) else {
        panic!("exported")
    };
    assert!(error.to_string().contains("1048576"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(!sound(&bytes));
        prop_assert!(!sound(&[&capsule::header()[..], &bytes].concat()));
    }

    #[test]
    fn no_section_content_makes_the_reader_panic(
        contents in prop::collection::vec((0..6usize, prop::collection::vec(any::<u8>(), 0..64)), 0..6),
    ) {
        const KINDS: [Kind; 6] =
            [Kind::Bundle, Kind::Record, Kind::Parent, Kind::Announcement, Kind::Sealed, Kind::End];
        let forged = contents.iter().map(|(kind, content)| section(KINDS[*kind], content));
        prop_assert!(!sound(&ended(forged.collect())));
    }

    // proves A6
    #[test]
    fn altered_contents_under_fitting_checks_are_refused(
        steps in any_steps(),
        which in any::<prop::sample::Index>(),
        bit in any::<prop::sample::Index>(),
    ) {
        let disk = lived(3, &steps);
        let mut sections = sections(&exported(&dir_at(&disk, OBJECT)));
        sections.retain(|(kind, _)| !matches!(kind, Kind::Sealed | Kind::End));
        let index = which.index(sections.len());
        let (kind, bytes) = sections[index].clone();
        let mut content = bytes[FRAME_BYTES..].to_vec();
        let bit = bit.index(content.len() * 8);
        content[bit / 8] ^= 1 << (bit % 8);
        sections[index] = section(kind, &content);
        let forged = ended(sections);
        match verify(&forged[..], |_| {}) {
            Err(CapsuleError::Bad { spot, .. }) => {
                let start = offsets(&forged)[index] as u64;
                prop_assert!(spot.offset >= start, "{spot} for a change at byte {start}");
            }
            Err(CapsuleError::Read(error)) => panic!("{error}"),
            // Behind the last signature another history may be told; then it is another one.
            Ok(verified) => {
                let original = Reader::open(&dir_at(&disk, OBJECT), Depth::Tail).unwrap();
                prop_assert!(kind == Kind::Record && verified.announcement.is_none());
                prop_assert_ne!(verified.head(), original.state().head().record);
            }
        }
    }
}

#[test]
fn a_new_object_makes_a_capsule_too() {
    for steps in [&[][..], &[Step::Wake][..]] {
        assert!(sound(&exported(&dir_at(&lived(1, steps), OBJECT))));
    }
}
