//! What mutation begins with: the golden vectors of `spec/vectors`, and texts that the decoders accept or nearly do.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde_json::Value;
use suijuris_core::id::BundleId;
use suijuris_core::lineage::{State, Stored};
use suijuris_core::manifest::Manifest;
use suijuris_core::memory::Schema;

/// Bytes of a seed at most: what is longer is no faster to break.
const MAX_SEED: usize = 32 << 10;

macro_rules! vectors {
    ($($file:literal),* $(,)?) => { &[$(include_str!(concat!("../../../spec/vectors/", $file))),*] };
}

const VECTORS: &[&str] = vectors![
    "capsule.json",
    "checkpoint.json",
    "class.json",
    "counter.json",
    "decision.json",
    "lineage.json",
    "link.json",
    "manifest.json",
    "memory-root.json",
    "mutated.json",
    "owner-request.json",
    "refused.json",
    "restored.json",
    "ticket.json",
    "values.json",
    "witness.json",
];

/// Everything in the vectors that is bytes.
#[must_use]
pub fn vectors() -> &'static [Vec<u8>] {
    static ALL: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut all = Vec::new();
        for text in VECTORS {
            collect(&serde_json::from_str(text).unwrap_or_default(), &mut all);
        }
        all.sort();
        all.dedup();
        all
    })
}

fn collect(json: &Value, all: &mut Vec<Vec<u8>>) {
    match json {
        Value::String(text) => all.extend(unhex(text).filter(|bytes| bytes.len() <= MAX_SEED)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, all)),
        Value::Object(members) => members.values().for_each(|member| collect(member, all)),
        _ => {}
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text.len() < 4 || !text.len().is_multiple_of(2) {
        return None;
    }
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let pair = |pair: &[u8]| match pair {
        [high, low] => u8::try_from(digit(high)? << 4 | digit(low)?).ok(),
        _ => None,
    };
    text.as_bytes().chunks(2).map(pair).collect()
}

/// The schemas of the bundles in the vectors.
#[must_use]
pub fn schemas() -> &'static BTreeMap<BundleId, Arc<Schema>> {
    static ALL: OnceLock<BTreeMap<BundleId, Arc<Schema>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let manifests = vectors().iter().filter_map(|bytes| Manifest::decode(bytes).ok());
        manifests
            .map(|(id, manifest)| (id, Arc::new(manifest.memory)))
            .collect()
    })
}

/// The records in the vectors that begin an object.
#[must_use]
pub fn inceptions() -> &'static [Stored] {
    static ALL: OnceLock<Vec<Stored>> = OnceLock::new();
    ALL.get_or_init(|| {
        let records = vectors()
            .iter()
            .filter_map(|bytes| Stored::decode(bytes.clone()).ok());
        records.filter(|stored| stored.record.seq == 0).collect()
    })
}

/// An object as it was born.
#[must_use]
pub fn state() -> Option<State> {
    static STATE: OnceLock<Option<State>> = OnceLock::new();
    let begin = || {
        let bundles = |id: &BundleId| schemas().get(id).cloned();
        inceptions()
            .iter()
            .find_map(|first| State::begin(first, &bundles).ok())
    };
    STATE.get_or_init(begin).clone()
}

/// Heads of requests.
pub const HTTP: &[&[u8]] = &[
    b"GET /a/../%70rivate?x=1 HTTP/1.1\r\nHost: a.localhost\r\nX-Team: red\r\n\r\n",
    b"POST / HTTP/1.1\r\nhost: [::1]:80\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, x-team\r\nUpgrade: websocket\r\n\r\n",
    b"OPTIONS * HTTP/1.0\r\nAuthorization: Bearer x.y.z\r\n\r\n",
    b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nExpect: 100-continue\r\n\r\n",
];

/// A connection over HTTP/2: preface, settings, and a request in HPACK.
pub const HTTP2: &[&[u8]] = &[
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x07\x01\x05\x00\x00\x00\x01\x82\x84\x86\x41\x01a\x00",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x06\x01\x04\x00\x00\x00\x01\x82\x84\x86\x41\x01a",
];

/// Chunked bodies.
pub const CHUNKED: &[&[u8]] = &[
    b"5\r\nhello\r\n0\r\n\r\n",
    b"1;ext=\"a\"\r\nx\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n",
];

/// Method, target and host, a line each.
pub const LINES: &[&[u8]] = &[
    b"GET\n/a/%C3%A9/../b;x?c=d#e\na.example.:80",
    b"delete\nhttp://user@A.example//x\n[::1]:8080",
    b"OPTIONS\n*\nlocalhost",
];

/// Headers of the PROXY protocol.
pub const PROXY: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4242 443\r\nGET /",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 4242 443\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x02\x10\x92\x01\xbbGET",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
];

/// Tokens, with and without the scheme.
pub const TOKENS: &[&[u8]] = &[
    b"Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm4iLCJleHAiOjE3OTU0MjE0MDAsImF1ZCI6Im8ifQ.AAAA",
    b"eyJhbGciOiJSUzI1NiIsImtpZCI6ImsifQ.eyJleHAiOjFlMzB9.AA",
    br#"{"sub":"ann","aud":["o"],"exp":1795421400.5,"nbf":0,"scope":"a b","tenant":"acme","tenant":"x"}"#,
    br#"{"iss":"bafy","sub":"bafy","aud":"o","iat":1,"exp":301,"epoch":1}"#,
];

/// Documents.
pub const JSON: &[&[u8]] = &[
    br#"{"set":{"budget":5},"append":{"jobs":["b"]},"add":{"calls":1},"unset":["note"],"expect":{"budget":6}}"#,
    br#"{"for":"30s"}"#,
    br#"{"keys":["a","b"]}"#,
    br#"{"audience":"x","for":"1m"}"#,
    br#"{"action":"wake","trigger":"timer","timer":"tick","headers":["x-team=red"],"at":"2h"}"#,
    br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","time":"2026-11-23T08:00:00Z","data":{"a":[1,2.5,null]}}"#,
    br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","data_base64":"AAEC"}"#,
    br#"{"bundle":{"manifest":"AA","governance":"permit(principal,action,resource);","program":"AA"},"approvals":[]}"#,
];

/// Definitions; what stands behind a line of `---` are the rules.
pub const DEFINITIONS: &[&[u8]] = &[
    include_bytes!("../../bundle/templates/http/object.toml"),
    include_bytes!("../../bundle/templates/agent/object.toml"),
    include_bytes!("../../bundle/templates/class/object.toml"),
    b"name = \"a\"\n[workload]\ncommand = [\"true\"]\n[gate]\nprotocol = \"tcp\"\n[memory]\nx = { type = { set = { record = { y = \"int\" } } }, default = [] }\n---\npermit(principal, action, resource);\n",
];

/// Rules.
pub const RULES: &[&[u8]] = &[
    include_bytes!("../../bundle/templates/http/governance.cedar"),
    include_bytes!("../../bundle/templates/tcp/governance.cedar"),
    b"@id(\"a\") permit(principal is Caller, action == Action::\"wake\", resource) when { if context has request then context.request.path like \"/a*\" else [1, 2].contains(1 + 1) };",
    b"forbid(principal, action in [Action::\"wake\"], resource) unless { context.now.toTime() < duration(\"8h\") && ip(\"10.0.0.1\").isInRange(ip(\"10.0.0.0/8\")) };",
];

/// What is read from text.
pub const PLAIN: &[&[u8]] = &[
    b"bafyreidx65odahrqjac3jmkd7jzqoromwjzgp4gzj2zjztbzhvcehiw4sm",
    b"2026-11-23T08:00:00.123Z",
    b"1d 2h 3m 4.5s",
    b"-922337203685477.5808",
    b"*/15 8-18 * * MON-FRI",
    b"registry.example:5000/a/b:tag@sha256:0000000000000000000000000000000000000000000000000000000000000000",
    br#"{"k":"2026-11-23T08:00:00Z"}"#,
    b"t-[a-f0-9]{8}",
];

/// Manifests of artifacts and images.
pub const OCI: &[&[u8]] = &[
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.suijuris.object.v1","config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[{"mediaType":"a/b","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}],"annotations":{"a":"b"}}"#,
    br#"{"schemaVersion":2,"manifests":[]}"#,
];

/// Archives: a file, a link that leads out, and a long name, in headers whose checksums hold.
pub const TAR: &[&[u8]] = &[];

/// An archive of one member.
#[must_use]
pub fn tar(name: &str, kind: u8, link: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0u8; 512];
    let mut put = |at: usize, text: &[u8]| {
        for (place, byte) in header.iter_mut().skip(at).zip(text) {
            *place = *byte;
        }
    };
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{:011o}\0", content.len()).as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let mut put = |at: usize, text: &[u8]| {
        for (place, byte) in header.iter_mut().skip(at).zip(text) {
            *place = *byte;
        }
    };
    put(148, format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend(content);
    archive.resize(archive.len().div_ceil(512) * 512 + 1024, 0);
    archive
}

/// What sends a request elsewhere, as a header field and as a document.
pub const REPLAYS: &[&[u8]] = &[
    b"region=\"iad,us,any\";app=shop;state=opaque;elsewhere=true;timeout=800ms;fallback=prefer_self",
    b"instance=9080524f610e87, app=shop",
    br#"{"app":"shop","region":["iad"],"transform":{"path":"/a","delete_headers":["x"],"set_headers":[{"name":"y","value":"z"}]}}"#,
    br#"{"instance":"9080524f610e87","cache":{"prefix":"shop.localhost/a/*","ttl":60},"timeout":"10s"}"#,
];

/// Questions for names, as on the wire.
pub const QUESTIONS: &[&[u8]] = &[
    b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x01a\x08internal\0\0\x1c\0\x01",
    b"\0\x08\x01\0\0\x01\0\0\0\0\0\x01\x05_apps\x08internal\0\0\x10\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0",
    b"\0\x09\x01\0\0\x01\0\0\0\0\0\0\x04top1\x07nearest\x02of\x01a\x08internal\0\0\xff\0\x01",
];

/// Configs as clients send them.
pub const CONFIGS: &[&[u8]] = &[
    br#"{"image":"nginx","env":{"A":"b"},"mounts":{"volume":"vol_1","path":"/data"},"init":{"exec":"sleep 'a b'"}}"#,
    br#"{"image":"a@sha256:00","services":[{"protocol":"tcp","internal_port":8080,"autostop":"suspend","ports":[{"port":443,"handlers":["tls","http"]}],"concurrency":{"type":"requests","soft_limit":1}}]}"#,
    br#"{"image":"a","checks":{"up":{"type":"http","port":80,"interval":"10s","path":"/"}},"restart":{"policy":"on-failure","max_retries":3},"files":[{"guest_path":"/a","raw_value":"YQ=="}]}"#,
    br#"{"image":"a","guest":{"cpus":1,"memory_mb":256},"stop_config":{"signal":"SIGINT","timeout":"5s"},"schedule":"daily"}"#,
];

/// Manifests and listings of backups.
pub const BACKUPS: &[&[u8]] = &[
    br#"{"v":1,"snapshot":"vs_1","volume":"vol_1","org":"o","app":"a","name":"data","size_gb":1,"created_ms":0,"retention_days":5,"bytes":3,"left_out":0,"listing":[]}"#,
    b"{\"entry\":{\"path\":\"YQ==\",\"what\":\"directory\",\"mode\":493,\"uid\":0,\"gid\":0,\"modified\":[1,2]}}\n{\"entry\":{\"path\":\"YS9i\",\"what\":{\"file\":{\"size\":9}},\"mode\":420,\"uid\":0,\"gid\":0,\"modified\":[1,2]}}\n",
    b"{\"entry\":{\"path\":\"YQ==\",\"what\":{\"symlink\":\"Li4vb3V0c2lkZQ==\"},\"mode\":511,\"uid\":0,\"gid\":0,\"modified\":[1,2]}}\n{\"entry\":{\"path\":\"YS9i\",\"what\":\"pipe\",\"mode\":420,\"uid\":0,\"gid\":0,\"modified\":[1,2]}}\n",
];

/// Seeds of a target: its own, archives where it reads them, and the vectors where it has none of its own.
#[must_use]
pub fn of(target: &crate::Target) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    if target.name == "tar_layer" {
        seeds.push(tar("a/b", b'0', "", b"hello"));
        seeds.push(tar("../out", b'0', "", b"hello"));
        seeds.push(tar("a", b'2', "../../out", b""));
        seeds.push(tar("a", b'1', "/etc/passwd", b""));
        seeds.push(tar("a/.wh..wh..opq", b'0', "", b""));
    }
    if seeds.is_empty() {
        seeds.extend(vectors().iter().cloned());
    }
    if seeds.is_empty() {
        seeds.push(Vec::new());
    }
    seeds
}
