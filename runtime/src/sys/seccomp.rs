//! seccomp(2): which actions and flags this kernel has. Filters are loaded by the sealed program (`init/src/sys.rs`).

#![allow(unsafe_code, reason = "the system call module")]

use nix::errno::Errno;

/// seccomp(2). `argument` is what `operation` wants: a pointer to a `sock_fprog` or to an action, or null.
fn seccomp(
    operation: libc::c_uint,
    flags: libc::c_ulong,
    argument: *const libc::c_void,
) -> nix::Result<libc::c_long> {
    // SAFETY: the callers give a pointer to a live object of the type that `operation` reads, or null.
    Errno::result(unsafe { libc::syscall(libc::SYS_seccomp, operation, flags, argument) })
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

#[cfg(test)]
mod tests {
    use nix::sys::signal::Signal;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use serde_json::{Value, json};

    use super::*;
    use crate::security::seccomp::{Filter, compile};

    fn filter(profile: &Value) -> Filter {
        compile(&serde_json::from_value(profile.clone()).unwrap()).unwrap()
    }

    /// Forks a child that loads `filter` and then runs `probe`, whose result is its exit status; 255: the filter did not
    /// load. The test process has threads, so that the child may do nothing but system calls.
    fn in_child(filter: &Filter, probe: impl Fn(Option<i32>) -> i32) -> WaitStatus {
        let program = crate::process::program_bytes(&filter.program);
        // SAFETY: the child makes system calls only, on memory that is ready, and ends by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let status = skeg_init::sys::load_filter(&program, filter.flags).map_or(255, probe);
                // SAFETY: ends this process.
                unsafe { libc::_exit(status) }
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        }
    }

    /// The errno of a system call without arguments, or 0.
    fn errno_of(number: libc::c_long) -> i32 {
        // SAFETY: the calls that the tests make read and write no memory.
        Errno::result(unsafe { libc::syscall(number, 0, 0, 0) }).map_or_else(|errno| errno as i32, |_| 0)
    }

    fn exit_status(status: WaitStatus) -> i32 {
        match status {
            WaitStatus::Exited(_, status) => status,
            other => panic!("{other:?}"),
        }
    }

    /// security.md E11, E12: this kernel takes the program and gives each call the errno that the profile asks for; a number
    /// newer than the profile knows is ENOSYS, not the default errno.
    #[test]
    fn e11_the_kernel_does_what_the_profile_says() {
        let filter = filter(&json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 13,
            "syscalls": [
                {"names": ["getuid", "exit_group", "mseal"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["getgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 42},
                {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO",
                 "args": [{"index": 0, "op": "SCMP_CMP_NE", "value": 0}], "errnoRet": 43},
                {"names": ["getpgid"], "action": "SCMP_ACT_ALLOW",
                 "args": [{"index": 0, "op": "SCMP_CMP_EQ", "value": 0}]},
            ],
        }));
        let probe = |number| exit_status(in_child(&filter, |_| errno_of(number)));
        assert_eq!(probe(libc::SYS_getuid), 0);
        assert_eq!(probe(libc::SYS_getgid), 42);
        assert_eq!(probe(libc::SYS_getpid), 13);
        assert_eq!(probe(libc::SYS_getpgid), 0);
        assert_eq!(probe(999), libc::ENOSYS);
        assert_eq!(probe(463), libc::ENOSYS);
        assert_eq!(probe(461), 13);
        // SAFETY: getpgid(2) reads no memory.
        let other =
            in_child(&filter, |_| match Errno::result(unsafe { libc::syscall(libc::SYS_getpgid, 1) }) {
                Err(errno) => errno as i32,
                Ok(_) => 0,
            });
        assert_eq!(exit_status(other), 43);
    }

    /// security.md E14: the kernel takes the program of Docker's default profile, under which io_uring is denied, clone3(2) is
    /// ENOSYS (so that libcs fall back to clone(2), whose flags a filter can see) and only AF_VSOCK sockets are denied.
    #[test]
    fn e14_docker_profile_on_the_kernel() {
        let profile = include_str!("../../../spec-tests/data/docker-default-seccomp.json");
        let filter = filter(&serde_json::from_str(profile).unwrap());
        let probe = |number| exit_status(in_child(&filter, |_| errno_of(number)));
        assert_eq!(probe(libc::SYS_io_uring_setup), libc::EPERM);
        assert_eq!(probe(libc::SYS_clone3), libc::ENOSYS);
        assert_eq!(probe(libc::SYS_getppid), 0);
        let socket = |domain: libc::c_int| {
            // SAFETY: socket(2) takes three integers.
            let probe = |_| unsafe { libc::socket(domain, libc::SOCK_DGRAM, 0) };
            exit_status(in_child(&filter, |listener| match Errno::result(probe(listener)) {
                Ok(_) => 0,
                Err(errno) => errno as i32,
            }))
        };
        assert_eq!(socket(libc::AF_UNIX), 0);
        assert_eq!(socket(libc::AF_VSOCK), libc::EPERM);
    }

    /// security.md E10: a call denied to 64-bit code is denied by `int 0x80` too, and that whole ABI where the profile does
    /// not list it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn e10_int_0x80_does_not_go_round_the_filter() {
        let probe = |archs: &[&str]| {
            let filter = filter(&json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "architectures": archs,
                "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 44}],
            }));
            in_child(&filter, |_| {
                let mut result: i32 = 64; // getppid of 32-bit x86
                // SAFETY: a 32-bit getppid(2) reads no memory and changes no register but its result.
                unsafe { std::arch::asm!("int 0x80", inout("eax") result) };
                -result
            })
        };
        assert_eq!(exit_status(probe(&["SCMP_ARCH_X86"])), 44);
        for archs in [&[][..], &["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]] {
            assert!(matches!(probe(archs), WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{archs:?}");
        }
    }

    /// security.md E10: an x32 number is killed, not judged by the number below it.
    #[cfg(target_arch = "x86_64")]
    #[test]
    fn e10_x32_number_is_killed() {
        let filter = filter(&json!({"defaultAction": "SCMP_ACT_ALLOW"}));
        let status = in_child(&filter, |_| errno_of(0x4000_0000 | libc::SYS_getpid));
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSYS, _)), "{status:?}");
    }

    /// security.md E8: loading a filter leaves no_new_privs alone (only with CAP_SYS_ADMIN can it be loaded then), and
    /// every flag of the spec is taken.
    #[test]
    fn e8_no_new_privs_is_left_alone() {
        let filter = filter(&json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
                      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        }));
        let status = in_child(&filter, |listener| {
            // SAFETY: reads an attribute of this process.
            let no_new_privs = unsafe { libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) };
            no_new_privs + i32::from(listener.is_some())
        });
        // Without CAP_SYS_ADMIN, the kernel refuses: that too shows that nothing was set.
        let expected = if nix::unistd::geteuid().is_root() { 0 } else { 255 };
        assert_eq!(exit_status(status), expected);
    }

    /// security.md C15: the listener is close-on-exec from the start.
    #[test]
    fn c15_the_listener_is_close_on_exec() {
        let filter = filter(&json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "flags": ["SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "listenerPath": "/run/agent.sock",
            "syscalls": [{"names": ["getppid"], "action": "SCMP_ACT_NOTIFY"}],
        }));
        assert!(filter.uses_notify);
        let status = in_child(&filter, |listener| {
            use std::os::fd::AsRawFd as _;
            let Some(listener) = listener else { return 254 };
            // SAFETY: F_GETFD reads no memory.
            unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFD) }
        });
        assert_eq!(exit_status(status), libc::FD_CLOEXEC);
    }

    /// features.md, linux.seccomp: what this kernel has, and what no kernel has.
    #[test]
    fn actions_and_flags_of_this_kernel() {
        for action in [
            libc::SECCOMP_RET_ALLOW,
            libc::SECCOMP_RET_ERRNO,
            libc::SECCOMP_RET_KILL_PROCESS,
            libc::SECCOMP_RET_KILL_THREAD,
            libc::SECCOMP_RET_LOG,
            libc::SECCOMP_RET_TRACE,
            libc::SECCOMP_RET_TRAP,
            libc::SECCOMP_RET_USER_NOTIF,
        ] {
            assert!(has_action(action), "{action:#x}");
        }
        assert!(!has_action(0x1234_0000));
        let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
        for flags in [
            libc::SECCOMP_FILTER_FLAG_LOG,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            libc::SECCOMP_FILTER_FLAG_TSYNC,
            listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
        ] {
            assert!(has_flags(flags), "{flags:#x}");
        }
        assert!(!has_flags(libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV));
        assert!(!has_flags(1 << 30));
    }
}
