//! The reason behind a failed execve, for programs that the runtime itself runs (hooks on the host's side): see
//! [`skeg_init::diagnose`], which does the same for the container's.

use std::path::Path;

use nix::errno::Errno;

use crate::error::Error;
use crate::sys::path::c_path;

/// The error for an execve of `path` that failed with `errno`: `what: ERRNO (PATH REASON)`.
pub fn failed(what: impl std::fmt::Display, path: &Path, errno: Errno) -> Error {
    let error = Error::from_errno(what, errno);
    let path = c_path(path).ok();
    match path.and_then(|path| skeg_init::diagnose::reason(&path, skeg_init::error::Errno(errno as i32))) {
        Some(why) => error.because(why),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make their own files")]

    use std::ffi::CString;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;
    use std::process::{Command, Stdio};

    use nix::sys::stat::Mode;

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

    fn find_executable(name: &str, path: Option<&str>) -> crate::error::Result<PathBuf> {
        let name = CString::new(name).unwrap();
        let found = skeg_init::program::find_executable(&name, path.map(str::as_bytes))?;
        Ok(PathBuf::from(found.into_string().unwrap()))
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

    /// peers.md, row 29: each mistake has its own explanation after the errno's text. The errno comes from a
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
            ("loop", "too many levels of symbolic links (DIR/loop is a loop of symbolic links)"),
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
            let _ = failed("exec", &path, Errno::ENOEXEC);
        }
        for length in [4, 5, 6, 19, 20, 63, 64, 100] {
            let path = dir.file(&format!("cut-{length}"), 0o755, elf(|program| program.truncate(length)));
            let _ = failed("exec", &path, Errno::ENOEXEC);
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
