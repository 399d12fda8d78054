//! Names in private networks, as Fly's `.internal` has them: of apps, machines, regions and groups, and those that machines ask for
//! themselves. Only machines that are started are named, and only to machines of the same network: which that is, the address of whoever
//! asks says. All other names are asked of this machine's own resolver, where there is a way out.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hickory_server::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_server::proto::rr::rdata::{AAAA, TXT};
use hickory_server::proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::NetworkId;
use crate::host::Inner;
use crate::machine::{Machine, State};

/// Key of a machine's metadata with further names of it, apart by commas or spaces: labels of `a-z`, `0-9` and `-`.
pub(crate) const OWN_NAMES: &str = "internal_names";
/// Names that one machine may ask for.
const MAX_OWN_NAMES: usize = 16;
/// The last label of all names that are answered here.
const ZONE: &str = "internal";
/// How long an answer may be remembered, seconds, as at Fly.
const TTL_S: u32 = 5;
/// Most bytes of a question.
const MAX_QUESTION: usize = 4 << 10;
/// Most bytes of an answer over UDP: what every path carries whole.
const MAX_DATAGRAM: u16 = 1_232;
/// Most addresses of one answer.
const MAX_ADDRESSES: usize = 256;
/// Most bytes of a text of one answer.
const MAX_TEXT: usize = 32 << 10;
/// Connections at one time, and how long one may be without a question.
const MAX_CONNECTIONS: usize = 256;
const IDLE: Duration = Duration::from_secs(10);
/// Questions that are with this machine's resolver at one time, and how long each may be.
const MAX_FORWARDED: usize = 256;
const FORWARDED_WITHIN: Duration = Duration::from_secs(5);

/// What is known of one private network.
#[derive(Debug, Default)]
struct Network {
    /// Of each app the machines that are started.
    apps: BTreeMap<String, Vec<Named>>,
    /// Names that machines ask for.
    own: BTreeMap<String, Vec<Ipv6Addr>>,
}

/// A machine that is started.
#[derive(Debug, Clone)]
struct Named {
    id: String,
    region: String,
    group: String,
    address: Ipv6Addr,
    metadata: BTreeMap<String, String>,
}

/// All private networks, as of one state of the records.
#[derive(Debug, Default)]
pub(crate) struct Zone(HashMap<NetworkId, Network>);

/// What a name stands for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// There is no such name.
    Nothing,
    Addresses(Vec<Ipv6Addr>),
    Text(Vec<String>),
}

/// The names that a machine asks for; those that are none are left out.
fn own_names(text: &str) -> impl Iterator<Item = String> {
    let is_label = |name: &&str| {
        name.len() <= 63
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    let words = text.split([',', ' ']).filter(|name| !name.is_empty());
    words.filter(is_label).take(MAX_OWN_NAMES).map(str::to_owned)
}

impl Zone {
    fn of(host: &Inner) -> Self {
        let mut zone = Self::default();
        {
            let apps = host.apps.read().unwrap_or_else(PoisonError::into_inner);
            for app in apps.values().filter(|app| !app.leaving) {
                let network = zone.0.entry(NetworkId::of(&app.org, &app.network)).or_default();
                network.apps.entry(app.name.clone()).or_default();
            }
        }
        let machines = host.machines.read().unwrap_or_else(PoisonError::into_inner);
        let records = machines.values().map(|handle| handle.now());
        for machine in records.filter(|machine| machine.state == State::Started && machine.has_image()) {
            zone.add(&machine);
        }
        zone
    }

    fn add(&mut self, machine: &Machine) {
        let metadata = machine.config.metadata();
        let address = machine.address();
        let network = self.0.entry(machine.network_id()).or_default();
        for name in metadata
            .get(OWN_NAMES)
            .into_iter()
            .flat_map(|text| own_names(text))
        {
            network.own.entry(name).or_default().push(address);
        }
        network.apps.entry(machine.app.clone()).or_default().push(Named {
            id: machine.id.clone(),
            region: machine.region.clone(),
            group: metadata
                .get("fly_process_group")
                .cloned()
                .unwrap_or_else(|| "app".to_owned()),
            address,
            metadata,
        });
    }

    /// What `labels`, without the zone's own, stand for to whoever asks from `address`.
    fn look_up(&self, address: Ipv6Addr, labels: &[&str]) -> Found {
        let network = NetworkId::at(address).and_then(|network| self.0.get(&network));
        let Some(network) = network else {
            return Found::Nothing;
        };
        let of = |app: &str, keep: &dyn Fn(&Named) -> bool| match network.apps.get(app) {
            Some(machines) => {
                let kept = machines.iter().filter(|machine| keep(machine));
                Found::Addresses(kept.map(|machine| machine.address).take(MAX_ADDRESSES).collect())
            }
            None => Found::Nothing,
        };
        let text = |app: &str, one: &dyn Fn(&Named) -> String| match network.apps.get(app) {
            Some(machines) => Found::Text(machines.iter().map(one).collect()),
            None => Found::Nothing,
        };
        match labels {
            ["_apps"] => Found::Text(
                network
                    .apps
                    .iter()
                    .filter(|(_, up)| !up.is_empty())
                    .map(|(app, _)| app.clone())
                    .collect(),
            ),
            ["_instances"] => Found::Text(network.instances().collect()),
            [app] if network.apps.contains_key(*app) => of(app, &|_| true),
            [name] => network
                .own
                .get(*name)
                .cloned()
                .map_or(Found::Nothing, Found::Addresses),
            ["vms", app] => text(app, &|machine| format!("{} {}", machine.id, machine.region)),
            ["regions", app] => match text(app, &|machine| machine.region.clone()) {
                Found::Text(mut regions) => {
                    regions.sort();
                    regions.dedup();
                    Found::Text(regions)
                }
                nothing => nothing,
            },
            [region, app] => of(app, &|machine| machine.region == *region),
            [id, "vm", app] => of(app, &|machine| machine.id == *id),
            [group, "process", app] => of(app, &|machine| machine.group == *group),
            [value, key, "kv", "_metadata", app] => of(app, &|machine| {
                machine.metadata.get(*key).is_some_and(|found| found == value)
            }),
            [top, "nearest", "of", app] => match top.strip_prefix("top").and_then(|count| count.parse().ok())
            {
                Some(count) => network.nearest(address, app, count),
                None => Found::Nothing,
            },
            _ => Found::Nothing,
        }
    }
}

impl Network {
    fn instances(&self) -> impl Iterator<Item = String> {
        self.apps.iter().flat_map(|(app, machines)| {
            machines.iter().map(move |machine| {
                let Named {
                    id, region, address, ..
                } = machine;
                format!("instance={id},app={app},ip={address},region={region}")
            })
        })
    }

    /// Machines of the asker's own region first: one host is as near as another.
    fn nearest(&self, asker: Ipv6Addr, app: &str, count: usize) -> Found {
        let Some(machines) = self.apps.get(app) else {
            return Found::Nothing;
        };
        let mut all = self.apps.values().flatten();
        let region = all
            .find(|machine| machine.address == asker)
            .map(|machine| machine.region.as_str());
        let mut near: Vec<&Named> = machines.iter().collect();
        near.sort_by_key(|machine| Some(machine.region.as_str()) != region);
        Found::Addresses(
            near.into_iter()
                .map(|machine| machine.address)
                .take(count.min(MAX_ADDRESSES))
                .collect(),
        )
    }
}

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

/// Answers questions.
struct Server {
    host: Weak<Inner>,
    zone: Mutex<(u64, Arc<Zone>)>,
    /// This machine's own resolvers; none without a way out.
    resolvers: Vec<SocketAddr>,
    forwarded: Arc<Semaphore>,
}

impl Server {
    fn zone(&self) -> Option<Arc<Zone>> {
        let host = self.host.upgrade()?;
        let changes = host.shared.changes.load(Ordering::Acquire);
        let mut zone = self.zone.lock().unwrap_or_else(PoisonError::into_inner);
        if zone.0 != changes {
            *zone = (changes, Arc::new(Zone::of(&host)));
        }
        Some(Arc::clone(&zone.1))
    }

    /// The answer to the question in `bytes`, of at most `room` bytes where it comes from here.
    async fn answer(&self, bytes: &[u8], from: IpAddr, room: Option<usize>) -> Option<Vec<u8>> {
        let IpAddr::V6(address) = from else { return None };
        let question = Message::from_vec(bytes).ok()?;
        let most = room.unwrap_or(usize::from(u16::MAX));
        let most = match (&question.edns, room) {
            (Some(_), Some(room)) => usize::from(question.max_payload()).clamp(512, room),
            (None, Some(_)) => 512,
            (_, None) => most,
        };
        match reply(&*self.zone()?, address, &question) {
            Reply::Answer(answer) => encode(&answer, most),
            Reply::Forward => match self.forward(bytes, question.metadata.id, room.is_none()).await {
                Some(answer) => Some(answer),
                None => {
                    let mut refused =
                        Message::error_msg(question.metadata.id, OpCode::Query, ResponseCode::Refused);
                    if !self.resolvers.is_empty() {
                        refused.metadata.response_code = ResponseCode::ServFail;
                    }
                    refused.queries = question.queries;
                    encode(&refused, most)
                }
            },
            Reply::Nothing => None,
        }
    }

    /// What this machine's resolver says.
    async fn forward(&self, question: &[u8], id: u16, over_tcp: bool) -> Option<Vec<u8>> {
        let _room = self.forwarded.try_acquire().ok()?;
        for resolver in &self.resolvers {
            let asked = async {
                if over_tcp {
                    let mut stream = TcpStream::connect(resolver).await?;
                    write_framed(&mut stream, question).await?;
                    read_framed(&mut stream, usize::from(u16::MAX)).await
                } else {
                    let any: SocketAddr = if resolver.is_ipv4() {
                        ([0, 0, 0, 0], 0).into()
                    } else {
                        ([0_u16; 8], 0).into()
                    };
                    let socket = UdpSocket::bind(any).await?;
                    socket.connect(resolver).await?;
                    socket.send(question).await?;
                    let mut bytes = vec![0; MAX_QUESTION];
                    let length = socket.recv(&mut bytes).await?;
                    bytes.truncate(length);
                    Ok(bytes)
                }
            };
            let answer = tokio::time::timeout(FORWARDED_WITHIN / 2, asked).await;
            if let Ok(Ok(answer)) = answer
                && answer.starts_with(&id.to_be_bytes())
            {
                return Some(answer);
            }
        }
        None
    }
}

async fn write_framed(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let framed = [&length.to_be_bytes(), bytes].concat();
    stream.write_all(&framed).await
}

async fn read_framed(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// This machine's own resolvers, as `/etc/resolv.conf` lists them.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let address = |line: &str| line.strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines()
        .filter_map(address)
        .take(3)
        .map(|address| (address, 53).into())
        .collect()
}

/// Answers at these two sockets, UDP and TCP, until the host is no more.
pub(crate) async fn serve(
    host: Weak<Inner>,
    sockets: (OwnedFd, OwnedFd),
    has_way_out: bool,
) -> io::Result<()> {
    let (udp, tcp) = sockets;
    let udp = Arc::new(UdpSocket::from_std(udp.into())?);
    let tcp = TcpListener::from_std(tcp.into())?;
    let configured = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let server = Arc::new(Server {
        host,
        zone: Mutex::new((u64::MAX, Arc::default())),
        resolvers: if has_way_out {
            resolvers(&configured)
        } else {
            Vec::new()
        },
        forwarded: Arc::new(Semaphore::new(MAX_FORWARDED)),
    });
    let mut tasks = JoinSet::new();
    let mut bytes = vec![0; MAX_QUESTION];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut bytes) => {
                // An answer that reached nobody is no reason to stop.
                let Ok((length, from)) = received else { continue };
                let question = bytes.get(..length).unwrap_or_default().to_vec();
                if tasks.len() >= MAX_FORWARDED + MAX_CONNECTIONS {
                    // Whoever asks asks again.
                    continue;
                }
                let (server, udp) = (Arc::clone(&server), Arc::clone(&udp));
                tasks.spawn(async move {
                    if let Some(answer) = server.answer(&question, from.ip(), Some(usize::from(MAX_DATAGRAM))).await {
                        let _ = udp.send_to(&answer, from).await;
                    }
                });
            }
            accepted = tcp.accept() => {
                let Ok((stream, from)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if tasks.len() < MAX_CONNECTIONS {
                    let server = Arc::clone(&server);
                    tasks.spawn(async move { drop(converse(&server, stream, from.ip()).await) });
                }
            }
            Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
        }
    }
}

async fn converse(server: &Server, mut stream: TcpStream, from: IpAddr) -> io::Result<()> {
    loop {
        let question = tokio::time::timeout(IDLE, read_framed(&mut stream, MAX_QUESTION)).await??;
        let Some(answer) = server.answer(&question, from, None).await else {
            return Ok(());
        };
        tokio::time::timeout(IDLE, write_framed(&mut stream, &answer)).await??;
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use hickory_server::proto::rr::Name;

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
    fn resolvers_are_those_that_are_listed() {
        let found = resolvers("# x\nsearch a\nnameserver 10.0.0.1\nnameserver\tfd00::1\nnameserver no\n");
        let expect: Vec<SocketAddr> = vec!["10.0.0.1:53".parse().unwrap(), "[fd00::1]:53".parse().unwrap()];
        assert_eq!(found, expect);
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
