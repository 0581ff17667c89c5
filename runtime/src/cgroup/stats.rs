//! What a cgroup has used, in the form that `runc events --stats` prints and managers read.
//!
//! A number that a host does not keep is 0 or left out, as there. v2's numbers are converted to v1's terms: times to
//! nanoseconds, swap to memory and swap together.

use std::collections::BTreeMap;

use nix::errno::Errno;
use serde::Serialize;

use crate::cgroup::control::{value_of, values_of};
use crate::cgroup::place::{Cgroup, Group};
use crate::error::{Context as _, Result};

/// How long a clock tick is: `cpuacct.stat` counts in USER_HZ, which is 100 on every architecture of today.
const NANOSECONDS_PER_TICK: u64 = 10_000_000;

/// The `data` of a `stats` event.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Stats {
    /// CPU time.
    pub cpu: Cpu,
    /// The cpuset (v1).
    pub cpuset: Cpuset,
    /// Memory.
    pub memory: Memory,
    /// Processes.
    pub pids: Pids,
    /// Block devices.
    pub blkio: Blkio,
    /// Huge pages, by their size.
    pub hugetlb: BTreeMap<String, Hugetlb>,
    /// Intel RDT: not there yet, and callers expect the object.
    pub intel_rdt: BTreeMap<String, String>,
    /// Network interfaces of the runtime's own making: none, and callers expect the null.
    pub network_interfaces: Option<()>,
}

/// CPU time.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Cpu {
    /// Used time.
    pub usage: CpuUsage,
    /// Time that a quota took away.
    pub throttling: Throttling,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// Used CPU time in nanoseconds.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct CpuUsage {
    /// In all.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    /// On each CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    /// In the kernel, on each CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    /// In user mode, on each CPU (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    /// In the kernel.
    pub kernel: u64,
    /// In user mode.
    pub user: u64,
}

/// What a CPU quota did.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    /// Periods that have passed.
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    /// Those in which the quota was used up.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    /// Nanoseconds that were waited.
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

/// The cpuset's settings (v1).
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Cpuset {
    /// CPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    /// The file of this name.
    pub cpu_exclusive: u64,
    /// Memory nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    /// The file of this name.
    pub mem_hardwall: u64,
    /// The file of this name.
    pub mem_exclusive: u64,
    /// The file of this name.
    pub memory_migrate: u64,
    /// The file of this name.
    pub memory_spread_page: u64,
    /// The file of this name.
    pub memory_spread_slab: u64,
    /// The file of this name.
    pub memory_pressure: u64,
    /// The file of this name.
    pub sched_load_balance: u64,
    /// The file of this name.
    pub sched_relax_domain_level: i64,
}

/// Memory.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Memory {
    /// Page cache in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    /// Memory.
    pub usage: MemoryEntry,
    /// Memory and swap together.
    pub swap: MemoryEntry,
    /// Kernel memory (v1).
    pub kernel: MemoryEntry,
    /// TCP buffers (v1).
    #[serde(rename = "kernelTCP")]
    pub kernel_tcp: MemoryEntry,
    /// `memory.stat` as it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
    /// `memory.events` (v2), without what has not happened: who reads `events` for a line with `oom`, as runc's own test
    /// does, is not to find it in every line.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub event_count: BTreeMap<String, u64>,
}

/// One kind of memory, in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct MemoryEntry {
    /// The limit; none is the largest number.
    pub limit: u64,
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was ever in use.
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit (v1).
    pub failcnt: u64,
}

/// Processes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// How many tasks there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    /// Their limit; 0 for none.
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

/// Block devices.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Blkio {
    /// Bytes moved.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlkioEntry>,
    /// Operations done.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlkioEntry>,
    /// Operations waiting (v1).
    #[serde(rename = "ioQueueRecursive", skip_serializing_if = "Vec::is_empty")]
    pub io_queued_recursive: Vec<BlkioEntry>,
    /// Nanoseconds between dispatch and completion (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_time_recursive: Vec<BlkioEntry>,
    /// Nanoseconds waited in queues (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_wait_time_recursive: Vec<BlkioEntry>,
    /// Operations merged (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_merged_recursive: Vec<BlkioEntry>,
    /// Milliseconds of disk time (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_time_recursive: Vec<BlkioEntry>,
    /// Sectors moved (v1).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sectors_recursive: Vec<BlkioEntry>,
    /// Pressure (v2).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Psi>,
}

/// One number of one device.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct BlkioEntry {
    /// Device number.
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    /// Device number.
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    /// Read, Write, Sync, Async, Discard or Total.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub op: String,
    /// The number.
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

/// Huge pages of one size, in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct Hugetlb {
    /// In use.
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    /// The most that was ever in use (v1).
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    /// How often the limit was hit.
    pub failcnt: u64,
}

/// Pressure stall information (`Documentation/accounting/psi.rst`).
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct Psi {
    /// Some tasks were stalled.
    pub some: PsiData,
    /// All of them were.
    pub full: PsiData,
}

/// Pressure over time.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct PsiData {
    /// Percent of the last 10 s.
    pub avg10: f64,
    /// Percent of the last 60 s.
    pub avg60: f64,
    /// Percent of the last 300 s.
    pub avg300: f64,
    /// Microseconds in all.
    pub total: u64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants a reference")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Cgroup {
    /// What the container has used.
    ///
    /// # Errors
    /// A file cannot be read; `ENOENT` or `ENODEV` where the cgroup has gone.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for group in self.v1.iter().chain(&self.v2) {
            let is_v2 = group.at.controllers.is_empty();
            let read = if is_v2 { v2(group, self.v1.is_empty(), &mut stats) } else { v1(group, &mut stats) };
            read.context(|| format!("read statistics of {}", group.at.full().display()))?;
        }
        Ok(stats)
    }
}

/// A file, or nothing where this kernel has none.
fn text(group: &Group, file: &str) -> nix::Result<String> {
    match group.read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
        // EOPNOTSUPP: pressure files while PSI is switched off; EINVAL: files of a controller that is not on.
        Err(Errno::ENOENT | Errno::EOPNOTSUPP) => Ok(String::new()),
        Err(errno) => Err(errno),
    }
}

/// A number, `max` being the largest one; 0 where there is no such file.
fn number(group: &Group, file: &str) -> nix::Result<u64> {
    let text = text(group, file)?;
    if text == "max" { Ok(u64::MAX) } else { Ok(text.parse().unwrap_or(0)) }
}

fn v1(group: &Group, stats: &mut Stats) -> nix::Result<()> {
    // Opening it first tells a cgroup that has gone from files that are not there.
    group.dir()?;
    if group.has("cpuacct") {
        v1_cpuacct(group, &mut stats.cpu.usage)?;
    }
    if group.has("cpu") {
        let stat = text(group, "cpu.stat")?;
        let value = |key| value_of(stat.as_bytes(), key).unwrap_or(0);
        stats.cpu.throttling = Throttling {
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
            throttled_time: value("throttled_time"),
        };
    }
    if group.has("cpuset") {
        stats.cpuset = v1_cpuset(group)?;
    }
    if group.has("memory") {
        let memory = &mut stats.memory;
        memory.raw = values_of(text(group, "memory.stat")?.as_bytes());
        memory.cache = memory.raw.get("cache").copied().unwrap_or(0);
        memory.usage = v1_memory(group, "memory")?;
        memory.swap = v1_memory(group, "memory.memsw")?;
        memory.kernel = v1_memory(group, "memory.kmem")?;
        memory.kernel_tcp = v1_memory(group, "memory.kmem.tcp")?;
    }
    if group.has("pids") {
        stats.pids = pids(group)?;
    }
    if group.has("blkio") {
        v1_blkio(group, &mut stats.blkio)?;
    }
    if group.has("hugetlb") {
        for size in group.hugepage_sizes(".usage_in_bytes")? {
            let value = |what| number(group, &format!("hugetlb.{size}.{what}"));
            let entry = Hugetlb {
                usage: value("usage_in_bytes")?,
                max: value("max_usage_in_bytes")?,
                failcnt: value("failcnt")?,
            };
            stats.hugetlb.insert(size, entry);
        }
    }
    Ok(())
}

fn v1_cpuacct(group: &Group, usage: &mut CpuUsage) -> nix::Result<()> {
    usage.total = number(group, "cpuacct.usage")?;
    let per_cpu = text(group, "cpuacct.usage_percpu")?;
    usage.percpu = per_cpu.split_ascii_whitespace().filter_map(|value| value.parse().ok()).collect();
    // `cpu user system`, a heading, then a line for each CPU.
    for line in text(group, "cpuacct.usage_all")?.lines().skip(1) {
        let mut columns = line.split_ascii_whitespace().skip(1).map(|value| value.parse().unwrap_or(0));
        usage.percpu_user.push(columns.next().unwrap_or(0));
        usage.percpu_kernel.push(columns.next().unwrap_or(0));
    }
    let stat = text(group, "cpuacct.stat")?;
    let ticks = |key| value_of(stat.as_bytes(), key).unwrap_or(0).saturating_mul(NANOSECONDS_PER_TICK);
    usage.user = ticks("user");
    usage.kernel = ticks("system");
    Ok(())
}

fn v1_cpuset(group: &Group) -> nix::Result<Cpuset> {
    let flag = |file: &str| number(group, &format!("cpuset.{file}"));
    Ok(Cpuset {
        cpus: number_list(&text(group, "cpuset.cpus")?),
        cpu_exclusive: flag("cpu_exclusive")?,
        mems: number_list(&text(group, "cpuset.mems")?),
        mem_hardwall: flag("mem_hardwall")?,
        mem_exclusive: flag("mem_exclusive")?,
        memory_migrate: flag("memory_migrate")?,
        memory_spread_page: flag("memory_spread_page")?,
        memory_spread_slab: flag("memory_spread_slab")?,
        memory_pressure: flag("memory_pressure")?,
        sched_load_balance: flag("sched_load_balance")?,
        sched_relax_domain_level: text(group, "cpuset.sched_relax_domain_level")?.parse().unwrap_or(0),
    })
}

/// `0-3,6` as numbers.
fn number_list(text: &str) -> Vec<u16> {
    let mut numbers = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.trim().parse::<u16>(), last.trim().parse()) {
            numbers.extend(first..=last);
        }
    }
    numbers
}

fn v1_memory(group: &Group, prefix: &str) -> nix::Result<MemoryEntry> {
    Ok(MemoryEntry {
        limit: number(group, &format!("{prefix}.limit_in_bytes"))?,
        usage: number(group, &format!("{prefix}.usage_in_bytes"))?,
        max: number(group, &format!("{prefix}.max_usage_in_bytes"))?,
        failcnt: number(group, &format!("{prefix}.failcnt"))?,
    })
}

fn pids(group: &Group) -> nix::Result<Pids> {
    let limit = number(group, "pids.max")?;
    Ok(Pids { current: number(group, "pids.current")?, limit: if limit == u64::MAX { 0 } else { limit } })
}

/// Which files there are depends on the IO scheduler: CFQ's (before Linux 5.0), BFQ's, or those of the throttle policy,
/// which counts for every scheduler but knows bytes and operations only.
fn v1_blkio(group: &Group, blkio: &mut Blkio) -> nix::Result<()> {
    let read = |name: &str| {
        for prefix in ["blkio.", "blkio.bfq.", "blkio.throttle."] {
            let entries = parse_blkio(&text(group, &format!("{prefix}{name}"))?);
            if !entries.is_empty() {
                return Ok(entries);
            }
        }
        Ok(Vec::new())
    };
    blkio.io_service_bytes_recursive = read("io_service_bytes_recursive")?;
    blkio.io_serviced_recursive = read("io_serviced_recursive")?;
    blkio.io_queued_recursive = read("io_queued_recursive")?;
    blkio.io_service_time_recursive = read("io_service_time_recursive")?;
    blkio.io_wait_time_recursive = read("io_wait_time_recursive")?;
    blkio.io_merged_recursive = read("io_merged_recursive")?;
    blkio.io_time_recursive = read("time_recursive")?;
    blkio.sectors_recursive = read("sectors_recursive")?;
    Ok(())
}

/// `MAJOR:MINOR [OPERATION] VALUE`; the sum over all devices, `Total VALUE`, is left out.
fn parse_blkio(text: &str) -> Vec<BlkioEntry> {
    let entry = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (major, minor) = fields.next()?.split_once(':')?;
        let (op, value) = match (fields.next()?, fields.next()) {
            (op, Some(value)) => (op, value),
            (value, None) => ("", value),
        };
        Some(BlkioEntry {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            op: op.to_owned(),
            value: value.parse().ok()?,
        })
    };
    text.lines().filter_map(entry).collect()
}

/// On a hybrid host (`alone` is false) v1 has given most of it; pressure and what v1 does not have is taken from here.
fn v2(group: &Group, alone: bool, stats: &mut Stats) -> nix::Result<()> {
    group.dir()?;
    stats.cpu.psi = psi(group, "cpu.pressure")?;
    stats.memory.psi = psi(group, "memory.pressure")?;
    stats.blkio.psi = psi(group, "io.pressure")?;
    for size in group.hugepage_sizes(".current")? {
        let events = text(group, &format!("hugetlb.{size}.events"))?;
        let entry = Hugetlb {
            usage: number(group, &format!("hugetlb.{size}.current"))?,
            max: 0,
            failcnt: value_of(events.as_bytes(), "max").unwrap_or(0),
        };
        stats.hugetlb.insert(size, entry);
    }
    if !alone {
        return Ok(());
    }
    let stat = text(group, "cpu.stat")?;
    let nanoseconds = |key| value_of(stat.as_bytes(), key).unwrap_or(0).saturating_mul(1000);
    stats.cpu.usage.total = nanoseconds("usage_usec");
    stats.cpu.usage.user = nanoseconds("user_usec");
    stats.cpu.usage.kernel = nanoseconds("system_usec");
    stats.cpu.throttling = Throttling {
        periods: value_of(stat.as_bytes(), "nr_periods").unwrap_or(0),
        throttled_periods: value_of(stat.as_bytes(), "nr_throttled").unwrap_or(0),
        throttled_time: nanoseconds("throttled_usec"),
    };
    v2_memory(group, &mut stats.memory)?;
    stats.pids = pids(group)?;
    if stats.pids.current == 0 {
        // The controller may be off; who is inside is known all the same.
        let procs = text(group, "cgroup.procs")?;
        stats.pids.current = u64::try_from(procs.lines().count()).unwrap_or(u64::MAX);
    }
    v2_io(&text(group, "io.stat")?, &mut stats.blkio);
    Ok(())
}

fn v2_memory(group: &Group, memory: &mut Memory) -> nix::Result<()> {
    memory.raw = values_of(text(group, "memory.stat")?.as_bytes());
    memory.cache = memory.raw.get("file").copied().unwrap_or(0);
    memory.event_count = values_of(text(group, "memory.events")?.as_bytes());
    memory.event_count.retain(|_, count| *count > 0);
    let entry = |prefix: &str| -> nix::Result<MemoryEntry> {
        Ok(MemoryEntry {
            limit: number(group, &format!("{prefix}.max"))?,
            usage: number(group, &format!("{prefix}.current"))?,
            max: number(group, &format!("{prefix}.peak"))?,
            failcnt: 0,
        })
    };
    memory.usage = entry("memory")?;
    let swap = entry("memory.swap")?;
    memory.swap = MemoryEntry {
        limit: swap.limit.saturating_add(memory.usage.limit),
        usage: swap.usage.saturating_add(memory.usage.usage),
        // The two peaks need not have been at the same time.
        max: 0,
        failcnt: 0,
    };
    Ok(())
}

/// `MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N …`
fn v2_io(text: &str, blkio: &mut Blkio) {
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let Some((major, minor)) = fields.next().and_then(|device| device.split_once(':')) else { continue };
        let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { continue };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            let (list, op) = match key {
                "rbytes" => (&mut blkio.io_service_bytes_recursive, "Read"),
                "wbytes" => (&mut blkio.io_service_bytes_recursive, "Write"),
                "rios" => (&mut blkio.io_serviced_recursive, "Read"),
                "wios" => (&mut blkio.io_serviced_recursive, "Write"),
                _ => continue,
            };
            list.push(BlkioEntry { major, minor, op: op.to_owned(), value: value.parse().unwrap_or(0) });
        }
    }
}

/// A pressure file; none where PSI is not there or switched off.
fn psi(group: &Group, file: &str) -> nix::Result<Option<Psi>> {
    let text = text(group, file)?;
    if text.is_empty() {
        return Ok(None);
    }
    let mut psi = Psi::default();
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let data = match fields.next() {
            Some("some") => &mut psi.some,
            Some("full") => &mut psi.full,
            _ => continue,
        };
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = value.parse().unwrap_or(0),
                _ => {}
            }
        }
    }
    Ok(Some(psi))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_and_block_devices_are_parsed() {
        assert_eq!(number_list("0-2,6"), [0, 1, 2, 6]);
        assert_eq!(number_list(""), [0_u16; 0]);
        let entries = parse_blkio("8:0 Read 7\n8:0 Total 9\n8:16 5\nTotal 14");
        assert_eq!(entries.len(), 3);
        assert_eq!(entries[0], BlkioEntry { major: 8, minor: 0, op: "Read".into(), value: 7 });
        assert_eq!(entries[2], BlkioEntry { major: 8, minor: 16, op: String::new(), value: 5 });
        let mut blkio = Blkio::default();
        v2_io("253:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n", &mut blkio);
        assert_eq!(
            blkio.io_service_bytes_recursive[1],
            BlkioEntry { major: 253, minor: 0, op: "Write".into(), value: 2 }
        );
        assert_eq!(blkio.io_serviced_recursive.len(), 2);
    }

    /// peers.md A1.3, `events --stats`: the keys of runc 1.1 for an idle container, and no others.
    #[test]
    fn empty_statistics_have_the_keys_that_callers_read() {
        let json = serde_json::to_value(Stats::default()).unwrap();
        let keys = |value: &serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&json), "blkio cpu cpuset hugetlb intel_rdt memory network_interfaces pids");
        assert_eq!(keys(&json["cpu"]), "throttling usage");
        assert_eq!(json["cpu"]["usage"], serde_json::json!({"kernel": 0, "user": 0}));
        assert_eq!(keys(&json["memory"]), "kernel kernelTCP swap usage");
        assert_eq!(json["memory"]["usage"], serde_json::json!({"limit": 0, "failcnt": 0}));
        assert_eq!(json["network_interfaces"], serde_json::Value::Null);
        assert_eq!((&json["blkio"], &json["pids"]), (&serde_json::json!({}), &serde_json::json!({})));
    }
}
