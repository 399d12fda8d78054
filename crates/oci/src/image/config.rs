//! The config of an image: what to run in it and how, with the defaults that image-spec and Docker give.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::platform::Platform;
use crate::descriptor::ContentDigest;
use crate::{MAX_MANIFEST_BYTES, printable};

/// Layers of an image at most: what overlayfs can stack.
pub const MAX_LAYERS: usize = 500;

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it runs on.
    pub platform: Platform,
    /// The program with its first arguments; default none.
    pub entrypoint: Vec<String>,
    /// What follows the entrypoint, or the whole command where there is none; default none. Whoever starts the image
    /// may put something else in its place.
    pub cmd: Vec<String>,
    /// Names and values, in the order of the image, each name once; default none. `PATH` is not made up: see
    /// [`DEFAULT_PATH`].
    pub env: Vec<(String, String)>,
    /// `user`, `uid`, `user:group`, `uid:gid` …, uninterpreted, since it takes the image's own `/etc/passwd`; default
    /// empty, which is root.
    pub user: String,
    /// An absolute path; default `/`.
    pub working_dir: String,
    /// What asks it to end; default [`StopSignal::TERM`].
    pub stop_signal: StopSignal,
    /// Where it listens; default nowhere.
    pub exposed_ports: BTreeSet<Port>,
    /// Directories whose content should outlive it; default none.
    pub volumes: BTreeSet<String>,
    /// Remarks; default none.
    pub labels: BTreeMap<String, String>,
    /// Digests of the uncompressed layers, lowest first.
    pub diff_ids: Vec<ContentDigest>,
}

/// `PATH` for images that set none, as Docker has it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A signal of Linux by its number, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopSignal(u8);

/// A port that an image listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 1 to 65535.
    pub number: u16,
    /// How.
    pub protocol: Protocol,
}

/// What is spoken at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, the default.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Why a config cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Longer than anybody needs.
    #[error("the image's config is longer than {MAX_MANIFEST_BYTES} bytes; build the image again")]
    TooLong,
    /// Not JSON, or a member of another type than it should be.
    #[error("the image's config cannot be read; build the image again")]
    Json(#[source] serde_json::Error),
    /// A member with a value that means nothing.
    #[error("the image's config has `{value}` as its {what}; build the image again")]
    Value {
        /// Which member.
        what: &'static str,
        /// The value.
        value: String,
    },
    /// Too many layers.
    #[error("the image has {0} layers, at most {MAX_LAYERS} are taken; build it with fewer")]
    Layers(usize),
}

/// As on the wire. Docker writes `null` where others leave out, so everything may be absent twice.
#[derive(Deserialize)]
struct Wire {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    config: Option<Run>,
    rootfs: RootFs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Run {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde_json::Value>>,
    volumes: Option<BTreeMap<String, serde_json::Value>>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<ContentDigest>>,
}

impl ImageConfig {
    /// Reads a config of at most [`MAX_MANIFEST_BYTES`]. Members that we do not know are passed over.
    ///
    /// # Errors
    /// See [`ConfigError`]; a zero byte in what becomes an argument or a variable is one.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.len() > MAX_MANIFEST_BYTES {
            return Err(ConfigError::TooLong);
        }
        let Wire {
            os,
            architecture,
            variant,
            config,
            rootfs,
        } = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
        let run = config.unwrap_or_default();
        let diff_ids = rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() > MAX_LAYERS {
            return Err(ConfigError::Layers(diff_ids.len()));
        }
        let working_dir = run
            .working_dir
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "/".to_owned());
        if !working_dir.starts_with('/') {
            return Err(value("working directory", &working_dir));
        }
        let found = Self {
            platform: Platform {
                os: os.unwrap_or_default(),
                architecture: architecture.unwrap_or_default(),
                variant: variant.unwrap_or_default(),
            },
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: env(run.env.unwrap_or_default())?,
            user: run.user.unwrap_or_default(),
            working_dir,
            stop_signal: match run.stop_signal.filter(|signal| !signal.is_empty()) {
                Some(signal) => signal.parse().map_err(|()| value("stop signal", &signal))?,
                None => StopSignal::TERM,
            },
            exposed_ports: ports(run.exposed_ports.unwrap_or_default())?,
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            labels: run
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(name, text)| (name, text.unwrap_or_default()))
                .collect(),
            diff_ids,
        };
        let words = found
            .entrypoint
            .iter()
            .chain(&found.cmd)
            .chain([&found.user, &found.working_dir]);
        if let Some(word) = words
            .chain(found.env.iter().map(|(_, text)| text))
            .find(|word| word.contains('\0'))
        {
            return Err(value("command, environment, user or working directory", word));
        }
        Ok(found)
    }

    /// What is run where nobody says otherwise: entrypoint and command. Empty where the image says nothing.
    #[must_use]
    pub fn argv(&self) -> Vec<String> {
        self.entrypoint.iter().chain(&self.cmd).cloned().collect()
    }
}

fn value(what: &'static str, value: &str) -> ConfigError {
    ConfigError::Value {
        what,
        value: printable(value),
    }
}

/// Names and values; of a name that stands twice, the last value at the first place.
fn env(lines: Vec<String>) -> Result<Vec<(String, String)>, ConfigError> {
    let mut found: Vec<(String, String)> = Vec::with_capacity(lines.len());
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines {
        let (name, text) = line.split_once('=').unwrap_or((&line, ""));
        if name.is_empty() || name.contains('\0') {
            return Err(value("environment", &line));
        }
        match places.get(name).and_then(|place| found.get_mut(*place)) {
            Some(before) => text.clone_into(&mut before.1),
            None => {
                places.insert(name.to_owned(), found.len());
                found.push((name.to_owned(), text.to_owned()));
            }
        }
    }
    Ok(found)
}

/// Ports in all ranges together at most.
const MAX_PORTS: u32 = 3 * 65_536;

/// `80`, `80/tcp`; what Docker calls a range is each port of it.
fn ports(names: BTreeMap<String, serde_json::Value>) -> Result<BTreeSet<Port>, ConfigError> {
    let mut found = BTreeSet::new();
    let mut left = MAX_PORTS;
    for name in names.into_keys() {
        let bad = || value("exposed port", &name);
        let (numbers, protocol) = name.split_once('/').unwrap_or((&name, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            _ => return Err(bad()),
        };
        let (from, to) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let number = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|number| *number > 0)
                .ok_or_else(bad)
        };
        let (from, to) = (number(from)?, number(to)?);
        // Ranges of ranges would take for ever; nobody has this many.
        left = left
            .checked_sub(u32::from(to.checked_sub(from).ok_or_else(bad)?))
            .ok_or_else(bad)?;
        found.extend((from..=to).map(|number| Port { number, protocol }));
    }
    Ok(found)
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

/// Names of the signals 1 to 31 of Linux, without `SIG`.
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal as programs see it; the C library keeps two for itself.
const RTMIN: u8 = 34;

/// The last one.
const RTMAX: u8 = 64;

impl StopSignal {
    /// Signal 15.
    pub const TERM: Self = Self(15);

    /// Its number, 1 to 64.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl FromStr for StopSignal {
    type Err = ();

    /// `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`, `SIGRTMAX-1`.
    fn from_str(text: &str) -> Result<Self, ()> {
        if let Ok(number) = text.parse::<u8>() {
            return if (1..=RTMAX).contains(&number) {
                Ok(Self(number))
            } else {
                Err(())
            };
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let offset = |rest: &str, sign: char| match rest.strip_prefix(sign) {
            Some(number) => number.parse::<u8>().map_err(|_| ()),
            None if rest.is_empty() => Ok(0),
            None => Err(()),
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            RTMIN
                .checked_add(offset(rest, '+')?)
                .filter(|number| *number <= RTMAX)
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            RTMAX
                .checked_sub(offset(rest, '-')?)
                .filter(|number| *number >= RTMIN)
        } else {
            (1..)
                .zip(SIGNALS)
                .find(|(_, known)| *known == name)
                .map(|(number, _)| number)
        };
        number.map(Self).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decode(value: &serde_json::Value) -> Result<ImageConfig, ConfigError> {
        ImageConfig::decode(&serde_json::to_vec(value).unwrap())
    }

    #[test]
    fn a_config_is_read_with_its_defaults() {
        let empty = decode(&json!({"rootfs": {"type": "layers", "diff_ids": null}})).unwrap();
        assert_eq!(empty.argv(), Vec::<String>::new());
        assert_eq!(
            (&*empty.user, &*empty.working_dir, empty.stop_signal.number()),
            ("", "/", 15)
        );
        assert!(empty.env.is_empty() && empty.exposed_ports.is_empty() && empty.diff_ids.is_empty());
        let nulls = json!({"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}, "config": {
            "Entrypoint": null, "Cmd": null, "Env": null, "User": "", "WorkingDir": "", "ExposedPorts": null,
            "Labels": null, "Volumes": null, "StopSignal": ""}});
        let nulls = decode(&nulls).unwrap();
        assert_eq!(
            ImageConfig {
                platform: empty.platform.clone(),
                ..nulls
            },
            empty
        );
        let full = decode(&json!({"architecture": "arm64", "os": "linux", "variant": "v8",
            "rootfs": {"diff_ids": [ContentDigest::of(b"x")]}, "config": {
            "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["echo"], "Env": ["A=1", "B", "A=2=3"], "User": "www:www",
            "WorkingDir": "/srv", "StopSignal": "SIGRTMIN+3", "ExposedPorts": {"80": {}, "53/udp": {}, "90-91/tcp": {}},
            "Labels": {"a": "b"}, "Volumes": {"/data": {}}, "Healthcheck": {"Test": ["NONE"]}}}))
        .unwrap();
        assert_eq!(full.argv(), ["/bin/sh", "-c", "echo"]);
        assert_eq!(
            full.env,
            [("A", "2=3"), ("B", "")].map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
        assert_eq!(
            (&*full.user, &*full.working_dir, full.stop_signal.number()),
            ("www:www", "/srv", 37)
        );
        let ports: Vec<String> = full.exposed_ports.iter().map(ToString::to_string).collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "90/tcp", "91/tcp"]);
        assert_eq!(full.platform.to_string(), "linux/arm64/v8");
    }

    #[track_caller]
    fn check(member: &str, value: &serde_json::Value, expect: &str) {
        let error = decode(&json!({"rootfs": {"diff_ids": []}, "config": {member: value}})).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    }

    #[test]
    fn what_means_nothing_is_refused() {
        check("WorkingDir", &json!("srv"), "`srv` as its working directory");
        check("StopSignal", &json!("SIGNONE"), "stop signal");
        check("StopSignal", &json!("65"), "stop signal");
        check("StopSignal", &json!("SIGRTMIN+99"), "stop signal");
        check("ExposedPorts", &json!({"0/tcp": {}}), "exposed port");
        check("ExposedPorts", &json!({"9-8": {}}), "exposed port");
        check("ExposedPorts", &json!({"80/icmp": {}}), "exposed port");
        let ranges: BTreeMap<String, BTreeMap<(), ()>> = (60_000..65_000)
            .map(|to| (format!("1-{to}"), BTreeMap::new()))
            .collect();
        check("ExposedPorts", &json!(ranges), "exposed port");
        check("Env", &json!(["=x"]), "environment");
        check("Cmd", &json!(["a\u{0}b"]), "command");
        check("Cmd", &json!("echo"), "cannot be read");
        let layers: Vec<_> = (0..=MAX_LAYERS).map(|_| ContentDigest::of(b"x")).collect();
        assert!(matches!(
            decode(&json!({"rootfs": {"diff_ids": layers}})),
            Err(ConfigError::Layers(501))
        ));
        assert!(matches!(
            ImageConfig::decode(&vec![b' '; MAX_MANIFEST_BYTES + 1]),
            Err(ConfigError::TooLong)
        ));
    }

    #[test]
    fn signals_are_known_by_name_and_number() {
        for (text, number) in [
            ("SIGKILL", 9),
            ("term", 15),
            ("SIGQUIT", 3),
            ("9", 9),
            ("SIGRTMAX", 64),
            ("RTMAX-30", 34),
            ("SIGWINCH", 28),
        ] {
            assert_eq!(
                text.parse::<StopSignal>().map(StopSignal::number),
                Ok(number),
                "{text}"
            );
        }
        for text in ["", "SIG", "0", "-1", "SIGRTMIN-1", "SIGRTMAX+1"] {
            assert!(text.parse::<StopSignal>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, text: String) {
            let _ = ImageConfig::decode(&bytes);
            let _ = text.parse::<StopSignal>();
            let _ = decode(&json!({"rootfs": {"diff_ids": []}, "config": {"ExposedPorts": {text.clone(): {}}, "Env": [text]}}));
        }
    }
}
