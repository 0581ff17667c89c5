//! Which file is run, and with which environment.

use core::ffi::CStr;

use alloc::ffi::CString;
use alloc::format;
use alloc::vec::Vec;

use crate::diagnose::{may_execute, reason};
use crate::error::{Errno, Error, Result};
use crate::instructions::Instructions;
use crate::security::text;
use crate::sys;

/// The most that is read of the container's /etc/passwd (row C9).
const PASSWD_LIMIT: usize = 1 << 20;

/// A program, its arguments and its environment, ready for execve.
#[derive(Debug)]
pub struct Program<'a> {
    path: CString,
    arguments: Vec<&'a CStr>,
    environment: Vec<&'a CStr>,
    /// Entries that the configuration does not have.
    own: Vec<CString>,
}

impl<'a> Program<'a> {
    /// Looks the program up, inside the container and with the rights of its user (row E21), and makes its environment
    /// complete: `HOME` from the container's own /etc/passwd where the configuration gives none (runc does, and images
    /// count on it), and what sd_listen_fds(3) looks for.
    ///
    /// # Errors
    /// A program that cannot be found, with the reason.
    pub fn find(instructions: &Instructions<'a>) -> Result<Self> {
        let arguments = instructions.args.clone();
        let name = arguments.first().ok_or_else(|| Error::new("/process/args: must name a program"))?;
        let configured = &instructions.env;
        let value = |entry: &&'a CStr| entry.to_bytes().strip_prefix(b"PATH=");
        let path = find_executable(name, configured.iter().rev().find_map(value))?;
        let mut own = Vec::new();
        if !configured.iter().any(|entry| entry.to_bytes().starts_with(b"HOME=")) {
            own.extend(CString::new([b"HOME=", home(instructions.uid).as_slice()].concat()));
        }
        if instructions.listen_fds > 0 {
            // The sockets are meant for the process with this number.
            own.extend(CString::new(format!("LISTEN_FDS={}", instructions.listen_fds)));
            own.extend(CString::new(format!("LISTEN_PID={}", sys::pid())));
        }
        Ok(Self { path, arguments, environment: without_duplicates(configured, &own), own })
    }

    /// execve(2); returns only to say why it failed, with the reason behind the errno.
    pub fn execute(&self) -> Error {
        let environment: Vec<&CStr> =
            self.environment.iter().copied().chain(self.own.iter().map(CString::as_c_str)).collect();
        let errno = sys::execute(&self.path, &self.arguments, &environment);
        Error::from_errno(format!("exec {}", text(&self.path)), errno).because(reason(&self.path, errno))
    }
}

/// Finds the program for `name`, the first of `process.args`, as `execvp` does it: a name with a slash is a path, any other
/// is searched in `path_variable`, the value of the container's `PATH`.
///
/// A program that is found through an empty or relative element of `PATH` is refused, as runc refuses it.
///
/// # Errors
/// runc's words: `exec: "NAME": executable file not found in $PATH`, `exec: "NAME": stat NAME: no such file or directory`,
/// `exec: "NAME": permission denied`, and the reason.
pub fn find_executable(name: &CStr, path_variable: Option<&[u8]>) -> Result<CString> {
    let said = text(name);
    let what = format!("exec: {said:?}");
    if name.to_bytes().contains(&b'/') {
        return match may_execute(name) {
            Ok(()) => Ok(name.into()),
            Err(errno @ Errno(libc::EACCES | libc::EPERM)) => {
                Err(Error::from_errno(what, errno).because(reason(name, errno)))
            }
            Err(errno) => {
                Err(Error::from_errno(format!("{what}: stat {said}"), errno).because(reason(name, errno)))
            }
        };
    }
    let not_found = |why| Error::new(format!("{what}: executable file not found in $PATH")).because(why);
    let Some(path_variable) = path_variable.filter(|value| !value.is_empty() && !name.is_empty()) else {
        let why = if name.is_empty() { "the name is empty" } else { "PATH is empty or not set" };
        return Err(not_found(Some(why.into())));
    };
    let mut passed_over = None;
    for dir in path_variable.split(|&byte| byte == b':') {
        let path =
            if dir.is_empty() { name.to_bytes().to_vec() } else { [dir, b"/", name.to_bytes()].concat() };
        let Ok(path) = CString::new(path) else { continue };
        match may_execute(&path) {
            Ok(()) if path.as_bytes().starts_with(b"/") => return Ok(path),
            Ok(()) => {
                return Err(Error::new(format!(
                    "{what}: cannot run executable found relative to current directory"
                )));
            }
            Err(errno) if passed_over.is_none() => passed_over = reason(&path, errno),
            Err(_) => {}
        }
    }
    Err(not_found(passed_over))
}

/// Of entries with the same name the last one, in its place: what a shell that assigns them one by one ends up with,
/// and what runc passes on. Entries whose name is in `own`, which comes behind, are left out.
fn without_duplicates<'a>(configured: &[&'a CStr], own: &[CString]) -> Vec<&'a CStr> {
    fn name_of(entry: &CStr) -> &[u8] {
        entry.to_bytes().split(|&byte| byte == b'=').next().unwrap_or_default()
    }
    // By name, the last one of each first.
    let mut order: Vec<usize> = (0..configured.len()).collect();
    let name = |index: usize| configured.get(index).map_or(&[][..], |entry| name_of(entry));
    order.sort_unstable_by(|&a, &b| name(a).cmp(name(b)).then(b.cmp(&a)));
    order.dedup_by(|later, first| name(*later) == name(*first));
    order.retain(|&index| !own.iter().any(|entry| name_of(entry) == name(index)));
    order.sort_unstable();
    order.into_iter().filter_map(|index| configured.get(index).copied()).collect()
}

/// The home directory that the container's /etc/passwd has for `uid`, `/` where it has none. The file is the image's:
/// only a regular file is read, without blocking, and no more than 1 MiB of it (row C9).
fn home(uid: u32) -> Vec<u8> {
    let read = || {
        let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
        let root = sys::open(libc::AT_FDCWD, c"/", libc::O_PATH | libc::O_DIRECTORY, 0).ok()?;
        let inside = libc::RESOLVE_IN_ROOT | libc::RESOLVE_NO_MAGICLINKS;
        let file = sys::open(root, c"/etc/passwd", flags, inside);
        sys::close(root);
        let file = file.ok()?;
        let stat = sys::stat(file).ok().filter(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
        let length = stat.map(|stat| usize::try_from(stat.st_size).unwrap_or(0).min(PASSWD_LIMIT));
        let passwd = length.and_then(|length| sys::read_at(file, 0, length).ok());
        sys::close(file);
        home_of(&passwd?, uid)
    };
    read().unwrap_or_else(|| b"/".to_vec())
}

/// The sixth field of the first line whose third is `uid` (passwd(5)).
fn home_of(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    let wanted = format!("{uid}");
    passwd.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b':');
        let id = fields.nth(2)?;
        let home = fields.nth(2)?;
        (id == wanted.as_bytes() && !home.is_empty()).then(|| home.to_vec())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md C9, E3: a uid is compared as text of a number, and a user named like a number is not it.
    #[test]
    fn c9_home_is_that_of_the_uid() {
        let passwd =
            b"1:x:0:0::/wrong:\nbroken\nroot:x:0:0:root:/root:/bin/sh\na:x:1000:1000::/home/a:/bin/sh\n";
        assert_eq!(home_of(passwd, 1000).as_deref(), Some(&b"/home/a"[..]));
        assert_eq!(home_of(passwd, 0).as_deref(), Some(&b"/wrong"[..]));
        assert_eq!(home_of(passwd, 1), None);
    }

    #[test]
    fn the_last_of_two_entries_of_a_name_counts() {
        let configured = [c"A=1", c"B=2", c"C", c"A=3"];
        assert_eq!(without_duplicates(&configured, &[c"B=4".into()]), [c"C", c"A=3"]);
        assert_eq!(without_duplicates(&configured, &[]), [c"B=2", c"C", c"A=3"]);
    }
}
