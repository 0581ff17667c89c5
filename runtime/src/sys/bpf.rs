//! bpf(2), as far as device control of cgroup v2 needs it.
//!
//! Every call passes a zeroed attribute of [`ATTR_SIZE`] bytes: Linux 6.17 to 7.1 writes the answer of
//! `BPF_PROG_QUERY` beyond a shorter one (security.md F9). RLIMIT_MEMLOCK does not count since Linux 5.11: programs are
//! charged to the memory cgroup.

#![allow(unsafe_code, reason = "the system call module")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

/// More than any kernel's `union bpf_attr`; the kernel takes a longer attribute whose tail is zero.
const ATTR_SIZE: usize = 256;

// Numbers of `linux/bpf.h`.
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_DETACH: libc::c_int = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_int = 13;
const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 1 << 1;
const BPF_F_REPLACE: u32 = 1 << 2;

/// How many programs of one cgroup are looked at; the kernel's own limit is `BPF_CGROUP_MAX_PROGS`, 64.
const MAX_PROGRAMS: usize = 64;

/// One instruction, `struct bpf_insn` of `linux/bpf.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// ALU operations with an immediate number (`linux/bpf_common.h`).
pub mod op {
    /// Bitwise and.
    pub const AND: u8 = 0x50;
    /// Shift to the left.
    pub const SHIFT_LEFT: u8 = 0x60;
    /// Logical shift to the right.
    pub const SHIFT_RIGHT: u8 = 0x70;
}

impl Insn {
    const fn new(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Self {
        // Two bit fields of four bits: their order is the machine's.
        let registers = if cfg!(target_endian = "little") { to | from << 4 } else { to << 4 | from };
        Self { code, registers, offset, immediate }
    }

    /// `to = *(u32 *)(base + offset)`
    pub const fn load_u32(to: u8, base: u8, offset: i16) -> Self {
        Self::new(0x61, to, base, offset, 0)
    }

    /// `to = from`
    pub const fn copy(to: u8, from: u8) -> Self {
        Self::new(0xbf, to, from, 0, 0)
    }

    /// `(u32) to = (u32) to OPERATION immediate`
    pub const fn alu(operation: u8, to: u8, immediate: i32) -> Self {
        Self::new(0x04 | operation, to, 0, 0, immediate)
    }

    /// `to = to OPERATION immediate`, of 64 bits
    pub const fn alu64(operation: u8, to: u8, immediate: i32) -> Self {
        Self::new(0x07 | operation, to, 0, 0, immediate)
    }

    /// `to |= from`, of 64 bits
    pub const fn or(to: u8, from: u8) -> Self {
        Self::new(0x4f, to, from, 0, 0)
    }

    /// Skip `over` instructions.
    pub const fn jump(over: i16) -> Self {
        Self::new(0x05, 0, 0, over, 0)
    }

    /// `if register == immediate`, of 64 bits, the number with its sign, skip `over` instructions
    pub const fn jump64_if_equal(register: u8, immediate: i32, over: i16) -> Self {
        Self::new(0x15, register, 0, over, immediate)
    }

    /// `if (u32) register == immediate` skip `over` instructions
    pub const fn jump_if_equal(register: u8, immediate: i32, over: i16) -> Self {
        Self::new(0x16, register, 0, over, immediate)
    }

    /// `if (u32) register != immediate` skip `over` instructions
    pub const fn jump_unless_equal(register: u8, immediate: i32, over: i16) -> Self {
        Self::new(0x56, register, 0, over, immediate)
    }

    /// `return value`
    pub const fn return_value(value: i32) -> [Self; 2] {
        [Self::new(0xb7, 0, 0, 0, value), Self::new(0x95, 0, 0, 0, 0)]
    }
}

/// `union bpf_attr`, filled in by offset (`linux/bpf.h`).
#[repr(C, align(8))]
struct Attr([u8; ATTR_SIZE]);

impl Attr {
    const fn new() -> Self {
        Self([0; ATTR_SIZE])
    }

    fn set(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn set_u32(&mut self, offset: usize, value: u32) -> &mut Self {
        self.set(offset, &value.to_ne_bytes())
    }

    fn set_fd(&mut self, offset: usize, fd: impl AsFd) -> &mut Self {
        self.set(offset, &fd.as_fd().as_raw_fd().to_ne_bytes())
    }

    fn set_pointer<T>(&mut self, offset: usize, pointer: *const T) -> &mut Self {
        self.set(offset, &u64::try_from(pointer.expose_provenance()).unwrap_or_default().to_ne_bytes())
    }

    fn u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    }
}

/// bpf(2). The pointers in `attr` have to be valid for what `command` does with them.
fn bpf(command: libc::c_int, attr: &mut Attr) -> nix::Result<i32> {
    // SAFETY: `attr` is a zeroed, full-size attribute, which the kernel may read and write to its end; the callers in
    // this module put only pointers to live buffers of the size that they state into it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, (&raw mut *attr).cast::<u8>(), ATTR_SIZE) };
    Errno::result(result).and_then(|value| i32::try_from(value).map_err(|_| Errno::EBADF))
}

fn new_fd(raw: i32) -> OwnedFd {
    // SAFETY: bpf(2) has just made this descriptor for us (close-on-exec, as all of its descriptors).
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program.
///
/// # Errors
/// `EPERM` without CAP_BPF or CAP_SYS_ADMIN, `EINVAL` for a program that the verifier refuses.
pub fn load_device_program(program: &[Insn]) -> nix::Result<OwnedFd> {
    // No helper is called, but the kernel wants a license text.
    let license = c"Apache-2.0";
    let count = u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let mut attr = Attr::new();
    attr.set_u32(0, BPF_PROG_TYPE_CGROUP_DEVICE)
        .set_u32(4, count)
        .set_pointer(8, program.as_ptr())
        .set_pointer(16, license.as_ptr())
        .set(48, b"skeg_devices");
    bpf(BPF_PROG_LOAD, &mut attr).map(new_fd)
}

/// The ids of the device programs that are attached to the cgroup itself, not to those above it.
///
/// # Errors
/// The errno of bpf(2).
pub fn device_programs(cgroup: impl AsFd) -> nix::Result<Vec<u32>> {
    query(cgroup, &mut Attr::new())
}

fn query(cgroup: impl AsFd, attr: &mut Attr) -> nix::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_PROGRAMS];
    let room = u32::try_from(ids.len()).map_err(|_| Errno::E2BIG)?;
    attr.set_fd(0, cgroup).set_u32(4, BPF_CGROUP_DEVICE).set_pointer(16, ids.as_mut_ptr()).set_u32(24, room);
    bpf(BPF_PROG_QUERY, attr)?;
    ids.truncate(usize::try_from(attr.u32(24)).map_err(|_| Errno::E2BIG)?);
    Ok(ids)
}

/// A descriptor for the program with this id.
///
/// # Errors
/// `ENOENT` where it has gone, `EPERM` without CAP_SYS_ADMIN.
pub fn program_by_id(id: u32) -> nix::Result<OwnedFd> {
    bpf(BPF_PROG_GET_FD_BY_ID, Attr::new().set_u32(0, id)).map(new_fd)
}

/// Attaches a device program to a cgroup beside those that are there (`BPF_F_ALLOW_MULTI`: all have to allow), or in the
/// place of `replaced`, with no moment between without either.
///
/// # Errors
/// The errno of bpf(2).
pub fn attach_device_program(
    cgroup: impl AsFd,
    program: impl AsFd,
    replaced: Option<&OwnedFd>,
) -> nix::Result<()> {
    let mut attr = Attr::new();
    attr.set_fd(0, cgroup).set_fd(4, program).set_u32(8, BPF_CGROUP_DEVICE);
    match replaced {
        None => attr.set_u32(12, BPF_F_ALLOW_MULTI),
        Some(old) => attr.set_u32(12, BPF_F_ALLOW_MULTI | BPF_F_REPLACE).set_fd(16, old),
    };
    bpf(BPF_PROG_ATTACH, &mut attr).map(drop)
}

/// Takes a device program off a cgroup.
///
/// # Errors
/// `ENOENT` where it is not attached there.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> nix::Result<()> {
    let mut attr = Attr::new();
    attr.set_fd(0, cgroup).set_fd(4, program).set_u32(8, BPF_CGROUP_DEVICE);
    bpf(BPF_PROG_DETACH, &mut attr).map(drop)
}

/// Runs a program of the instructions above on a context of 32-bit words, as the kernel would.
#[cfg(test)]
pub(crate) fn interpret(program: &[Insn], context: &[u32]) -> i64 {
    let mut registers = [0_u64; 11];
    let mut at = 0_usize;
    loop {
        let Insn { code, registers: both, offset, immediate } = program[at];
        let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
        let low = |value: u64| u32::try_from(value & 0xffff_ffff).unwrap();
        let number = immediate.cast_unsigned();
        at += 1;
        let jumps = match code {
            0x61 => {
                registers[to] = u64::from(context[usize::try_from(offset).unwrap() / 4]);
                false
            }
            0xbf => {
                registers[to] = registers[from];
                false
            }
            0x54 => {
                registers[to] = u64::from(low(registers[to]) & number);
                false
            }
            0x74 => {
                registers[to] = u64::from(low(registers[to]) >> number);
                false
            }
            0x4f => {
                registers[to] |= registers[from];
                false
            }
            0x57 => {
                registers[to] &= i64::from(immediate).cast_unsigned();
                false
            }
            0x67 => {
                registers[to] <<= number;
                false
            }
            0x77 => {
                registers[to] >>= number;
                false
            }
            0x05 => true,
            0x15 => registers[to] == i64::from(immediate).cast_unsigned(),
            0x16 => low(registers[to]) == number,
            0x56 => low(registers[to]) != number,
            0xb7 => {
                registers[to] = i64::from(immediate).cast_unsigned();
                false
            }
            0x95 => return registers[0].cast_signed(),
            other => panic!("instruction {other:#x}"),
        };
        if jumps {
            at += usize::try_from(offset).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Hierarchies;
    use crate::sys::procfs::Procfs;

    /// security.md F9: the attribute is longer than what any kernel writes of it, and nothing around it is touched.
    #[test]
    fn f9_query_stays_within_its_attribute() {
        #[repr(C)]
        struct Guarded {
            before: [u8; 64],
            attr: Attr,
            after: [u8; 64],
        }
        const { assert!(ATTR_SIZE >= 64) };
        let hierarchies = Hierarchies::detect(&Procfs::processes().unwrap(), false).unwrap();
        let Some(v2) = hierarchies.v2 else { return };
        let root = crate::sys::path::open_given(
            &v2.mount_point,
            nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY,
            nix::sys::stat::Mode::empty(),
        )
        .unwrap();
        let mut guarded = Guarded { before: [0xa5; 64], attr: Attr::new(), after: [0xa5; 64] };
        let ids = query(&root, &mut guarded.attr).unwrap();
        assert_eq!((guarded.before, guarded.after), ([0xa5; 64], [0xa5; 64]));
        assert_eq!(ids.len(), usize::try_from(guarded.attr.u32(24)).unwrap());
        // What a kernel of the affected range writes at offset 56 (the revision) is inside; nothing is behind it.
        assert!(guarded.attr.0[64..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn the_verifier_takes_a_program_and_refuses_one_without_a_verdict() {
        assert!(load_device_program(&Insn::return_value(1)).is_ok());
        let no_verdict = [Insn::new(0x95, 0, 0, 0, 0)];
        assert_eq!(load_device_program(&no_verdict).err(), Some(Errno::EACCES));
    }
}
