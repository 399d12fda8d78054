//! The golden vectors of `spec/segments.md` are what the code writes and reads.

use suijuris_core::id::{Digest, ObjectId, RecordId};
use suijuris_core::lineage::Stored;
use suijuris_store::frame::{FRAME_BYTES, Frame, Header, HeaderFault};
use suijuris_store::{Depth, Reader};

use crate::support::{found_at, home_on};

const SPEC: &str = include_str!("../../../../spec/segments.md");

fn golden(name: &str) -> String {
    let (_, after) = SPEC
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
    found_at(&home_on(&disk), 1).unwrap();
    let reader = Reader::open(&home_on(&disk), Depth::Whole).unwrap();
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
