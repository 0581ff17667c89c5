//! Resources as cgroup v2 takes them (`Documentation/admin-guide/cgroup-v2.rst`); the runtime spec has v1's terms, so
//! most are converted, by the formulas that runc and crun use.

use std::borrow::Cow;

use oci_spec::runtime::LinuxResources;

use crate::cgroup::apply::{Missing, Write};
use crate::cgroup::plan::invalid;
use crate::cgroup::v1;
use crate::error::Result;

const NO_REALTIME: &str = "cgroup v2 has no real-time limits";

/// A number of which -1 is written `max`.
fn or_max(value: i64) -> String {
    if value == -1 { "max".to_owned() } else { value.to_string() }
}

pub(super) fn memory(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(memory) = resources.memory() else { return Ok(()) };
    if memory.disable_oom_killer() == Some(true) {
        return Err(invalid(
            base,
            "memory/disableOOMKiller",
            true,
            "cgroup v2 cannot disable the OOM killer",
        ));
    }
    if let Some(value) = v1::swappiness(base, memory.swappiness())? {
        return Err(invalid(base, "memory/swappiness", value, "cgroup v2 has no swappiness for one cgroup"));
    }
    let v1::Memory { limit, swap, reservation } = v1::Memory::new(base, resources)?;
    if let Some(swap) = swap_alone(limit, swap) {
        let swap = match swap {
            Ok(value) => or_max(value),
            Err(total) => {
                return Err(invalid(
                    base,
                    "memory/swap",
                    total,
                    "is memory and swap together: needs memory/limit beside it",
                ));
            }
        };
        // No swap accounting: none to be limited, and none to be had.
        let missing = if matches!(&*swap, "max" | "0") { Missing::Holds } else { Missing::Fails };
        writes.push(Write::new("memory.swap.max", swap, "memory/swap").if_missing(missing));
    }
    if let Some(limit) = limit {
        writes.push(Write::new("memory.max", or_max(limit), "memory/limit"));
    }
    if let Some(reservation) = reservation {
        writes.push(Write::new("memory.low", or_max(reservation), "memory/reservation"));
    }
    Ok(())
}

/// `memory.swap.max` counts swap alone, the runtime spec memory and swap together. None: not set. The error holds a
/// total of which nothing can be taken off, for want of a limit.
fn swap_alone(limit: Option<i64>, total: Option<i64>) -> Option<std::result::Result<i64, i64>> {
    match (limit, total) {
        (Some(-1), None) | (_, Some(-1)) => Some(Ok(-1)),
        (_, None) => None,
        (Some(-1), Some(total)) => Some(Ok(total)),
        (Some(limit), Some(total)) => Some(Ok(total - limit)),
        (None, Some(total)) => Some(Err(total)),
    }
}

pub(super) fn cpu(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    if let Some(runtime) = cpu.realtime_runtime().filter(|&runtime| runtime != 0) {
        return Err(invalid(base, "cpu/realtimeRuntime", runtime, NO_REALTIME));
    }
    if let Some(period) = cpu.realtime_period().filter(|&period| period != 0) {
        return Err(invalid(base, "cpu/realtimePeriod", period, NO_REALTIME));
    }
    let weight = v1::shares(base, cpu.shares())?;
    let weight = weight.map(|shares| Write::new("cpu.weight", cpu_weight(shares).to_string(), "cpu/shares"));
    v1::push_idle_and_weight(writes, v1::idle(base, cpu.idle())?, weight);
    if let Some(burst) = cpu.burst() {
        let write = Write::new("cpu.max.burst", burst.to_string(), "cpu/burst").or_again();
        writes.push(if burst == 0 { write.if_missing(Missing::Holds) } else { write });
    }
    let quota = cpu.quota().filter(|&quota| quota != 0);
    let period = cpu.period().filter(|&period| period != 0);
    if let Some((value, source)) = cpu_max(quota, period) {
        writes.push(Write::new("cpu.max", value, source).or_again());
    }
    Ok(())
}

/// `QUOTA [PERIOD]`; without a period the kernel keeps the present one, which is 100 ms in a new cgroup.
fn cpu_max(quota: Option<i64>, period: Option<u64>) -> Option<(String, &'static str)> {
    let quota_text = quota.filter(|&quota| quota > 0).map_or("max".to_owned(), |quota| quota.to_string());
    match (quota, period) {
        (None, None) => None,
        (_, None) => Some((quota_text, "cpu/quota")),
        (_, Some(period)) => Some((format!("{quota_text} {period}"), "cpu/period")),
    }
}

/// v1's shares (2 to 262144, default 1024) as v2's weight (1 to 10000, default 100): a quadratic in log2(shares) that
/// takes ends and default onto each other, which the older linear formula did not (runc 1.3.2, crun 1.23).
fn cpu_weight(shares: u64) -> u32 {
    let Ok(shares) = u32::try_from(shares) else { return 10_000 };
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let l = f64::from(shares).log2();
            let wanted = 10_f64.powf((l * l + 125.0 * l) / 612.0 - 7.0 / 34.0);
            // The smallest weight that is not below, found by halving: a float becomes no integer without a cast.
            let (mut low, mut high) = (1_u32, 10_000);
            while low < high {
                let middle = u32::midpoint(low, high);
                if f64::from(middle) < wanted { low = middle + 1 } else { high = middle }
            }
            low
        }
    }
}

pub(super) fn cpuset(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    v1::cpuset(base, resources, writes)
}

pub(super) fn pids(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    v1::pids(base, resources, writes)
}

pub(super) fn io(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let Some(io) = resources.block_io() else { return Ok(()) };
    if let Some(weight) = v1::io_weight(base, "blockIO/weight", io.weight())? {
        let other = Missing::Use("io.weight".into(), io_weight(weight).to_string());
        writes.push(Write::new("io.bfq.weight", weight.to_string(), "blockIO/weight").if_missing(other));
    }
    for (index, device) in io.weight_device().iter().flatten().enumerate() {
        let source = format!("blockIO/weightDevice/{index}");
        v1::check_device(base, &source, device.major(), device.minor())?;
        if let Some(weight) = v1::io_weight(base, &format!("{source}/weight"), device.weight())? {
            let other =
                Missing::Use("io.weight".into(), v1::weight_line(device, u64::from(io_weight(weight))));
            let line = v1::weight_line(device, weight.into());
            writes.push(Write::new("io.bfq.weight", line, "").of(source).if_missing(other));
        }
    }
    for (key, name, devices) in [
        ("rbps", "throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("wbps", "throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("riops", "throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("wiops", "throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ] {
        for (source, device) in v1::throttles(base, name, devices.as_deref())? {
            // v1 lifts a limit with 0, v2 with `max`.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let line = format!("{}:{} {key}={rate}", device.major(), device.minor());
            writes.push(Write::new("io.max", line, "").of(source));
        }
    }
    Ok(())
}

/// v1's 10 to 1000 linearly onto v2's 1 to 10000.
fn io_weight(weight: u16) -> u32 {
    1 + (u32::from(weight) - 10) * 9999 / 990
}

pub(super) fn hugetlb(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    for (index, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let (size, bytes) = v1::hugepages(base, index, limit)?;
        let source = format!("hugepageLimits/{index}");
        let value = or_max(bytes);
        writes
            .push(Write::new(Cow::from(format!("hugetlb.{size}.max")), value.clone(), "").of(source.clone()));
        writes.push(
            Write::new(Cow::from(format!("hugetlb.{size}.rsvd.max")), value, "")
                .of(source)
                .if_missing(Missing::Holds),
        );
    }
    Ok(())
}

pub(super) fn no_net_cls(base: &str, resources: &LinuxResources, _writes: &mut Vec<Write>) -> Result<()> {
    match resources.network().as_ref().and_then(|network| network.class_id()) {
        None | Some(0) => Ok(()),
        Some(class) => Err(invalid(base, "network/classID", class, "needs the cgroup v1 controller net_cls")),
    }
}

pub(super) fn no_net_prio(base: &str, resources: &LinuxResources, _writes: &mut Vec<Write>) -> Result<()> {
    match resources.network().as_ref().and_then(|network| network.priorities().as_deref()) {
        None | Some([]) => Ok(()),
        Some([first, ..]) => {
            Err(invalid(base, "network/priorities", first.name(), "needs the cgroup v1 controller net_prio"))
        }
    }
}

/// Files that are no limits: they move, freeze or kill processes, which a config must not do by the way.
const NOT_LIMITS: [&str; 4] = ["cgroup.procs", "cgroup.threads", "cgroup.freeze", "cgroup.kill"];

/// Keys are file names (security.md F3); a value of several lines is written line by line, as the kernel's lists want.
pub(super) fn unified(base: &str, resources: &LinuxResources, writes: &mut Vec<Write>) -> Result<()> {
    let mut settings: Vec<_> = resources.unified().iter().flatten().collect();
    // A map has no order of its own: a fixed one makes errors and results repeatable.
    settings.sort();
    for (file, value) in settings {
        let source = format!("unified/{file}");
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let is_file =
            file.split_once('.').is_some_and(|(controller, rest)| !controller.is_empty() && !rest.is_empty());
        if !is_file || !file.chars().all(named) || file.contains("..") {
            return Err(invalid(
                base,
                "unified",
                file,
                "must be the name of a file of cgroup v2, CONTROLLER.PARAMETER",
            ));
        }
        if NOT_LIMITS.contains(&file.as_str()) {
            return Err(invalid(base, "unified", file, "is no resource limit"));
        }
        for line in value.lines().filter(|line| !line.is_empty()) {
            writes.push(Write::new(Cow::from(file.clone()), line, "").of(source.clone()));
        }
    }
    Ok(())
}
