//! The only module with unsafe code: one system call a function.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A file descriptor that the caller of this program left open for it, taken over and marked close-on-exec.
///
/// # Errors
/// `EBADF` where it is not open.
pub fn take_inherited(fd: RawFd) -> nix::Result<OwnedFd> {
    // SAFETY: F_SETFD reads no memory; a number that is not open gives EBADF.
    Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and this program has not touched descriptors that it was started with.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor in the event loop.
///
/// # Errors
/// What epoll_ctl(2) failed with: `EPERM` for something that cannot be waited for.
pub fn watch(fd: OwnedFd, interest: Interest) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is one open descriptor for as long as it lives, and the AsyncFd owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// A borrowed descriptor in the event loop.
///
/// # Errors
/// As `watch`.
pub fn watch_borrowed(fd: BorrowedFd<'_>, interest: Interest) -> std::io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: a BorrowedFd is one open descriptor for as long as it lives.
    unsafe { AsyncFd::register_with_interest(fd, interest) }.map_err(Into::into)
}

/// close_range(2): marks every descriptor from `first` on close-on-exec (Linux 5.11).
///
/// # Errors
/// The errno of close_range(2).
pub fn mark_cloexec_from(first: libc::c_uint) -> nix::Result<()> {
    // SAFETY: three integers; nothing is closed, so every OwnedFd stays valid.
    Errno::result(unsafe {
        libc::close_range(first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed())
    })
    .map(drop)
}

/// pidfd_open(2); the descriptor is close-on-exec and readable once the process has ended.
///
/// # Errors
/// The errno of pidfd_open(2); `ESRCH` for a process that is gone, also where its number is still that of a session or is a thread's
/// by now (`EINVAL` before Linux 6.16, `ENOENT` since).
pub fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: two integers; the kernel returns a new descriptor that nobody else owns.
    let raw = match Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) }) {
        Err(Errno::EINVAL | Errno::ENOENT) => return Err(Errno::ESRCH),
        result => result?,
    };
    let raw = RawFd::try_from(raw).map_err(|_| Errno::EBADF)?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// pidfd_send_signal(2). `signal` is a number, so that real-time signals and 0 (is it alive?) can be sent.
///
/// # Errors
/// The errno of pidfd_send_signal(2): `ESRCH` once the process has been waited for, `EINVAL` for a bad number.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: c_int) -> nix::Result<()> {
    let pidfd = pidfd.as_fd().as_raw_fd();
    // SAFETY: a null siginfo means the same as kill(2).
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd, signal, ptr::null::<libc::siginfo_t>(), 0)
    };
    Errno::result(result).map(drop)
}

/// prctl(2) `PR_SCHED_CORE_CREATE`: from now on this process and those that it starts share a core with nobody else.
///
/// # Errors
/// The errno of prctl(2): `EINVAL` for a kernel without core scheduling, `ENODEV` for a machine without SMT.
pub fn create_core_scheduling_group() -> nix::Result<()> {
    let [own, scope, none]: [libc::c_ulong; 3] = [0, libc::PR_SCHED_CORE_SCOPE_THREAD_GROUP as _, 0];
    // SAFETY: five integers; the last is an address for PR_SCHED_CORE_GET only.
    Errno::result(unsafe { libc::prctl(libc::PR_SCHED_CORE, libc::PR_SCHED_CORE_CREATE, own, scope, none) })
        .map(drop)
}

/// splice(2) of at most `len` bytes between two descriptors of which one is a pipe, without blocking.
///
/// # Errors
/// The errno of splice(2); `EAGAIN` where either end has to be waited for.
pub fn splice(from: impl AsFd, to: impl AsFd, len: usize) -> nix::Result<usize> {
    let (from, to) = (from.as_fd().as_raw_fd(), to.as_fd().as_raw_fd());
    let flags = libc::SPLICE_F_NONBLOCK | libc::SPLICE_F_MOVE;
    // SAFETY: null offsets mean the descriptors' own positions; no memory of ours is used.
    let moved = unsafe { libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), len, flags) };
    Errno::result(moved).map(isize::unsigned_abs)
}

/// Bytes in a pipe or FIFO that nobody has read yet (`FIONREAD`).
///
/// # Errors
/// The errno of ioctl(2).
pub fn unread(pipe: impl AsFd) -> nix::Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: FIONREAD writes one int, which outlives the call.
    Errno::result(unsafe { libc::ioctl(pipe.as_fd().as_raw_fd(), libc::FIONREAD, &raw mut bytes) })?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sets the size of a terminal (`TIOCSWINSZ`).
///
/// # Errors
/// The errno of ioctl(2).
pub fn set_terminal_size(terminal: impl AsFd, columns: u16, rows: u16) -> nix::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize, which outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })
        .map(drop)
}

/// Receives one message with one descriptor, which is close-on-exec.
///
/// # Errors
/// The errno of recvmsg(2); `ENOMSG` for a message without a descriptor.
pub fn receive_fd(socket: impl AsFd) -> nix::Result<OwnedFd> {
    let mut data = [0; 4096];
    let mut control = nix::cmsg_space!([RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut data)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut received = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = part {
            // SAFETY: the kernel has just installed these descriptors for this message alone.
            received.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    received.into_iter().next().ok_or(Errno::ENOMSG)
}

/// An inotify instance that watches one path for changes of its content.
///
/// # Errors
/// The errno of inotify_init1(2) or inotify_add_watch(2).
pub fn watch_modifications(path: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: one integer; the kernel returns a new descriptor that nobody else owns.
    let raw = Errno::result(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: as above.
    let inotify = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: `path` is a terminated string that outlives the call.
    Errno::result(unsafe { libc::inotify_add_watch(raw, path.as_ptr(), libc::IN_MODIFY) })?;
    Ok(inotify)
}

/// A new descriptor from a system call that makes one.
fn new_fd(result: libc::c_long) -> nix::Result<OwnedFd> {
    let raw = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it for the caller alone.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// fsopen(2), close-on-exec.
///
/// # Errors
/// The errno of fsopen(2); `ENODEV` for a type that the kernel does not know.
pub fn fsopen(fs_type: &CStr) -> nix::Result<OwnedFd> {
    // SAFETY: a terminated string that outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_fsopen, fs_type.as_ptr(), FSOPEN_CLOEXEC) })
}

/// fsconfig(2) `FSCONFIG_SET_STRING`.
///
/// # Errors
/// The errno of fsconfig(2); `EINVAL` for a key that the file system does not know.
pub fn fsconfig_string(context: impl AsFd, key: &CStr, value: &CStr) -> nix::Result<()> {
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: two terminated strings that outlive the call.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    };
    Errno::result(result).map(drop)
}

/// fsconfig(2) `FSCONFIG_SET_FLAG`.
///
/// # Errors
/// The errno of fsconfig(2).
pub fn fsconfig_flag(context: impl AsFd, key: &CStr) -> nix::Result<()> {
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: a terminated string that outlives the call; a flag has no value.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, fd, FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null::<c_char>(), 0)
    };
    Errno::result(result).map(drop)
}

/// fsconfig(2) `FSCONFIG_CMD_CREATE`.
///
/// # Errors
/// The errno of fsconfig(2): what mounting the file system failed with.
pub fn fsconfig_create(context: impl AsFd) -> nix::Result<()> {
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: a command has neither key nor value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fd,
            FSCONFIG_CMD_CREATE,
            ptr::null::<c_char>(),
            ptr::null::<c_char>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// fsmount(2): the file system as a detached mount with these `MOUNT_ATTR_*`.
///
/// # Errors
/// The errno of fsmount(2).
pub fn fsmount(context: impl AsFd, attributes: u64) -> nix::Result<OwnedFd> {
    let fd = context.as_fd().as_raw_fd();
    // SAFETY: three integers.
    new_fd(unsafe { libc::syscall(libc::SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes) })
}

/// open_tree(2) `OPEN_TREE_CLONE`: a detached copy of the mount at `path`, with those below it where `recursive`.
///
/// # Errors
/// The errno of open_tree(2).
pub fn clone_tree(path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    let flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs() | recursive.unsigned_abs();
    // SAFETY: a terminated string that outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// mount_setattr(2) on a mount (and those below it where `recursive`).
///
/// # Errors
/// The errno of mount_setattr(2).
pub fn mount_setattr(mount: impl AsFd, recursive: bool, set: u64, propagation: u64) -> nix::Result<()> {
    let attributes = libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    // SAFETY: the whole structure is initialised, outlives the call, and its size is passed with it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// move_mount(2): attaches a detached mount to the directory or file `target`.
///
/// # Errors
/// The errno of move_mount(2).
pub fn move_mount(mount: impl AsFd, target: impl AsFd) -> nix::Result<()> {
    let (mount, target) = (mount.as_fd().as_raw_fd(), target.as_fd().as_raw_fd());
    let flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: empty terminated strings: both ends are the descriptors themselves.
    let result =
        unsafe { libc::syscall(libc::SYS_move_mount, mount, c"".as_ptr(), target, c"".as_ptr(), flags) };
    Errno::result(result).map(drop)
}

// Of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const MOVE_MOUNT_T_EMPTY_PATH: libc::c_uint = 0x40;

/// A program to start: what the new process is to be, all of it.
pub struct Program<'a> {
    /// Absolute path of the binary.
    pub path: &'a CStr,
    /// Arguments, the zeroth included.
    pub arguments: &'a [CString],
    /// The whole environment.
    pub environment: &'a [CString],
    /// Standard input, output and error. Their numbers must be above 2.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Descriptors (numbered above all targets) that the program finds at the given numbers.
    pub placed: &'a [(BorrowedFd<'a>, RawFd)],
    /// Whether the kernel kills it when this process dies.
    pub dies_with_us: bool,
    /// Whether it leads a session of its own.
    pub new_session: bool,
}

/// A process that this one has started.
pub struct Child {
    /// Its pid, which stays its own until it is waited for.
    pub pid: i32,
    /// Its pidfd.
    pub pidfd: OwnedFd,
}

/// What the child reads, and the one word that it writes, in the memory it shares with its parent until execve.
struct ChildPlan {
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    stdio: [RawFd; 3],
    placed: Vec<(RawFd, RawFd)>,
    parent: Option<i32>,
    new_session: bool,
    errno: c_int,
}

/// Enough for `child_main`, which calls nothing but system calls.
const CHILD_STACK: usize = 32 * 1024;

/// Starts a program with clone(2) `CLONE_VM | CLONE_VFORK`: no page tables are copied, and the pidfd comes with it.
///
/// The child has umask 022 (what runtimes expect to inherit), no blocked and no ignored signals.
///
/// # Errors
/// The errno of clone(2), or of the step in the child that failed (execve(2) above all).
pub fn spawn(program: &Program<'_>) -> nix::Result<Child> {
    let arguments = pointers(program.arguments);
    let environment = pointers(program.environment);
    let mut plan = ChildPlan {
        path: program.path.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        stdio: program.stdio.map(|fd| fd.as_raw_fd()),
        placed: program.placed.iter().map(|(fd, target)| (fd.as_raw_fd(), *target)).collect(),
        parent: program.dies_with_us.then(|| nix::unistd::getpid().as_raw()),
        new_session: program.new_session,
        errno: 0,
    };
    let mut stack: Vec<u128> = Vec::with_capacity(CHILD_STACK / size_of::<u128>());
    // The child must not run this program's signal handlers on the shared memory.
    let all = nix::sys::signal::SigSet::all();
    let before = all.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: the stack is CHILD_STACK bytes of our own, used from its top; CLONE_VFORK keeps this function from going
    // on until the child has left the shared memory, so that `plan`, `stack` and what they point to outlive it.
    let result = unsafe {
        let top = stack.as_mut_ptr().add(stack.capacity());
        libc::clone(child_main, top.cast(), flags, (&raw mut plan).cast(), &raw mut pidfd)
    };
    let pid = Errno::result(result);
    before.thread_set_mask()?;
    let pid = pid?;
    // SAFETY: CLONE_PIDFD has made this descriptor, close-on-exec, for us.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: a plain read; volatile because another process wrote it behind the compiler's back.
    let errno = unsafe { ptr::read_volatile(&raw const plan.errno) };
    if errno != 0 {
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        return Err(Errno::from_raw(errno));
    }
    Ok(Child { pid, pidfd })
}

/// A null-terminated array of pointers, as execve(2) takes it.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(ptr::null())).collect()
}

/// The child's half of `spawn`: system calls only, then execve; on failure the errno goes to the parent.
extern "C" fn child_main(plan: *mut c_void) -> c_int {
    let plan = plan.cast::<ChildPlan>();
    // SAFETY: the parent waits (CLONE_VFORK) and has left `plan` to us; only system calls are made.
    unsafe {
        let errno = child_exec(&*plan);
        ptr::write_volatile(&raw mut (*plan).errno, errno);
        libc::_exit(127)
    }
}

/// Everything between clone and execve; returns the errno of the step that failed.
///
/// # Safety
/// Runs in the child of `spawn` alone: it may use no lock, no allocation and no thread-local but errno.
unsafe fn child_exec(plan: &ChildPlan) -> c_int {
    // SAFETY: system calls on integers and on memory that the waiting parent keeps alive.
    unsafe {
        if let Some(parent) = plan.parent {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return *libc::__errno_location();
            }
            // The parent may have died before the call above.
            if libc::getppid() != parent {
                return libc::ESRCH;
            }
        }
        if plan.new_session {
            libc::setsid();
        }
        libc::umask(0o022);
        for (target, source) in (0..).zip(plan.stdio) {
            if libc::dup2(source, target) < 0 {
                return *libc::__errno_location();
            }
        }
        for (source, target) in &plan.placed {
            // dup2 onto itself would leave it close-on-exec.
            let placed = if source == target {
                libc::fcntl(*source, libc::F_SETFD, 0)
            } else {
                libc::dup2(*source, *target)
            };
            if placed < 0 {
                return *libc::__errno_location();
            }
        }
        // The standard library ignores SIGPIPE; an ignored signal would stay ignored in the container.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        libc::execve(plan.path, plan.arguments, plan.environment);
        *libc::__errno_location()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read as _;

    use nix::sys::wait::{WaitStatus, waitpid};

    use super::*;

    #[allow(clippy::disallowed_methods, reason = "a test")]
    fn null() -> OwnedFd {
        File::options().read(true).write(true).open("/dev/null").unwrap().into()
    }

    fn start(script: &str, stdout: &OwnedFd) -> nix::Result<Child> {
        let null = null();
        let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
        spawn(&Program {
            path: c"/bin/sh",
            arguments: &arguments,
            environment: &[c"ONLY=this".to_owned()],
            stdio: [null.as_fd(), stdout.as_fd(), null.as_fd()],
            placed: &[],
            dies_with_us: true,
            new_session: false,
        })
    }

    /// security.md I12: the runtime sees the environment and the descriptors it is given and nothing else.
    #[test]
    fn i12_a_child_has_the_given_environment_and_descriptors() {
        let (read, write) = nix::unistd::pipe().unwrap();
        let leaked = null();
        mark_cloexec_from(3).unwrap();
        let child = start("env | grep -v ^PWD= | grep -v ^_=; ls /proc/$$/fd; umask", &write).unwrap();
        drop((write, leaked));
        let mut text = String::new();
        File::from(read).read_to_string(&mut text).unwrap();
        let status = waitpid(nix::unistd::Pid::from_raw(child.pid), None).unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, 0)));
        assert_eq!(text, "ONLY=this\n0\n1\n2\n0022\n");
    }

    #[test]
    fn a_program_that_is_missing_is_an_error_of_spawn() {
        let null = null();
        let program = Program {
            path: c"/nonexistent/runtime",
            arguments: &[c"runtime".to_owned()],
            environment: &[],
            stdio: [null.as_fd(); 3],
            placed: &[],
            dies_with_us: false,
            new_session: false,
        };
        assert_eq!(spawn(&program).err(), Some(Errno::ENOENT));
    }
}
