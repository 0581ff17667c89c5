//! The program's other task: to open a procfs of a PID namespace that the container joins.
//!
//! A procfs shows the PID namespace of the process that opens it (fs/proc/root.c, proc_init_fs_context), and only a child
//! of the process that has joined a namespace is in it. That child is seen by the members of the namespace: so it is a process of this program,
//! with one socket, and it has nothing to show (rows C1, C5).

use alloc::string::ToString as _;

use crate::become_process::die_with_parent;
use crate::channel::{Channel, tag};
use crate::error::{Context as _, Errno, Error, Result};
use crate::sys::{self, Fd, Forked};

/// The first byte of these instructions; those of a process begin with another ([`crate::instructions`]).
pub const TASK: u8 = b'p';

/// The instructions: the socket that the file system context goes to.
pub fn encode(socket: Fd) -> [u8; 5] {
    let [a, b, c, d] = socket.to_ne_bytes();
    [TASK, a, b, c, d]
}

/// What [`encode`] wrote.
pub fn decode(bytes: &[u8]) -> Option<Fd> {
    match bytes {
        [TASK, rest @ ..] => rest.try_into().ok().map(Fd::from_ne_bytes),
        _ => None,
    }
}

/// Opens it in a child, and ends.
pub fn run(socket: Fd) -> ! {
    if let Err(error) = open(socket) {
        Channel(socket).fail(&error);
    }
    sys::exit(0)
}

fn open(socket: Fd) -> Result<()> {
    sys::control(libc::PR_SET_DUMPABLE, 0, 0).context(|| "stop being dumpable")?;
    // Those of the runtime's caller.
    (0..3).for_each(sys::close);
    let forked = sys::fork(false).map_err(|errno| {
        // Nobody can be added to a PID namespace whose init process has ended (pid_namespaces(7)).
        let why = (errno == Errno(libc::ENOMEM)).then(|| "has its init process ended?".to_string());
        Error::from_errno("fork", errno).because(why)
    })?;
    match forked {
        Forked::Parent(child) => sys::wait(child).map(drop).context(|| "wait for the child"),
        Forked::Child => {
            die_with_parent()?;
            let context = sys::open_file_system(c"proc").context(|| "fsopen")?;
            sys::send_with_fd(socket, &[tag::MOUNTED], context).context(|| "send the file system")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_told_apart() {
        assert_eq!(decode(&encode(7)), Some(7));
        assert_eq!(decode(&crate::instructions::Instructions::default().encode()), None);
        assert_eq!(decode(b"p123"), None);
    }
}
