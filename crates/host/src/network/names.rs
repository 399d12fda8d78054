//! Names in private networks, as Fly's `.internal` has them: of apps, machines, regions and groups, and those that machines ask for
//! themselves. Only machines that are started are named, and only to machines of the same network: which that is, the address of whoever
//! asks says. All other names are asked of this machine's own resolver, where there is a way out.

mod server;
mod zone;

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::{AAAA, TXT};
use hickory_server::proto::rr::{DNSClass, RData, Record, RecordType};

use super::NetworkId;
pub(crate) use server::serve;
use zone::{Found, Named, Zone};

/// The last label of all names that are answered here.
const ZONE: &str = "internal";
/// How long an answer may be remembered, seconds, as at Fly.
const TTL_S: u32 = 5;
/// Most bytes of a question.
const MAX_QUESTION: usize = 4 << 10;
/// Most bytes of an answer over UDP: what every path carries whole.
const MAX_DATAGRAM: u16 = 1_232;
/// Most bytes of a text of one answer.
const MAX_TEXT: usize = 32 << 10;

/// What becomes of a question.
enum Reply {
    Answer(Box<Message>),
    /// It is about a name of the world.
    Forward,
    /// It is none.
    Nothing,
}

/// The answer to a question from `address`. Answers and what is not a question get none, so that no two servers talk to each other.
fn reply(zone: &Zone, address: Ipv6Addr, question: &Message) -> Reply {
    if question.metadata.message_type != MessageType::Query {
        return Reply::Nothing;
    }
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_DATAGRAM);
        answer.set_edns(edns);
    }
    let [query] = question.queries.as_slice() else {
        answer.metadata.response_code = ResponseCode::FormErr;
        return Reply::Answer(Box::new(answer));
    };
    answer.add_query(query.clone());
    if question.metadata.op_code != OpCode::Query || query.query_class() != DNSClass::IN {
        answer.metadata.response_code = ResponseCode::NotImp;
        return Reply::Answer(Box::new(answer));
    }
    let name = query.name().to_ascii().to_ascii_lowercase();
    let mut labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
    if labels.pop() != Some(ZONE) {
        return Reply::Forward;
    }
    answer.metadata.authoritative = true;
    fill(&mut answer, query, zone.look_up(address, &labels));
    Reply::Answer(Box::new(answer))
}

fn fill(answer: &mut Message, query: &Query, found: Found) {
    let record = |data| Record::from_rdata(query.name().clone(), TTL_S, data);
    match (found, query.query_type()) {
        (Found::Nothing, _) => answer.metadata.response_code = ResponseCode::NXDomain,
        (Found::Addresses(addresses), RecordType::AAAA | RecordType::ANY) => {
            let records = addresses
                .into_iter()
                .map(|address| record(RData::AAAA(AAAA(address))));
            answer.add_answers(records);
        }
        (Found::Text(parts), RecordType::TXT | RecordType::ANY) => {
            // One text, in the pieces that its format has room for.
            let separator = if parts.iter().any(|part| part.contains(',')) {
                ";"
            } else {
                ","
            };
            let mut text = parts.join(separator);
            text.truncate(MAX_TEXT);
            let pieces = text.as_bytes().chunks(255);
            let pieces = pieces.map(|piece| String::from_utf8_lossy(piece).into_owned());
            if !text.is_empty() {
                answer.add_answer(record(RData::TXT(TXT::new(pieces.collect()))));
            }
        }
        // The name has nothing of this type.
        (Found::Addresses(_) | Found::Text(_), _) => {}
    }
}

/// The bytes of an answer, at most `room` of them: what has more is asked for again over TCP.
fn encode(answer: &Message, room: usize) -> Option<Vec<u8>> {
    let bytes = answer.to_vec().ok()?;
    if bytes.len() <= room {
        return Some(bytes);
    }
    let mut cut = answer.truncate();
    cut.metadata.truncation = true;
    cut.to_vec().ok()
}

/// Reads a question and answers it from `zone`, for fuzzing: whatever the bytes, an answer fits and is read again.
#[doc(hidden)]
pub fn fuzz(bytes: &[u8]) {
    let Some(bytes) = bytes.get(..bytes.len().min(MAX_QUESTION)) else {
        return;
    };
    let Ok(question) = Message::from_vec(bytes) else {
        return;
    };
    let network = NetworkId::of("personal", "default");
    let mut zone = Zone::default();
    let machine = Named {
        id: "148ed21a2c3d4f".to_owned(),
        region: "fra".to_owned(),
        group: "app".to_owned(),
        address: network.of_machine("148ed21a2c3d4f"),
        metadata: BTreeMap::new(),
    };
    let ours = zone.0.entry(network).or_default();
    ours.own.insert("own".to_owned(), vec![machine.address]);
    let address = machine.address;
    ours.apps.insert("a".to_owned(), vec![machine]);
    if let Reply::Answer(answer) = reply(&zone, address, &question)
        && let Some(bytes) = encode(&answer, usize::from(MAX_DATAGRAM))
    {
        assert!(bytes.len() <= usize::from(u16::MAX));
        assert!(Message::from_vec(&bytes).is_ok(), "{answer:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_server::proto::rr::Name;

    use super::zone::{MAX_OWN_NAMES, own_names};
    use super::*;

    fn named(network: NetworkId, id: &str, region: &str) -> Named {
        Named {
            id: id.to_owned(),
            region: region.to_owned(),
            group: if region == "fra" { "web" } else { "app" }.to_owned(),
            address: network.of_machine(id),
            metadata: BTreeMap::from([("role".to_owned(), region.to_owned())]),
        }
    }

    fn zone() -> (Zone, NetworkId, NetworkId) {
        let (ours, theirs) = (
            NetworkId::of("personal", "default"),
            NetworkId::of("other", "default"),
        );
        let mut zone = Zone::default();
        for network in [ours, theirs] {
            let found = zone.0.entry(network).or_default();
            let machines = [
                named(network, "aa1111111111ff", "fra"),
                named(network, "bb2222222222ff", "iad"),
            ];
            found.apps.insert("web".to_owned(), machines.to_vec());
            found.apps.insert("resting".to_owned(), Vec::new());
        }
        zone.0
            .get_mut(&ours)
            .unwrap()
            .own
            .insert("bafyobject".to_owned(), vec![ours.of_machine("aa1111111111ff")]);
        zone.0
            .get_mut(&theirs)
            .unwrap()
            .apps
            .insert("secret".to_owned(), vec![named(theirs, "cc3333333333ff", "fra")]);
        (zone, ours, theirs)
    }

    // proves F9
    #[test]
    fn each_name_stands_for_what_it_does_at_fly_and_for_the_askers_network_alone() {
        let (zone, ours, theirs) = zone();
        let (a, b) = (
            ours.of_machine("aa1111111111ff"),
            ours.of_machine("bb2222222222ff"),
        );
        let check = |name: &str, expect: Found| {
            let labels: Vec<&str> = name.split('.').collect();
            assert_eq!(zone.look_up(b, &labels), expect, "{name}");
        };
        let addresses = |all: &[Ipv6Addr]| Found::Addresses(all.to_vec());
        check("web", addresses(&[a, b]));
        check("resting", addresses(&[]));
        check("fra.web", addresses(&[a]));
        check("aa1111111111ff.vm.web", addresses(&[a]));
        check("web.process.web", addresses(&[a]));
        check("iad.role.kv._metadata.web", addresses(&[b]));
        check("top1.nearest.of.web", addresses(&[b]));
        check("top5.nearest.of.web", addresses(&[b, a]));
        check("bafyobject", addresses(&[a]));
        check("_apps", Found::Text(vec!["web".to_owned()]));
        check(
            "regions.web",
            Found::Text(vec!["fra".to_owned(), "iad".to_owned()]),
        );
        let Found::Text(instances) = zone.look_up(b, &["_instances"]) else {
            panic!()
        };
        assert_eq!(instances.len(), 2);
        assert_eq!(
            instances[0],
            format!("instance=aa1111111111ff,app=web,ip={a},region=fra")
        );
        for name in [
            "secret",
            "cc3333333333ff.vm.secret",
            "topx.nearest.of.web",
            "",
            "a.b.c.d.e.f",
            "_api",
        ] {
            check(name, Found::Nothing);
        }
        let of_theirs = theirs.of_machine("cc3333333333ff");
        assert_eq!(zone.look_up(of_theirs, &["bafyobject"]), Found::Nothing);
        assert_eq!(zone.look_up("fd00::1".parse().unwrap(), &["web"]), Found::Nothing);
    }

    fn asked(name: &str, kind: RecordType) -> Message {
        let mut question = Message::new(7, MessageType::Query, OpCode::Query);
        question.add_query(Query::query(Name::from_str(name).unwrap(), kind));
        question
    }

    #[test]
    fn an_answer_says_whether_the_name_is_there_and_fits() {
        let (mut zone, ours, _) = zone();
        let from = ours.of_machine("bb2222222222ff");
        let answer = |zone: &Zone, question: &Message| match reply(zone, from, question) {
            Reply::Answer(answer) => *answer,
            _ => panic!("{question:?}"),
        };
        let found = answer(&zone, &asked("WEB.internal.", RecordType::AAAA));
        assert_eq!(
            (found.answers.len(), found.metadata.response_code),
            (2, ResponseCode::NoError)
        );
        let other = answer(&zone, &asked("web.internal.", RecordType::A));
        assert_eq!(
            (other.answers.len(), other.metadata.response_code),
            (0, ResponseCode::NoError)
        );
        let none = answer(&zone, &asked("nobody.internal.", RecordType::AAAA));
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(
            reply(&zone, from, &asked("example.com.", RecordType::A)),
            Reply::Forward
        ));
        let mut echo = asked("web.internal.", RecordType::AAAA);
        echo.metadata.message_type = MessageType::Response;
        assert!(matches!(reply(&zone, from, &echo), Reply::Nothing));
        let many = (0..200)
            .map(|n| named(ours, &format!("{n:014x}"), "fra"))
            .collect();
        zone.0
            .get_mut(&ours)
            .unwrap()
            .apps
            .insert("many".to_owned(), many);
        let whole = answer(&zone, &asked("many.internal.", RecordType::AAAA));
        let cut = Message::from_vec(&encode(&whole, 512).unwrap()).unwrap();
        assert!(cut.metadata.truncation && cut.answers.is_empty());
        let full = Message::from_vec(&encode(&whole, 65_535).unwrap()).unwrap();
        assert_eq!(full.answers.len(), 200);
    }

    #[test]
    fn what_a_machine_asks_for_is_labels_or_nothing() {
        let names: Vec<String> = own_names("bafyx, two,,A.b _no ünix 3").collect();
        assert_eq!(names, ["bafyx", "two", "3"]);
        assert_eq!(own_names(&"n ".repeat(100)).count(), MAX_OWN_NAMES);
    }

    #[test]
    fn bytes_that_are_no_question_are_survived() {
        let question = asked("web.internal.", RecordType::ANY).to_vec().unwrap();
        for cut in 0..question.len() {
            fuzz(&question[..cut]);
        }
        fuzz(&question);
        fuzz(&[0xff; 600]);
    }
}
