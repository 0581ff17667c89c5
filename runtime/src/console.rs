//! Pseudo terminals: the pair in the container, the sockets that the master leaves by, and who owns 0, 1 and 2.
//!
//! The pair is made in the container's own devpts and its peer is opened by its master, never by a name that the image
//! could have put a link at (security.md D1, CVE-2025-52565). The master leaves the container over a socket: the
//! manager's `--console-socket`, or, for `run` and `exec` in the foreground, one end of a [`socket_pair`]; the code on
//! the container's side is the same.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, socketpair, sockopt,
};
use nix::sys::stat::{Mode, SFlag, major, minor};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::sys::time::TimeVal;
use nix::unistd::{Gid, Uid, fchdir};
use oci_spec::runtime::{Box as Size, Process};

use crate::error::{Context as _, Error, Result};
use crate::sys::path::{open_given, open_in_root_no_links, stat};
use crate::sys::{fd, tty};

/// How long a manager may take to have room for a connection and for the message with the master (security.md D5).
const SOCKET_TIMEOUT_SECONDS: i64 = 10;

/// What goes with the master: the name that runc sends. containerd and conmon log it at the most.
const MASTER_NAME: &[u8] = b"/dev/ptmx";

/// A pseudo terminal.
#[derive(Debug)]
pub struct Pty {
    /// The side of the manager or of the foreground process.
    pub master: OwnedFd,
    /// The side of the container's process.
    pub peer: OwnedFd,
}

/// Makes a pair in the devpts that is mounted on `dev/pts` of `root`.
///
/// # Errors
/// No devpts there (row D1: file system, device number and inode of `ptmx` are checked), or no pair left.
pub fn open_pty(root: impl AsFd) -> Result<Pty> {
    /// devpts gives its root inode 1 and its ptmx inode 2 (`mknod_ptmx` in fs/devpts/inode.c).
    const PTMX_INODE: u64 = 2;
    const PTMX_DEVICE: (u64, u64) = (5, 2);
    let what = || "open /dev/pts/ptmx for the terminal";
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    // A link on the way, or a device of the image's own, is refused before anything is opened for use: opening a device can act.
    let found =
        open_in_root_no_links(&root, "dev/pts/ptmx", OFlag::O_PATH | OFlag::O_NOFOLLOW).context(what)?;
    let is_ptmx = |file: &OwnedFd| -> Result<bool> {
        let stat = stat(file).context(what)?;
        Ok(fstatfs(file).context(what)?.filesystem_type() == DEVPTS_SUPER_MAGIC
            && SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFCHR
            && (major(stat.st_rdev), minor(stat.st_rdev)) == PTMX_DEVICE
            && stat.st_ino == PTMX_INODE)
    };
    if !is_ptmx(&found)? {
        return Err(Error::new(format!("{}: it is not the ptmx of a devpts", what())));
    }
    let master = open_in_root_no_links(&root, "dev/pts/ptmx", flags).context(what)?;
    if !is_ptmx(&master)? {
        return Err(Error::new(format!("{}: it is not the ptmx of a devpts", what())));
    }
    tty::unlock(&master).context(|| "unlock the terminal")?;
    let peer = tty::open_peer(&master).context(|| "open the terminal of the container")?;
    Ok(Pty { master, peer })
}

/// Sets `process.consoleSize` on either side.
///
/// # Errors
/// A height or width that no terminal can have.
pub fn set_size(terminal: impl AsFd, size: &Size) -> Result<()> {
    let number = |name: &str, value: u64| {
        u16::try_from(value).map_err(|_| {
            Error::new(format!("/process/consoleSize/{name}: {value}: must be at most {}", u16::MAX))
        })
    };
    let size = libc::winsize {
        ws_row: number("height", size.height())?,
        ws_col: number("width", size.width())?,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tty::set_window_size(terminal, &size).context(|| "set the size of the terminal")
}

/// Gives the terminal to the user and makes it standard input, output and error. It becomes the controlling one by the
/// process that goes on, which may be another one in a session of its own (`init/src/become_process.rs`).
///
/// # Errors
/// The errno of fchown(2) or dup2(2).
pub fn use_terminal(peer: &OwnedFd, owner: Uid) -> Result<()> {
    // `peer` comes from TIOCGPTPEER, so that this is a pty and nothing else (row D3).
    nix::unistd::fchown(peer, Some(owner), None::<Gid>).context(|| "give the terminal to the user")?;
    for target in 0..=2 {
        fd::place_at(peer, target).context(|| "set stdin, stdout and stderr to the terminal")?;
    }
    Ok(())
}

/// Makes the user the owner of those of 0, 1 and 2 that are pipes, so that a program can open them anew by
/// `/dev/stdout` (images that log there count on it, and runc does the same). Never a device, a file or a socket: they
/// may be the host's and shared (row D3, CVE-2026-88265).
///
/// # Errors
/// The errno of fstat(2) or fchown(2), but for a pipe whose owner may not be changed.
pub fn give_pipes_to(owner: Uid) -> Result<()> {
    let what = || "give stdin, stdout and stderr to the user";
    for number in 0..=2 {
        let Ok(pipe) = fd::inherited(number) else { continue };
        let is = stat(pipe).context(what)?;
        if SFlag::from_bits_truncate(is.st_mode) & SFlag::S_IFMT != SFlag::S_IFIFO
            || is.st_uid == owner.as_raw()
        {
            continue;
        }
        match nix::unistd::fchown(pipe, Some(owner), None::<Gid>) {
            // Not ours to give, or not mapped in the user namespace.
            Ok(()) | Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS) => {}
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
    }
    Ok(())
}

/// Where the master of a process's terminal goes, and where this command's own foreground half takes it from.
#[derive(Debug, Default)]
pub struct Console {
    /// The manager's console socket, or the other end of `ours`; none without a terminal.
    pub theirs: Option<OwnedFd>,
    /// For [`receive_master`].
    pub ours: Option<OwnedFd>,
}

/// Opens the way of a process's terminal: over the console socket, or to the half of this command that stays in the foreground. A
/// terminal needs somebody who takes it, and a socket needs a terminal; none is needed without a terminal.
///
/// # Errors
/// One is there without the other, in runc's words; those of [`connect_socket`] and socketpair(2).
pub fn open(process: &Process, socket: Option<&Path>, in_foreground: bool) -> Result<Console> {
    match (process.terminal() == Some(true), socket) {
        (true, Some(path)) => Ok(Console { theirs: Some(connect_socket(path)?), ours: None }),
        (true, None) if in_foreground => {
            socket_pair().map(|(ours, theirs)| Console { theirs: Some(theirs), ours: Some(ours) })
        }
        (true, None) => Err(Error::new(
            "cannot allocate tty if runc will detach without setting console socket: use --console-socket",
        )),
        (false, Some(_)) => {
            Err(Error::new("cannot use console socket if runc will not detach or allocate tty"))
        }
        (false, None) => Ok(Console::default()),
    }
}

/// Connects to a socket of the manager's (console, pidfd, seccomp agent), once. A path longer than an address can hold is reached by its directory.
///
/// Must be called before the clone: it may change the working directory for the time of the call.
///
/// # Errors
/// The errno of connect(2); `resource temporarily unavailable` where the receiver has taken no connection for 10 s.
pub fn connect_socket(path: &Path) -> Result<OwnedFd> {
    connect_within(path, SOCKET_TIMEOUT_SECONDS)
}

fn connect_within(path: &Path, seconds: i64) -> Result<OwnedFd> {
    let what = || format!("connect to socket {}", path.display());
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).context(what)?;
    // connect(2) to a full backlog and sendmsg(2) to a full queue both wait for this long (unix_stream_connect).
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::new(seconds, 0)).context(what)?;
    let connect_to = |path: &Path| loop {
        match connect(socket.as_raw_fd(), &UnixAddr::new(path)?) {
            // A Unix socket is not connected by an interrupted call.
            Err(Errno::EINTR) => {}
            other => return other,
        }
    };
    match (connect_to(path), path.parent(), path.file_name()) {
        (Err(Errno::ENAMETOOLONG), Some(parent), Some(name)) => {
            let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
            let here = open_given(".", directory, Mode::empty()).context(what)?;
            let there = open_given(parent, directory, Mode::empty()).context(what)?;
            fchdir(&there).context(what)?;
            let result = connect_to(Path::new(name));
            fchdir(&here).context(|| "return to the working directory")?;
            result.context(what)?;
        }
        (result, ..) => result.context(what)?,
    }
    Ok(socket)
}

/// The two ends of what stands for a console socket in the foreground: ours, and the container's.
///
/// # Errors
/// The errno of socketpair(2).
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .context(|| "make a socket pair for the terminal")
}

/// Sends `master` to the manager, or to our own foreground half. The caller drops it afterwards.
///
/// # Errors
/// The errno of sendmsg(2).
pub fn send_master(socket: impl AsFd, master: impl AsFd) -> Result<()> {
    fd::send_with_fds(socket, MASTER_NAME, &[master.as_fd()])
        .context(|| "send the terminal over the console socket")
}

/// Receives what [`send_master`] sent. The sender's end must not be open in this process, so that a container that
/// ended before it sent is the end of the stream, and no wait.
///
/// # Errors
/// The end of the stream, or something that is not one master.
pub fn receive_master(socket: impl AsFd) -> Result<OwnedFd> {
    let mut name = [0; 4096];
    let (_, fds) =
        fd::receive_with_fds(socket, &mut name).context(|| "receive the terminal of the container")?;
    match <[OwnedFd; 1]>::try_from(fds) {
        Ok([master]) if tty::pty_number(&master).is_ok() => Ok(master),
        _ => Err(Error::new("receive the terminal of the container: it sent none")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make their own files")]

    use std::fs;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::PathBuf;

    use oci_spec::runtime::BoxBuilder;

    use super::*;

    /// A directory of its own for one test, removed at its end.
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("hooks-console-{name}-{}", std::process::id()));
            fs::create_dir_all(dir.join("dev/pts")).unwrap();
            Self(dir)
        }

        fn root(&self) -> OwnedFd {
            open_given(&self.0, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap()
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn host_pty() -> Pty {
        open_pty(open_given("/", OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).unwrap()).unwrap()
    }

    #[test]
    fn the_two_sides_belong_together() {
        let pty = host_pty();
        nix::unistd::write(&pty.peer, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(nix::unistd::read(&pty.master, &mut byte), Ok(1));
        assert_eq!(&byte, b"x");
        let peer = stat(&pty.peer).unwrap();
        assert_eq!(fstatfs(&pty.peer).unwrap().filesystem_type(), DEVPTS_SUPER_MAGIC);
        assert_eq!(minor(peer.st_rdev), u64::from(tty::pty_number(&pty.master).unwrap()));
    }

    /// security.md D1: nothing that an image can have at dev/pts/ptmx is taken for the ptmx of a devpts.
    #[test]
    fn d1_only_the_ptmx_of_a_devpts() {
        let dir = Dir::new("ptmx");
        let ptmx = dir.0.join("dev/pts/ptmx");
        let refused = |what: &str| {
            let error = open_pty(dir.root()).unwrap_err().to_string();
            assert!(error.starts_with("open /dev/pts/ptmx for the terminal: "), "{what}: {error}");
        };
        refused("nothing");
        fs::write(&ptmx, "").unwrap();
        refused("a file");
        fs::remove_file(&ptmx).unwrap();
        std::os::unix::fs::symlink("/dev/pts/ptmx", &ptmx).unwrap();
        refused("a link");
        fs::remove_file(&ptmx).unwrap();
        nix::unistd::mkfifo(&ptmx, Mode::S_IRWXU).unwrap();
        refused("a FIFO");
        fs::remove_file(&ptmx).unwrap();
        let device = nix::sys::stat::makedev(5, 2);
        if nix::sys::stat::mknod(&ptmx, SFlag::S_IFCHR, Mode::S_IRWXU, device).is_ok() {
            refused("a device node 5:2 outside a devpts");
        }
        fs::remove_dir_all(dir.0.join("dev/pts")).unwrap();
        std::os::unix::fs::symlink("/dev/pts", dir.0.join("dev/pts")).unwrap();
        refused("a link for the directory");
    }

    /// security.md D5: paths around and beyond the 107 bytes of a socket address.
    #[test]
    fn d5_long_socket_paths() {
        let dir = Dir::new("long");
        let here = std::env::current_dir().unwrap();
        for length in [107, 108, 200, 1000] {
            let name = "socket";
            let mut path = dir.0.clone();
            loop {
                // What is still to be filled with directories, their slashes included.
                match length - path.as_os_str().len() - name.len() - 1 {
                    0 => break,
                    left @ 2..=100 => path.push("d".repeat(left - 1)),
                    _ => path.push("d".repeat(50)),
                }
            }
            fs::create_dir_all(&path).unwrap();
            // A listener's address has the same limit: it is bound by a short link to the directory.
            let link = dir.0.join("l");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            let listener = UnixListener::bind(link.join(name)).unwrap();
            fs::remove_file(&link).unwrap();
            path.push(name);
            assert_eq!(path.as_os_str().len(), length);
            connect_socket(&path).unwrap();
            listener.accept().unwrap();
            assert_eq!(std::env::current_dir().unwrap(), here);
        }
    }

    /// security.md D5: what is no listening socket is an error.
    #[test]
    fn d5_not_a_socket() {
        let dir = Dir::new("file");
        let path = dir.0.join("file");
        let missing = connect_socket(&path).unwrap_err();
        assert_eq!(missing.errno(), Some(Errno::ENOENT));
        fs::write(&path, "").unwrap();
        let error = connect_socket(&path).unwrap_err().to_string();
        assert_eq!(error, format!("connect to socket {}: connection refused", path.display()));
        let long = dir.0.join("n".repeat(200));
        assert_eq!(connect_socket(&long).unwrap_err().errno(), Some(Errno::ENAMETOOLONG));
    }

    /// security.md D5: a receiver that takes no connection any more costs bounded time.
    #[test]
    fn d5_receiver_that_hangs() {
        let dir = Dir::new("hang");
        let path = dir.0.join("socket");
        let listener = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        nix::sys::socket::bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(1).unwrap()).unwrap();
        let _waiting = [UnixStream::connect(&path).unwrap(), UnixStream::connect(&path).unwrap()];
        let started = std::time::Instant::now();
        let error = connect_within(&path, 1).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::EAGAIN), "{error}");
        // The kernel counts in its ticks; the upper bound is for a busy machine.
        let waited = started.elapsed().as_secs_f64();
        assert!((0.9..8.0).contains(&waited), "{waited} s");
    }

    /// The message is what containerd and conmon expect: the master, close-on-exec, and a name.
    #[test]
    fn the_master_goes_over_the_socket() {
        let (ours, theirs) = socket_pair().unwrap();
        let pty = host_pty();
        send_master(&theirs, &pty.master).unwrap();
        drop(theirs);
        let master = receive_master(&ours).unwrap();
        assert_eq!(tty::pty_number(&master), tty::pty_number(&pty.master));
        assert!(receive_master(&ours).is_err(), "the end of the stream is no terminal");
        let (ours, theirs) = socket_pair().unwrap();
        fd::send_with_fds(&theirs, b"x", &[ours.as_fd()]).unwrap();
        assert!(receive_master(&ours).is_err(), "a socket is no terminal");
    }

    /// security.md D12: the numbers of a terminal's size are 16 bits wide; what is greater is an error that names the value.
    #[test]
    fn d12_console_size() {
        let pty = host_pty();
        let size = |height, width| BoxBuilder::default().height(height).width(width).build().unwrap();
        set_size(&pty.master, &size(50_u64, 65535_u64)).unwrap();
        let now = tty::window_size(&pty.peer).unwrap();
        assert_eq!((now.ws_row, now.ws_col), (50, 65535));
        let error = set_size(&pty.master, &size(65536_u64, 1_u64)).unwrap_err().to_string();
        assert_eq!(error, "/process/consoleSize/height: 65536: must be at most 65535");
        let error = set_size(&pty.master, &size(1_u64, u64::MAX)).unwrap_err().to_string();
        assert_eq!(error, format!("/process/consoleSize/width: {}: must be at most 65535", u64::MAX));
    }
}
