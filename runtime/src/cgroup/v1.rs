//! Resources as cgroup v1 takes them (`Documentation/admin-guide/cgroup-v1/`, runtime-spec `config-linux.md`).
//!
//! As everywhere in the runtime spec's Go heritage, 0 in a number means "not set" unless 0 itself is a value.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice};

use crate::cgroup::apply::{Missing, Write};
use crate::cgroup::plan::invalid;
use crate::error::Result;

/// What `cpu.shares` can hold (`MIN_SHARES`, `MAX_SHARES` of `kernel/sched/sched.h`): the kernel clamps silently.
const SHARES: std::ops::RangeInclusive<u64> = 2..=262_144;

/// A limit of which 0 means "not set" and -1 "none".
///
/// # Errors
/// Any other negative number.
pub(super) fn limit(base: &str, source: &str, value: Option<i64>) -> Result<Option<i64>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value) if value >= -1 => Ok(Some(value)),
        Some(value) => Err(invalid(base, source, value, "must be -1 (no limit) or more")),
    }
}

/// The three limits of `memory`, checked against each other.
pub(super) struct Memory {
    /// RAM in bytes, -1 for no limit.
    pub limit: Option<i64>,
    /// RAM and swap together in bytes, -1 for no limit.
    pub swap: Option<i64>,
    /// The soft limit in bytes, -1 for none.
    pub reservation: Option<i64>,
}

impl Memory {
    /// # Errors
    /// A number below -1, or a total below the limit.
    pub(super) fn new(base: &str, resources: &LinuxResources) -> Result<Self> {
        let Some(memory) = resources.memory() else {
            return Ok(Self { limit: None, swap: None, reservation: None });
        };
        let parsed = Self {
            limit: limit(base, "memory/limit", memory.limit())?,
            swap: limit(base, "memory/swap", memory.swap())?,
            reservation: limit(base, "memory/reservation", memory.reservation())?,
        };
        match (parsed.limit, parsed.swap) {
            (Some(limit), Some(swap)) if limit > 0 && swap > 0 && swap < limit => Err(invalid(
                base,
                "memory/swap",
                swap,
                &format!("is memory and swap together and must be at least the memory limit {limit}"),
            )),
            _ => Ok(parsed),
        }
    }
}

pub(super) fn memory(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    let parsed = Memory::new(base, resources)?;
    if let Some(limit) = parsed.limit {
        // The kernel keeps limit <= memory+swap at every moment, so that which one goes first depends on both values.
        writes.push(Write::new("memory.limit_in_bytes", limit.to_string(), "memory/limit").or_again());
    }
    let swap =
        |value: i64| Write::new("memory.memsw.limit_in_bytes", value.to_string(), "memory/swap").or_again();
    match parsed.swap {
        Some(total) => writes.push(swap(total)),
        // No limit on memory means none on the total either, where swap is accounted for at all.
        None if parsed.limit == Some(-1) => writes.push(swap(-1).if_missing(Missing::Holds)),
        None => {}
    }
    if let Some(reservation) = parsed.reservation {
        writes.push(Write::new("memory.soft_limit_in_bytes", reservation.to_string(), "memory/reservation"));
    }
    if memory.disable_oom_killer() == Some(true) {
        writes.push(Write::new("memory.oom_control", "1", "memory/disableOOMKiller"));
    }
    if let Some(swappiness) = swappiness(base, memory.swappiness())? {
        writes.push(Write::new("memory.swappiness", swappiness.to_string(), "memory/swappiness"));
    }
    // kernel and kernelTCP are obsolete and without effect, as in runc; useHierarchy is what Linux 5.11 always does.
    Ok(())
}

/// 0 to 100; managers write "not set" as -1, which is the largest u64.
///
/// # Errors
/// A number above 100.
pub(super) fn swappiness(base: &str, value: Option<u64>) -> Result<Option<u64>> {
    match value {
        None | Some(u64::MAX) => Ok(None),
        Some(value) if value <= 100 => Ok(Some(value)),
        Some(value) => Err(invalid(base, "memory/swappiness", value, "must be 0 to 100")),
    }
}

pub(super) fn cpu(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    // Real-time limits come first: a real-time process cannot enter a cgroup without real-time budget.
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        writes.push(Write::new("cpu.rt_period_us", period.to_string(), "cpu/realtimePeriod").or_again());
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        writes.push(Write::new("cpu.rt_runtime_us", runtime.to_string(), "cpu/realtimeRuntime"));
    }
    let shares = shares(base, cpu.shares())?;
    let shares = shares.map(|shares| Write::new("cpu.shares", shares.to_string(), "cpu/shares"));
    push_idle_and_weight(writes, idle(base, cpu.idle())?, shares);
    if let Some(period) = cpu.period().filter(|&period| period != 0) {
        writes.push(Write::new("cpu.cfs_period_us", period.to_string(), "cpu/period").or_again());
    }
    if let Some(burst) = cpu.burst() {
        let write = Write::new("cpu.cfs_burst_us", burst.to_string(), "cpu/burst").or_again();
        writes.push(if burst == 0 { write.if_missing(Missing::Holds) } else { write });
    }
    if let Some(quota) = cpu.quota().filter(|&quota| quota != 0) {
        writes.push(Write::new("cpu.cfs_quota_us", quota.max(-1).to_string(), "cpu/quota").or_again());
    }
    Ok(())
}

/// `cpu.shares`, 0 being "not set".
///
/// # Errors
/// What the kernel would clamp.
fn shares(base: &str, value: Option<u64>) -> Result<Option<u64>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value) if SHARES.contains(&value) => Ok(Some(value)),
        Some(value) => Err(invalid(base, "cpu/shares", value, "must be 2 to 262144")),
    }
}

/// `cpu.idle`: 1 for SCHED_IDLE.
///
/// # Errors
/// Anything but 0 and 1.
pub(super) fn idle(base: &str, value: Option<i64>) -> Result<Option<Write>> {
    match value {
        None => Ok(None),
        Some(0) => Ok(Some(Write::new("cpu.idle", "0", "cpu/idle").if_missing(Missing::Holds))),
        Some(1) => Ok(Some(Write::new("cpu.idle", "1", "cpu/idle"))),
        Some(value) => Err(invalid(base, "cpu/idle", value, "must be 0 or 1")),
    }
}

/// An idle group refuses a weight (`sched_group_set_shares`), so `idle` is cleared before it and set after it.
pub(super) fn push_idle_and_weight(writes: &mut Vec<Write>, idle: Option<Write>, weight: Option<Write>) {
    match idle {
        Some(idle) if idle.value == "1" => {
            writes.extend(weight);
            writes.push(idle);
        }
        idle => {
            writes.extend(idle);
            writes.extend(weight);
        }
    }
}

pub(super) fn cpuset(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    for (file, source, list) in
        [("cpuset.cpus", "cpu/cpus", cpu.cpus()), ("cpuset.mems", "cpu/mems", cpu.mems())]
    {
        let Some(list) = list.as_deref().filter(|list| !list.is_empty()) else { continue };
        if list.chars().any(|c| !c.is_ascii_digit() && !matches!(c, ',' | '-' | ' ')) {
            return Err(invalid(base, source, list, "must be a list such as \"0-3,6\""));
        }
        writes.push(Write::new(file, list, source));
    }
    Ok(())
}

/// 0 is "not set" (the type cannot tell it from absent), any negative number "no limit".
pub(super) fn pids(_base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    match resources.pids().as_ref().map_or(0, |pids| pids.limit()) {
        0 => {}
        limit if limit < 0 => writes.push(Write::new("pids.max", "max", "pids/limit")),
        limit => writes.push(Write::new("pids.max", limit.to_string(), "pids/limit")),
    }
    Ok(())
}

pub(super) fn blkio(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(io) = resources.block_io() else { return Ok(()) };
    if let Some(weight) = io_weight(base, "blockIO/weight", io.weight())? {
        // CFQ's file went away with Linux 5.0; BFQ's takes the same numbers.
        let other = Missing::Use("blkio.bfq.weight".into(), weight.to_string());
        writes.push(Write::new("blkio.weight", weight.to_string(), "blockIO/weight").if_missing(other));
    }
    if let Some(weight) = io_weight(base, "blockIO/leafWeight", io.leaf_weight())? {
        writes.push(Write::new("blkio.leaf_weight", weight.to_string(), "blockIO/leafWeight"));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let source = format!("blockIO/weightDevice/{index}");
        check_device(base, &source, device.major(), device.minor())?;
        if let Some(weight) = io_weight(base, &format!("{source}/weight"), device.weight())? {
            let line = weight_line(device, weight.into());
            let other = Missing::Use("blkio.bfq.weight_device".into(), line.clone());
            writes.push(Write::new("blkio.weight_device", line, "").of(source.clone()).if_missing(other));
        }
        if let Some(weight) = io_weight(base, &format!("{source}/leafWeight"), device.leaf_weight())? {
            let line = weight_line(device, weight.into());
            writes.push(Write::new("blkio.leaf_weight_device", line, "").of(source));
        }
    }
    for (file, name, devices) in [
        ("blkio.throttle.read_bps_device", "throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", "throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", "throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", "throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ] {
        for (source, device) in throttles(base, name, devices.as_deref())? {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            writes.push(Write::new(file, line, "").of(source));
        }
    }
    Ok(())
}

/// 10 to 1000 (runtime-spec, blockIO), 0 being "not set".
///
/// # Errors
/// Any other number.
pub(super) fn io_weight(base: &str, source: &str, value: Option<u16>) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value @ 10..=1000) => Ok(Some(value)),
        Some(value) => Err(invalid(base, source, value, "must be 10 to 1000")),
    }
}

/// `MAJOR:MINOR WEIGHT`.
pub(super) fn weight_line(device: &LinuxWeightDevice, weight: u64) -> String {
    format!("{}:{} {weight}", device.major(), device.minor())
}

/// The devices of one throttle list, each with its place in the resources.
///
/// # Errors
/// Numbers that are no device's.
pub(super) fn throttles<'a>(
    base: &str,
    name: &str,
    devices: Option<&'a [LinuxThrottleDevice]>,
) -> Result<Vec<(String, &'a LinuxThrottleDevice)>> {
    let mut checked = Vec::new();
    for (index, device) in devices.unwrap_or_default().iter().enumerate() {
        let source = format!("blockIO/{name}/{index}");
        check_device(base, &source, device.major(), device.minor())?;
        checked.push((source, device));
    }
    Ok(checked)
}

/// # Errors
/// Numbers that do not fit a device number.
pub(super) fn check_device(base: &str, source: &str, major: i64, minor: i64) -> Result<()> {
    for (name, number) in [("major", major), ("minor", minor)] {
        if u32::try_from(number).is_err() {
            return Err(invalid(base, &format!("{source}/{name}"), number, "must be a device number"));
        }
    }
    Ok(())
}

pub(super) fn hugetlb(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let (size, bytes) = hugepages(base, index, limit)?;
        let source = format!("hugepageLimits/{index}");
        writes.push(
            Write::new(Cow::from(format!("hugetlb.{size}.limit_in_bytes")), bytes.to_string(), "")
                .of(source.clone()),
        );
        // The reservation limit is what protects from SIGBUS; kernels before 5.7 have none, and then the first one rules.
        writes.push(
            Write::new(Cow::from(format!("hugetlb.{size}.rsvd.limit_in_bytes")), bytes.to_string(), "")
                .of(source)
                .if_missing(Missing::Holds),
        );
    }
    Ok(())
}

/// A huge page size and its limit in bytes, -1 for none. The size becomes part of a file's name (security.md F3).
///
/// # Errors
/// A size that is not `<number>KB`, `MB` or `GB`, or a limit below -1.
pub(super) fn hugepages<'a>(
    base: &str,
    index: usize,
    limit: &'a LinuxHugepageLimit,
) -> Result<(&'a str, i64)> {
    let size = limit.page_size().as_str();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
    if number.is_empty() || number.starts_with('0') || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let source = format!("hugepageLimits/{index}/pageSize");
        return Err(invalid(base, &source, size, "must be a size such as 2MB or 1GB"));
    }
    if limit.limit() < -1 {
        let source = format!("hugepageLimits/{index}/limit");
        return Err(invalid(base, &source, limit.limit(), "must be -1 (no limit) or more"));
    }
    Ok((size, limit.limit()))
}

/// `rdma.max` is the same file in both versions (`Documentation/admin-guide/cgroup-v1/rdma.rst`).
pub(super) fn rdma(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    for (name, limit) in devices {
        let source = format!("rdma/{name}");
        check_name(base, &source, name)?;
        let mut line = name.clone();
        for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        if line.len() > name.len() {
            writes.push(Write::new("rdma.max", line, "").of(source));
        }
    }
    Ok(())
}

/// A name that is put in front of a value in one line: the kernel must not read more than one (security.md F3).
fn check_name(base: &str, source: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/') {
        return Err(invalid(base, source, name, "must be a device name without spaces or slashes"));
    }
    Ok(())
}

pub(super) fn net_cls(_base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let class = resources.network().as_ref().and_then(|network| network.class_id());
    if let Some(class) = class.filter(|&class| class != 0) {
        writes.push(Write::new("net_cls.classid", class.to_string(), "network/classID"));
    }
    Ok(())
}

pub(super) fn net_prio(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(network) = resources.network() else { return Ok(()) };
    for (index, priority) in network.priorities().iter().flatten().enumerate() {
        let source = format!("network/priorities/{index}");
        check_name(base, &format!("{source}/name"), priority.name())?;
        let line = format!("{} {}", priority.name(), priority.priority());
        writes.push(Write::new("net_prio.ifpriomap", line, "").of(source));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::plan::RESOURCES;

    type Convert = fn(&str, &LinuxResources, &mut Vec<Write>) -> Result<()>;

    /// `file=value` of each write, or the error.
    fn text(convert: Convert, json: &str) -> String {
        let mut writes = Vec::new();
        match convert(RESOURCES, &serde_json::from_str(json).unwrap(), &mut writes) {
            Ok(()) => {
                let texts: Vec<_> =
                    writes.iter().map(|write| format!("{}={}", write.file, write.value)).collect();
                texts.join("; ")
            }
            Err(error) => error.to_string(),
        }
    }

    /// security.md F14: -1 is no limit, 0 not set, nothing else negative, and no number is changed on the way.
    #[test]
    fn f14_memory() {
        for (json, expected) in [
            (r"{}", ""),
            (
                r#"{"memory":{"limit":0,"swap":0,"reservation":0,"swappiness":18446744073709551615,"disableOOMKiller":false}}"#,
                "",
            ),
            (
                r#"{"memory":{"limit":9223372036854775807,"swap":-1,"reservation":1,"swappiness":0,"disableOOMKiller":true}}"#,
                "memory.limit_in_bytes=9223372036854775807; memory.memsw.limit_in_bytes=-1; memory.soft_limit_in_bytes=1; \
                 memory.oom_control=1; memory.swappiness=0",
            ),
            (r#"{"memory":{"limit":-1}}"#, "memory.limit_in_bytes=-1; memory.memsw.limit_in_bytes=-1"),
            (r#"{"memory":{"kernel":1,"kernelTCP":2,"useHierarchy":false}}"#, ""),
            (
                r#"{"memory":{"limit":-2}}"#,
                "/linux/resources/memory/limit: -2: must be -1 (no limit) or more",
            ),
            (
                r#"{"memory":{"limit":8192,"swap":4096}}"#,
                "/linux/resources/memory/swap: 4096: is memory and swap together and must be at least the memory limit 8192",
            ),
            (r#"{"memory":{"swappiness":101}}"#, "/linux/resources/memory/swappiness: 101: must be 0 to 100"),
        ] {
            assert_eq!(text(memory, json), expected, "{json}");
        }
    }

    #[test]
    fn f14_cpu() {
        for (json, expected) in [
            (
                r#"{"cpu":{"shares":0,"quota":0,"period":0,"realtimePeriod":0,"realtimeRuntime":0,"burst":0}}"#,
                "cpu.cfs_burst_us=0",
            ),
            (
                r#"{"cpu":{"shares":262144,"quota":-5,"period":100000,"burst":7,"realtimePeriod":9,"realtimeRuntime":8}}"#,
                "cpu.rt_period_us=9; cpu.rt_runtime_us=8; cpu.shares=262144; cpu.cfs_period_us=100000; cpu.cfs_burst_us=7; \
                 cpu.cfs_quota_us=-1",
            ),
            (r#"{"cpu":{"shares":1024,"idle":1}}"#, "cpu.shares=1024; cpu.idle=1"),
            (r#"{"cpu":{"shares":1024,"idle":0}}"#, "cpu.idle=0; cpu.shares=1024"),
            (r#"{"cpu":{"idle":2}}"#, "/linux/resources/cpu/idle: 2: must be 0 or 1"),
            (r#"{"cpu":{"shares":1}}"#, "/linux/resources/cpu/shares: 1: must be 2 to 262144"),
            (
                r#"{"cpu":{"shares":18446744073709551615}}"#,
                "/linux/resources/cpu/shares: 18446744073709551615: must be 2 to 262144",
            ),
        ] {
            assert_eq!(text(cpu, json), expected, "{json}");
        }
        assert_eq!(text(cpuset, r#"{"cpu":{"cpus":"0-3,6","mems":""}}"#), "cpuset.cpus=0-3,6");
        let error = text(cpuset, r#"{"cpu":{"mems":"0\n1"}}"#);
        assert_eq!(error, "/linux/resources/cpu/mems: \"0\\n1\": must be a list such as \"0-3,6\"");
    }

    #[test]
    fn f14_pids_and_network() {
        for (limit, expected) in
            [("0", ""), ("-1", "pids.max=max"), ("-9", "pids.max=max"), ("1", "pids.max=1")]
        {
            assert_eq!(text(pids, &format!(r#"{{"pids":{{"limit":{limit}}}}}"#)), expected);
        }
        let network = r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#;
        assert_eq!(text(net_cls, network), "net_cls.classid=1048577");
        assert_eq!(text(net_prio, network), "net_prio.ifpriomap=eth0 5");
    }

    #[test]
    fn f14_blkio() {
        let json = r#"{"blockIO":{"weight":10,"leafWeight":1000,"weightDevice":[{"major":8,"minor":0,"weight":500,"leafWeight":300}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],"throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":0}]}}"#;
        assert_eq!(
            text(blkio, json),
            "blkio.weight=10; blkio.leaf_weight=1000; blkio.weight_device=8:0 500; blkio.leaf_weight_device=8:0 300; \
             blkio.throttle.read_bps_device=8:0 600; blkio.throttle.write_iops_device=8:16 0"
        );
        assert_eq!(
            text(blkio, r#"{"blockIO":{"weight":9}}"#),
            "/linux/resources/blockIO/weight: 9: must be 10 to 1000"
        );
        assert_eq!(
            text(blkio, r#"{"blockIO":{"throttleReadBpsDevice":[{"major":-1,"minor":0,"rate":1}]}}"#),
            "/linux/resources/blockIO/throttleReadBpsDevice/0/major: -1: must be a device number"
        );
    }

    /// security.md F3: what becomes part of a file's name or of a line is one plain word.
    #[test]
    fn f3_keys_are_plain() {
        for size in ["2MB/../x", "", "MB", "02MB", "2mb", "2", "-1MB", "2 MB", "../2MB", "2MB\n"] {
            let json = serde_json::json!({"hugepageLimits": [{"pageSize": size, "limit": 1}]}).to_string();
            let error = text(hugetlb, &json);
            assert!(error.starts_with("/linux/resources/hugepageLimits/0/pageSize: "), "{size:?}: {error}");
        }
        assert_eq!(
            text(hugetlb, r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#),
            "hugetlb.2MB.limit_in_bytes=4194304; hugetlb.2MB.rsvd.limit_in_bytes=4194304"
        );
        for name in ["eth0\n1", "eth0 1", "", "a/b", "x\u{0}"] {
            let json = serde_json::json!({"network": {"priorities": [{"name": name, "priority": 1}]},
                "rdma": {name: {"hcaHandles": 1}}})
            .to_string();
            assert!(
                text(net_prio, &json).starts_with("/linux/resources/network/priorities/0/name: "),
                "{name:?}"
            );
            assert!(text(rdma, &json).starts_with("/linux/resources/rdma/"), "{name:?}");
        }
        let json =
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10000},"mlx4_0":{"hcaObjects":1},"none":{}}}"#;
        assert_eq!(
            text(rdma, json),
            "rdma.max=mlx4_0 hca_object=1; rdma.max=mlx5_1 hca_handle=3 hca_object=10000"
        );
    }
}
