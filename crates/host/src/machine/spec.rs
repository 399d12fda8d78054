//! What a machine is started with: its program, its files, its environment, its limits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use suijuris_oci::image::DEFAULT_PATH;
use suijuris_vehicle::process::{self, Entering};
use suijuris_vehicle::{
    Account, Driver as _, ImageFiles, ImageRoot, Lifetime, Means, Mount, Network, Output, Resource,
    Resources, Root, Spec,
};

use super::Machine;
use super::effects::{COPY, SCRATCH, World, blocking, chain};
use crate::images::Ready;
use crate::network;

/// Processes and threads of a machine at most, where a control group can hold it to that.
const MAX_PROCESSES: u32 = 8_192;

type Environment = BTreeMap<OsString, OsString>;

impl World {
    /// Starts the machine's processes.
    pub(crate) async fn launch(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<process::Machine, String> {
        let (world, of_machine) = (Arc::clone(self), Arc::clone(machine));
        let spec = blocking(move || world.spec(&of_machine)).await?;
        self.driver.start(spec).await.map_err(|error| chain(&error))
    }

    /// Its image; none where it runs a program of this host.
    fn image(&self, machine: &Machine) -> Result<Option<Ready>, String> {
        let Some(image) = machine.image.as_ref().filter(|image| !image.digest.is_empty()) else {
            return Ok(None);
        };
        let ready = self.images.ready(&image.digest, machine.config.user());
        ready.map(Some).map_err(|error| chain(&error))
    }

    fn spec(&self, machine: &Machine) -> Result<Spec, String> {
        let run = machine.run.as_ref().ok_or("the machine's life has no name")?;
        let image = self.image(machine)?;
        let of_image = image
            .as_ref()
            .map(|image| (&*image.config.entrypoint, &*image.config.cmd));
        let argv = machine.config.command(of_image.unwrap_or_default());
        let exe = argv
            .first()
            .cloned()
            .ok_or("config.init: this image has no command; give init.exec")?;
        let mut spec = Spec::new(run.name.clone(), exe);
        spec = spec.with_args(argv.into_iter().skip(1));
        spec.env = self.environment(machine, image.as_ref());
        spec.hidden.clone_from(&self.hidden);
        spec.lifetime = Lifetime::Detached;
        spec.network = Network::Host;
        spec.stdout = Output::Lines;
        spec.stderr = Output::Lines;
        spec.resources = self.resources(machine);
        spec.mounts = self.mounts(machine);
        if let Some(image) = image {
            self.put_into(&mut spec, machine, image)?;
            if let Some(private) = self.private(machine) {
                spec.joins = Some(private.join(machine)?);
            }
        }
        Ok(spec)
    }

    /// The machine begins with the files of its image, and its program is a stranger's.
    fn put_into(&self, spec: &mut Spec, machine: &Machine, image: Ready) -> Result<(), String> {
        if !self.driver.describe().images {
            return Err(format!(
                "machines here are {}, in which no image runs; run the host without --plain, where namespaces are allowed",
                self.driver.describe().isolation
            ));
        }
        let directory = self.directory(&machine.id);
        let account = account(&image);
        spec.cwd = PathBuf::from(&image.config.working_dir);
        spec.root = Root::Image(ImageRoot {
            files: match image.layers {
                Some(layers) => ImageFiles::Layers(layers),
                None => ImageFiles::Copy(directory.join(COPY)),
            },
            scratch: directory.join(SCRATCH),
            user: (account.uid, account.gid),
        });
        spec.mounts.push(Mount::Bind {
            from: crate::door::directory(&directory),
            to: PathBuf::from(crate::door::PLACE),
            read_only: true,
        });
        if !self.share_network {
            spec.network = Network::Private;
        }
        if self.private(machine).is_some() {
            let file = |name: &str| Mount::Bind {
                from: directory.join(name),
                to: Path::new("/etc").join(name),
                read_only: true,
            };
            // Files of the config that are meant for these places count.
            spec.mounts
                .splice(0..0, [network::RESOLVER, network::HOSTS].map(file));
        }
        spec.stranger = Some(account);
        // Whether it stays is known once the machine has ended.
        spec.keeps_written = true;
        Ok(())
    }

    /// Where overlayfs cannot take the image's files, the machine has a copy of them.
    pub(super) fn copy_image(&self, machine: &Machine) -> Result<(), String> {
        let copy = self.directory(&machine.id).join(COPY);
        let Some(image) = self
            .image(machine)?
            .filter(|image| image.layers.is_none() && !copy.exists())
        else {
            return Ok(());
        };
        let fresh = copy.with_extension("new");
        // What a daemon that died had copied.
        let _ = process::remove_strange(&fresh);
        let root = image.hold.root().map_err(|error| chain(&error))?;
        root.copy_to(&fresh).map_err(|error| chain(&error))?;
        std::fs::rename(&fresh, &copy).map_err(|error| format!("cannot copy the image: {error}"))
    }

    /// Its volumes, and the files of its config.
    fn mounts(&self, machine: &Machine) -> Vec<Mount> {
        let bind = |from: PathBuf, to: &str| Mount::Bind {
            from,
            to: PathBuf::from(to),
            read_only: false,
        };
        let volume = |mount: &crate::config::Mount| {
            let content = self.volumes.join(mount.volume.as_deref()?);
            Some(bind(content, mount.path.as_deref()?))
        };
        let files = self.directory(&machine.id).join("files");
        let file = |(number, file): (usize, &crate::config::File)| {
            bind(files.join(number.to_string()), &file.guest_path)
        };
        let volumes = machine.config.mounts.iter().flatten().filter_map(volume);
        volumes
            .chain(machine.config.files.iter().flatten().enumerate().map(file))
            .collect()
    }

    fn resources(&self, machine: &Machine) -> Resources {
        let guest = machine.config.guest();
        let by_group = |what: Resource| {
            let limits = &self.driver.describe().limits;
            limits.iter().any(|limit| {
                limit.what == what && !matches!(limit.by, Means::PerProcess | Means::PerUser | Means::Nothing)
            })
        };
        Resources {
            // A limit on each process's addresses would end programs that reserve much and use little.
            memory: by_group(Resource::Memory).then(|| guest.memory_mb.saturating_mul(1 << 20)),
            cpu: by_group(Resource::Cpu).then(|| guest.cpus.saturating_mul(1_000)),
            processes: by_group(Resource::Processes).then_some(MAX_PROCESSES),
            ..Resources::default()
        }
    }

    /// A command in a machine, as its own program is run.
    pub(crate) async fn entering(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        argv: Vec<String>,
    ) -> Result<Entering, String> {
        let (world, machine) = (Arc::clone(self), Arc::clone(machine));
        blocking(move || {
            let image = world.image(&machine)?;
            Ok(Entering {
                argv: argv.into_iter().map(OsString::from).collect(),
                env: world.environment(&machine, image.as_ref()).into_iter().collect(),
                cwd: image.as_ref().map_or_else(
                    || PathBuf::from("/"),
                    |image| PathBuf::from(&image.config.working_dir),
                ),
                stranger: image.as_ref().map(account),
                terminal: false,
            })
        })
        .await
    }

    /// Its environment: its image's, its config's over it, the app's secrets over that, and what it is told of itself over all.
    fn environment(&self, machine: &Machine, image: Option<&Ready>) -> Environment {
        let config = &machine.config;
        let mut env = Environment::from([("PATH".into(), DEFAULT_PATH.into())]);
        if let Some(image) = image {
            if let Some(home) = &image.account.home {
                env.insert("HOME".into(), home.into());
            }
            env.extend(
                image
                    .config
                    .env
                    .iter()
                    .map(|(name, value)| (name.into(), value.into())),
            );
        }
        env.extend(
            config
                .env
                .iter()
                .flatten()
                .map(|(name, value)| (name.into(), value.into())),
        );
        env.extend(
            config
                .process_env()
                .map(|(name, value)| (name.into(), value.into())),
        );
        for (name, value) in self.secrets.environment(&machine.app, machine.secrets_version) {
            env.insert(name.into(), value.as_str().into());
        }
        for (name, value) in of_itself(machine) {
            // Their own word on the primary region counts.
            if name != "PRIMARY_REGION" || !env.contains_key(Path::new(name).as_os_str()) {
                env.insert(name.into(), value.into());
            }
        }
        env
    }
}

fn account(image: &Ready) -> Account {
    Account {
        uid: image.account.uid,
        gid: image.account.gid,
        groups: image.account.groups.clone(),
    }
}

/// What a machine is told of itself.
fn of_itself(machine: &Machine) -> [(&'static str, String); 11] {
    let metadata = machine.config.metadata();
    let group = metadata.get("fly_process_group").map_or("app", String::as_str);
    let image = machine
        .image
        .as_ref()
        .map_or_else(String::new, super::ImageRef::name);
    [
        ("FLY_APP_NAME", machine.app.clone()),
        ("FLY_MACHINE_ID", machine.id.clone()),
        ("FLY_ALLOC_ID", machine.id.clone()),
        ("FLY_REGION", machine.region.clone()),
        ("FLY_PUBLIC_IP", String::new()),
        ("FLY_IMAGE_REF", image),
        ("FLY_MACHINE_VERSION", machine.version.clone()),
        ("FLY_PRIVATE_IP", machine.address().to_string()),
        ("FLY_PROCESS_GROUP", group.to_owned()),
        ("FLY_VM_MEMORY_MB", machine.config.guest().memory_mb.to_string()),
        ("PRIMARY_REGION", machine.region.clone()),
    ]
}
