//! Operations on the processes of a cgroup: list, signal, freeze, wait until they are gone, remove the cgroup.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::cgroup::place::{Cgroup, CgroupPaths, Group};
use crate::cgroup::walk::{list, sub_cgroups, walk};
use crate::error::{Context as _, Error, Result};
use crate::sys::path::{open_own, read_own, remove_dir};
use crate::sys::pid;

/// How long a freeze may take before it is given up: a task in an uninterruptible system call cannot freeze.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long killed processes may take to go (security.md F10).
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a directory may stay busy after its last process, and the last below it, has gone: tasks leave their cgroup a moment after they
/// can be waited for (Linux 6.19), and the removal of a sub-cgroup is finished in the background.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);

/// How many pidfds are held at a time: RLIMIT_NOFILE is 1024 at the least.
const PIDFD_BATCH: usize = 256;

/// The most that is read of `cgroup.procs`: 4 million pids, the kernel's PID_MAX_LIMIT, of up to 8 bytes.
const PROCS_LIMIT: usize = 32 << 20;

/// Waits between looks at a state that the kernel does not announce: from short to long.
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(Duration::from_micros(100))
    }

    fn wait(&mut self) {
        sleep(self.0);
        self.0 = (self.0 * 2).min(Duration::from_millis(20));
    }
}

impl CgroupPaths {
    /// Whether the container there is paused, see [`Cgroup::is_frozen`].
    ///
    /// # Errors
    /// The errno of the read.
    pub fn is_frozen(&self) -> Result<bool> {
        Cgroup::open(self).is_frozen()
    }
}

impl Cgroup {
    /// The hierarchy by which the processes are listed: all of them are in each.
    fn lister(&self) -> Option<&Group> {
        let v1 = |name: &str| self.v1.iter().find(|group| group.has(name));
        self.v2.as_ref().or_else(|| v1("devices")).or_else(|| v1("freezer")).or_else(|| self.v1.first())
    }

    /// The processes inside, in ascending order; `recursive`: those in sub-cgroups too. Numbers of another PID namespace,
    /// which the kernel shows as 0, are left out.
    ///
    /// # Errors
    /// The errno of the read; a cgroup that has gone is empty, not an error.
    pub fn pids(&self, recursive: bool) -> Result<Vec<Pid>> {
        let Some(group) = self.lister() else { return Ok(Vec::new()) };
        let mut pids = Vec::new();
        let mut take = |number| {
            if number > 0 {
                pids.push(Pid::from_raw(number));
            }
        };
        match group.dir().and_then(|dir| each_process(dir, recursive, &mut take)) {
            Ok(()) | Err(Errno::ENOENT | Errno::ENODEV) => {}
            Err(errno) => {
                return Err(Error::from_errno(format!("list {}", group.at.full().display()), errno));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Whether nobody is inside, nor in a sub-cgroup.
    ///
    /// # Errors
    /// As for [`Self::pids`].
    pub fn is_empty(&self) -> Result<bool> {
        if let Some(group) = &self.v2 {
            match group.read("cgroup.events") {
                Ok(events) => return Ok(value_of(&events, "populated") != Some(1)),
                Err(Errno::ENOENT | Errno::ENODEV) => return Ok(true),
                Err(errno) => {
                    return Err(Error::from_errno(format!("read {}", group.at.full().display()), errno));
                }
            }
        }
        Ok(self.pids(true)?.is_empty())
    }

    /// Sends `signal` to every process inside. SIGKILL goes by `cgroup.kill` where there is a v2 cgroup; otherwise all
    /// are frozen meanwhile, so that none is missed in a fork, and are thawed after it as they were before (SIGKILL:
    /// in any case, for a frozen v1 process does not die).
    ///
    /// # Errors
    /// The processes cannot be listed, or a signal is refused.
    pub fn signal_all(&self, signal: i32) -> Result<()> {
        if signal == libc::SIGKILL && self.kill_v2()? {
            return Ok(());
        }
        let was_frozen = self.is_frozen()?;
        // Rootless there may be no freezer; the signals go out all the same, as in runc.
        let froze = !was_frozen && self.freeze().is_ok();
        let result = self.signal_each(signal);
        if froze || (was_frozen && signal == libc::SIGKILL) {
            self.thaw()?;
        }
        result
    }

    /// Kills every process inside and waits until none is left, at most five seconds (security.md F10, F16).
    ///
    /// # Errors
    /// Some are still there.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        // As a rule nobody is left: the end of an init process is that of its PID namespace.
        let is_empty = self.v2.is_some() && self.is_empty()?;
        if is_empty && self.v1.is_empty() {
            return Ok(());
        }
        if let Some(group) = &self.v2
            && !is_empty
            && self.kill_v2()?
        {
            wait_event(group, "populated", 0, deadline)
                .context(|| format!("wait for {}", group.at.full().display()))?;
        }
        // What remains: v1 alone, kernels before 5.14, and processes that somebody moved out of the v2 cgroup.
        let mut backoff = Backoff::new();
        loop {
            let left = self.listed_anywhere()?;
            if left == 0 {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::new(format!(
                    "{left} process(es) of the container do not end after SIGKILL"
                )));
            }
            self.signal_all(libc::SIGKILL)?;
            backoff.wait();
        }
    }

    /// Removes it at once where nobody is inside, as the end of an init process with a PID namespace of its own leaves it. False where
    /// somebody is, or it has sub-cgroups or a unit of systemd's.
    pub fn remove_if_empty(&self) -> bool {
        let remove = |group: &Group| {
            let (above, name) = group.above()?;
            gone_is_fine(remove_dir(above, name))
        };
        self.unit.is_none() && self.v2.iter().chain(&self.v1).all(|group| remove(group).is_ok())
    }

    /// `cgroup.kill` (Linux 5.14); false where there is none.
    fn kill_v2(&self) -> Result<bool> {
        let Some(group) = &self.v2 else { return Ok(false) };
        match group.write("cgroup.kill", "1") {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ENODEV | Errno::EOPNOTSUPP) => Ok(false),
            Err(errno) => Err(Error::from_errno(format!("kill {}", group.at.full().display()), errno)),
        }
    }

    /// How many processes are inside, by the v2 hierarchy and by a v1 one.
    fn listed_anywhere(&self) -> Result<usize> {
        let count = self.pids(true)?.len();
        if count > 0 || self.v2.is_none() || self.v1.is_empty() {
            return Ok(count);
        }
        Ok(self.v1_only().pids(true)?.len())
    }

    fn v1_only(&self) -> Self {
        Self { v1: Self::open(&self.paths()).v1, v2: None, unit: None }
    }

    /// Signals each process by its pidfd, after a second look that the number was still one of ours by then (F7).
    fn signal_each(&self, signal: i32) -> Result<()> {
        let mut listed = self.pids(true)?;
        if listed.is_empty() && self.v2.is_some() && !self.v1.is_empty() {
            return self.v1_only().signal_each(signal);
        }
        while !listed.is_empty() {
            let rest = listed.split_off(listed.len().min(PIDFD_BATCH));
            let mut open: Vec<(Pid, OwnedFd)> = Vec::with_capacity(listed.len());
            for &number in &listed {
                match pid::open(number) {
                    Ok(pidfd) => open.push((number, pidfd)),
                    // Gone; or a task that is no process (a threaded cgroup), whose leader is listed as well.
                    Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(Error::from_errno(format!("open process {number}"), errno)),
                }
            }
            let still = self.pids(true)?;
            for (number, pidfd) in open {
                if still.binary_search(&number).is_err() {
                    continue;
                }
                match pid::send_signal(&pidfd, signal) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(Error::from_errno(format!("signal process {number}"), errno)),
                }
            }
            listed = rest;
        }
        Ok(())
    }

    /// Stops every process inside until [`Self::thaw`], and waits until all have stopped.
    ///
    /// By v2's freezer where there is one, on a hybrid host too: it announces the end of the wait, and frozen processes
    /// can be killed.
    ///
    /// # Errors
    /// No freezer, or processes that do not stop within ten seconds; they run on then.
    pub fn freeze(&self) -> Result<()> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let stopped = match (&self.v2, self.v1_freezer()) {
            (Some(group), _) => group
                .write("cgroup.freeze", "1")
                .and_then(|()| wait_event(group, "frozen", 1, deadline))
                .context(|| format!("freeze {}", group.at.full().display()))?,
            (None, Some(group)) => {
                freeze_v1(group, deadline).context(|| format!("freeze {}", group.at.full().display()))?
            }
            (None, None) => return Err(Error::new("the container has no cgroup that can be frozen")),
        };
        if stopped {
            return Ok(());
        }
        self.thaw()?;
        Err(Error::new("freeze the container: some processes did not stop in time"))
    }

    /// Lets the processes run again, whichever freezer stopped them.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        if let Some(group) = &self.v2 {
            let thaw = group.write("cgroup.freeze", "0");
            gone_is_fine(thaw).context(|| format!("thaw {}", group.at.full().display()))?;
        }
        if let Some(group) = self.v1_freezer() {
            let thaw = group.write("freezer.state", "THAWED");
            gone_is_fine(thaw).context(|| format!("thaw {}", group.at.full().display()))?;
        }
        Ok(())
    }

    /// Moves a process of the container that somebody froze in a v1 cgroup of theirs back into the container's own,
    /// where it goes on: frozen, it does not even die, and that other cgroup is not ours to thaw.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take_back(&self, process: Pid) -> Result<()> {
        let Some(group) = self.v1_freezer() else { return Ok(()) };
        gone_is_fine(group.write("cgroup.procs", &process.to_string()))
            .context(|| format!("take process {process} back into {}", group.at.full().display()))
    }

    /// Whether the container is paused: frozen, or on the way to it, by itself and not by a cgroup above it.
    ///
    /// # Errors
    /// The errno of the read; a cgroup that has gone is not frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        let is = |group: &Group, file: &str, word: &[u8]| match group.read(file) {
            Ok(state) => Ok(state.trim_ascii() == word),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(errno) => {
                Err(Error::from_errno(format!("read {file} of {}", group.at.full().display()), errno))
            }
        };
        if let Some(group) = &self.v2
            && is(group, "cgroup.freeze", b"1")?
        {
            return Ok(true);
        }
        match self.v1_freezer() {
            Some(group) => is(group, "freezer.self_freezing", b"1"),
            None => Ok(false),
        }
    }

    fn v1_freezer(&self) -> Option<&Group> {
        self.v1.iter().find(|group| group.has("freezer"))
    }

    /// Removes the cgroup and its sub-cgroups from every hierarchy. Nobody must be inside any more.
    ///
    /// # Errors
    /// Which cgroup could not be removed, and why; the others are removed all the same.
    pub fn destroy(&self) -> Result<()> {
        // First, so that it does not see its cgroup vanish.
        let mut failed = self.stop_unit().err();
        for group in self.v1.iter().chain(&self.v2) {
            let removed = remove_group(group);
            if let Err(error) =
                gone_is_fine(removed).context(|| format!("remove cgroup {}", group.at.full().display()))
            {
                failed = failed.or(Some(error));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// A cgroup that has gone was what was wanted.
fn gone_is_fine(result: nix::Result<()>) -> nix::Result<()> {
    match result {
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
        other => other,
    }
}

/// The number after `key` in a file of `key number` lines.
pub(super) fn value_of(file: &[u8], key: &str) -> Option<u64> {
    let text = std::str::from_utf8(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

/// All the numbers of a file of `key number` lines.
pub(super) fn values_of(file: &[u8]) -> BTreeMap<String, u64> {
    let text = std::str::from_utf8(file).unwrap_or_default();
    let entry = |line: &str| {
        let (key, value) = line.split_once(' ')?;
        Some((key.to_owned(), value.trim().parse().ok()?))
    };
    text.lines().filter_map(entry).collect()
}

/// Waits until `cgroup.events` shows `key value`; false when the time is over. The file wakes pollers when it changes
/// (cgroup-v2.rst, "Basic Operations"). A cgroup that goes meanwhile is neither populated nor frozen.
fn wait_event(group: &Group, key: &str, value: u64, deadline: Instant) -> nix::Result<bool> {
    let open = || open_own(group.dir()?, "cgroup.events", OFlag::O_RDONLY, Mode::empty());
    let events = match open() {
        // systemd removes the cgroup of a scope with its last process.
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(value == 0),
        other => other?,
    };
    let mut buffer = [0; 256];
    loop {
        match nix::sys::uio::pread(&events, &mut buffer, 0) {
            Ok(length) if value_of(&buffer[..length], key) == Some(value) => return Ok(true),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::ENODEV) => return Ok(value == 0),
            Err(errno) => return Err(errno),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let mut fds = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// v1 does not announce that all have stopped. A task that forked meanwhile can leave the state at FREEZING until it
/// is asked anew, so it is thawed and frozen again now and then (as runc does).
fn freeze_v1(group: &Group, deadline: Instant) -> nix::Result<bool> {
    const TRIES: u32 = 50;
    loop {
        group.write("freezer.state", "FROZEN")?;
        let mut backoff = Backoff::new();
        for _ in 0..TRIES {
            match group.read("freezer.state")?.trim_ascii() {
                b"FROZEN" => return Ok(true),
                b"FREEZING" => {}
                _ => group.write("freezer.state", "FROZEN")?,
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            backoff.wait();
        }
        group.write("freezer.state", "THAWED")?;
    }
}

impl Group {
    /// The sizes of huge pages of which there is a file `hugetlb.SIZE` + `end` here.
    pub(super) fn hugepage_sizes(&self, end: &str) -> nix::Result<Vec<String>> {
        let mut sizes = Vec::new();
        for entry in list(self.dir()?)? {
            let name = entry.0.to_string_lossy();
            if let Some(size) = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(end))
                && !size.contains('.')
            {
                sizes.push(size.to_owned());
            }
        }
        Ok(sizes)
    }
}

/// How many processes are in a cgroup and in those below it, those of other PID namespaces included.
///
/// # Errors
/// The errno of the read.
pub(super) fn count_processes(dir: BorrowedFd<'_>) -> nix::Result<usize> {
    let mut count = 0;
    each_process(dir, true, &mut |_| count += 1)?;
    Ok(count)
}

/// Gives the number of each process in a cgroup to `take`, and with `recursive` those below it: 0 for one of another PID
/// namespace.
fn each_process(dir: BorrowedFd<'_>, recursive: bool, take: &mut dyn FnMut(i32)) -> nix::Result<()> {
    let enter = |dir: BorrowedFd<'_>| {
        let procs = match read_own(dir, "cgroup.procs", PROCS_LIMIT) {
            // A threaded cgroup lists threads only.
            Err(Errno::EOPNOTSUPP) => read_own(dir, "cgroup.threads", PROCS_LIMIT)?,
            other => other?,
        };
        let lines = procs.split(|&byte| byte == b'\n');
        lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).for_each(&mut *take);
        if recursive { sub_cgroups(dir) } else { Ok(Vec::new()) }
    };
    walk(dir, enter, |_above, _name| Ok(()))
}

/// Removes one hierarchy's cgroup, those inside first.
fn remove_group(group: &Group) -> nix::Result<()> {
    let (above, name) = group.above()?;
    match remove_dir(above, name) {
        Err(Errno::EBUSY) => {}
        other => return other,
    }
    remove_subs(group.dir()?)?;
    if group.at.controllers.is_empty() {
        // The usual reason is a process that is on its way out; v2 says when it is.
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        gone_is_fine(wait_event(group, "populated", 0, deadline).map(drop))?;
    }
    remove_when_free(above, name)
}

/// Removes all sub-cgroups; what is below them keeps those that are refused at first.
fn remove_subs(dir: BorrowedFd<'_>) -> nix::Result<()> {
    let enter = |dir: BorrowedFd<'_>| {
        let mut names = sub_cgroups(dir)?;
        names.retain(|name| remove_dir(dir, &**name) == Err(Errno::EBUSY));
        Ok(names)
    };
    walk(dir, enter, remove_when_free)
}

fn remove_when_free(above: BorrowedFd<'_>, name: &OsStr) -> nix::Result<()> {
    let deadline = Instant::now() + REMOVE_TIMEOUT;
    let mut backoff = Backoff::new();
    loop {
        match remove_dir(above, name) {
            Err(Errno::EBUSY) if Instant::now() < deadline => backoff.wait(),
            other => return other,
        }
    }
}
