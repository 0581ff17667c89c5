//! The rules that a configuration has to keep, as far as they can be told without looking at the host.
//!
//! MUSTs of the specification: `ociVersion` is SemVer; `root` with a path; `cwd` and hook and namespace and masked and
//! read-only paths are absolute; `args` has an entry; an rlimit type occurs once; a namespace type occurs once; hook
//! timeouts are greater than zero; `oomScoreAdj` is what proc(5) takes; annotation keys are not empty; `burst` is no
//! larger than `quota`; a weight device has a weight, an rdma device a limit; `memBwSchema` starts with `MB:`.
//!
//! The others are runc's (its `validate` package), the kernel's, where its errno would not say what is wrong, and
//! those of the security catalogue: A6, B6 to B8, E3, E6, E16, E20, F4, F13.

use std::collections::{BTreeMap, HashSet};
use std::fmt::{Debug, Display};
use std::path::Path;

use oci_spec::runtime::{
    Hook, Linux, LinuxDeviceType, LinuxIdMapping, LinuxSchedulerPolicy, Mount, Process, Scheduler, Spec, User,
};

use super::pointer::push_escaped;
use super::sysctl::SysctlKey;
use crate::error::{Error, Result};
use crate::namespaces::{self, MOUNT, NETWORK, NamespacePlan, TIME, USER, UTS};
use crate::net_devices::TEMPLATE;
use crate::rdt::DEFAULT_CLASS;
use crate::sys::path::clean;

mod resources;

pub use resources::validate_resources;

/// `__NEW_UTS_LEN` of linux/utsname.h: the longest host and domain name, in bytes.
const UTS_NAME_MAX: usize = 64;
/// `UID_GID_MAP_MAX_EXTENTS` of linux/user_namespace.h.
const ID_MAP_LINES_MAX: usize = 340;
/// `IFNAMSIZ` of linux/if.h, without its NUL.
const INTERFACE_NAME_MAX: usize = 15;
/// `KTIME_SEC_MAX` of linux/ktime.h: `i64::MAX` nanoseconds in whole seconds.
const TIME_OFFSET_MAX: u64 = 9_223_372_036;

/// The information files that may be covered inside `/proc`: what LXCFS provides, and runc's two others (row A6).
const PROC_FILES: [&str; 10] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// An error in the form of all configuration errors.
fn invalid<T>(pointer: impl Display, value: impl Debug, allowed: impl Display) -> Result<T> {
    Err(Error::new(format!("{pointer}: {value:?}: {allowed}")))
}

/// An error for what is not there.
fn missing<T>(pointer: impl Display, allowed: impl Display) -> Result<T> {
    Err(Error::new(format!("{pointer}: missing: {allowed}")))
}

fn absolute(pointer: impl Display, path: &Path) -> Result<()> {
    if path.is_absolute() { Ok(()) } else { invalid(pointer, path, "must be an absolute path") }
}

/// `pointer/key`, escaped.
fn child(pointer: &str, key: &str) -> String {
    let mut child = format!("{pointer}/");
    push_escaped(&mut child, key);
    child
}

/// Checks a configuration; what is deprecated but allowed comes back as warnings.
///
/// A configuration without `process` passes: `create` may have it, `start` may not (runtime.md, start).
///
/// # Errors
/// The first rule that is broken: pointer, value, what is allowed.
pub fn validate(spec: &Spec) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    version(spec.version())?;
    match spec.root() {
        None => return missing("/root", "must be an object with a path"),
        Some(root) if root.path().as_os_str().is_empty() => {
            return invalid("/root/path", root.path(), "must be a path");
        }
        Some(_) => {}
    }
    let linux = spec.linux().as_ref();
    let namespaces =
        NamespacePlan::new(linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default())?;
    if let Some(process) = spec.process() {
        validate_process(process, "/process")?;
    }
    uts_name("/hostname", spec.hostname().as_deref(), &namespaces)?;
    uts_name("/domainname", spec.domainname().as_deref(), &namespaces)?;
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        validate_mount(mount, index, &mut warnings)?;
    }
    hooks(spec)?;
    if let Some(linux) = linux {
        validate_linux(linux, &namespaces)?;
        if namespaces.is_new(USER)
            && let Some(process) = spec.process()
        {
            user_is_mapped(process.user(), linux)?;
        }
    }
    if spec.annotations().iter().flatten().any(|(key, _)| key.is_empty()) {
        return invalid("/annotations/", "", "must have a key that is not empty");
    }
    Ok(warnings)
}

/// `MAJOR.MINOR.PATCH[-PRE][+BUILD]` of SemVer 2.0 with major version 1: later minor versions add to it only.
fn version(text: &str) -> Result<()> {
    const ALLOWED: &str = "must be a version 1.MINOR.PATCH";
    if text.is_empty() {
        // oci-spec has the empty text for what is not there.
        return Err(Error::new(format!("/ociVersion: missing or empty: {ALLOWED}")));
    }
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numeric = |part: &str| {
        part == "0"
            || (!part.starts_with('0') && !part.is_empty() && part.bytes().all(|c| c.is_ascii_digit()))
    };
    let suffix = text[core.len()..].trim_start_matches(['-', '+']);
    let has_suffix = core.len() < text.len();
    let suffix_is_fine = !has_suffix
        || suffix
            .split(['.', '+'])
            .all(|part| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-'));
    let parts: Vec<&str> = core.split('.').collect();
    if parts.len() == 3 && parts[0] == "1" && parts.iter().all(|part| numeric(part)) && suffix_is_fine {
        return Ok(());
    }
    invalid("/ociVersion", text, ALLOWED)
}

/// Checks a process object: that of a configuration (`pointer` is `/process`), or of `exec` (`pointer` is empty).
///
/// # Errors
/// The first rule that is broken: pointer, value, what is allowed.
pub fn validate_process(process: &Process, pointer: &str) -> Result<()> {
    absolute(format_args!("{pointer}/cwd"), process.cwd())?;
    match process.args().as_deref().unwrap_or_default() {
        [] => return missing(format_args!("{pointer}/args"), "must have at least one entry"),
        [program, ..] if program.is_empty() => {
            return invalid(format_args!("{pointer}/args/0"), program, "must be a program");
        }
        _ => {}
    }
    environment(process.env().as_deref().unwrap_or_default(), &format!("{pointer}/env"))?;
    user(process.user(), &format!("{pointer}/user"))?;
    limits(process, pointer)?;
    if let Some(value) = process.oom_score_adj()
        && !(-1000..=1000).contains(&value)
    {
        return invalid(format_args!("{pointer}/oomScoreAdj"), value, "must be -1000 to 1000");
    }
    if let Some(size) = process.console_size().filter(|_| process.terminal() == Some(true))
        && size.height().max(size.width()) > u64::from(u16::MAX)
    {
        // struct winsize has 16 bits for each.
        let largest = size.height().max(size.width());
        return invalid(format_args!("{pointer}/consoleSize"), largest, "must be 0 to 65535");
    }
    if let Some(io) = process.io_priority()
        && !(0..=7).contains(&io.priority())
    {
        return invalid(format_args!("{pointer}/ioPriority/priority"), io.priority(), "must be 0 to 7");
    }
    process.scheduler().as_ref().map_or(Ok(()), |scheduler| validate_scheduler(scheduler, pointer))
}

/// Row E20: every entry has a name and a `=`; nothing is taken from skeg's own environment. Values are not shown
/// (row G9).
fn environment(entries: &[String], pointer: &str) -> Result<()> {
    for (index, entry) in entries.iter().enumerate() {
        match entry.split_once('=') {
            Some((name, _)) if !name.is_empty() => {}
            Some(_) => return missing(format_args!("{pointer}/{index}"), "must have a name before the ="),
            None => return invalid(format_args!("{pointer}/{index}"), entry, "must be NAME=value"),
        }
    }
    Ok(())
}

/// Row E3: 4294967295 is "leave as it is" to setuid(2), setgid(2) and chown(2), and so no id.
fn user(user: &User, pointer: &str) -> Result<()> {
    let groups = user.additional_gids().iter().flatten().enumerate();
    let ids = [("uid".to_owned(), user.uid()), ("gid".to_owned(), user.gid())];
    for (name, id) in
        ids.into_iter().chain(groups.map(|(index, &gid)| (format!("additionalGids/{index}"), gid)))
    {
        if id == u32::MAX {
            return invalid(format_args!("{pointer}/{name}"), id, "must be 0 to 4294967294");
        }
    }
    match user.umask() {
        Some(umask) if umask > 0o777 => {
            invalid(format_args!("{pointer}/umask"), umask, "must be 0 to 511 (octal 0777)")
        }
        _ => Ok(()),
    }
}

fn limits(process: &Process, pointer: &str) -> Result<()> {
    let mut seen = HashSet::new();
    for (index, limit) in process.rlimits().iter().flatten().enumerate() {
        let name = limit.typ().to_string();
        if limit.soft() > limit.hard() {
            let allowed = format!("must not be greater than the hard limit {}", limit.hard());
            return invalid(format_args!("{pointer}/rlimits/{index}/soft"), limit.soft(), allowed);
        }
        if !seen.insert(name.clone()) {
            return invalid(format_args!("{pointer}/rlimits/{index}/type"), name, "must occur once only");
        }
    }
    Ok(())
}

/// sched_setattr(2), as runc's validator reads it.
fn validate_scheduler(scheduler: &Scheduler, pointer: &str) -> Result<()> {
    use LinuxSchedulerPolicy::{SchedDeadline, SchedFifo, SchedRr};
    let pointer = format!("{pointer}/scheduler");
    let policy = *scheduler.policy();
    if let Some(nice) = scheduler.nice().filter(|nice| !(-20..=19).contains(nice)) {
        return invalid(format_args!("{pointer}/nice"), nice, "must be -20 to 19");
    }
    let priority = scheduler.priority().unwrap_or(0);
    let is_realtime = matches!(policy, SchedFifo | SchedRr);
    if is_realtime && !(1..=99).contains(&priority) {
        return invalid(
            format_args!("{pointer}/priority"),
            priority,
            format_args!("must be 1 to 99 with {policy}"),
        );
    }
    if !is_realtime && priority != 0 {
        return invalid(
            format_args!("{pointer}/priority"),
            priority,
            "must be 0 but with SCHED_FIFO and SCHED_RR",
        );
    }
    for (name, value) in
        [("runtime", scheduler.runtime()), ("deadline", scheduler.deadline()), ("period", scheduler.period())]
    {
        if policy != SchedDeadline
            && let Some(value) = value.filter(|&value| value != 0)
        {
            return invalid(format_args!("{pointer}/{name}"), value, "must be 0 but with SCHED_DEADLINE");
        }
    }
    Ok(())
}

fn uts_name(pointer: &str, name: Option<&str>, namespaces: &NamespacePlan) -> Result<()> {
    match name {
        None | Some("") => Ok(()),
        Some(name) if name.len() > UTS_NAME_MAX => invalid(pointer, name, "must have at most 64 bytes"),
        Some(name) if !namespaces.has(UTS) => {
            invalid(pointer, name, "must have a uts namespace in /linux/namespaces")
        }
        Some(_) => Ok(()),
    }
}

fn validate_mount(mount: &Mount, index: usize, warnings: &mut Vec<String>) -> Result<()> {
    let pointer = format!("/mounts/{index}");
    let destination = mount.destination();
    if destination.as_os_str().is_empty() {
        return invalid(format_args!("{pointer}/destination"), destination, "must be a path");
    }
    if !destination.is_absolute() {
        // config.md, mounts: relative paths are deprecated, and relative to `/`.
        warnings.push(format!(
            "{pointer}/destination: {destination:?}: is taken as relative to /, which is deprecated"
        ));
    }
    let options = mount.options().as_deref().unwrap_or_default();
    let kind = mount.typ().as_deref().unwrap_or_default();
    let is_bind = kind == "bind" || options.iter().any(|option| option == "bind" || option == "rbind");
    if is_bind && mount.source().as_ref().is_none_or(|source| source.as_os_str().is_empty()) {
        return missing(format_args!("{pointer}/source"), "must be a path for a bind mount");
    }
    let values = options.iter().filter(|option| is_bind && option.contains('='));
    warnings.extend(values.map(|option| {
        format!("{pointer}/options: {option:?}: a bind mount takes no options of a file system, ignored")
    }));
    covers_proc(&clean(destination), kind, is_bind, &pointer)?;
    let (uid, gid) = (mount.uid_mappings().as_deref(), mount.gid_mappings().as_deref());
    if uid.is_some() != gid.is_some() {
        let lacks = if uid.is_some() { "gidMappings" } else { "uidMappings" };
        return missing(format_args!("{pointer}/{lacks}"), "must be there if the other mappings are");
    }
    if uid.is_some() && !is_bind {
        return invalid(format_args!("{pointer}/type"), kind, "must be a bind mount to have mappings");
    }
    id_mappings(uid.unwrap_or_default(), &format!("{pointer}/uidMappings"))?;
    id_mappings(gid.unwrap_or_default(), &format!("{pointer}/gidMappings"))
}

/// Row A6: nothing is mounted inside `/proc` but over the listed files, and over `/proc` itself only a proc file
/// system. Whether a bind mount over `/proc` is one is seen when its source is open.
fn covers_proc(destination: &Path, kind: &str, is_bind: bool, pointer: &str) -> Result<()> {
    let pointer = format_args!("{pointer}/destination");
    if destination == Path::new("/proc") {
        if kind == "proc" || is_bind {
            return Ok(());
        }
        return invalid(pointer, destination, format_args!("must have a mount of type proc, not {kind:?}"));
    }
    if destination.starts_with("/proc") && !PROC_FILES.iter().any(|file| destination == Path::new(file)) {
        return invalid(
            pointer,
            destination,
            format_args!("must not be inside /proc, but for {}", PROC_FILES.join(", ")),
        );
    }
    Ok(())
}

#[allow(deprecated, reason = "prestart hooks are deprecated, and still part of the specification")]
fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
    for (kind, list) in [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ] {
        for (index, hook) in list.iter().flatten().enumerate() {
            validate_hook(hook, &format!("/hooks/{kind}/{index}"))?;
        }
    }
    Ok(())
}

fn validate_hook(hook: &Hook, pointer: &str) -> Result<()> {
    absolute(format_args!("{pointer}/path"), hook.path())?;
    environment(hook.env().as_deref().unwrap_or_default(), &format!("{pointer}/env"))?;
    match hook.timeout() {
        Some(seconds) if seconds <= 0 => {
            invalid(format_args!("{pointer}/timeout"), seconds, "must be greater than 0")
        }
        _ => Ok(()),
    }
}

fn validate_linux(linux: &Linux, namespaces: &NamespacePlan) -> Result<()> {
    for (index, namespace) in linux.namespaces().iter().flatten().enumerate() {
        if let Some(path) = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty()) {
            absolute(format_args!("/linux/namespaces/{index}/path"), path)?;
        }
    }
    user_namespace(linux, namespaces)?;
    time_offsets(linux, namespaces)?;
    sysctls(linux, namespaces)?;
    devices(linux)?;
    for (name, paths) in [("maskedPaths", linux.masked_paths()), ("readonlyPaths", linux.readonly_paths())] {
        for (index, path) in paths.iter().flatten().enumerate() {
            let pointer = format!("/linux/{name}/{index}");
            absolute(&pointer, Path::new(path))?;
            if !namespaces.has(MOUNT) {
                return invalid(pointer, path, "must have a mount namespace in /linux/namespaces");
            }
        }
    }
    if let Some(propagation) = linux.rootfs_propagation().as_deref().filter(|name| !name.is_empty()) {
        let plain = propagation.strip_prefix('r').unwrap_or(propagation);
        if !["shared", "slave", "private", "unbindable"].contains(&plain) {
            let allowed = "must be shared, slave, private or unbindable, or one of them with an r in front";
            return invalid("/linux/rootfsPropagation", propagation, allowed);
        }
    }
    if let Some(flags) = linux.personality().as_ref().and_then(|personality| personality.flags().as_ref())
        && !flags.is_empty()
    {
        return invalid("/linux/personality/flags", flags, "must be empty: the specification names no flags");
    }
    if let Some(nodes) = linux.memory_policy().as_ref().and_then(|policy| policy.nodes().as_deref())
        && !nodes.bytes().all(|c| c.is_ascii_digit() || c == b',' || c == b'-')
    {
        return invalid("/linux/memoryPolicy/nodes", nodes, "must be a list as 0-3,7");
    }
    intel_rdt(linux)?;
    net_devices(linux, namespaces)?;
    linux.resources().as_ref().map_or(Ok(()), |resources| validate_resources(resources, "/linux/resources"))
}

fn user_namespace(linux: &Linux, namespaces: &NamespacePlan) -> Result<()> {
    for (name, mappings) in [("uidMappings", linux.uid_mappings()), ("gidMappings", linux.gid_mappings())] {
        let pointer = format!("/linux/{name}");
        let mappings = mappings.as_deref().unwrap_or_default();
        if !mappings.is_empty() && !namespaces.has(USER) {
            return invalid(pointer, mappings, "must have a user namespace in /linux/namespaces");
        }
        if mappings.is_empty() && namespaces.is_new(USER) {
            return missing(pointer, "must be there for a new user namespace");
        }
        id_mappings(mappings, &pointer)?;
    }
    Ok(())
}

/// Row E6: what the kernel's `map_write` would refuse with a bare EINVAL.
fn id_mappings(mappings: &[LinuxIdMapping], pointer: &str) -> Result<()> {
    if mappings.len() > ID_MAP_LINES_MAX {
        return invalid(
            pointer,
            mappings.len(),
            format_args!("must have at most {ID_MAP_LINES_MAX} entries"),
        );
    }
    for (index, mapping) in mappings.iter().enumerate() {
        if mapping.size() == 0 {
            return invalid(format_args!("{pointer}/{index}/size"), 0, "must be greater than 0");
        }
        for (name, first) in [("containerID", mapping.container_id()), ("hostID", mapping.host_id())] {
            // 4294967295 is no id, so that a range may end at it but not go over it.
            if first.checked_add(mapping.size()).is_none() {
                let allowed = format!("must be at most 4294967295 together with the size {}", mapping.size());
                return invalid(format_args!("{pointer}/{index}/{name}"), first, allowed);
            }
        }
    }
    overlap(mappings, pointer, "containerID", LinuxIdMapping::container_id)?;
    overlap(mappings, pointer, "hostID", LinuxIdMapping::host_id)
}

fn overlap(
    mappings: &[LinuxIdMapping],
    pointer: &str,
    name: &str,
    first: fn(&LinuxIdMapping) -> u32,
) -> Result<()> {
    let mut ranges: Vec<_> =
        mappings.iter().enumerate().map(|(index, mapping)| (first(mapping), mapping.size(), index)).collect();
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        let ((start, size, index), (next, _, next_index)) = (pair[0], pair[1]);
        if next - start < size {
            let allowed = format!("must not overlap the range of entry {index}");
            return invalid(format_args!("{pointer}/{next_index}/{name}"), next, allowed);
        }
    }
    Ok(())
}

/// The process cannot take an id that its user namespace does not have.
fn user_is_mapped(user: &User, linux: &Linux) -> Result<()> {
    let mapped = |mappings: &Option<Vec<LinuxIdMapping>>, id: u32| {
        mappings.iter().flatten().any(|mapping| {
            id.checked_sub(mapping.container_id()).is_some_and(|offset| offset < mapping.size())
        })
    };
    let groups = user.additional_gids().iter().flatten().enumerate();
    let groups = groups.map(|(index, &gid)| (format!("additionalGids/{index}"), gid));
    if !mapped(linux.uid_mappings(), user.uid()) {
        return invalid("/process/user/uid", user.uid(), "must be an id of /linux/uidMappings");
    }
    for (name, gid) in std::iter::once(("gid".to_owned(), user.gid())).chain(groups) {
        if !mapped(linux.gid_mappings(), gid) {
            return invalid(format_args!("/process/user/{name}"), gid, "must be an id of /linux/gidMappings");
        }
    }
    Ok(())
}

fn time_offsets(linux: &Linux, namespaces: &NamespacePlan) -> Result<()> {
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        let pointer = child("/linux/timeOffsets", clock);
        if !matches!(clock.as_str(), "monotonic" | "boottime") {
            return invalid(pointer, clock, "must be monotonic or boottime");
        }
        if !namespaces.is_new(TIME) {
            return invalid(pointer, clock, "must have a new time namespace in /linux/namespaces");
        }
        if let Some(seconds) = offset.secs().filter(|seconds| seconds.unsigned_abs() > TIME_OFFSET_MAX) {
            return invalid(format_args!("{pointer}/secs"), seconds, "must be -9223372036 to 9223372036");
        }
        if let Some(nanoseconds) = offset.nanosecs().filter(|&nanoseconds| nanoseconds > 999_999_999) {
            return invalid(format_args!("{pointer}/nanosecs"), nanoseconds, "must be 0 to 999999999");
        }
    }
    Ok(())
}

/// Rows B6 to B8. Whether a joined namespace is the host's own is seen when it is open.
fn sysctls(linux: &Linux, namespaces: &NamespacePlan) -> Result<()> {
    let mut paths = BTreeMap::new();
    for (key, value) in linux.sysctl().iter().flatten() {
        let pointer = child("/linux/sysctl", key);
        let parsed = SysctlKey::parse(key).map_err(|error| Error::new(format!("{pointer}: {error}")))?;
        if !namespaces.has(parsed.namespace) {
            let name = namespaces::name(parsed.namespace);
            return invalid(
                pointer,
                value,
                format_args!("must have a {name} namespace in /linux/namespaces"),
            );
        }
        if value.contains('\n') {
            return invalid(pointer, value, "must be one line");
        }
        if let Some(other) = paths.insert(parsed.path, key) {
            return invalid(pointer, key, format_args!("must not be another spelling of {other:?}"));
        }
    }
    Ok(())
}

fn devices(linux: &Linux) -> Result<()> {
    // MAJOR and MINOR of linux/kdev_t.h: 12 and 20 bits.
    const MAJORS: std::ops::RangeInclusive<i64> = 0..=4095;
    const MINORS: std::ops::RangeInclusive<i64> = 0..=1_048_575;
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let pointer = format!("/linux/devices/{index}");
        absolute(format_args!("{pointer}/path"), device.path())?;
        match device.typ() {
            LinuxDeviceType::P => {}
            LinuxDeviceType::A => {
                return invalid(format_args!("{pointer}/type"), "a", "must be c, b, u or p");
            }
            LinuxDeviceType::B | LinuxDeviceType::C | LinuxDeviceType::U => {
                for (name, number, range) in
                    [("major", device.major(), MAJORS), ("minor", device.minor(), MINORS)]
                {
                    if !range.contains(&number) {
                        let allowed = format!("must be {} to {}", range.start(), range.end());
                        return invalid(format_args!("{pointer}/{name}"), number, allowed);
                    }
                }
            }
        }
        if let Some(mode) = device.file_mode().filter(|&mode| mode & !(libc::S_IFMT | 0o7777) != 0) {
            return invalid(format_args!("{pointer}/fileMode"), mode, "must be a mode of chmod(2)");
        }
        for (name, id) in [("uid", device.uid()), ("gid", device.gid())] {
            if id == Some(u32::MAX) {
                return invalid(format_args!("{pointer}/{name}"), u32::MAX, "must be 0 to 4294967294");
            }
        }
    }
    Ok(())
}

/// Row F4: names that become directories of resctrl, and lines of its files.
fn intel_rdt(linux: &Linux) -> Result<()> {
    let Some(rdt) = linux.intel_rdt() else { return Ok(()) };
    if let Some(id) = rdt.clos_id().as_deref()
        && id != DEFAULT_CLASS
        && (matches!(id, "" | "." | ".." | "info" | "mon_groups" | "mon_data") || id.contains(['/', '\n']))
    {
        return invalid("/linux/intelRdt/closID", id, "must be a file name, or / for the default class");
    }
    if let Some(schema) = rdt.mem_bw_schema().as_deref()
        && (!schema.starts_with("MB:") || schema.contains('\n'))
    {
        return invalid("/linux/intelRdt/memBwSchema", schema, "must be one line that starts with MB:");
    }
    for (index, line) in rdt.schemata().iter().flatten().enumerate() {
        if line.is_empty() || line.contains('\n') {
            return invalid(format_args!("/linux/intelRdt/schemata/{index}"), line, "must be one line");
        }
    }
    Ok(())
}

/// Row F4: what the kernel's `dev_valid_name` takes, and no `%`, but for the `%d` at the end of a new name that
/// config-linux.md (netDevices) has the kernel replace by a number.
fn net_devices(linux: &Linux, namespaces: &NamespacePlan) -> Result<()> {
    let valid = |name: &str| {
        let plain = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | ':' | '%');
        (1..=INTERFACE_NAME_MAX).contains(&name.len())
            && name != "."
            && name != ".."
            && name.chars().all(plain)
    };
    let mut inside = HashSet::new();
    for (name, device) in linux.net_devices().iter().flatten() {
        let pointer = child("/linux/netDevices", name);
        if !namespaces.has(NETWORK) {
            return invalid(pointer, name, "must have a network namespace in /linux/namespaces");
        }
        let renamed = device.name().as_deref().filter(|renamed| !renamed.is_empty());
        let template = renamed.and_then(|renamed| renamed.strip_suffix(TEMPLATE));
        for candidate in [Some(name.as_str()), template.or(renamed)].into_iter().flatten() {
            if !valid(candidate) {
                return invalid(
                    pointer,
                    candidate,
                    format_args!("must be an interface name of at most {INTERFACE_NAME_MAX} bytes"),
                );
            }
        }
        if template.is_none() && !inside.insert(renamed.unwrap_or(name)) {
            return invalid(pointer, renamed.unwrap_or(name), "must be the name of one device only");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
