//! What it answers: a table of call by state.

mod pages;
mod shapes;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::guest::{Guest, Memory};
pub(crate) use pages::Paged;
use shapes::{Action, Boot, Card, Config, Create, Drive, Entropy, Kind, Load, Wanted};

/// What it says it is.
const VERSION: &str = "1.16.0";

/// Format of its snapshots.
const FORMAT: &str = "11.0.0";

const BEFORE: &str = "The requested operation is not supported before starting the microVM.";
const AFTER: &str = "The requested operation is not supported after starting the microVM.";

/// What a call comes to.
#[derive(Debug)]
pub(crate) enum Answer {
    /// 204.
    Done,
    /// 200.
    Content(Value),
    /// 400.
    Fault(String),
    /// 400, and the process ends.
    FatalFault(String),
}

fn fault(why: &str) -> Answer {
    Answer::Fault(why.to_owned())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    NotStarted,
    Running,
    Paused,
}

/// A snapshot's state file, behind the CRC that the real one has.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    format: String,
    config: Config,
    generation: u64,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Vmm {
    state: State,
    config: Config,
    /// Something was configured that belongs to a boot.
    is_touched: bool,
    /// How often its memory was loaded.
    generation: u64,
    guest: Option<Guest>,
    /// Its memory, where somebody else brings the pages.
    paged: Option<Rc<Paged>>,
}

impl Vmm {
    pub(crate) fn new() -> Self {
        Self {
            state: State::NotStarted,
            config: Config::default(),
            is_touched: false,
            generation: 0,
            guest: None,
            paged: None,
        }
    }

    pub(crate) fn call(&mut self, method: &str, path: &str, content: &[u8]) -> Answer {
        let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        match (method, parts.as_slice()) {
            ("GET", ["version"]) => Answer::Content(json!({ "firecracker_version": VERSION })),
            ("GET", [""]) => Answer::Content(self.about()),
            ("GET", ["machine-config"]) => Answer::Content(json!(self.config.machine)),
            ("PUT", ["machine-config"]) => self.set(content, |config, machine| config.machine = machine),
            ("PUT", ["boot-source"]) => self.boot_source(content),
            ("PUT", ["drives", id]) => self.drive(id, content),
            ("PUT", ["network-interfaces", id]) => self.card(id, content),
            ("PUT", ["vsock"]) => self.set(content, |config, vsock| config.vsock = Some(vsock)),
            ("PUT", ["entropy"]) => self.set(content, |config, _: Entropy| config.entropy = true),
            ("PUT", ["actions"]) => self.act(content),
            ("PATCH", ["vm"]) => self.change(content),
            ("PUT", ["snapshot", "create"]) => self.create(content),
            ("PUT", ["snapshot", "load"]) => self.load(content),
            _ => Answer::Fault(format!(
                "Invalid request method and/or path: {method} {}.",
                path.trim_start_matches('/')
            )),
        }
    }

    fn about(&self) -> Value {
        let state = match self.state {
            State::NotStarted => "Not started",
            State::Running => "Running",
            State::Paused => "Paused",
        };
        json!({ "app_name": "Firecracker", "id": "machine", "state": state, "vmm_version": VERSION, "generation": self.generation })
    }

    /// Something that belongs to a boot.
    fn set<T: for<'de> Deserialize<'de>>(
        &mut self,
        content: &[u8],
        set: impl FnOnce(&mut Config, T),
    ) -> Answer {
        let value = match parsed(content) {
            Ok(value) => value,
            Err(answer) => return answer,
        };
        if self.state != State::NotStarted {
            return fault(AFTER);
        }
        self.is_touched = true;
        set(&mut self.config, value);
        Answer::Done
    }

    fn boot_source(&mut self, content: &[u8]) -> Answer {
        let boot: Boot = match parsed(content) {
            Ok(boot) => boot,
            Err(answer) => return answer,
        };
        if self.state == State::NotStarted && fs::File::open(&boot.kernel_image_path).is_err() {
            return fault("The kernel file cannot be opened: No such file or directory (os error 2)");
        }
        self.set(content, |config, boot| config.boot = Some(boot))
    }

    fn drive(&mut self, id: &str, content: &[u8]) -> Answer {
        let drive: Drive = match parsed(content) {
            Ok(drive) => drive,
            Err(answer) => return answer,
        };
        if drive.drive_id != id {
            return fault("The id from the path does not match the id from the body!");
        }
        if self.state == State::NotStarted && !drive.path_on_host.is_file() {
            return fault(
                "Unable to create the virtio block device: VirtioBlock: Error manipulating the backing file: No such file or directory (os error 2)",
            );
        }
        self.set(content, |config, drive| config.drives.push(drive))
    }

    fn card(&mut self, id: &str, content: &[u8]) -> Answer {
        match parsed::<Card>(content) {
            Err(answer) => answer,
            Ok(card) if card.iface_id != id => {
                fault("The id from the path does not match the id from the body!")
            }
            Ok(_) => self.set(content, |config, card| config.cards.push(card)),
        }
    }

    fn act(&mut self, content: &[u8]) -> Answer {
        let action: Action = match parsed(content) {
            Ok(action) => action,
            Err(answer) => return answer,
        };
        match (action.action_type.as_str(), self.state) {
            ("InstanceStart", State::NotStarted) if self.config.boot.is_none() => {
                fault("Cannot start microvm without kernel configuration.")
            }
            ("InstanceStart", State::NotStarted) => {
                self.guest = Some(self.begin(Memory::default()));
                self.state = State::Running;
                self.run(true);
                Answer::Done
            }
            ("InstanceStart", _) => fault(AFTER),
            ("SendCtrlAltDel" | "FlushMetrics", State::NotStarted) => fault(BEFORE),
            ("SendCtrlAltDel" | "FlushMetrics", _) => Answer::Done,
            (other, _) => Answer::Fault(format!(
                "An error occurred when deserializing the json body of a request: unknown variant `{other}`."
            )),
        }
    }

    fn begin(&self, memory: Memory) -> Guest {
        Guest::begin(
            memory,
            self.config.vsock.as_ref().map(|vsock| vsock.uds_path.clone()),
            self.paged.clone(),
        )
    }

    fn run(&self, runs: bool) {
        if let Some(guest) = &self.guest {
            guest.run(runs);
        }
    }

    fn change(&mut self, content: &[u8]) -> Answer {
        let wanted: Wanted = match parsed(content) {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let state = match wanted.state.as_str() {
            "Paused" => State::Paused,
            "Resumed" => State::Running,
            other => {
                return Answer::Fault(format!(
                    "An error occurred when deserializing the json body of a request: unknown variant `{other}`, expected `Paused` or `Resumed`."
                ));
            }
        };
        if self.state == State::NotStarted {
            return fault(BEFORE);
        }
        self.state = state;
        self.run(state == State::Running);
        Answer::Done
    }

    fn create(&mut self, content: &[u8]) -> Answer {
        let create: Create = match parsed(content) {
            Ok(create) => create,
            Err(answer) => return answer,
        };
        match self.state {
            State::NotStarted => return fault(BEFORE),
            State::Running => {
                return fault(
                    "Create snapshot error: Cannot save the microVM state: Operation not allowed: save/restore unavailable while running",
                );
            }
            State::Paused => {}
        }
        if create.snapshot_type == Kind::Diff && !self.config.machine.track_dirty_pages {
            return fault("Diff snapshots are not allowed on uVMs with dirty page tracking disabled.");
        }
        match self.write(&create) {
            Ok(()) => Answer::Done,
            Err(error) => Answer::Fault(format!("Create snapshot error: {error}")),
        }
    }

    fn write(&self, create: &Create) -> std::io::Result<()> {
        let saved = Saved {
            format: FORMAT.to_owned(),
            config: self.config.clone(),
            generation: self.generation,
        };
        fs::write(&create.snapshot_path, serde_json::to_vec(&saved)?)?;
        let size = self.config.machine.mem_size_mib << 20;
        let file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&create.mem_file_path);
        let mut file = file?;
        if file.metadata()?.len() != size || create.snapshot_type == Kind::Full {
            file.set_len(0)?;
            file.set_len(size)?;
        }
        let mut memory = serde_json::to_vec(&self.guest.as_ref().map(Guest::memory))?;
        memory.push(0);
        file.write_all(&memory)
    }

    fn load(&mut self, content: &[u8]) -> Answer {
        let load: Load = match parsed(content) {
            Ok(load) => load,
            Err(answer) => return answer,
        };
        if self.state != State::NotStarted {
            return fault(AFTER);
        }
        if self.is_touched {
            return fault(
                "Load snapshot error: Loading a microVM snapshot not allowed after configuring boot-specific resources.",
            );
        }
        match self.restore(&load) {
            Ok(()) => Answer::Done,
            Err(why) => Answer::FatalFault(format!(
                "Load snapshot error: Failed to restore from snapshot: {why}"
            )),
        }
    }

    fn restore(&mut self, load: &Load) -> Result<(), String> {
        let state = fs::read(&load.snapshot_path)
            .map_err(|error| format!("Failed to open the snapshot state file: {error}"))?;
        if state.len() < 8 {
            return Err("Failed to load snapshot state from file: File too short to contain CRC".to_owned());
        }
        let saved: Saved = serde_json::from_slice(&state)
            .map_err(|_| "Failed to load snapshot state from file: CRC64 validation failed".to_owned())?;
        if saved.format != FORMAT {
            return Err(format!(
                "Failed to load snapshot state from file: Snapshot file has invalid version {}",
                saved.format
            ));
        }
        self.config = saved.config;
        for Drive { path_on_host, .. } in &self.config.drives {
            if !path_on_host.is_file() {
                return Err("VirtioBlock: Error manipulating the backing file: No such file or directory (os error 2)".to_owned());
            }
        }
        for wanted in &load.network_overrides {
            let card = self
                .config
                .cards
                .iter_mut()
                .find(|card| card.iface_id == wanted.iface_id);
            card.ok_or("Unknown Network Device")?
                .host_dev_name
                .clone_from(&wanted.host_dev_name);
        }
        if let Some(wanted) = &load.vsock_override {
            let vsock = self.config.vsock.as_mut();
            vsock
                .ok_or("Unknown Vsock Device")?
                .uds_path
                .clone_from(&wanted.uds_path);
        }
        self.config.machine.track_dirty_pages = load.track_dirty_pages;
        let (path, size) = (
            &load.mem_backend.backend_path,
            self.config.machine.mem_size_mib << 20,
        );
        let memory = match load.mem_backend.backend_type.as_str() {
            "File" => read_memory(path, size)?,
            "Uffd" => {
                let paged = Paged::connect(path, size).map_err(|error| {
                    format!("Failed to load guest memory: Error creating guest memory from uffd: {error}")
                })?;
                let memory = parsed_memory(&paged.text())?;
                self.paged = Some(Rc::new(paged));
                memory
            }
            other => return Err(format!("unknown variant `{other}`, expected `File` or `Uffd`")),
        };
        self.generation = saved.generation + 1;
        self.guest = memory.map(|mut memory| {
            if load.clock_realtime {
                memory.clock_was_set = true;
            }
            self.begin(memory)
        });
        self.state = if load.resume_vm {
            State::Running
        } else {
            State::Paused
        };
        self.run(load.resume_vm);
        Ok(())
    }
}

fn read_memory(path: &Path, size: u64) -> Result<Option<Memory>, String> {
    let memory = fs::read(path).map_err(|error| format!("Failed to load guest memory: {error}"))?;
    if u64::try_from(memory.len()).ok() != Some(size) {
        return Err("Failed to load guest memory: the memory file has another size".to_owned());
    }
    let end = memory.iter().position(|byte| *byte == 0).unwrap_or(memory.len());
    parsed_memory(memory.get(..end).unwrap_or_default())
}

fn parsed_memory(memory: &[u8]) -> Result<Option<Memory>, String> {
    serde_json::from_slice(memory).map_err(|error| format!("Failed to load guest memory: {error}"))
}

fn parsed<T: for<'de> Deserialize<'de>>(content: &[u8]) -> Result<T, Answer> {
    serde_json::from_slice(content).map_err(|error| {
        Answer::Fault(format!(
            "An error occurred when deserializing the json body of a request: {error}."
        ))
    })
}
