//! Which program is run, and why it could not be: the reason behind "no such file or directory", "permission denied"
//! and "exec format error", which the kernel gives for ten different mistakes (peers.md, row 29).
//!
//! Everything here is for the process that calls execve, after it has entered the root file system and become the user
//! that it is to be: paths are plain paths in its own root, nothing is looked up on the host's side (security.md E21).
//! Files belong to the image, so only regular ones are opened, never blocking, and read in bounds (row C9).
//!
//! The texts begin with the words that managers match (peers.md A1.3): `executable file not found in $PATH`,
//! `no such file or directory`, `permission denied`. What follows in parentheses avoids those words, so that it changes
//! no exit status that a manager derives.

use std::borrow::Cow;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::sys::uio::pread;
use nix::unistd::{AccessFlags, faccessat, getegid, geteuid};

use crate::error::{Error, Result};
use crate::sys::path::{append, open_given, stat};

/// How much of a file the kernel looks at to choose a loader: `BINPRM_BUF_SIZE` of `linux/binfmts.h`.
const HEAD: usize = 256;

/// How many interpreters of interpreters are followed; the kernel stops at five (`exec_binprm` in fs/exec.c).
const DEPTH: u32 = 5;

/// Finds the program for `name`, the first of `process.args`, as `execvp` does it: a name with a slash is a path, any other
/// is searched in `path_variable`, the value of the container's `PATH`.
///
/// A program that is found through an empty or relative element of `PATH` is refused, as runc refuses it.
///
/// # Errors
/// runc's words: `exec: "NAME": executable file not found in $PATH`, `exec: "NAME": stat NAME: no such file or directory`,
/// `exec: "NAME": permission denied`, and the reason.
pub fn find_executable(name: &str, path_variable: Option<&str>) -> Result<PathBuf> {
    let what = || format!("exec: {name:?}");
    if name.contains('/') {
        let path = PathBuf::from(name);
        return match may_execute(&path) {
            Ok(()) => Ok(path),
            Err(errno @ (Errno::EACCES | Errno::EPERM)) => Err(failed(what(), &path, errno)),
            Err(errno) => Err(failed(format!("{}: stat {name}", what()), &path, errno)),
        };
    }
    let not_found = |why: Option<String>| {
        let error = Error::new(format!("{}: executable file not found in $PATH", what()));
        match why {
            Some(why) => error.because(why),
            None => error,
        }
    };
    let Some(path_variable) = path_variable.filter(|value| !value.is_empty() && !name.is_empty()) else {
        let why = if name.is_empty() { "the name is empty" } else { "PATH is empty or not set" };
        return Err(not_found(Some(why.to_owned())));
    };
    let mut passed_over = None;
    for dir in path_variable.split(':') {
        let mut path = PathBuf::from(dir);
        append(&mut path, name);
        match may_execute(&path) {
            Ok(()) if path.is_absolute() => return Ok(path),
            Ok(()) => {
                let text = format!("{}: cannot run executable found relative to current directory", what());
                return Err(Error::new(text));
            }
            Err(errno) if passed_over.is_none() => passed_over = reason(&path, errno),
            Err(_) => {}
        }
    }
    Err(not_found(passed_over))
}

/// The error for an execve of `path` that failed with `errno`: `what: ERRNO (PATH REASON)`.
pub fn failed(what: impl std::fmt::Display, path: &Path, errno: Errno) -> Error {
    let error = Error::from_errno(what, errno);
    match reason(path, errno) {
        Some(why) => error.because(why),
        None => error,
    }
}

/// Why an execve of `path` fails with `errno`, as a sentence about `path`; none where there is nothing to add to what the
/// errno says.
pub fn reason(path: &Path, errno: Errno) -> Option<String> {
    match errno {
        Errno::ENOENT
        | Errno::EACCES
        | Errno::ENOEXEC
        | Errno::ELIBBAD
        | Errno::ELOOP
        | Errno::ENOTDIR
        | Errno::EINVAL => match problem(path, DEPTH)? {
            Problem::Missing => None,
            Problem::Other(text) => Some(format!("{} {text}", path.display())),
        },
        Errno::E2BIG => {
            Some("args and env together are larger than the stack limit or the kernel allows".into())
        }
        _ => None,
    }
}

/// Whether this process may execute `path`, as `access` with `X_OK` for the effective ids tells it: without trying.
fn may_execute(path: &Path) -> nix::Result<()> {
    let stat = nix::sys::stat::stat(path)?;
    if file_type(&stat) == SFlag::S_IFDIR {
        return Err(Errno::EACCES);
    }
    match faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS) {
        // A seccomp profile that does not know faccessat2 answers so; the mode then decides, as in runc.
        Err(Errno::ENOSYS | Errno::EPERM) if stat.st_mode & 0o111 != 0 => Ok(()),
        Err(Errno::ENOSYS | Errno::EPERM) => Err(Errno::EACCES),
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
    fn of_interpreter(self, link: &str, interpreter: &Path) -> Self {
        let text = match &self {
            Self::Missing => "does not exist",
            Self::Other(text) => text,
        };
        Self::Other(format!("{link} {}, which {text}", interpreter.display()))
    }
}

/// What is wrong with `path` and with the interpreters behind it, in the order in which the kernel would find out.
fn problem(path: &Path, depth: u32) -> Option<Problem> {
    let file = match open_given(path, OFlag::O_PATH, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::ENOENT) => return Some(dangling_link(path).map_or(Problem::Missing, Problem::Other)),
        Err(Errno::EACCES) => {
            return Problem::other("has a directory on its way that this user may not search");
        }
        Err(Errno::ENOTDIR) => return Problem::other("has something on its way that is not a directory"),
        Err(Errno::ELOOP) => return Problem::other("is a loop of symbolic links"),
        Err(_) => return None,
    };
    let stat = stat(&file).ok()?;
    match file_type(&stat) {
        SFlag::S_IFREG => {}
        SFlag::S_IFDIR => return Problem::other("is a directory"),
        _ => return Problem::other("is not a regular file"),
    }
    if fstatvfs(&file).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_NOEXEC)) {
        return Problem::other("lies on a file system that is mounted noexec");
    }
    let mode = stat.st_mode & 0o7777;
    if mode & 0o111 == 0 {
        return Some(Problem::Other(format!("is not executable, its mode is {mode:04o}")));
    }
    if may_execute(path) == Err(Errno::EACCES) {
        let (owner, group) = (stat.st_uid, stat.st_gid);
        let (user, users_group) = (geteuid(), getegid());
        return Some(Problem::Other(format!(
            "has mode {mode:04o} and owner {owner}:{group}, and the process runs as {user}:{users_group}"
        )));
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = open_given(path, flags, Mode::empty()).ok()?;
    content_problem(&file, depth.checked_sub(1)?)
}

/// The text for a symbolic link to nowhere.
fn dangling_link(path: &Path) -> Option<String> {
    let target = readlinkat(AT_FDCWD, path).ok()?;
    Some(format!("is a symbolic link to {}, which does not exist", Path::new(&target).display()))
}

/// What is wrong with the content of an executable file.
fn content_problem(file: &OwnedFd, depth: u32) -> Option<Problem> {
    // Between the two opens the path may have been given to something else.
    if file_type(&stat(file).ok()?) != SFlag::S_IFREG {
        return None;
    }
    let head = read_at(file, 0, HEAD)?;
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
    let name = line[start..].split(|byte| blank(byte) || *byte == 0).next()?;
    if name.is_empty() {
        return Problem::other("names no interpreter after #!");
    }
    let interpreter = Path::new(std::ffi::OsStr::from_bytes(name));
    match problem(interpreter, depth)? {
        Problem::Missing if name.ends_with(b"\r") => Some(Problem::Other(format!(
            "has the interpreter {:?}, which does not exist: its lines end with CR LF instead of LF",
            String::from_utf8_lossy(name)
        ))),
        other => Some(other.of_interpreter("has the interpreter", interpreter)),
    }
}

/// What is wrong with an ELF program (elf(5)): the machine, the kind of file, the loader that it asks for.
fn elf_problem(file: &OwnedFd, head: &[u8], depth: u32) -> Option<Problem> {
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
        let (its, ours) = (elf::machine_name(machine), std::env::consts::ARCH);
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
        let header = read_at(file, table.checked_add(index * size)?, 56)?;
        if elf.number(&header, 0, 4)? != PT_INTERP {
            continue;
        }
        let (offset, length) = if elf.wide {
            (elf.number(&header, 8, 8)?, elf.number(&header, 32, 8)?)
        } else {
            (elf.number(&header, 4, 4)?, elf.number(&header, 16, 4)?)
        };
        let name = read_at(file, offset, usize::try_from(length.min(MOST_PATH)).ok()?)?;
        let name = name.split(|&byte| byte == 0).next()?;
        let loader = Path::new(std::ffi::OsStr::from_bytes(name));
        return Some(problem(loader, depth)?.of_interpreter("needs the ELF loader", loader));
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
    use super::Cow;

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
    const NATIVE: &[u64] = &[62, 3];
    #[cfg(target_arch = "aarch64")]
    const NATIVE: &[u64] = &[183, 40];
    /// Unknown: nothing is said about the machine then.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    const NATIVE: &[u64] = &[];

    pub(super) fn runs_here(machine: u64) -> bool {
        NATIVE.is_empty() || NATIVE.contains(&machine)
    }

    pub(super) fn machine_name(machine: u64) -> Cow<'static, str> {
        match MACHINES.iter().find(|(number, _)| *number == machine) {
            Some((_, name)) => Cow::Borrowed(name),
            None => Cow::Owned(format!("machine number {machine}")),
        }
    }
}

/// At most `length` bytes at `offset`; fewer where the file ends.
fn read_at(file: impl AsFd, offset: u64, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    let count = pread(file, &mut bytes, i64::try_from(offset).ok()?).ok()?;
    bytes.truncate(count);
    Some(bytes)
}

fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make their own files")]

    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::process::{Command, Stdio};

    use super::*;

    /// A directory of its own for one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hooks-diagnose-{name}-{}", std::process::id()));
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn file(&self, name: &str, mode: u32, content: impl AsRef<[u8]>) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    /// What the kernel says to an execve of `path`, and what we make of it.
    fn diagnosis(path: &Path) -> String {
        let errno =
            Command::new(path).stdin(Stdio::null()).status().map_err(|error| error.raw_os_error().unwrap());
        let errno = Errno::from_raw(errno.expect_err("the kernel runs it"));
        let text = failed(format!("exec {}", path.display()), path, errno).to_string();
        text.replace(path.parent().unwrap().to_str().unwrap(), "DIR")
    }

    /// A copy of this test program, changed.
    fn elf(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut program = fs::read("/bin/true").unwrap();
        change(&mut program);
        program
    }

    fn with_loader(loader: &str) -> Vec<u8> {
        elf(|program| {
            let known = b"/lib64/ld-linux-x86-64.so.2\0";
            let at = program.windows(known.len()).position(|window| window == known).unwrap();
            program[at..at + known.len()].fill(0);
            program[at..at + loader.len()].copy_from_slice(loader.as_bytes());
        })
    }

    /// peers.md, row 29, and issue 2, Build 5: each mistake has its own explanation after the errno's text. The errno comes from a
    /// real execve.
    #[test]
    #[cfg(target_arch = "x86_64")]
    #[allow(clippy::too_many_lines, reason = "a table")]
    fn every_mistake_is_told_apart() {
        let dir = Dir::new("table");
        symlink("/nowhere/at/all", dir.0.join("dangling")).unwrap();
        symlink("loop", dir.0.join("loop")).unwrap();
        fs::create_dir(dir.0.join("directory")).unwrap();
        let data = dir.file("data", 0o644, "#!/bin/sh\n");
        let nested = dir.file("nested", 0o755, "#!/bin/nowhere\n");
        let cases: &[(&str, u32, Vec<u8>, &str)] = &[
            (
                "script",
                0o755,
                b"#!/bin/bosh -e\n".to_vec(),
                "no such file or directory (DIR/script has the interpreter /bin/bosh, which does not exist)",
            ),
            (
                "crlf",
                0o755,
                b"#!/bin/sh\r\necho\r\n".to_vec(),
                "no such file or directory (DIR/crlf has the interpreter \"/bin/sh\\r\", which does not exist: its \
                 lines end with CR LF instead of LF)",
            ),
            (
                "outer",
                0o755,
                format!("#! {}\n", nested.display()).into_bytes(),
                "no such file or directory (DIR/outer has the interpreter DIR/nested, which has the interpreter \
                 /bin/nowhere, which does not exist)",
            ),
            (
                "interpreted-by-data",
                0o755,
                format!("#!{}\n", data.display()).into_bytes(),
                "permission denied (DIR/interpreted-by-data has the interpreter DIR/data, which is not executable, \
                 its mode is 0644)",
            ),
            ("bare", 0o755, b"#! \n".to_vec(), "exec format error (DIR/bare names no interpreter after #!)"),
            ("empty", 0o755, Vec::new(), "exec format error (DIR/empty is empty)"),
            (
                "text",
                0o755,
                b"echo hello\n".to_vec(),
                "exec format error (DIR/text is a text file whose first line does not begin with #!)",
            ),
            ("windows", 0o755, b"MZ\x90\0".to_vec(), "exec format error (DIR/windows is a Windows program)"),
            (
                "binary",
                0o755,
                vec![0, 1, 2, 3],
                "exec format error (DIR/binary is neither an ELF program nor a script)",
            ),
            (
                "arm",
                0o755,
                elf(|program| program[18] = 183),
                "exec format error (DIR/arm is a program for aarch64, and this machine is x86_64)",
            ),
            (
                "big-endian",
                0o755,
                elf(|program| (program[5], program[18], program[19]) = (2, 0, 22)),
                "exec format error (DIR/big-endian is a program for s390x, and this machine is x86_64)",
            ),
            (
                "object",
                0o755,
                elf(|program| program[16] = 1),
                "exec format error (DIR/object is an ELF file, but not a program)",
            ),
            (
                "musl",
                0o755,
                with_loader("/lib/ld-none-x86_64.so.1"),
                "no such file or directory (DIR/musl needs the ELF loader /lib/ld-none-x86_64.so.1, which does not \
                 exist)",
            ),
            (
                "plain",
                0o640,
                b"#!/bin/sh\n".to_vec(),
                "permission denied (DIR/plain is not executable, its mode is 0640)",
            ),
        ];
        for (name, mode, content, expected) in cases {
            let path = dir.file(name, *mode, content);
            assert_eq!(diagnosis(&path), format!("exec DIR/{name}: {expected}"));
        }
        for (name, expected) in [
            ("missing", "no such file or directory"),
            (
                "dangling",
                "no such file or directory (DIR/dangling is a symbolic link to /nowhere/at/all, which does not exist)",
            ),
            ("loop", "too many symbolic links encountered (DIR/loop is a loop of symbolic links)"),
            ("directory", "permission denied (DIR/directory is a directory)"),
        ] {
            assert_eq!(diagnosis(&dir.0.join(name)), format!("exec DIR/{name}: {expected}"));
        }
        let below = data.join("program");
        let said = failed("exec", &below, Errno::ENOTDIR).to_string();
        assert!(said.ends_with("has something on its way that is not a directory)"), "{said}");
    }

    /// security.md C9: what is not a regular file is not opened: a FIFO does not block, a device does not act.
    #[test]
    fn c9_only_regular_files_are_read() {
        let dir = Dir::new("fifo");
        let fifo = dir.0.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::from_bits_truncate(0o777)).unwrap();
        assert_eq!(diagnosis(&fifo), "exec DIR/fifo: permission denied (DIR/fifo is not a regular file)");
        let said = failed("exec", Path::new("/dev/null"), Errno::EACCES).to_string();
        assert_eq!(said, "exec: permission denied (/dev/null is not a regular file)");
    }

    /// security.md C9: numbers of a hostile ELF header lead nowhere.
    #[test]
    fn c9_damaged_elf_headers_are_read_in_bounds() {
        let dir = Dir::new("elf");
        for at in [4, 5, 32, 39, 54, 56, 57] {
            let path = dir.file(&format!("byte-{at}"), 0o755, elf(|program| program[at] = 0xff));
            let _ = reason(&path, Errno::ENOEXEC);
        }
        for length in [4, 5, 6, 19, 20, 63, 64, 100] {
            let path = dir.file(&format!("cut-{length}"), 0o755, elf(|program| program.truncate(length)));
            let _ = reason(&path, Errno::ENOEXEC);
        }
    }

    /// peers.md A1.3: the words that podman matches, in the order in which it matches them.
    #[test]
    fn executables_are_found_as_runc_finds_them() {
        let dir = Dir::new("path");
        dir.file("tool", 0o755, "#!/bin/sh\n");
        dir.file("data", 0o644, "#!/bin/sh\n");
        let here = dir.0.to_str().unwrap();
        let path = format!("/nowhere:{here}:/bin");
        assert_eq!(find_executable("tool", Some(&path)).unwrap(), dir.0.join("tool"));
        assert_eq!(find_executable("sh", Some(&path)).unwrap(), Path::new("/bin/sh"));
        assert_eq!(find_executable("/bin/sh", None).unwrap(), Path::new("/bin/sh"));
        let cases = [
            ("foo", Some(path.as_str()), r#"exec: "foo": executable file not found in $PATH"#.to_owned()),
            (
                "data",
                Some(&path),
                format!(
                    r#"exec: "data": executable file not found in $PATH ({here}/data is not executable, its mode is 0644)"#
                ),
            ),
            ("sh", None, r#"exec: "sh": executable file not found in $PATH (PATH is empty or not set)"#.into()),
            ("sh", Some(""), r#"exec: "sh": executable file not found in $PATH (PATH is empty or not set)"#.into()),
            ("", Some(&path), r#"exec: "": executable file not found in $PATH (the name is empty)"#.into()),
            ("/nowhere", None, r#"exec: "/nowhere": stat /nowhere: no such file or directory"#.into()),
            ("./nowhere", None, r#"exec: "./nowhere": stat ./nowhere: no such file or directory"#.into()),
            ("/etc", None, r#"exec: "/etc": permission denied (/etc is a directory)"#.into()),
            (
                "/etc/hostname/x",
                None,
                r#"exec: "/etc/hostname/x": stat /etc/hostname/x: not a directory (/etc/hostname/x has something on its way that is not a directory)"#.into(),
            ),
        ];
        for (name, path, expected) in cases {
            assert_eq!(find_executable(name, path).unwrap_err().to_string(), expected, "{name} in {path:?}");
        }
    }

    /// security.md E21: a program that lies in the working directory is not run because of an empty or relative element of PATH.
    #[test]
    fn e21_relative_elements_of_path() {
        for path in [":/bin", "/bin:", ".:/bin", "src/..:/bin"] {
            let dir = Dir::new("relative");
            // Found relative to the working directory, through as many `..` as it takes.
            let up = "../".repeat(20);
            dir.file("skeg-relative-tool", 0o755, "#!/bin/sh\n");
            let relative = format!("{up}{}", dir.0.display());
            let said =
                find_executable("skeg-relative-tool", Some(&format!("{relative}:{path}"))).unwrap_err();
            assert!(
                said.to_string().ends_with("cannot run executable found relative to current directory"),
                "{said}"
            );
            assert_eq!(find_executable("sh", Some(path)).unwrap(), Path::new("/bin/sh"));
        }
    }
}
