//! The cgroups below one. A container with a cgroup mount that it may write to makes them as deep and as many as it likes, so
//! that neither a path nor a descriptor for each level reaches the last: a walk holds one descriptor, and goes up again by `..`.

use std::ffi::{OsStr, OsString};
use std::mem::replace;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

use crate::cgroup::place::DIRECTORY;
use crate::sys::path::{open_above, open_own, stat};

/// One of the cgroups on the way from the top to where a walk is.
struct Level {
    /// Device and inode, by which it is known again on the way up.
    identity: (u64, u64),
    /// What is still to be walked in it.
    names: Vec<OsString>,
    /// What is being walked in it.
    inside: OsString,
}

/// Walks `top` and what is below it, one cgroup at a time. `enter` comes to a cgroup, `top` being the first, and says which of
/// those inside are to be walked; `leave` is told of each but `top` when all below it has been walked, by what it is in and its name.
/// One that has gone when its turn comes is passed over.
///
/// # Errors
/// What `enter` and `leave` say; the errno of openat2(2); `ESTALE` where the way up is not the way down: a cgroup cannot be
/// moved into another (`kernel/cgroup/cgroup-v1.c`, `cgroup1_rename`), so that it takes something else than a kernel with cgroups.
pub(super) fn walk(
    top: BorrowedFd<'_>,
    mut enter: impl FnMut(BorrowedFd<'_>) -> nix::Result<Vec<OsString>>,
    mut leave: impl FnMut(BorrowedFd<'_>, &OsStr) -> nix::Result<()>,
) -> nix::Result<()> {
    let mut names = enter(top)?;
    if names.is_empty() {
        return Ok(());
    }
    let mut dir = open_own(top, ".", DIRECTORY, Mode::empty())?;
    let mut way: Vec<Level> = Vec::new();
    loop {
        if let Some(name) = names.pop() {
            let entered = open_own(&dir, &*name, DIRECTORY, Mode::empty())
                .and_then(|sub| enter(sub.as_fd()).map(|names| (sub, names)));
            let (sub, below) = match entered {
                Err(Errno::ENOENT | Errno::ENODEV) => continue,
                other => other?,
            };
            way.push(Level {
                identity: identity(dir.as_fd())?,
                names: replace(&mut names, below),
                inside: name,
            });
            dir = sub;
        } else {
            let Some(level) = way.pop() else { return Ok(()) };
            let above = open_above(&dir, DIRECTORY)?;
            if identity(above.as_fd())? != level.identity {
                return Err(Errno::ESTALE);
            }
            leave(above.as_fd(), &level.inside)?;
            (dir, names) = (above, level.names);
        }
    }
}

fn identity(dir: BorrowedFd<'_>) -> nix::Result<(u64, u64)> {
    stat(dir).map(|found| (found.st_dev, found.st_ino))
}

/// The names in a cgroup's directory, each with whether it is a sub-cgroup.
pub(super) fn list(dir: BorrowedFd<'_>) -> nix::Result<Vec<(OsString, bool)>> {
    let listing = open_own(dir, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(listing)?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            let is_directory = entry.file_type() == Some(Type::Directory);
            names.push((OsStr::from_bytes(name).to_owned(), is_directory));
        }
    }
    Ok(names)
}

/// The names of the sub-cgroups. A cgroup's link count is two and its sub-cgroups, so that most need no listing.
pub(super) fn sub_cgroups(dir: BorrowedFd<'_>) -> nix::Result<Vec<OsString>> {
    if stat(dir)?.st_nlink <= 2 {
        return Ok(Vec::new());
    }
    Ok(list(dir)?.into_iter().filter_map(|(name, is_directory)| is_directory.then_some(name)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::disallowed_methods,
        reason = "test code looks at the machine from outside the path module"
    )]

    use std::os::fd::OwnedFd;
    use std::path::Path;

    use nix::sys::signal::{Signal, kill};
    use nix::sys::stat::mkdirat;
    use nix::unistd::Pid;

    use super::*;
    use crate::cgroup::Hierarchies;
    use crate::cgroup::tests::{create, directories, eventually, host, place, v1_only, v2_only};
    use crate::sys::path::{remove_dir, write_own};

    /// Cgroups in each other, which go with the value: by descriptor, for no path is that long.
    struct Pit {
        top: OwnedFd,
        last: OwnedFd,
    }

    impl Pit {
        fn dig(dir: &Path, levels: usize) -> Self {
            let top: OwnedFd = std::fs::File::open(dir).unwrap().into();
            let mut last = top.try_clone().unwrap();
            for _ in 0..levels {
                mkdirat(&last, DEEP, Mode::from_bits_truncate(0o755)).unwrap();
                last = open_own(&last, DEEP, DIRECTORY, Mode::empty()).unwrap();
            }
            Self { top, last }
        }
    }

    impl Drop for Pit {
        fn drop(&mut self) {
            let mut at = self.top.try_clone().unwrap();
            let mut levels = 0;
            while let Ok(below) = open_own(&at, DEEP, DIRECTORY, Mode::empty()) {
                (at, levels) = (below, levels + 1);
            }
            for _ in 0..levels {
                at = open_above(&at, DIRECTORY).unwrap();
                eventually("free", || remove_dir(&at, DEEP) != Err(Errno::EBUSY));
            }
        }
    }

    /// As long as a name can be, so that what goes by path does not come far.
    const DEEP: &str = match str::from_utf8(&[b'd'; 255]) {
        Ok(name) => name,
        Err(_) => "",
    };

    /// Ends a process that a failed test may have left.
    struct Ends(Pid);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }

    /// security.md F10: cgroups that a container has nested deeper than there are descriptors are listed, killed and removed.
    fn clears_what_is_deep(hierarchies: &Hierarchies, path: &str) {
        let mut cgroup = create(hierarchies, path, serde_json::json!({})).unwrap();
        let child = cgroup.run("sleep 1000");
        let of_v1 = cgroup.v1.iter().filter(|group| group.has("devices") || group.has("freezer"));
        let mut pits = Vec::new();
        for group in of_v1.chain(&cgroup.v2) {
            let pit = Pit::dig(&group.at.full(), 1100);
            write_own(&pit.last, "cgroup.procs", child.to_string().as_bytes()).unwrap();
            pits.push(pit);
        }
        let _ends = Ends(child);
        assert_eq!((cgroup.pids(true).unwrap(), cgroup.pids(false).unwrap()), (vec![child], vec![]));
        cgroup.freeze().unwrap();
        assert!(!cgroup.is_empty().unwrap());
        cgroup.kill_all().unwrap();
        assert_eq!(cgroup.wait(child), 128 + libc::SIGKILL);
        cgroup.cgroup.take().unwrap().destroy().unwrap();
        assert!(directories(path).is_empty());
    }

    #[test]
    fn f10_deep_cgroups_are_cleared_on_v1_alone() {
        if !host().is_pure_v2() {
            clears_what_is_deep(&v1_only(), &place("deep-v1"));
        }
    }

    #[test]
    fn f10_deep_cgroups_are_cleared_on_v2_alone() {
        clears_what_is_deep(&v2_only(), &place("deep-v2"));
    }
}
