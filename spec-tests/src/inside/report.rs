//! Everything that a process can find out about itself and its surroundings, as one JSON object. What cannot be
//! read is null: a container without /proc is a container too.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{access, getegid, geteuid, getgid, getgroups, getpid, getppid, getuid};
use serde_json::{Map, Value, json};

use crate::sys;

/// The capabilities by number, without the prefix `CAP_` (linux/capability.h).
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The mask of some capabilities (`CAP_KILL`) in the form of /proc/PID/status.
pub fn capability_mask(names: &[&str]) -> String {
    let bit = |name: &&str| {
        let bare = name.strip_prefix("CAP_").unwrap_or(name);
        CAPABILITIES.iter().position(|known| *known == bare).map_or(0, |bit| 1u64 << bit)
    };
    format!("{:016x}", names.iter().map(bit).fold(0, |mask, bit| mask | bit))
}

/// The whole report.
pub fn report() -> Value {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| status_field(&status, name);
    let name = nix::sys::utsname::uname().ok();
    json!({
        "pid": getpid().as_raw(),
        "ppid": getppid().as_raw(),
        "uid": getuid().as_raw(),
        "euid": geteuid().as_raw(),
        "gid": getgid().as_raw(),
        "egid": getegid().as_raw(),
        "groups": getgroups().map(|groups| groups.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>()).ok(),
        "capabilities": {
            "inheritable": field("CapInh"),
            "permitted": field("CapPrm"),
            "effective": field("CapEff"),
            "bounding": field("CapBnd"),
            "ambient": field("CapAmb"),
        },
        "securebits": sys::prctl_get(libc::PR_GET_SECUREBITS, 0).ok(),
        "noNewPrivileges": sys::prctl_get(libc::PR_GET_NO_NEW_PRIVS, 0).ok(),
        "dumpable": sys::prctl_get(libc::PR_GET_DUMPABLE, 0).ok(),
        "seccomp": { "mode": field("Seccomp"), "filters": field("Seccomp_filters") },
        "umask": format!("{:04o}", umask()),
        "rlimits": rlimits(),
        "personality": nix::sys::personality::get().map(|persona| format!("{persona:?}")).ok(),
        "personalityBits": sys::raw_syscall(libc::SYS_personality, [0xffff_ffff, 0, 0]).ok(),
        "fds": descriptors(),
        "cwd": working_directory(),
        "keyring": sys::session_keyring().ok().and_then(|serial| sys::describe_key(serial).ok()),
        "keyringSerial": sys::session_keyring().ok(),
        "session": nix::unistd::getsid(None).map(nix::unistd::Pid::as_raw).ok(),
        "processGroup": nix::unistd::getpgrp().as_raw(),
        "controllingTerminal": fs::File::open("/dev/tty").is_ok(),
        "terminalSize": sys::terminal_size(std::io::stdin().as_fd()).ok(),
        "stdinIsTerminal": nix::unistd::isatty(std::io::stdin()).unwrap_or(false),
        "signals": signals(),
        "args": std::env::args().collect::<Vec<_>>(),
        "env": environment(),
        "mounts": mounts(),
        "namespaces": namespaces(),
        "cgroup": read_lines("/proc/self/cgroup"),
        "oomScoreAdj": read_text("/proc/self/oom_score_adj"),
        "loginuid": read_text("/proc/self/loginuid"),
        "timerSlack": sys::prctl_get(libc::PR_GET_TIMERSLACK, 0).ok(),
        "cpusAllowed": field("Cpus_allowed_list"),
        "scheduler": sys::raw_syscall(libc::SYS_sched_getscheduler, [0, 0, 0]).ok(),
        "ioPriority": sys::raw_syscall(libc::SYS_ioprio_get, [1, 0, 0]).ok(),
        "uidMap": read_lines("/proc/self/uid_map"),
        "gidMap": read_lines("/proc/self/gid_map"),
        "setgroups": read_text("/proc/self/setgroups"),
        "hostname": name.as_ref().map(|name| name.nodename().to_string_lossy().into_owned()),
        "domainname": read_text("/proc/sys/kernel/domainname"),
        "sysctls": sysctls(),
        "devices": devices(),
        "console": fs::metadata("/dev/console").ok().map(|found| {
            format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev()))
        }),
        "executable": fs::read_link("/proc/self/exe").map(|path| path.to_string_lossy().into_owned()).ok(),
    })
}

fn status_field(status: &str, name: &str) -> Option<String> {
    status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned()))
}

fn read_text(path: &str) -> Option<String> {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).ok()
}

fn read_lines(path: &str) -> Option<Vec<String>> {
    let squeeze = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    fs::read_to_string(path).map(|text| text.lines().map(squeeze).collect()).ok()
}

fn umask() -> u32 {
    let mask = nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    nix::sys::stat::umask(mask);
    mask.bits()
}

fn rlimits() -> Value {
    const RESOURCES: [(&str, Resource); 16] = [
        ("RLIMIT_AS", Resource::RLIMIT_AS),
        ("RLIMIT_CORE", Resource::RLIMIT_CORE),
        ("RLIMIT_CPU", Resource::RLIMIT_CPU),
        ("RLIMIT_DATA", Resource::RLIMIT_DATA),
        ("RLIMIT_FSIZE", Resource::RLIMIT_FSIZE),
        ("RLIMIT_LOCKS", Resource::RLIMIT_LOCKS),
        ("RLIMIT_MEMLOCK", Resource::RLIMIT_MEMLOCK),
        ("RLIMIT_MSGQUEUE", Resource::RLIMIT_MSGQUEUE),
        ("RLIMIT_NICE", Resource::RLIMIT_NICE),
        ("RLIMIT_NOFILE", Resource::RLIMIT_NOFILE),
        ("RLIMIT_NPROC", Resource::RLIMIT_NPROC),
        ("RLIMIT_RSS", Resource::RLIMIT_RSS),
        ("RLIMIT_RTPRIO", Resource::RLIMIT_RTPRIO),
        ("RLIMIT_RTTIME", Resource::RLIMIT_RTTIME),
        ("RLIMIT_SIGPENDING", Resource::RLIMIT_SIGPENDING),
        ("RLIMIT_STACK", Resource::RLIMIT_STACK),
    ];
    let map: Map<String, Value> = RESOURCES
        .into_iter()
        .map(|(name, resource)| (name.to_owned(), json!(getrlimit(resource).ok())))
        .collect();
    Value::Object(map)
}

/// The open descriptors and what they are; those that this look itself opens are left out. Without /proc only the
/// numbers are known.
pub fn descriptors() -> Value {
    let mut map = Map::new();
    for number in 0..1024 {
        if sys::is_open(number) {
            let target = fs::read_link(format!("/proc/self/fd/{number}"));
            map.insert(
                number.to_string(),
                json!(target.map(|path| path.to_string_lossy().into_owned()).ok()),
            );
        }
    }
    Value::Object(map)
}

/// The working directory as the kernel names it, or the errno's name.
pub fn working_directory() -> Value {
    match nix::unistd::getcwd() {
        Ok(path) => json!(path),
        Err(errno) => json!(format!("{errno:?}")),
    }
}

/// The signals that are blocked, ignored and caught, by number.
pub fn signals() -> Value {
    let with = |kind| (1..=64).filter(|number| sys::disposition(*number) == Some(kind)).collect::<Vec<i32>>();
    json!({ "blocked": sys::blocked_signals(), "ignored": with('i'), "caught": with('c') })
}

/// The environment in its order.
pub fn environment() -> Value {
    std::env::vars_os()
        .map(|(name, value)| json!(format!("{}={}", name.to_string_lossy(), value.to_string_lossy())))
        .collect()
}

/// The namespaces by type, as `/proc/self/ns` names them.
pub fn namespaces() -> Value {
    let types = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"];
    let map: Map<String, Value> = types
        .into_iter()
        .map(|kind| {
            let target = fs::read_link(format!("/proc/self/ns/{kind}"));
            (kind.to_owned(), json!(target.map(|path| path.to_string_lossy().into_owned()).ok()))
        })
        .collect();
    Value::Object(map)
}

/// The mounts in their order, from mountinfo, with whether the probe could write there.
fn mounts() -> Option<Vec<Value>> {
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    Some(text.lines().filter_map(mount_line).collect())
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
pub fn mount_line(line: &str) -> Option<Value> {
    let (left, right) = line.split_once(" - ")?;
    let left: Vec<&str> = left.split(' ').collect();
    let right: Vec<&str> = right.split(' ').collect();
    let target = left.get(4)?.replace("\\040", " ").replace("\\012", "\n").replace("\\134", "\\");
    let writable = match access(Path::new(&target), nix::unistd::AccessFlags::W_OK) {
        Ok(()) => "yes".to_owned(),
        Err(errno) => format!("{errno:?}"),
    };
    Some(json!({
        "target": target,
        "root": left.get(3)?,
        "options": left.get(5)?,
        "propagation": left.get(6..).unwrap_or_default().join(" "),
        "type": right.first()?,
        "source": right.get(1)?,
        "superOptions": right.get(2)?,
        "device": left.get(2)?,
        "writable": writable,
    }))
}

fn sysctls() -> Value {
    const KEYS: [&str; 7] = [
        "kernel/shm_rmid_forced",
        "kernel/msgmax",
        "kernel/shmmax",
        "fs/mqueue/msg_max",
        "net/ipv4/ip_forward",
        "net/ipv4/ping_group_range",
        "net/core/somaxconn",
    ];
    let read = |key: &str| read_text(&format!("/proc/sys/{key}"));
    KEYS.into_iter().map(|key| (key.to_owned(), json!(read(key)))).collect::<Map<_, _>>().into()
}

/// What /dev holds.
fn devices() -> Value {
    let mut map = Map::new();
    for entry in fs::read_dir("/dev").into_iter().flatten().flatten() {
        map.insert(entry.file_name().to_string_lossy().into_owned(), describe(&entry.path()));
    }
    Value::Object(map)
}

/// What a path is, without following a link at its end.
pub fn describe(path: &Path) -> Value {
    let Ok(found) = fs::symlink_metadata(path) else { return Value::Null };
    let kind = found.file_type();
    let name = [
        (kind.is_symlink(), "symlink"),
        (kind.is_dir(), "directory"),
        (kind.is_char_device(), "character device"),
        (kind.is_block_device(), "block device"),
        (kind.is_fifo(), "fifo"),
        (kind.is_socket(), "socket"),
        (kind.is_file(), "file"),
    ];
    let mut value = json!({
        "type": name.iter().find(|(is, _)| *is).map(|(_, name)| *name),
        "mode": format!("{:04o}", found.mode() & 0o7777),
        "uid": found.uid(),
        "gid": found.gid(),
    });
    if kind.is_symlink() {
        value["link"] = json!(fs::read_link(path).map(|path| path.to_string_lossy().into_owned()).ok());
    }
    if kind.is_char_device() || kind.is_block_device() {
        value["device"] = json!(format!("{}:{}", libc::major(found.rdev()), libc::minor(found.rdev())));
    }
    if kind.is_file() {
        value["size"] = json!(found.size());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capability_masks_are_those_of_status() {
        assert_eq!(
            capability_mask(&["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]),
            "0000000020000420"
        );
        assert_eq!(capability_mask(&[]), "0000000000000000");
    }

    #[test]
    fn a_mountinfo_line_is_taken_apart() {
        let line =
            "36 35 98:0 /mnt1 /mnt2\\040x rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = mount_line(line).unwrap();
        assert_eq!(mount["target"], "/mnt2 x");
        assert_eq!(mount["propagation"], "master:1 shared:2");
        assert_eq!(mount["type"], "ext3");
        assert_eq!(mount["superOptions"], "rw,errors=continue");
    }
}
