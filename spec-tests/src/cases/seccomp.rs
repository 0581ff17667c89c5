//! config-linux.md, seccomp.

use serde_json::{Value, json};

use super::Case;
use crate::failure::{During, Outcome};
use crate::harness::{Ctx, Ran};
use crate::{ensure, ensure_eq};

pub const CASES: &[Case] = &[
    Case::new(
        "seccomp_errno",
        "config-linux.md, seccomp: SCMP_ACT_ERRNO gives errnoRet, or EPERM without it",
        errno,
    ),
    Case::new(
        "seccomp_default_action",
        "config-linux.md, seccomp: defaultAction and defaultErrnoRet",
        default_action,
    ),
    Case::new(
        "seccomp_arguments",
        "config-linux.md, seccomp: args: index, value, valueTwo and op",
        arguments,
    ),
    Case::new("seccomp_kill", "config-linux.md, seccomp: SCMP_ACT_KILL_PROCESS ends the process", kill),
    Case::new("seccomp_mode", "security.md E8: the filter is on, with and without noNewPrivileges", mode),
    Case::new("seccomp_unknown_names", "config-linux.md, seccomp: unknown names are ignored", unknown_names),
    Case::new("e13_seccomp_values", "security.md E13: unknown actions, operators and flags are errors", e13),
    Case::new("e11_new_calls", "security.md E11: calls newer than the profile give ENOSYS", e11),
    Case::new(
        "seccomp_denies_execve",
        "security.md E8: a profile that denies execve, and the write that would say so, or kills: an error, and nothing is left",
        denies_execve,
    ),
    Case::new(
        "seccomp_many_rules",
        "security.md E12: a profile of hundreds of names with a default of EPERM",
        many,
    ),
    Case::new("seccomp_exec", "security.md C7: the filter holds for exec processes", exec),
    Case::new("seccomp_flags", "config-linux.md, seccomp: flags", flags),
];

/// What the process got from calls under a profile.
fn under(ctx: &Ctx, profile: Value, actions: Value) -> Outcome<Vec<Value>> {
    let mut bundle = ctx.bundle()?;
    bundle.set("/linux/seccomp", profile).actions(&actions);
    Ok(bundle.run_json(ctx)?.as_array().cloned().unwrap_or_default())
}

fn denies_execve(ctx: &Ctx) -> Outcome {
    let denied = json!(["execve", "execveat", "write", "writev", "sendmsg", "sendto"]);
    for no_new_privileges in [true, false] {
        for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL_PROCESS"] {
            let what = format!("{action}, noNewPrivileges {no_new_privileges}");
            let profile =
                json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": denied, "action": action}]});
            let mut bundle = ctx.bundle()?;
            bundle.probe(["true"]).set("/process/noNewPrivileges", json!(no_new_privileges));
            bundle.set("/linux/seccomp", profile);
            bundle.run(ctx)?.fails_in_one_line().during(what.clone())?;
            ensure!(!ctx.root.join(&bundle.id).exists(), "{what}: a state directory was left");
        }
    }
    Ok(())
}

fn call(number: i64, arguments: [&str; 3]) -> Value {
    json!(["syscall", number.to_string(), arguments[0], arguments[1], arguments[2]])
}

fn errno(ctx: &Ctx) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 123},
        {"names": ["getsid"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["getppid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}
    ]});
    let actions = json!([
        call(libc::SYS_getpgid, ["0", "0", "0"]),
        call(libc::SYS_getsid, ["0", "0", "0"]),
        call(libc::SYS_getppid, ["0", "0", "0"]),
        call(libc::SYS_getpid, ["0", "0", "0"])
    ]);
    let found = under(ctx, profile, actions)?;
    ensure_eq!(found[0], json!({"errno": "ENOMEDIUM"}), "errnoRet 123");
    ensure_eq!(found[1], json!({"errno": "EPERM"}), "no errnoRet");
    ensure_eq!(found[2], json!({"errno": "ENOSYS"}), "errnoRet 38");
    ensure_eq!(found[3], json!({"ok": 1}), "a call without a rule");
    Ok(())
}

/// Names that a static program and the runtimes' own last steps need.
const NEEDED: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_nanosleep",
    "clone",
    "clone3",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat",
    "faccessat2",
    "fchdir",
    "fchmod",
    "fchown",
    "fcntl",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getgroups",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "getrlimit",
    "getrusage",
    "gettid",
    "getuid",
    "ioctl",
    "keyctl",
    "lseek",
    "lstat",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe2",
    "poll",
    "prctl",
    "pread64",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setuid",
    "sigaltstack",
    "statx",
    "tgkill",
    "write",
];

fn default_action(ctx: &Ctx) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 123,
        "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}]});
    let actions = json!([call(libc::SYS_getpgid, ["0", "0", "0"]), call(libc::SYS_getpid, ["0", "0", "0"])]);
    let found = under(ctx, profile, actions)?;
    ensure_eq!(found[0], json!({"errno": "ENOMEDIUM"}), "a call without a rule");
    ensure_eq!(found[1], json!({"ok": 1}), "a call with a rule");
    Ok(())
}

fn arguments(ctx: &Ctx) -> Outcome {
    // getpriority(which, who) with which = 77 and 78 fails with EINVAL on its own.
    let rule = |op: &str, value: u64, two: u64| {
        json!({"names": ["getpriority"], "action": "SCMP_ACT_ERRNO", "errnoRet": 123,
               "args": [{"index": 0, "value": value, "valueTwo": two, "op": op}]})
    };
    let high = (7u64 << 32).to_string();
    for (op, value, two, hit, miss) in [
        ("SCMP_CMP_EQ", 77, 0, "77", "78"),
        ("SCMP_CMP_NE", 77, 0, "78", "77"),
        ("SCMP_CMP_LT", 77, 0, "76", "77"),
        ("SCMP_CMP_LE", 77, 0, "77", "78"),
        ("SCMP_CMP_GT", 77, 0, "78", "77"),
        ("SCMP_CMP_GE", 77, 0, "77", "76"),
        ("SCMP_CMP_MASKED_EQ", 0xf0, 0x50, "87", "103"),
        ("SCMP_CMP_EQ", 7 << 32, 0, high.as_str(), "7"),
    ] {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule(op, value, two)]});
        let actions = json!([
            call(libc::SYS_getpriority, [hit, "0", "0"]),
            call(libc::SYS_getpriority, [miss, "0", "0"])
        ]);
        let found = under(ctx, profile, actions)?;
        ensure_eq!(found[0], json!({"errno": "ENOMEDIUM"}), "{op} {value} with {hit}");
        ensure_eq!(found[1], json!({"errno": "EINVAL"}), "{op} {value} with {miss}");
    }
    Ok(())
}

fn kill(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_KILL_PROCESS"}]}),
    );
    bundle.actions(&json!([call(libc::SYS_getpgid, ["0", "0", "0"])]));
    bundle.run(ctx)?.exits(128 + libc::SIGSYS)?;
    Ok(())
}

fn mode(ctx: &Ctx) -> Outcome {
    for nnp in [true, false] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/process/noNewPrivileges", json!(nnp));
        bundle.set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}),
        );
        let found = bundle.run_json(ctx)?;
        ensure_eq!(found["seccomp"]["mode"], json!("2"), "mode with noNewPrivileges {nnp}");
        ensure_eq!(found["noNewPrivileges"], json!(i32::from(nnp)), "no new privileges");
    }
    let mut plain = ctx.bundle()?;
    plain.remove("/linux/seccomp");
    ensure_eq!(plain.run_json(ctx)?["seccomp"]["mode"], json!("0"), "mode without a profile");
    Ok(())
}

fn unknown_names(ctx: &Ctx) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["no_such_call", "getpgid"], "action": "SCMP_ACT_ERRNO", "errnoRet": 123}
    ]});
    let found = under(ctx, profile, json!([call(libc::SYS_getpgid, ["0", "0", "0"])]))?;
    ensure_eq!(found[0], json!({"errno": "ENOMEDIUM"}), "the known name beside the unknown one");
    Ok(())
}

fn e13(ctx: &Ctx) -> Outcome {
    let rule = json!({"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"});
    for profile in [
        json!({"defaultAction": "SCMP_ACT_SOMETHING"}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_X"}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_NEW_LISTENER"], "syscalls": [rule]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X"], "syscalls": [rule]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_X"}]}]}),
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            {"names": ["getpgid"], "action": "SCMP_ACT_ERRNO", "args": [{"index": 9, "value": 1, "op": "SCMP_CMP_EQ"}]}]}),
    ] {
        let mut bundle = ctx.bundle()?;
        bundle.set("/linux/seccomp", profile.clone());
        bundle.run(ctx)?.exits(1).and_then(Ran::fails_in_one_line).during(&profile)?;
    }
    Ok(())
}

fn e11(ctx: &Ctx) -> Outcome {
    let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": NEEDED, "action": "SCMP_ACT_ALLOW"}]});
    let found =
        under(ctx, profile, json!([call(900, ["0", "0", "0"]), call(libc::SYS_getpgid, ["0", "0", "0"])]))?;
    ensure_eq!(found[0], json!({"errno": "ENOSYS"}), "call number 900");
    ensure_eq!(found[1], json!({"errno": "EPERM"}), "a call that is older than the profile");
    Ok(())
}

/// A profile of the size of Docker's default one: every name of this list allowed, one with arguments, a few by
/// their number of architecture.
fn many(ctx: &Ctx) -> Outcome {
    let profile: Value = serde_json::from_str(include_str!("../../data/docker-default-seccomp.json"))?;
    let names = profile["syscalls"].as_array().into_iter().flatten();
    let count: usize = names.map(|rule| rule["names"].as_array().map_or(0, Vec::len)).sum();
    ensure!(count > 300, "the profile has {count} names only");
    let actions = json!([
        call(libc::SYS_getpgid, ["0", "0", "0"]),
        call(libc::SYS_add_key, ["0", "0", "0"]),
        call(libc::SYS_personality, ["0", "0", "0"]),
        call(libc::SYS_personality, ["77", "0", "0"]),
        call(libc::SYS_socket, ["40", "0", "0"]),
        call(libc::SYS_io_uring_setup, ["0", "0", "0"]),
        call(libc::SYS_unshare, [&libc::CLONE_NEWUSER.to_string(), "0", "0"]),
        call(900, ["0", "0", "0"])
    ]);
    let found = under(ctx, profile, actions)?;
    ensure_eq!(found[0], json!({"ok": 1}), "getpgid, which is allowed");
    ensure_eq!(found[1], json!({"errno": "EPERM"}), "add_key, which is not named");
    ensure_eq!(found[2], json!({"ok": 0}), "personality(0), which is allowed by its argument");
    ensure_eq!(found[3], json!({"errno": "EPERM"}), "personality(77)");
    ensure_eq!(found[4], json!({"errno": "EPERM"}), "socket(AF_VSOCK)");
    ensure_eq!(found[5], json!({"errno": "EPERM"}), "io_uring_setup (security.md E14)");
    ensure_eq!(found[6], json!({"errno": "EPERM"}), "unshare");
    ensure_eq!(found[7], json!({"errno": "ENOSYS"}), "call number 900");
    Ok(())
}

fn exec(ctx: &Ctx) -> Outcome {
    let mut bundle = ctx.bundle()?;
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    bundle.probe(["sleep"]);
    let found = bundle.start(ctx)?.exec_actions(&json!([call(libc::SYS_getpgid, ["0", "0", "0"])]))?;
    ensure_eq!(found[0], json!({"errno": "EPERM"}), "a denied call");
    Ok(())
}

fn flags(ctx: &Ctx) -> Outcome {
    for flags in [json!([]), json!(["SECCOMP_FILTER_FLAG_LOG"]), json!(["SECCOMP_FILTER_FLAG_SPEC_ALLOW"])] {
        let profile = json!({"defaultAction": "SCMP_ACT_ALLOW", "flags": flags,
            "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO"}]});
        let found = under(ctx, profile, json!([call(libc::SYS_getpgid, ["0", "0", "0"])])).during(&flags)?;
        ensure_eq!(found[0], json!({"errno": "EPERM"}), "a denied call");
    }
    Ok(())
}
