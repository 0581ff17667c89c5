//! seccomp(2): load a filter, and ask which actions and flags this kernel has.

#![allow(unsafe_code, reason = "the system call module")]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use seccompiler::sock_filter;

use crate::error::{Context as _, Error, Result};

/// seccomp(2). `argument` is what `operation` wants: a pointer to a `sock_fprog` or to an action, or null.
fn seccomp(
    operation: libc::c_uint,
    flags: libc::c_ulong,
    argument: *const libc::c_void,
) -> nix::Result<libc::c_long> {
    // SAFETY: the callers give a pointer to a live object of the type that `operation` reads, or null.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) })
}

/// Loads `program` for this process, with the flags of seccomp(2), and returns the listener where `flags` asks for
/// one (`SECCOMP_FILTER_FLAG_NEW_LISTENER`); the kernel makes it close-on-exec.
///
/// no_new_privs is left as it is: without it the caller needs CAP_SYS_ADMIN (row E8).
///
/// # Errors
/// The errno of seccomp(2): `EACCES` for neither no_new_privs nor CAP_SYS_ADMIN, `EINVAL` for a program or flag that the
/// kernel does not take, `EBUSY` where a filter with a listener is loaded already.
pub fn load(program: &[sock_filter], flags: libc::c_ulong) -> Result<Option<OwnedFd>> {
    let what = || "load the seccomp filter";
    let len = u16::try_from(program.len()).map_err(|_| Error::from_errno(what(), Errno::EINVAL))?;
    // The kernel only reads it; `sock_fprog` has no const pointer. `sock_filter` has the layout of linux/filter.h.
    let filter = program.as_ptr().cast::<libc::sock_filter>().cast_mut();
    let fprog = libc::sock_fprog { len, filter };
    let result = seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, (&raw const fprog).cast()).context(what)?;
    if flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        let raw = i32::try_from(result).map_err(|_| Error::from_errno(what(), Errno::EBADF))?;
        // SAFETY: the kernel has just made this descriptor for us.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(raw) }));
    }
    // With TSYNC a positive result is the thread that could not be synchronized.
    if result != 0 {
        return Err(Error::new(format!("load the seccomp filter: thread {result} has another one")));
    }
    Ok(None)
}

/// Whether this kernel knows the filter return `action` (`SECCOMP_RET_…`, data bits zero).
pub fn has_action(action: u32) -> bool {
    seccomp(libc::SECCOMP_GET_ACTION_AVAIL, 0, (&raw const action).cast()).is_ok()
}

/// Whether this kernel knows `flags` of `SECCOMP_SET_MODE_FILTER`, and knows them together: flags are checked before
/// the program is read, so that a null program gives `EFAULT` for known ones (seccomp(2)).
pub fn has_flags(flags: libc::c_ulong) -> bool {
    seccomp(libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::null()) == Err(Errno::EFAULT)
}
