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
    // Unlike v1's kernel code, the formula has a value for shares beyond the ends: the ends themselves.
    let shares = cpu.shares().filter(|&shares| shares != 0);
    let weight = shares.map(|shares| Write::new("cpu.weight", cpu_weight(shares).to_string(), "cpu/shares"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::plan::RESOURCES;

    type Convert = fn(&str, &LinuxResources, &mut Vec<Write>) -> Result<()>;

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

    /// security.md F14: the total of memory and swap becomes swap alone, as runc and crun have it.
    #[test]
    fn f14_memory() {
        for (json, expected) in [
            (r#"{"memory":{"limit":0,"swap":0}}"#, ""),
            (
                r#"{"memory":{"limit":300,"swap":500,"reservation":200}}"#,
                "memory.swap.max=200; memory.max=300; memory.low=200",
            ),
            (r#"{"memory":{"limit":300,"swap":300}}"#, "memory.swap.max=0; memory.max=300"),
            (r#"{"memory":{"limit":300,"swap":-1}}"#, "memory.swap.max=max; memory.max=300"),
            (r#"{"memory":{"limit":-1}}"#, "memory.swap.max=max; memory.max=max"),
            (r#"{"memory":{"limit":-1,"swap":500}}"#, "memory.swap.max=500; memory.max=max"),
            (r#"{"memory":{"swap":-1}}"#, "memory.swap.max=max"),
            (r#"{"memory":{"reservation":-1}}"#, "memory.low=max"),
            (
                r#"{"memory":{"swap":500}}"#,
                "/linux/resources/memory/swap: 500: is memory and swap together: needs memory/limit beside it",
            ),
            (
                r#"{"memory":{"disableOOMKiller":true}}"#,
                "/linux/resources/memory/disableOOMKiller: true: cgroup v2 cannot disable the OOM killer",
            ),
            (
                r#"{"memory":{"swappiness":60}}"#,
                "/linux/resources/memory/swappiness: 60: cgroup v2 has no swappiness for one cgroup",
            ),
        ] {
            assert_eq!(text(memory, json), expected, "{json}");
        }
    }

    #[test]
    fn f14_cpu() {
        for (json, expected) in [
            (r#"{"cpu":{"shares":1024}}"#, "cpu.weight=100"),
            (r#"{"cpu":{"shares":1}}"#, "cpu.weight=1"),
            (r#"{"cpu":{"shares":18446744073709551615}}"#, "cpu.weight=10000"),
            (r#"{"cpu":{"quota":5000}}"#, "cpu.max=5000"),
            (r#"{"cpu":{"quota":-1}}"#, "cpu.max=max"),
            (r#"{"cpu":{"quota":5000,"period":10000,"burst":100}}"#, "cpu.max.burst=100; cpu.max=5000 10000"),
            (r#"{"cpu":{"period":10000}}"#, "cpu.max=max 10000"),
            (r#"{"cpu":{"shares":2,"idle":1}}"#, "cpu.weight=1; cpu.idle=1"),
            (
                r#"{"cpu":{"realtimePeriod":1}}"#,
                "/linux/resources/cpu/realtimePeriod: 1: cgroup v2 has no real-time limits",
            ),
        ] {
            assert_eq!(text(cpu, json), expected, "{json}");
        }
    }

    /// The values that runc's and crun's tests give for the formula, and that it never falls nor leaves its range.
    #[test]
    fn f14_shares_become_weights() {
        for (shares, weight) in
            [(2, 1), (3, 2), (10, 4), (100, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000)]
        {
            assert_eq!(cpu_weight(shares), weight, "{shares}");
        }
        let mut before = 0;
        for shares in 2..=262_144 {
            let weight = cpu_weight(shares);
            assert!(weight >= before && (1..=10_000).contains(&weight), "{shares}");
            before = weight;
        }
    }

    #[test]
    fn f14_io() {
        assert_eq!((io_weight(10), io_weight(100), io_weight(1000)), (1, 910, 10_000));
        assert!((11..=1000).all(|weight| io_weight(weight) > io_weight(weight - 1)));
        let json = r#"{"blockIO":{"weight":100,"weightDevice":[{"major":8,"minor":0,"weight":10}],
            "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":600}],"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":0}],
            "throttleReadIOPSDevice":[{"major":8,"minor":0,"rate":18446744073709551615}]}}"#;
        assert_eq!(
            text(io, json),
            "io.bfq.weight=100; io.bfq.weight=8:0 10; io.max=8:0 rbps=600; io.max=8:0 wbps=max; \
             io.max=8:0 riops=18446744073709551615"
        );
    }

    #[test]
    fn f14_hugetlb_and_pids() {
        assert_eq!(
            text(hugetlb, r#"{"hugepageLimits":[{"pageSize":"1GB","limit":-1}]}"#),
            "hugetlb.1GB.max=max; hugetlb.1GB.rsvd.max=max"
        );
        assert_eq!(text(pids, r#"{"pids":{"limit":-1}}"#), "pids.max=max");
        assert!(
            text(no_net_cls, r#"{"network":{"classID":1}}"#)
                .starts_with("/linux/resources/network/classID: 1: ")
        );
    }

    /// security.md F3: a key is a file of the cgroup that sets a limit, and nothing else.
    #[test]
    fn f3_unified_keys_are_names_of_limits() {
        for key in [
            "memory.max/../..",
            "..",
            ".",
            "memory",
            "memory.",
            ".max",
            "memory..max",
            "a.b\n",
            "a b.c",
            "",
            "/memory.max",
            "cgroup.procs",
            "cgroup.threads",
            "cgroup.kill",
            "cgroup.freeze",
        ] {
            let json = serde_json::json!({"unified": {key: "1"}}).to_string();
            assert!(text(unified, &json).starts_with("/linux/resources/unified: "), "{key:?}");
        }
        let json =
            serde_json::json!({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2\n", "hugetlb.2MB.max": "max"}});
        assert_eq!(
            text(unified, &json.to_string()),
            "hugetlb.2MB.max=max; io.max=8:0 rbps=1; io.max=8:16 rbps=2"
        );
    }

    /// security.md F14: whatever the numbers, they become `max`, exactly themselves, or an error: nothing wraps round.
    #[test]
    fn f14_random_numbers() {
        let mut seed: u64 = 1;
        let mut next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let small = i64::try_from(seed >> 59).unwrap();
            [small, i64::MAX - small, i64::MIN + small, -1, small << 30]
                [usize::try_from(seed >> 40 & 3).unwrap()]
        };
        let written = |text: &str, file: &str| -> Option<String> {
            text.split("; ").find_map(|one| one.strip_prefix(file)?.strip_prefix('=').map(str::to_owned))
        };
        let shown = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        for _ in 0..20_000 {
            let (limit, swap, soft) = (next(), next(), next());
            let json = format!(r#"{{"memory":{{"limit":{limit},"swap":{swap},"reservation":{soft}}}}}"#);
            let text = text(memory, &json);
            if text.starts_with('/') {
                continue;
            }
            for (file, value) in [("memory.max", limit), ("memory.low", soft)] {
                if let Some(found) = written(&text, file) {
                    assert_eq!(found, shown(value), "{json}");
                }
            }
            if let Some(found) = written(&text, "memory.swap.max")
                && found != "max"
            {
                let alone: i64 = found.parse().unwrap();
                assert!(
                    alone >= 0 && (alone == swap || limit.checked_add(alone) == Some(swap)),
                    "{json}: {text}"
                );
            }
        }
    }
}
