//! An object on its way to another daemon, over a line that breaks: it is one object, and arrives, or is taken back.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::home::{Home, MOVE, OPEN, STAY, names, until};
use crate::http::read_head;
use crate::moving::{TRAVELLER, migrate, migrating, other, owner, text};
use crate::ran::{Ran, run};

/// What becomes of the next request that changes something and whose path ends so.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing of it comes through.
    Lost(&'static str),
    /// Its head and so many thousandths of its body do.
    Cut(&'static str, usize),
    /// The same, and neither side is told.
    Stuck(&'static str, usize),
    /// It comes through, and its answer does not.
    Unanswered(&'static str),
}

/// A line to a server that breaks where a test says.
struct Line {
    url: String,
    wire: Arc<Wire>,
}

#[derive(Default)]
struct Wire {
    to: Mutex<String>,
    fault: Mutex<Option<Fault>>,
    /// Bodies that came through whole: path with query, bytes.
    carried: Mutex<Vec<(String, usize)>>,
    /// Both ends of what is stuck.
    stuck: Mutex<Vec<[TcpStream; 2]>>,
}

impl Line {
    fn new(there: &Daemon) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let line = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            wire: Arc::default(),
        };
        line.leads_to(there);
        let wire = line.wire.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let wire = wire.clone();
                std::thread::spawn(move || carry(client, &wire));
            }
        });
        line
    }

    fn leads_to(&self, there: &Daemon) {
        *self.wire.to.lock().unwrap() = there.api_url().replace("http://", "");
    }

    fn breaks(&self, fault: Fault) {
        *self.wire.fault.lock().unwrap() = Some(fault);
    }

    fn is_stuck(&self) -> bool {
        !self.wire.stuck.lock().unwrap().is_empty()
    }

    /// Bodies of this part that came through since this was asked last: where in the file each began, and its bytes.
    fn carried(&self, part: &str) -> Vec<(u64, u64)> {
        let carried = std::mem::take(&mut *self.wire.carried.lock().unwrap());
        let of = |(path, bytes): &(String, usize)| {
            let (path, query) = path.split_once('?')?;
            let offset = query.split_once("offset=")?.1.parse().unwrap();
            path.ends_with(part).then_some((offset, *bytes as u64))
        };
        carried.iter().filter_map(of).collect()
    }
}

/// Carries one request and its answer; whoever asks has a connection for each.
fn carry(mut client: TcpStream, wire: &Wire) -> Option<()> {
    let head = read_head(&mut client)?;
    let mut words = head.split(' ');
    let (method, path) = (words.next()?, words.next()?.to_owned());
    let changes = method != "GET";
    let fault = wire.fault.lock().unwrap().take_if(|fault| {
        let (Fault::Lost(end) | Fault::Cut(end, _) | Fault::Stuck(end, _) | Fault::Unanswered(end)) = fault;
        changes && path.split('?').next().unwrap_or_default().ends_with(*end)
    });
    if let Some(Fault::Lost(_)) = fault {
        return None;
    }
    let mut server = TcpStream::connect(wire.to.lock().unwrap().as_str()).ok()?;
    server.write_all(head.as_bytes()).ok()?;
    let length = length_in(&head);
    let mut body = vec![0; length];
    client.read_exact(&mut body).ok()?;
    if let Some(Fault::Cut(_, part) | Fault::Stuck(_, part)) = fault {
        server.write_all(&body[..length * part / 1_000]).ok()?;
        if let Some(Fault::Stuck(..)) = fault {
            wire.stuck.lock().unwrap().push([client, server]);
        }
        return None;
    }
    server.write_all(&body).ok()?;
    wire.carried.lock().unwrap().push((path, length));
    let head = read_head(&mut server)?;
    let mut body = vec![0; length_in(&head)];
    server.read_exact(&mut body).ok()?;
    if let Some(Fault::Unanswered(_)) = fault {
        return None;
    }
    client.write_all(head.as_bytes()).ok()?;
    client.write_all(&body).ok()
}

/// The length of the body behind a head.
fn length_in(head: &str) -> usize {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths
        .next()
        .map_or(0, |(_, length)| length.trim().parse().unwrap())
}

/// What else the traveller's owner may ask it.
const AMEND: &str = r#"@id("amend") permit (principal is Controller, action == Action::"amend", resource);
"#;

/// A traveller that is awake at home, with a file, and a server that would take it.
struct Journey {
    home: Home,
    here: Daemon,
    there: Daemon,
    root: PathBuf,
    token: PathBuf,
    line: Line,
    listed: Vec<String>,
    id: Value,
    file: String,
}

impl Journey {
    fn new() -> Self {
        let home = Home::new();
        let owner = owner(&home);
        let listed = ["--receive", &owner, "--receive-command", "python3"].map(str::to_owned);
        let words: Vec<&str> = listed.iter().map(String::as_str).collect();
        let here = home.serve_with(&words);
        let root = home.path().join("there");
        let (there, token) = other(&home, &root, &words);
        let rules = [OPEN, STAY, MOVE, AMEND].concat();
        let added = home.add(&home.define("traveller", TRAVELLER, &rules));
        here.get("traveller", "/").status(200);
        let file = "travels too ".repeat(250_000);
        let data = PathBuf::from(added["data"].as_str().unwrap());
        std::fs::write(data.join("volume/file"), &file).unwrap();
        Self {
            line: Line::new(&there),
            id: added["object"].clone(),
            listed: listed.to_vec(),
            home,
            here,
            there,
            root,
            token,
            file,
        }
    }

    fn moves(&self) -> Ran {
        migrate(&self.home, &self.token, "traveller", &self.line.url)
    }

    /// It gets there.
    #[track_caller]
    fn arrives(&self) {
        let events = self.moves().code(0).lines();
        assert_eq!(events.last().unwrap()["event"], "arrived", "{events:?}");
    }

    /// How much of its volume is there.
    #[track_caller]
    fn came(&self) -> u64 {
        let path = format!("/v1/receive/{}", self.id.as_str().unwrap());
        let came = self.there.api("GET", &path, &Value::Null).status(200).json();
        came["volume"]["bytes"].as_u64().unwrap()
    }

    /// The target is killed, and started again.
    fn target_dies(&mut self) {
        let listed = self.listed.clone();
        let listed: Vec<&str> = listed.iter().map(String::as_str).collect();
        self.there.signal("KILL");
        let _ = self.there.ended();
        self.other_again(&listed);
    }

    /// It departs, and does not arrive.
    #[track_caller]
    fn fails(&self, fault: Fault) {
        self.line.breaks(fault);
        let broken = self.moves().code(3);
        assert!(
            broken.err.contains("departed and not arrived"),
            "{fault:?}: {broken:?}"
        );
        assert_eq!(self.here.document("traveller")["phase"], "departed", "{fault:?}");
    }

    #[track_caller]
    fn is_there(&self) {
        assert_eq!(self.there.document("traveller")["object"], self.id);
        let answer = self.there.get("traveller", "/file").status(200);
        assert!(answer.body == self.file, "{} bytes", answer.body.len());
        self.here.get("traveller", "/").problem(503, "departed");
        assert!(names(&self.home.root().join("outgoing")).is_empty());
        assert!(names(&self.root.join("receiving")).is_empty());
    }

    #[track_caller]
    fn is_not_there(&self) {
        let path = format!("/v1/objects/{}", self.id.as_str().unwrap());
        let shown = self.there.api("GET", &path, &Value::Null);
        shown.problem(404, "unknown_object");
        assert!(names(&self.root.join("objects")).is_empty());
    }

    /// Asks the other daemon.
    fn ask(&self, args: &[&str]) -> Ran {
        let mut command = self.home.command(env!("CARGO_BIN_EXE_suijuris"));
        command.env("SUIJURIS_SERVER", &self.root);
        run(command.args(args))
    }

    fn other_again(&mut self, listed: &[&str]) {
        let (there, _) = other(&self.home, &self.root, listed);
        self.line.leads_to(&there);
        self.there = there;
    }

    fn ends(self) {
        self.here.terminate();
        self.there.terminate();
        self.home.nobody_is_left();
    }
}

// proves B4
#[test]
fn an_upload_that_is_cut_anywhere_is_gone_on_with_and_arrives_whole() {
    let journey = Journey::new();
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
    let mut random = seed;
    for part in ["/capsule", "/volume"] {
        for fixed in [Some(0), Some(999), None, None] {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let at = fixed.unwrap_or(usize::try_from(random % 1_000).unwrap());
            println!("seed {seed}: {part} ends after {at} thousandths");
            journey.fails(Fault::Cut(part, at));
            journey.is_not_there();
        }
    }
    journey.arrives();
    journey.is_there();
    journey.ends();
}

// proves B4
#[test]
fn after_a_cut_the_rest_alone_is_sent_whichever_side_was_killed_in_the_middle() {
    let mut journey = Journey::new();
    journey.fails(Fault::Cut("/volume", 500));
    let half = journey.came();
    assert!(half * 2 > journey.file.len() as u64 - (1 << 20), "{half}");
    journey.line.carried("");

    // The command is killed, and the target does not know that nobody sends any more.
    journey.line.breaks(Fault::Stuck("/volume", 500));
    let mut sender = migrating(&journey.home, &journey.token, "traveller", &journey.line.url);
    let mut sender = sender
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the line is stuck", || journey.line.is_stuck());
    until("more of it is there", || journey.came() > half);
    sender.kill().unwrap();
    sender.wait().unwrap();

    // The target is killed, too.
    journey.line.breaks(Fault::Stuck("/volume", 500));
    let mut sender = migrating(&journey.home, &journey.token, "traveller", &journey.line.url);
    let mut sender = sender
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("the line is stuck once more", || {
        journey.line.wire.stuck.lock().unwrap().len() == 2
    });
    journey.target_dies();
    journey.line.wire.stuck.lock().unwrap().clear();
    sender.wait().unwrap();
    let came = journey.came();
    assert!(came > half, "{came} of {half}");
    let capsules = journey.line.carried("/capsule");
    assert!(
        capsules.is_empty(),
        "it is there since the first try: {capsules:?}"
    );

    journey.arrives();
    let packed = journey.line.carried("/volume");
    let [(offset, bytes)] = packed.as_slice() else {
        panic!("{packed:?}");
    };
    assert_eq!(*offset, came, "it goes on where it broke off");
    assert!(*bytes < journey.file.len() as u64 / 2, "{bytes} bytes were sent");
    journey.is_there();
    journey.ends();
}

#[test]
fn what_came_in_vain_is_swept_and_what_is_not_what_it_says_is_not_kept() {
    let mut journey = Journey::new();
    journey.fails(Fault::Cut("/volume", 500));
    let route = |what: &str| format!("/v1/receive/{}{what}", journey.id.as_str().unwrap());
    let put = |query: &str| {
        let file = ("content-type", "application/octet-stream");
        let path = route(&format!("/volume?{query}"));
        let headers = [("host", "localhost"), file, ("connection", "close")];
        journey.there.api_with("PUT", &path, &headers, "other bytes")
    };
    let digest = "0".repeat(64);
    put("offset=1").problem(400, "bad_request");
    put("sha256=00").problem(400, "bad_request");
    put(&format!("sha256={digest}&offset=1")).problem(409, "wrong_offset");
    put(&format!("sha256={digest}")).problem(422, "bad_capsule");
    assert_eq!(journey.came(), 0, "nothing of it is kept");

    // A day later nobody has gone on with it.
    let receiving = journey.root.join("receiving");
    journey.target_dies();
    assert_eq!(names(&receiving).len(), 1, "it is kept for a day");
    let dir = receiving.join(journey.id.as_str().unwrap());
    let old = dir.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(25 * 3_600);
    for name in names(&dir) {
        let file = std::fs::File::open(dir.join(name)).unwrap();
        file.set_modified(old).unwrap();
    }
    journey.target_dies();
    until("it is swept", || names(&receiving).is_empty());
    journey.fails(Fault::Cut("/volume", 500));

    // Its owner is listed no more.
    let other = "00".repeat(32);
    journey.there.signal("KILL");
    let _ = journey.there.ended();
    journey.other_again(&["--receive", &other]);
    until("it is swept, too", || names(&receiving).is_empty());
    journey.home.suijuris(&["migrate", "traveller", "--back"]).code(0);
    assert!(names(&journey.home.root().join("outgoing")).is_empty());
    journey.here.get("traveller", "/file").status(200);
    journey.ends();
}

// proves B4
#[test]
fn an_arrival_whose_answer_is_lost_is_found_by_asking_again() {
    let journey = Journey::new();
    journey.fails(Fault::Unanswered("/arrive"));
    let back = journey.home.suijuris(&["migrate", "traveller", "--back"]).code(3);
    assert!(back.err.contains("does not arrive here"), "{back:?}");
    for _ in 0..2 {
        journey.arrives();
    }
    journey.is_there();
    journey.ends();
}

// proves B4
#[test]
fn a_target_that_dies_before_the_arrival_gets_it_when_it_is_back() {
    let mut journey = Journey::new();
    journey.fails(Fault::Lost("/arrive"));
    journey.target_dies();
    journey.is_not_there();
    journey.arrives();
    journey.is_there();
    journey.ends();
}

// proves B4
#[test]
fn a_source_that_dies_once_it_departed_goes_on_when_it_is_back() {
    let mut journey = Journey::new();
    journey.fails(Fault::Cut("/volume", 500));
    journey.here.signal("KILL");
    let _ = journey.here.ended();
    journey.here = journey.home.serve();
    journey.here.wait_phase("traveller", "departed");
    journey.arrives();
    journey.is_there();
    journey.ends();
}

// proves B4
#[test]
fn who_was_taken_back_does_not_arrive_late() {
    let journey = Journey::new();
    journey.fails(Fault::Lost("/arrive"));
    let back = ["migrate", "traveller", "--back"];
    journey.home.suijuris(&back).code(0);
    journey.here.get("traveller", "/file").status(200);
    let late = format!("/v1/receive/{}/arrive", journey.id.as_str().unwrap());
    let refused = journey.there.api("POST", &late, &json!({}));
    refused.problem(409, "rolled_back");
    journey.is_not_there();
    journey.here.get("traveller", "/file").status(200);
    // It may go there all the same, later.
    journey.moves().code(0);
    journey.is_there();
    journey.ends();
}

#[test]
fn what_was_received_runs_nothing_that_is_not_listed_later_either() {
    let mut journey = Journey::new();
    journey.moves().code(0);
    journey.is_there();
    journey.ask(&["sleep", "traveller"]).code(0);
    journey.there.wait_phase("traveller", "dormant");
    let amend = |journey: &Journey, definition: &str| {
        let rules = [OPEN, STAY, MOVE, AMEND].concat();
        let dir = journey.home.define("traveller", definition, &rules);
        journey.ask(&["amend", "traveller", text(&dir)])
    };
    let mounts = "[[workload.mounts]]\nfrom = \"/etc\"\nto = \"/mnt/etc\"\n";
    for (definition, why) in [
        (TRAVELLER.replace("\"python3\"", "\"sh\""), "none of them"),
        (
            TRAVELLER.replace("cwd", "env = { PATH = \"{data}\" }\ncwd"),
            "`PATH`",
        ),
        (
            TRAVELLER.replace("cwd", "network = \"host\"\ncwd"),
            "--receive-network",
        ),
        (format!("{TRAVELLER}{mounts}"), "files of its host"),
    ] {
        let refused = amend(&journey, &definition);
        assert_ne!(refused.code, 0, "{refused:?}");
        assert!(refused.out.contains(why), "{refused:?}");
    }
    let harmless = format!("{TRAVELLER}more = {{ type = \"int\", default = 1 }}\n");
    amend(&journey, &harmless).code(0);
    journey.there.get("traveller", "/file").status(200);
    journey.ask(&["sleep", "traveller"]).code(0);
    journey.there.wait_phase("traveller", "dormant");

    // Its program is listed no more: it does not wake, and can leave.
    let receive = journey.listed[..2].to_vec();
    let receive: Vec<&str> = receive.iter().map(String::as_str).collect();
    journey.there.signal("TERM");
    let _ = journey.there.ended();
    journey.other_again(&receive);
    journey.there.wait_phase("traveller", "dormant");
    assert_eq!(journey.there.get("traveller", "/file").status, 503);
    journey
        .there
        .wait(json!({"event": "verdict", "action": "wake", "outcome": "refuse", "invariant": "incapable"}));
    let to = format!("unix:{}", text(journey.home.root()));
    journey.ask(&["migrate", "traveller", "--to", &to]).code(0);
    until("it is back", || {
        journey.here.get("traveller", "/file").status == 200
    });
    journey.ends();
}
