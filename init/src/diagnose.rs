//! Why a program could not be run: the reason behind "no such file or directory", "permission denied" and "exec format
//! error", which the kernel gives for ten different mistakes (peers.md, row 29).
//!
//! Everything here is for the process that calls execve, after it has entered the root file system and become the user
//! that it is to be: paths are plain paths in its own root, nothing is looked up on the host's side (security.md E21).
//! Files belong to the image, so only regular ones are opened, never blocking, and read in bounds (row C9).
//!
//! Managers match the words of the errno (peers.md A1.3). What is said here avoids those words, so that it changes no exit
//! status that a manager derives.

use core::ffi::CStr;

use alloc::borrow::Cow;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;

use crate::error::Errno;
use crate::sys::{self, Fd};

/// How much of a file the kernel looks at to choose a loader: `BINPRM_BUF_SIZE` of `linux/binfmts.h`.
const HEAD: usize = 256;

/// How many interpreters of interpreters are followed; the kernel stops at five (`exec_binprm` in fs/exec.c).
const DEPTH: u32 = 5;

/// Why an execve of `path` fails with `errno`, as a sentence about `path`; none where there is nothing to add to what the
/// errno says.
pub fn reason(path: &CStr, errno: Errno) -> Option<String> {
    match errno.0 {
        libc::ENOENT
        | libc::EACCES
        | libc::ENOEXEC
        | libc::ELIBBAD
        | libc::ELOOP
        | libc::ENOTDIR
        | libc::EINVAL => match problem(path, DEPTH)? {
            Problem::Missing => None,
            Problem::Other(text) => Some(format!("{} {text}", path.to_string_lossy())),
        },
        libc::E2BIG => {
            Some("args and env together are larger than the stack limit or the kernel allows".into())
        }
        _ => None,
    }
}

/// Whether this process may execute `path`, as `access` with `X_OK` for the effective ids tells it: without trying.
///
/// # Errors
/// The errno of stat(2) or of faccessat2(2); `EACCES` for a directory.
pub fn may_execute(path: &CStr) -> Result<(), Errno> {
    let stat = sys::stat_path(path)?;
    if file_type(&stat) == libc::S_IFDIR {
        return Err(Errno(libc::EACCES));
    }
    match sys::may_execute(path) {
        // A seccomp profile that does not know faccessat2 answers so; the mode then decides, as in runc.
        Err(Errno(libc::ENOSYS | libc::EPERM)) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(Errno(libc::ENOSYS | libc::EPERM)) => Err(Errno(libc::EACCES)),
        other => other,
    }
}

/// What is wrong with a file that is to be executed.
enum Problem {
    /// There is nothing at this path.
    Missing,
    /// The rest of a sentence that begins with the path.
    Other(String),
}

impl Problem {
    fn other(text: impl Into<String>) -> Option<Self> {
        Some(Self::Other(text.into()))
    }

    /// `link the-other-file, which has this problem`.
    fn of_interpreter(self, link: &str, interpreter: &CStr) -> Self {
        let text = match &self {
            Self::Missing => "does not exist",
            Self::Other(text) => text,
        };
        Self::Other(format!("{link} {}, which {text}", interpreter.to_string_lossy()))
    }
}

/// A plain path of this process's own root.
fn open(path: &CStr, flags: i32) -> Result<Fd, Errno> {
    sys::open(libc::AT_FDCWD, path, flags, 0)
}

/// What is wrong with `path` and with the interpreters behind it, in the order in which the kernel would find out.
fn problem(path: &CStr, depth: u32) -> Option<Problem> {
    let file = match open(path, libc::O_PATH) {
        Ok(file) => file,
        Err(Errno(libc::ENOENT)) => {
            return Some(dangling_link(path).map_or(Problem::Missing, Problem::Other));
        }
        Err(Errno(libc::EACCES)) => {
            return Problem::other("has a directory on its way that this user may not search");
        }
        Err(Errno(libc::ENOTDIR)) => {
            return Problem::other("has something on its way that is not a directory");
        }
        Err(Errno(libc::ELOOP)) => return Problem::other("is a loop of symbolic links"),
        Err(_) => return None,
    };
    let (stat, noexec) = (sys::stat(file), sys::is_noexec(file));
    sys::close(file);
    let stat = stat.ok()?;
    match file_type(&stat) {
        libc::S_IFREG => {}
        libc::S_IFDIR => return Problem::other("is a directory"),
        _ => return Problem::other("is not a regular file"),
    }
    if noexec {
        return Problem::other("lies on a file system that is mounted noexec");
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o111 == 0 {
        return Some(Problem::Other(format!("is not executable, its mode is {mode:04o}")));
    }
    if may_execute(path) == Err(Errno(libc::EACCES)) {
        let (owner, group) = (stat.st_uid, stat.st_gid);
        let (user, users_group) = sys::effective_ids();
        return Some(Problem::Other(format!(
            "has mode {mode:04o} and owner {owner}:{group}, and the process runs as {user}:{users_group}"
        )));
    }
    let file = open(path, libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY).ok()?;
    let problem = depth.checked_sub(1).and_then(|depth| content_problem(file, depth));
    sys::close(file);
    problem
}

/// The text for a symbolic link to nowhere.
fn dangling_link(path: &CStr) -> Option<String> {
    let target = sys::read_link(path).ok()?;
    Some(format!("is a symbolic link to {}, which does not exist", String::from_utf8_lossy(&target)))
}

/// What is wrong with the content of an executable file.
fn content_problem(file: Fd, depth: u32) -> Option<Problem> {
    // Between the two opens the path may have been given to something else.
    if file_type(&sys::stat(file).ok()?) != libc::S_IFREG {
        return None;
    }
    let head = sys::read_at(file, 0, HEAD).ok()?;
    match head.as_slice() {
        [] => Problem::other("is empty"),
        [b'#', b'!', line @ ..] => script_problem(line, depth),
        [0x7f, b'E', b'L', b'F', ..] => elf_problem(file, &head, depth),
        [b'M', b'Z', ..] => Problem::other("is a Windows program"),
        [0xcf | 0xce, 0xfa, 0xed, 0xfe, ..] => Problem::other("is a macOS program"),
        text if text.iter().all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~' | 0x80..)) => {
            Problem::other("is a text file whose first line does not begin with #!")
        }
        _ => Problem::other("is neither an ELF program nor a script"),
    }
}

/// What is wrong with a script, given what follows its `#!`: read as `load_script` in fs/binfmt_script.c does it.
fn script_problem(line: &[u8], depth: u32) -> Option<Problem> {
    let line = line.split(|&byte| byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte)).unwrap_or(line.len());
    let name = line.get(start..)?.split(|byte| blank(byte) || *byte == 0).next()?;
    if name.is_empty() {
        return Problem::other("names no interpreter after #!");
    }
    let interpreter = CString::new(name).ok()?;
    match problem(&interpreter, depth)? {
        Problem::Missing if name.ends_with(b"\r") => Some(Problem::Other(format!(
            "has the interpreter {:?}, which does not exist: its lines end with CR LF instead of LF",
            String::from_utf8_lossy(name)
        ))),
        other => Some(other.of_interpreter("has the interpreter", &interpreter)),
    }
}

/// What is wrong with an ELF program (elf(5)): the machine, the kind of file, the loader that it asks for.
fn elf_problem(file: Fd, head: &[u8], depth: u32) -> Option<Problem> {
    /// `ET_EXEC` and `ET_DYN`: what execve takes.
    const PROGRAMS: [u64; 2] = [2, 3];
    const PT_INTERP: u64 = 3;
    /// A program has ten or so; the kernel takes up to 64 KiB of them.
    const MOST_HEADERS: u64 = 1024;
    /// Longer than any path that the kernel takes.
    const MOST_PATH: u64 = 4096;

    let elf = Elf::new(head)?;
    let machine = elf.number(head, 18, 2)?;
    if !elf::runs_here(machine) {
        let (its, ours) = (elf::machine_name(machine), elf::ARCHITECTURE);
        return Some(Problem::Other(format!("is a program for {its}, and this machine is {ours}")));
    }
    if !PROGRAMS.contains(&elf.number(head, 16, 2)?) {
        return Problem::other("is an ELF file, but not a program");
    }
    let (table, size, count) = if elf.wide {
        (elf.number(head, 32, 8)?, elf.number(head, 54, 2)?, elf.number(head, 56, 2)?)
    } else {
        (elf.number(head, 28, 4)?, elf.number(head, 42, 2)?, elf.number(head, 44, 2)?)
    };
    for index in 0..count.min(MOST_HEADERS) {
        let header = sys::read_at(file, table.checked_add(index * size)?, 56).ok()?;
        if elf.number(&header, 0, 4)? != PT_INTERP {
            continue;
        }
        let (offset, length) = if elf.wide {
            (elf.number(&header, 8, 8)?, elf.number(&header, 32, 8)?)
        } else {
            (elf.number(&header, 4, 4)?, elf.number(&header, 16, 4)?)
        };
        let name = sys::read_at(file, offset, usize::try_from(length.min(MOST_PATH)).ok()?).ok()?;
        let loader = CString::new(name.split(|&byte| byte == 0).next()?).ok()?;
        return Some(problem(&loader, depth)?.of_interpreter("needs the ELF loader", &loader));
    }
    None
}

/// How to read the numbers of an ELF file.
struct Elf {
    /// 64 bit.
    wide: bool,
    big_endian: bool,
}

impl Elf {
    fn new(head: &[u8]) -> Option<Self> {
        Some(Self { wide: *head.get(4)? == 2, big_endian: *head.get(5)? == 2 })
    }

    /// The unsigned number of `size` bytes (at most 8) at `offset`; none where the file ends before it does.
    fn number(&self, bytes: &[u8], offset: usize, size: usize) -> Option<u64> {
        let field = bytes.get(offset..offset + size)?;
        let join = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        Some(if self.big_endian { field.iter().fold(0, join) } else { field.iter().rev().fold(0, join) })
    }
}

mod elf {
    use super::{Cow, format};

    /// `e_machine` values of elf.h with the names that Rust, uname(1) and Debian use.
    const MACHINES: [(u64, &str); 15] = [
        (2, "sparc"),
        (3, "x86 (32 bit)"),
        (8, "mips"),
        (20, "powerpc"),
        (21, "powerpc64"),
        (22, "s390x"),
        (40, "arm (32 bit)"),
        (43, "sparc64"),
        (50, "ia64"),
        (62, "x86_64"),
        (183, "aarch64"),
        (243, "riscv"),
        (247, "bpf"),
        (258, "loongarch64"),
        (0x9026, "alpha"),
    ];

    /// What this architecture's kernels run: the 64 bit machine and, as a rule, its 32 bit predecessor.
    #[cfg(target_arch = "x86_64")]
    const NATIVE: [u64; 2] = [62, 3];
    #[cfg(target_arch = "aarch64")]
    const NATIVE: [u64; 2] = [183, 40];

    /// This machine's name.
    #[cfg(target_arch = "x86_64")]
    pub(super) const ARCHITECTURE: &str = "x86_64";
    #[cfg(target_arch = "aarch64")]
    pub(super) const ARCHITECTURE: &str = "aarch64";

    pub(super) fn runs_here(machine: u64) -> bool {
        NATIVE.contains(&machine)
    }

    pub(super) fn machine_name(machine: u64) -> Cow<'static, str> {
        match MACHINES.iter().find(|(number, _)| *number == machine) {
            Some((_, name)) => Cow::Borrowed(name),
            None => Cow::Owned(format!("machine number {machine}")),
        }
    }
}

fn file_type(stat: &libc::stat) -> u32 {
    stat.st_mode & libc::S_IFMT
}
