//! Processes by pidfd: a number may be given to another process at any time, a pidfd never is.

#![allow(unsafe_code, reason = "the system call module")]

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::sys::procfs::Procfs;

/// pidfd_open(2), close-on-exec as every pidfd.
///
/// # Errors
/// `ESRCH` where there is no such process, whatever else has the number: the session that it was the leader of, or a thread by now.
/// Before Linux 6.16 the kernel said `EINVAL` for both, since then `ENOENT` for a thread (`pidfd_prepare` of kernel/fork.c).
pub fn open(pid: Pid) -> nix::Result<OwnedFd> {
    // SAFETY: two integers.
    let raw = match Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) }) {
        Err(Errno::EINVAL | Errno::ENOENT) => return Err(Errno::ESRCH),
        result => result?,
    };
    let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// pidfd_send_signal(2). `signal` is a number so that real-time signals and 0 can be sent.
///
/// # Errors
/// `ESRCH` where the process has gone, `EINVAL` for a number that is no signal.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> nix::Result<()> {
    let fd = pidfd.as_fd().as_raw_fd();
    // SAFETY: no siginfo is passed (null), the rest are integers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(result).map(drop)
}

/// pidfd_getfd(2): a duplicate, close-on-exec, of descriptor `number` of the process.
///
/// # Errors
/// `EPERM` without the right to ptrace it, `EBADF` where it has no such descriptor.
pub fn take_fd(pidfd: impl AsFd, number: i32) -> nix::Result<OwnedFd> {
    // SAFETY: three integers.
    let raw =
        Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), number, 0) })?;
    let raw = i32::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Waits until the process ends, or the time is over: false. Works for processes that are not our children too.
///
/// # Errors
/// The errno of poll(2).
pub fn wait_for_end(pidfd: impl AsFd, timeout: PollTimeout) -> nix::Result<bool> {
    loop {
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether the process is a child of ours, ended or not, that has not been waited for.
///
/// # Errors
/// The errno of waitid(2) but `ECHILD`.
pub fn is_child(pidfd: impl AsFd) -> nix::Result<bool> {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match waitid(Id::PIDFd(pidfd.as_fd()), look) {
        Ok(_) => Ok(true),
        Err(Errno::ECHILD) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Waits for our child and takes its exit status: the code, or 128 and the signal that ended it.
///
/// # Errors
/// `ECHILD` where it is not our child or has been waited for.
pub fn wait_child(pidfd: impl AsFd) -> nix::Result<i32> {
    loop {
        match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
            Ok(WaitStatus::Exited(_, code)) => return Ok(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => return Ok(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// When process `pid` started, in clock ticks after boot, and whether it still runs (is no zombie): fields 22 and 3 of
/// `/proc/PID/stat` (proc_pid_stat(5)).
///
/// # Errors
/// `ENOENT` or `ESRCH` where there is no such process, `EBADMSG` for a line that is not as documented.
pub fn start_time(procfs: &Procfs, pid: Pid) -> nix::Result<(u64, bool)> {
    let stat = stat(procfs, pid)?;
    Ok((stat.start_time, !stat.is_zombie()))
}

/// Whether process `pid` is ending, or has ended: it is marked so before the kernel closes its descriptors, and a zombie
/// still is.
///
/// # Errors
/// As for [`start_time`].
pub fn is_ending(procfs: &Procfs, pid: Pid) -> nix::Result<bool> {
    /// `PF_EXITING` of `linux/sched.h`, the same since Linux 2.6.
    const EXITING: u64 = 4;
    let stat = stat(procfs, pid)?;
    Ok(stat.flags & EXITING != 0 || stat.is_zombie())
}

/// What `/proc/PID/stat` says of a process, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    /// Field 3.
    state: u8,
    /// Field 9, the kernel's own flags.
    flags: u64,
    /// Field 22.
    start_time: u64,
}

impl Stat {
    fn is_zombie(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

fn stat(procfs: &Procfs, pid: Pid) -> nix::Result<Stat> {
    parse_stat(&procfs.read_of(pid, "stat")?).ok_or(Errno::EBADMSG)
}

/// The second field is the program's name in parentheses and may contain anything, so counting starts after the last
/// parenthesis.
fn parse_stat(line: &[u8]) -> Option<Stat> {
    let end_of_name = line.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(line.get(end_of_name + 2..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    let flags = fields.nth(5)?.parse().ok()?;
    let start_time = fields.nth(12)?.parse().ok()?;
    Some(Stat { state, flags, start_time })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test starts a thread and a program")]

    use std::process::{Command, Stdio};
    use std::sync::mpsc::channel;

    use super::*;

    /// security.md F7: a number that is a thread's by now, or still that of a session whose leader has gone, is no process.
    #[test]
    fn f7_the_number_of_a_thread_or_of_a_session_is_no_process() {
        let (tell, told) = channel();
        let (end, wait) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                tell.send(nix::unistd::gettid()).unwrap();
                let _ = wait.recv();
            });
            assert_eq!(open(told.recv().unwrap()).unwrap_err(), Errno::ESRCH);
            drop(end);
        });
        let mut leader = Command::new("setsid");
        leader.args(["sh", "-c", "sleep 60 >/dev/null & echo $!"]).stdout(Stdio::piped());
        let leader = leader.spawn().unwrap();
        let number = Pid::from_raw(leader.id().try_into().unwrap());
        let said = leader.wait_with_output().unwrap().stdout;
        let member = Pid::from_raw(std::str::from_utf8(&said).unwrap().trim().parse().unwrap());
        assert_eq!(nix::unistd::getsid(Some(member)), Ok(number));
        let opened = open(number);
        nix::sys::signal::kill(member, nix::sys::signal::Signal::SIGKILL).unwrap();
        assert_eq!(opened.unwrap_err(), Errno::ESRCH);
    }

    /// security.md F7: a program name that imitates the fields does not move them.
    #[test]
    fn f7_stat_is_counted_after_the_last_parenthesis() {
        let line = b"7 (a) R 1 (b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 99 5\n";
        let running = Stat { state: b'S', flags: 4_194_560, start_time: 4711 };
        assert_eq!(parse_stat(line), Some(running));
        let zombie = b"7 (x) Z 1 7 7 0 -1 4194564 1 2 3 4 5 6 7 8 20 0 1 0 12 0 0\n";
        let parsed = parse_stat(zombie).unwrap();
        assert!(parsed.is_zombie() && parsed.start_time == 12 && parsed.flags == 4_194_564);
        assert_eq!(parse_stat(b"7 (x"), None);
    }

    #[test]
    fn start_time_of_this_process_is_after_boot() {
        let (ticks, runs) = start_time(&Procfs::processes().unwrap(), Pid::this()).unwrap();
        assert!(ticks > 0 && runs);
    }
}
