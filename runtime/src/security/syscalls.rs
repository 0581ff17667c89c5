//! System call names and numbers by architecture.
//!
//! The numbers are those of the kernel's own tables, taken from its asm/unistd headers by scripts/gen-syscalls.py. A
//! profile may name calls that a given kernel or architecture lacks; what is not in the table is unknown, never an error.

mod table;

use table::{NAMES, NUMBERS};

/// How many names there are.
const COUNT: usize = NUMBERS.len();
/// In the table: this architecture has no such call.
const ABSENT: u16 = u16::MAX;
/// In the table: from here on it is arm's private range, `__ARM_NR_BASE` of asm/unistd.h.
const ARM_PRIVATE: u16 = 0xF000;
const ARM_PRIVATE_BASE: u32 = 0x000F_0000;
/// `__X32_SYSCALL_BIT` of asm/unistd.h: set in the number of every call by the x32 ABI.
pub const X32_BIT: u32 = 0x4000_0000;

/// A set of system call numbers, and its column in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit calls on x86.
    X86_64,
    /// 32-bit calls on x86 (`int 0x80`).
    X86,
    /// Calls with 32-bit pointers on x86-64, told apart by [`X32_BIT`].
    X32,
    /// 64-bit calls on arm.
    Aarch64,
    /// 32-bit calls on arm, EABI.
    Arm,
    /// 64-bit calls on RISC-V.
    Riscv64,
}

impl Abi {
    /// The lowest number that is this ABI's.
    pub fn first_number(self) -> u32 {
        if self == Self::X32 { X32_BIT } else { 0 }
    }

    /// Whether arguments have 64 bits; for x32, whose pointers have 32, libseccomp takes them to have 32.
    pub fn is_64_bit(self) -> bool {
        matches!(self, Self::X86_64 | Self::Aarch64 | Self::Riscv64)
    }

    /// Whether `number` lies in arm's private range, far above the ordinary calls.
    pub fn is_private(self, number: u32) -> bool {
        self == Self::Arm && number >= ARM_PRIVATE_BASE
    }
}

/// A system call that at least one architecture has.
#[derive(Clone, Copy, Debug)]
pub struct Syscall {
    numbers: &'static [u16; 6],
}

impl Syscall {
    /// Its number on `abi`, as the kernel gives it to a seccomp filter; `None` where that ABI lacks it.
    pub fn number(self, abi: Abi) -> Option<u32> {
        let number = self.numbers[abi as usize];
        match number {
            ABSENT => None,
            _ if abi == Abi::X32 => Some(u32::from(number) | X32_BIT),
            _ if number >= ARM_PRIVATE => Some(u32::from(number - ARM_PRIVATE) + ARM_PRIVATE_BASE),
            _ => Some(u32::from(number)),
        }
    }
}

/// Where each name starts in `NAMES`, and after the last one where it ends.
static STARTS: [u16; COUNT + 1] = starts();

#[allow(clippy::cast_possible_truncation, reason = "checked below, at compile time")]
const fn starts() -> [u16; COUNT + 1] {
    assert!(NAMES.len() < u16::MAX as usize);
    let text = NAMES.as_bytes();
    let mut starts = [0; COUNT + 1];
    let (mut at, mut name) = (0, 0);
    while at < text.len() {
        if text[at] == b'\n' {
            name += 1;
            starts[name] = at as u16 + 1;
        }
        at += 1;
    }
    assert!(name == COUNT);
    starts
}

fn name(index: usize) -> &'static str {
    &NAMES[usize::from(STARTS[index])..usize::from(STARTS[index + 1]) - 1]
}

/// The call with this name, if any architecture has one.
pub fn find(wanted: &str) -> Option<Syscall> {
    let (mut low, mut high) = (0, COUNT);
    while low < high {
        let middle = usize::midpoint(low, high);
        match name(middle).cmp(wanted) {
            std::cmp::Ordering::Less => low = middle + 1,
            std::cmp::Ordering::Greater => high = middle,
            std::cmp::Ordering::Equal => return Some(Syscall { numbers: &NUMBERS[middle] }),
        }
    }
    None
}

/// Every name in the table, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    (0..COUNT).map(name)
}

/// How 32-bit x86 also makes the call `name`: the number of the multiplexer, socketcall(2) or ipc(2), and the value
/// of its first argument (linux/net.h, linux/ipc.h).
pub fn x86_multiplexed(name: &str) -> Option<(u32, u32)> {
    const SOCKETCALL: u32 = 102;
    const IPC: u32 = 117;
    let call = match name {
        "socket" => 1,
        "bind" => 2,
        "connect" => 3,
        "listen" => 4,
        "accept" => 5,
        "getsockname" => 6,
        "getpeername" => 7,
        "socketpair" => 8,
        "send" => 9,
        "recv" => 10,
        "sendto" => 11,
        "recvfrom" => 12,
        "shutdown" => 13,
        "setsockopt" => 14,
        "getsockopt" => 15,
        "sendmsg" => 16,
        "recvmsg" => 17,
        "accept4" => 18,
        "recvmmsg" => 19,
        "sendmmsg" => 20,
        _ => {
            let call = match name {
                "semop" => 1,
                "semget" => 2,
                "semctl" => 3,
                "semtimedop" => 4,
                "msgsnd" => 11,
                "msgrcv" => 12,
                "msgget" => 13,
                "msgctl" => 14,
                "shmat" => 21,
                "shmdt" => 22,
                "shmget" => 23,
                "shmctl" => 24,
                _ => return None,
            };
            return Some((IPC, call));
        }
    };
    Some((SOCKETCALL, call))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is searched by halving: it must be sorted, and every name must be found.
    #[test]
    fn every_name_is_found() {
        let all: Vec<_> = names().collect();
        assert!(all.is_sorted());
        for (index, name) in all.iter().enumerate() {
            let found = find(name).unwrap_or_else(|| panic!("{name}"));
            assert_eq!(found.numbers, &NUMBERS[index], "{name}");
        }
        for unknown in ["", "a", "zzz", "ope", "openx", "open\n"] {
            assert!(find(unknown).is_none(), "{unknown:?}");
        }
    }

    /// security.md E12: numbers by architecture, one of each peculiarity.
    #[test]
    fn e12_numbers_by_architecture() {
        let number = |name: &str, abi| find(name).unwrap().number(abi);
        assert_eq!(number("execve", Abi::X86_64), Some(59));
        assert_eq!(number("execve", Abi::X86), Some(11));
        assert_eq!(number("execve", Abi::X32), Some(X32_BIT | 520));
        assert_eq!(number("execve", Abi::Aarch64), Some(221));
        assert_eq!(number("execve", Abi::Arm), Some(11));
        assert_eq!(number("execve", Abi::Riscv64), Some(221));
        assert_eq!(number("open", Abi::Aarch64), None);
        assert_eq!(number("set_tls", Abi::Arm), Some(0x000F_0005));
        assert_eq!(number("mseal", Abi::X86), Some(462));
    }
}
