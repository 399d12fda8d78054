//! The golden vectors of `spec/segments.md`, `spec/capsule.md` and `spec/vectors/capsule.json` are what the code writes
//! and reads.

use suijuris_core::id::{Digest, ObjectId, RecordId};
use suijuris_core::lineage::Stored;
use suijuris_store::frame::{FRAME_BYTES, Frame, Header, HeaderFault};
use suijuris_store::{Depth, Reader, capsule};

use crate::lives::{OBJECT, SHORT, exported, lived};
use crate::support::{create_at, dir_at, dir_on};

const SPEC: &str = include_str!("../../../../spec/segments.md");
const CAPSULE: &str = include_str!("../../../../spec/capsule.md");
const VECTOR: &str = include_str!("../../../../spec/vectors/capsule.json");

fn golden(name: &str) -> String {
    golden_of(SPEC, name)
}

fn golden_of(spec: &str, name: &str) -> String {
    let (_, after) = spec
        .split_once(&format!("<!-- golden: {name} -->\n```\n"))
        .unwrap();
    after.split_once("\n```").unwrap().0.replace('\n', "")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn headers_are_as_specified() {
    let header = Header {
        first: 7,
        object: ObjectId::of(b"object"),
        prev: RecordId::of(b"record"),
    };
    let bytes = header.encode();
    assert_eq!(hex(&bytes), golden("header"));
    assert_eq!(Header::decode(&bytes), Ok(header));
    assert_eq!(Header::decode(&bytes[..95]), Err(HeaderFault::NotASegment));
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        Header::decode(&bytes)
    };
    assert_eq!(with(8, 2), Err(HeaderFault::Version(2)));
    assert_eq!(with(30, 0), Err(HeaderFault::Damaged));
    assert_eq!(with(88, 1), Err(HeaderFault::Damaged));
}

#[test]
fn frames_are_as_specified() {
    let disk = suijuris_testkit::disk::FaultyDisk::default();
    create_at(&dir_on(&disk), 1).unwrap();
    let reader = Reader::open(&dir_on(&disk), Depth::Whole).unwrap();
    let record = reader.records(0..1).unwrap().next().unwrap().unwrap().record;
    let stored = Stored {
        id: RecordId::of(b"record"),
        bytes: b"record".to_vec(),
        record,
    };
    let mut bytes = Vec::new();
    Frame::push(&stored, 1, &mut bytes);
    assert_eq!(hex(&bytes), golden("frame"));
    let frame = Frame::decode(&bytes).unwrap();
    assert_eq!(
        (frame.record_bytes(), frame.group, bytes.len()),
        (6, 1, FRAME_BYTES + 6)
    );
    assert!(frame.fits(&Digest::of(b"record")) && !frame.fits(&Digest::of(b"recore")));
    assert_eq!(Frame::decode(&[0xff; 12]), None, "longer than a record may be");
}

#[test]
fn capsule_headers_and_sections_are_as_specified() {
    assert_eq!(hex(&capsule::header()), golden_of(CAPSULE, "capsule header"));
    let frame = capsule::Frame::of(capsule::Kind::Record, 6, &Digest::of(b"record"));
    let bytes = [&frame.encode()[..], b"record"].concat();
    assert_eq!(hex(&bytes), golden_of(CAPSULE, "capsule section"));
    assert_eq!(
        capsule::Frame::decode(bytes.first_chunk().unwrap()).unwrap(),
        frame
    );
}

/// `spec/vectors/capsule.json` as text; `SUIJURIS_VECTORS=write` writes it, for a new format version only.
fn vector() -> String {
    let object_dir = dir_at(&lived(1, SHORT), OBJECT);
    let bytes = exported(&object_dir);
    let verified = capsule::verify(&bytes[..], |_| {}).unwrap();
    format!(
        "{{\n  \"capsule\": \"{}\",\n  \"object\": \"{}\",\n  \"head\": \"{}\",\n  \"records\": {},\n  \"bundle\": \"{}\",\n  \"memory\": \"{}\",\n  \"sealed\": \"{}\"\n}}\n",
        hex(&bytes),
        verified.object(),
        verified.head(),
        verified.records,
        verified.bundle(),
        hex(&verified.memory_root().0),
        hex(&verified.sealed.unwrap()),
    )
}

// proves B3
#[test]
fn a_capsule_is_byte_for_byte_as_specified() {
    let built = vector();
    if std::env::var("SUIJURIS_VECTORS").as_deref() == Ok("write") {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../spec/vectors/capsule.json");
        std::fs::write(path, &built).unwrap();
    } else {
        assert_eq!(
            VECTOR, built,
            "the format is no longer that of spec/vectors/capsule.json"
        );
    }
}
