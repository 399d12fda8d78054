//! Whether the processor runs the instructions of virtual machines here, which a `/dev/kvm` that is there does not say.
//!
//! Inside some virtual machines the host's kernel offers KVM and emulates what a guest's kernel executes, one instruction after
//! another: no stock kernel boots there. So a loop is executed in a machine of one page, and its time is looked at.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::time::{Duration, Instant};

use crate::{checked, owned};

/// Requests of `Documentation/virt/kvm/api.rst`.
const GET_API_VERSION: u32 = 0xae00;
const CREATE_VM: u32 = 0xae01;
const GET_VCPU_MMAP_SIZE: u32 = 0xae04;
const CREATE_VCPU: u32 = 0xae41;
const SET_USER_MEMORY_REGION: u32 = 0x4020_ae46;
const RUN: u32 = 0xae80;
const SET_REGS: u32 = 0x4090_ae82;
const GET_SREGS: u32 = 0x8138_ae83;
const SET_SREGS: u32 = 0x4138_ae84;

/// The interface that has been stable since Linux 2.6.22.
const API_VERSION: libc::c_long = 12;

/// Why a machine stopped: it has executed `hlt`.
const EXIT_HLT: u32 = 5;

/// Bytes of the machine.
const PAGE: usize = 4096;

/// In real mode: count 10,000 down, and halt.
const LOOP: [u8; 11] = [0x66, 0xb9, 0x10, 0x27, 0, 0, 0x66, 0x49, 0x75, 0xfc, 0xf4];

/// Times that it runs: the best counts, for others take the processor in between.
const RUNS: usize = 8;

/// 20,000 instructions take a processor some ten microseconds, and an emulator a millisecond and more.
const FAST: Duration = Duration::from_micros(500);

/// Why virtual machines do not run on the processor here.
#[derive(Debug)]
pub enum NoKvm {
    /// There is none.
    Absent,
    /// This user may not.
    Denied,
    /// It refuses.
    Refused(io::Error),
    /// It does not execute instructions but imitates them.
    Emulated,
}

impl std::fmt::Display for NoKvm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str(
                "there is no /dev/kvm: the processor or the machine that this host is does not offer it",
            ),
            Self::Denied => f.write_str("this user may not open /dev/kvm: add it to the group kvm"),
            Self::Refused(error) => write!(f, "/dev/kvm refuses a machine: {error}"),
            Self::Emulated => {
                f.write_str("/dev/kvm is there and emulates: no kernel boots on it in a useful time")
            }
        }
    }
}

impl std::error::Error for NoKvm {}

impl From<io::Error> for NoKvm {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::Absent,
            io::ErrorKind::PermissionDenied => Self::Denied,
            _ => Self::Refused(error),
        }
    }
}

/// Looks whether virtual machines run on the processor here: some milliseconds, also where it emulates.
///
/// # Errors
/// [`NoKvm`] says why not.
pub fn look() -> Result<(), NoKvm> {
    let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
    let machine = Machine::new(&kvm)?;
    let mut best = Duration::MAX;
    for _ in 0..RUNS {
        match machine.run()? {
            Some(took) => best = best.min(took),
            None => return Err(NoKvm::Emulated),
        }
    }
    match best < FAST {
        true => Ok(()),
        false => Err(NoKvm::Emulated),
    }
}

#[repr(C)]
struct Region {
    slot: u32,
    flags: u32,
    guest: u64,
    size: u64,
    address: u64,
}

/// Memory of this process, mapped for itself.
struct Mapping {
    address: NonNull<libc::c_void>,
    size: usize,
}

impl Mapping {
    fn new(size: usize, flags: libc::c_int, file: RawFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that is there.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, file, 0) };
        match NonNull::new(address) {
            Some(address) if address.as_ptr() != libc::MAP_FAILED => Ok(Self { address, size }),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this size, and nothing refers to it any more.
        unsafe { libc::munmap(self.address.as_ptr(), self.size) };
    }
}

/// One page and one processor.
struct Machine {
    processor: OwnedFd,
    shared: Mapping,
    _memory: Mapping,
    _machine: OwnedFd,
}

/// By number, since the C libraries do not agree on the type of a request.
fn request(file: RawFd, request: u32, argument: u64) -> io::Result<libc::c_long> {
    // SAFETY: the callers pass a number where the kernel takes one, and else the address of what it reads or writes, which they
    // keep, of the size that the request's number names.
    checked(unsafe { libc::syscall(libc::SYS_ioctl, file, u64::from(request), argument) })
}

fn address<T>(of: &T) -> u64 {
    std::ptr::from_ref(of).addr() as u64
}

impl Machine {
    fn new(kvm: &File) -> io::Result<Self> {
        let kvm = kvm.as_raw_fd();
        if request(kvm, GET_API_VERSION, 0)? != API_VERSION {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let machine = owned(request(kvm, CREATE_VM, 0)?)?;
        let memory = Mapping::new(PAGE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)?;
        // SAFETY: the mapping is a page, larger than the loop, and nobody else has it yet.
        unsafe { std::ptr::copy_nonoverlapping(LOOP.as_ptr(), memory.address.as_ptr().cast(), LOOP.len()) };
        let region = Region {
            slot: 0,
            flags: 0,
            guest: 0,
            size: PAGE as u64,
            address: memory.address.as_ptr().addr() as u64,
        };
        request(machine.as_raw_fd(), SET_USER_MEMORY_REGION, address(&region))?;
        let processor = owned(request(machine.as_raw_fd(), CREATE_VCPU, 0)?)?;
        let size = usize::try_from(request(kvm, GET_VCPU_MMAP_SIZE, 0)?).map_err(io::Error::other)?;
        let shared = Mapping::new(size.max(PAGE), libc::MAP_SHARED, processor.as_raw_fd())?;
        Ok(Self {
            processor,
            shared,
            _memory: memory,
            _machine: machine,
        })
    }

    /// Runs the loop once: its time, or none where it stopped before its end.
    fn run(&self) -> io::Result<Option<Duration>> {
        let processor = self.processor.as_raw_fd();
        let mut segments = [0_u8; 0x138];
        request(
            processor,
            GET_SREGS,
            std::ptr::from_mut(&mut segments).addr() as u64,
        )?;
        // The code segment begins at 0: its base and its selector.
        let (base, rest) = segments.split_at_mut(8);
        base.fill(0);
        rest.iter_mut().skip(4).take(2).for_each(|byte| *byte = 0);
        request(processor, SET_SREGS, address(&segments))?;
        let mut registers = [0_u64; 18];
        // Flags; the instruction pointer is 0.
        if let Some(flags) = registers.last_mut() {
            *flags = 2;
        }
        request(processor, SET_REGS, address(&registers))?;
        let begin = Instant::now();
        request(processor, RUN, 0)?;
        let took = begin.elapsed();
        // SAFETY: the mapping holds the processor's `kvm_run`, whose third word is the reason; the processor stands still.
        let reason = unsafe { self.shared.address.as_ptr().cast::<u32>().add(2).read_volatile() };
        Ok((reason == EXIT_HLT).then_some(took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_is_quick_and_says_what_to_do() {
        let begin = Instant::now();
        let looked = look();
        assert!(begin.elapsed() < Duration::from_secs(10), "{looked:?}");
        if let Err(why) = looked {
            assert!(why.to_string().contains("/dev/kvm"), "{why}");
        }
        assert!(matches!(
            NoKvm::from(io::Error::from(io::ErrorKind::NotFound)),
            NoKvm::Absent
        ));
        assert!(
            NoKvm::from(io::Error::from(io::ErrorKind::PermissionDenied))
                .to_string()
                .contains("group kvm")
        );
    }
}
