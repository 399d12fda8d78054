//! What objects can run here at all, by their definition: what a vehicle carries, and what an object may have that came from
//! another host.

use serde::{Deserialize, Serialize};
use suijuris_core::key::PublicKey;
use suijuris_core::manifest::egress::{CARRIER, Host};
use suijuris_core::manifest::{Destination, Live, Manifest, Network, Protocol, Ready, Workload};
use suijuris_vehicle::{Description, Isolation};

/// The code of what no machine here can run.
pub const CODE_INCAPABLE: &str = "incapable";

/// The code of what is not taken from another host.
pub const CODE_NOT_RECEIVED: &str = "not_received";

/// Whether a vehicle that is described like this can ever carry an object of this definition. What one start of it lacks, such as an
/// image where processes have no file system of their own, its door refuses as `incapable`, by name.
///
/// # Errors
/// What of the definition it cannot, and what to do.
pub fn fits(about: &Description, manifest: &Manifest) -> Result<(), String> {
    if !about.descriptors && manifest.gate.protocol == Protocol::FdPassing {
        return Err(
            "gate.protocol = \"handover\" hands connections to the workload as descriptors, and none reaches a virtual machine: choose \
             \"http\" or \"tcp\", or --vehicle process"
                .to_owned(),
        );
    }
    Ok(())
}

/// From whom objects are received, and what they may run. It holds as long as such an object is here: when it comes, when it is
/// amended, and each time that it would wake.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receive {
    /// Owners.
    #[serde(default)]
    pub receive: Vec<PublicKey>,
    /// Programs of this host, as commands of definitions name them.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Whether they may have the host's network.
    #[serde(default)]
    pub network: bool,
}

impl Receive {
    /// Whether an object of this definition that came from another host may run in machines that are described like this.
    ///
    /// # Errors
    /// What it may not have, and who could let it.
    pub fn may_run(&self, about: &Description, manifest: &Manifest) -> Result<(), String> {
        let workload = &manifest.workload;
        if about.isolation == Isolation::Plain {
            return Err(
                "its machines are plain processes, which keep a foreign workload from nothing: serve where namespaces can be made".to_owned(),
            );
        }
        if workload.image.is_none() {
            self.may_run_commands(workload)?;
        }
        if !workload.mounts.is_empty() || !workload.read_only {
            return Err(
                "it wants files of its host (`[[workload.mounts]]`, `read_only = false`): no foreign object gets any".to_owned(),
            );
        }
        if workload.network == Network::Host && !self.network {
            return Err(
                "it wants its host's network (`network = \"host\"`): its operator lets foreign objects have it with `suijuris serve --receive-network`"
                    .to_owned(),
            );
        }
        let is_here = |destination: &Destination| destination.host == Host::Name(CARRIER.to_owned());
        if workload.egress.iter().any(is_here) && !self.network {
            return Err(format!(
                "it wants to reach this host's own ports (`{CARRIER}` in `workload.egress`): its operator lets foreign objects with `suijuris serve --receive-network`"
            ));
        }
        let texts = workload
            .argv
            .iter()
            .chain(workload.env.values())
            .chain(&workload.cwd)
            .chain(asked(workload).flatten());
        if texts.map(String::as_str).any(|text| text.contains("{object}")) {
            return Err(
                "it needs the directory of its definition (`{object}`), which does not travel: put what it needs into its volume".to_owned(),
            );
        }
        Ok(())
    }

    /// Whether each program of the host that it names is listed, and is the one that runs then.
    fn may_run_commands(&self, workload: &Workload) -> Result<(), String> {
        let program = |argv: &[String]| argv.first().cloned().unwrap_or_default();
        let programs =
            std::iter::once(program(&workload.argv)).chain(asked(workload).map(|argv| program(argv)));
        for program in programs {
            if !self.commands.contains(&program) {
                return Err(format!(
                    "its operator lists the programs of this host that foreign objects may run, and `{program}` is none of them: `suijuris serve --receive-command {program}`"
                ));
            }
        }
        let names = workload.env.keys().chain(workload.secret_env.keys());
        if let Some(name) = names.map(String::as_str).find(|name| replaces_program(name)) {
            return Err(format!(
                "it sets `{name}`, by which another program than the one that is listed could run: leave it out"
            ));
        }
        Ok(())
    }
}

/// Commands that are asked about a workload.
fn asked(workload: &Workload) -> impl Iterator<Item = &Vec<String>> {
    let live = workload.live.as_ref().map(|Live { by, .. }| by);
    let questions = std::iter::once(&workload.ready).chain(live);
    questions.filter_map(|how| match how {
        Ready::Command(argv) => Some(argv),
        Ready::Tcp | Ready::Http(_) | Ready::Agent | Ready::Spawned | Ready::Notify => None,
    })
}

/// Whether a variable says where programs are looked for, or what is loaded into them before they begin.
fn replaces_program(name: &str) -> bool {
    name == "PATH" || name.starts_with("LD_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use suijuris_vehicle::Driver as _;
    use suijuris_vehicle::fake::{Fake, World};

    fn about(change: impl FnOnce(&mut Description)) -> Description {
        let fake = Fake::new(&World::default()).described(change);
        fake.describe().clone()
    }

    /// What a definition says whose table `[workload]` begins with this command.
    fn manifest(text: &str) -> Manifest {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("object.toml"), format!("name = \"x\"\n{text}")).unwrap();
        let rule = "permit (principal, action == Action::\"wake\", resource);\n";
        std::fs::write(temp.path().join("governance.cedar"), rule).unwrap();
        suijuris_bundle::build(temp.path()).unwrap().manifest
    }

    fn received(more: &str, change: impl FnOnce(&mut Receive)) -> Result<(), String> {
        let mut receive = Receive {
            commands: vec!["redis-server".to_owned()],
            ..Receive::default()
        };
        change(&mut receive);
        let text = format!("[workload]\ncommand = [\"redis-server\", \"--port\", \"{{port}}\"]\n{more}");
        receive.may_run(&about(|_| ()), &manifest(&text))
    }

    #[track_caller]
    fn refused(more: &str, why: &str) {
        let said = received(more, |_| ()).unwrap_err();
        assert!(said.contains(why), "{more}: {said}");
    }

    #[test]
    fn a_foreign_object_runs_listed_programs_and_nothing_in_their_place() {
        received("", |_| ()).unwrap();
        received("env = { LANG = \"C\" }", |_| ()).unwrap();
        let none = received("", |receive| receive.commands.clear()).unwrap_err();
        assert!(none.contains("`redis-server` is none of them"), "{none}");
        refused("env = { PATH = \"{data}\" }", "`PATH`");
        refused("env = { LD_PRELOAD = \"{data}/x.so\" }", "`LD_PRELOAD`");
        refused(
            "ready = { command = [\"sh\", \"-c\", \"true\"] }",
            "`sh` is none of them",
        );
        refused(
            "live = { command = [\"sh\", \"-c\", \"true\"] }",
            "`sh` is none of them",
        );
        refused(
            "ready = { command = [\"redis-server\", \"{object}/x\"] }",
            "{object}",
        );
        refused("cwd = \"{object}\"", "{object}");
        refused("read_only = false", "files of its host");
        refused(
            "[[workload.mounts]]\nfrom = \"/etc\"\nto = \"/mnt/etc\"",
            "files of its host",
        );
    }

    #[test]
    fn a_foreign_object_has_the_hosts_network_where_its_operator_lets_it() {
        refused("network = \"host\"", "--receive-network");
        received("network = \"host\"", |receive| receive.network = true).unwrap();
    }

    #[test]
    fn a_foreign_object_runs_nowhere_where_machines_are_plain_processes() {
        let plain = about(|about| about.isolation = Isolation::Plain);
        let receive = Receive {
            commands: vec!["redis-server".to_owned()],
            ..Receive::default()
        };
        let manifest = manifest("[workload]\ncommand = [\"redis-server\"]\n");
        assert!(receive.may_run(&plain, &manifest).unwrap_err().contains("plain"));
    }

    #[test]
    fn connections_are_handed_over_where_descriptors_pass() {
        let text = "[workload]\ncommand = [\"x\"]\n[gate]\nprotocol = \"handover\"\n";
        let manifest = manifest(text);
        fits(&about(|_| ()), &manifest).unwrap();
        let machine = about(|about| about.descriptors = false);
        assert!(
            fits(&machine, &manifest)
                .unwrap_err()
                .contains("--vehicle process")
        );
    }
}
