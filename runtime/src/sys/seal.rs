//! The program that containers can see as `/proc/PID/exe` is a sealed copy in memory of a small program that the runtime
//! carries, never a file on the host.
//!
//! A container that can open the runtime's own file may write to it (CVE-2019-5736) or poison its page cache
//! (CVE-2022-0847). The copy is made by the runtime, which is in no container's cgroup, so that nobody's limit pays. Behind the
//! program lie its instructions, sealed with it.

#![allow(unsafe_code, reason = "the system call module")]

use std::ffi::{CString, c_char};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use skeg_init::become_process::Launch;

use crate::error::{Context as _, Error, Result};
use crate::sys::fd::{set_inheritable, write_all};
use crate::sys::process;

/// The program (`init/`), built by `build.rs`.
const PROGRAM: &[u8] = include_bytes!(env!("SKEG_INIT"));
/// Where the instructions begin: a page of any size that Linux uses, so that they can be mapped.
const OFFSET: usize = PROGRAM.len().next_multiple_of(1 << 16);

const MAKING: &str = "make the sealed program that becomes the container's process";

/// `MFD_EXEC` of `linux/memfd.h` (Linux 6.3): needed where `vm.memfd_noexec` is set, unknown before.
const MFD_EXEC: u32 = 0x10;
/// `F_SEAL_EXEC` of `linux/fcntl.h` (Linux 6.3).
const F_SEAL_EXEC: i32 = 0x20;

/// Nothing can be written, grown or cut any more, and no seal can be taken off.
const SEALED: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// A copy of the program with its instructions; sealed by [`Self::fill`].
#[derive(Debug)]
pub struct SealedProgram {
    file: OwnedFd,
    instructions: Vec<u8>,
}

impl SealedProgram {
    /// Makes one.
    ///
    /// # Errors
    /// Which step failed, and why.
    pub fn new(instructions: Vec<u8>) -> Result<Self> {
        let program = Self::empty(instructions)?;
        program.fill()?;
        Ok(program)
    }

    /// Makes the file, with nothing in it: for a process that is cloned now and executes it when it has been told to.
    ///
    /// # Errors
    /// The errno of memfd_create(2).
    pub fn empty(instructions: Vec<u8>) -> Result<Self> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let file = match memfd_create(c"skeg-init", flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
            Err(Errno::EINVAL) => memfd_create(c"skeg-init", flags),
            other => other,
        };
        Ok(Self { file: file.context(|| MAKING)?, instructions })
    }

    /// Writes the program and its instructions, and seals them.
    ///
    /// # Errors
    /// Which step failed, and why.
    pub fn fill(&self) -> Result<()> {
        let copy = || -> nix::Result<()> {
            write_all(&self.file, PROGRAM)?;
            let offset = i64::try_from(OFFSET).map_err(|_| Errno::EFBIG)?;
            nix::unistd::lseek(&self.file, offset, nix::unistd::Whence::SeekSet)?;
            write_all(&self.file, &self.instructions)?;
            // Not known before Linux 6.3, and no more than a nicety: write access is what the other seals take.
            let _ = fcntl(&self.file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(F_SEAL_EXEC)));
            fcntl(&self.file, FcntlArg::F_ADD_SEALS(SEALED))?;
            Ok(())
        };
        copy().context(|| MAKING)
    }

    /// Goes on as this program, with the descriptors that its instructions name; returns only to say why not.
    ///
    /// Its arguments are those of [`Launch`], and it has no environment: `/proc/PID/environ` shows nothing of the caller's
    /// (row C12).
    pub fn execute(&self, keep: &[BorrowedFd<'_>], may_set_groups: bool) -> Error {
        let what = "execute the sealed program that becomes the container's process";
        let (program, length) = (self.file.as_raw_fd(), self.instructions.len());
        let launch = Launch { program, offset: OFFSET, length, may_set_groups };
        // Otherwise a caller's SECBIT_NOROOT would have execve take the capabilities away (capabilities(7)).
        match process::securebits() {
            Ok(0) => {}
            Ok(_) => {
                if let Err(errno) = process::set_securebits(0) {
                    return Error::from_errno("clear the securebits", errno);
                }
            }
            Err(errno) => return Error::from_errno("read the securebits", errno),
        }
        let inherited = keep.iter().copied().chain([self.file.as_fd()]).try_for_each(set_inheritable);
        let arguments = launch.to_numbers().map(|number| CString::new(number.to_string()));
        let mut argv = [c"skeg-init".as_ptr(); Launch::ARGUMENTS + 1];
        for (to, argument) in argv.iter_mut().skip(1).zip(&arguments) {
            *to = argument.as_ref().map_or(std::ptr::null(), |argument| argument.as_ptr());
        }
        argv[Launch::ARGUMENTS] = std::ptr::null();
        let environment: [*const c_char; 1] = [std::ptr::null()];
        if let Err(errno) = inherited {
            return Error::from_errno(what, errno);
        }
        // SAFETY: the path is a C string literal; both arrays end in null, and their strings outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_execveat,
                self.file.as_raw_fd(),
                c"".as_ptr(),
                argv.as_ptr(),
                environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        Error::from_errno(what, Errno::result(result).err().unwrap_or(Errno::EIO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// security.md C1: the copy cannot be written, not even by its maker.
    #[test]
    fn c1_copy_is_sealed_against_writing() {
        let program = SealedProgram::new(b"instructions".to_vec()).unwrap();
        let seals = fcntl(&program.file, FcntlArg::F_GET_SEALS).unwrap();
        assert!(SealFlag::from_bits_retain(seals).contains(SEALED));
        assert_eq!(nix::unistd::write(&program.file, b"x").unwrap_err(), Errno::EPERM);
        assert_eq!(nix::unistd::ftruncate(&program.file, 0).unwrap_err(), Errno::EPERM);
    }
}
