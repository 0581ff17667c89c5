//! Limits as unit properties (systemd.resource-control(5)): what systemd writes to the files again, at a daemon-reload or
//! when a property of the unit is set, has to be what stands there.
//!
//! The properties are made from the writes to the files, so that each limit is converted once, whether it comes from a
//! resource of its own or from `unified`. Files that systemd knows nothing of, it leaves alone.

use crate::cgroup::apply::{Missing, Write};
use crate::cgroup::devices::Policy;
use crate::cgroup::systemd::value::Value;
use crate::error::Result;

/// A property of a unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Its name on the bus.
    pub name: String,
    /// Its value.
    pub value: Value,
}

impl Property {
    /// A property.
    pub fn new(name: impl Into<String>, value: Value) -> Self {
        Self { name: name.into(), value }
    }
}

/// No limit, as systemd has it on the bus (`CGROUP_LIMIT_MAX`, `USEC_INFINITY`).
const INFINITY: u64 = u64::MAX;

/// The kernel's default for `cpu.max` and `cpu.cfs_period_us`, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

/// systemd keeps a quota in unit files as whole percents of a CPU: this many microseconds a second.
const PERCENT: u64 = 10_000;

/// The highest number of a CPU or memory node that is believed.
const MAX_CPU: usize = 8191;

/// From which version of systemd on there is a property.
mod since {
    pub const CPU_QUOTA_PERIOD: u32 = 242;
    pub const ALLOWED_CPUS: u32 = 244;
    /// A weight of 0 makes the unit idle.
    pub const CPU_IDLE: u32 = 252;
    pub const MEMORY_ZSWAP: u32 = 253;
    /// Of a scope.
    pub const OOM_POLICY: u32 = 253;
    pub const MEMORY_ZSWAP_WRITEBACK: u32 = 256;
}

/// Properties whose value is the number in a file, or `max`.
const NUMBERS: [(&str, &str); 10] = [
    ("memory.min", "MemoryMin"),
    ("memory.low", "MemoryLow"),
    ("memory.high", "MemoryHigh"),
    ("memory.max", "MemoryMax"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
    ("cpu.weight", "CPUWeight"),
    ("memory.limit_in_bytes", "MemoryLimit"),
    ("cpu.shares", "CPUShares"),
    ("blkio.weight", "BlockIOWeight"),
];

/// Properties that have a value for each device: the key in `io.max`.
const RATES: [(&str, &str); 4] = [
    ("rbps", "IOReadBandwidthMax"),
    ("wbps", "IOWriteBandwidthMax"),
    ("riops", "IOReadIOPSMax"),
    ("wiops", "IOWriteIOPSMax"),
];

/// The properties for what is written to the files of one group; `now` tells what stands in one of its files.
pub fn of_writes(writes: &[Write], version: u32, now: &dyn Fn(&str) -> Option<String>) -> Vec<Property> {
    let mut found = Vec::new();
    for write in writes {
        if let Some((_, name)) = NUMBERS.iter().find(|(file, _)| *file == write.file) {
            found.extend(limit(&write.value).map(|value| Property::new(*name, Value::U64(value))));
            continue;
        }
        match &*write.file {
            "memory.zswap.max" if version >= since::MEMORY_ZSWAP => {
                found.extend(
                    limit(&write.value).map(|value| Property::new("MemoryZSwapMax", Value::U64(value))),
                );
            }
            "memory.zswap.writeback" if version >= since::MEMORY_ZSWAP_WRITEBACK => {
                found.push(Property::new("MemoryZSwapWriteback", Value::Bool(write.value.trim() == "1")));
            }
            "cpuset.cpus" if version >= since::ALLOWED_CPUS => {
                found
                    .extend(bits(&write.value).map(|cpus| Property::new("AllowedCPUs", Value::bytes(&cpus))));
            }
            "cpuset.mems" if version >= since::ALLOWED_CPUS => {
                let nodes = bits(&write.value);
                found.extend(nodes.map(|nodes| Property::new("AllowedMemoryNodes", Value::bytes(&nodes))));
            }
            "io.max" => add_rates(&write.value, &mut found),
            "io.weight" => add_weight(&write.value, &mut found, |weight| weight),
            // Known only once there is a cgroup: which of the two files the kernel has.
            "io.bfq.weight" => match &write.missing {
                _ if now("io.bfq.weight").is_some() => add_weight(&write.value, &mut found, from_bfq),
                Missing::Use(_, value) if now("io.weight").is_some() => {
                    add_weight(value, &mut found, |weight| weight)
                }
                _ => {}
            },
            _ => {}
        }
    }
    idle(writes, version, &mut found);
    found.extend(quota(writes, version, now));
    merge(found)
}

/// A number; `max` and -1 are none.
fn limit(text: &str) -> Option<u64> {
    match text.trim() {
        "max" | "-1" => Some(INFINITY),
        number => number.parse().ok(),
    }
}

/// `cpu.idle` is CPUWeight=idle, 0 on the bus; an idle group has no other weight.
fn idle(writes: &[Write], version: u32, found: &mut Vec<Property>) {
    let Some(idle) = writes.iter().find(|write| write.file == "cpu.idle") else { return };
    if version < since::CPU_IDLE || writes.iter().any(|write| write.file == "cpu.shares") {
        return;
    }
    let has_weight = found.iter().any(|property| property.name == "CPUWeight");
    if idle.value == "1" {
        found.retain(|property| property.name != "CPUWeight");
        found.push(Property::new("CPUWeight", Value::U64(0)));
    } else if !has_weight {
        // What the kernel gives a group that is idle no more (`sched_group_set_idle`).
        found.push(Property::new("CPUWeight", Value::U64(100)));
    }
}

/// Quota and period in microseconds, wherever they are written; a quota of none is no limit.
fn cpu_limit(writes: &[Write], now: &dyn Fn(&str) -> Option<String>) -> Option<(Option<u64>, u64)> {
    let written =
        |file: &str| writes.iter().rev().find(|write| write.file == file).map(|write| write.value.clone());
    if let Some(value) = written("cpu.max") {
        let mut words = value.split_ascii_whitespace();
        let quota = words.next()?.parse().ok();
        let before = now("cpu.max");
        let period = words.next().or_else(|| before.as_deref()?.split_ascii_whitespace().nth(1));
        return Some((quota, period.and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_PERIOD)));
    }
    let (quota, period) = (written("cpu.cfs_quota_us"), written("cpu.cfs_period_us"));
    if quota.is_none() && period.is_none() {
        return None;
    }
    let number = |text: Option<String>| text.and_then(|text| text.trim().parse().ok());
    Some((
        number(quota.or_else(|| now("cpu.cfs_quota_us"))),
        number(period.or_else(|| now("cpu.cfs_period_us"))).unwrap_or(DEFAULT_PERIOD),
    ))
}

/// Microseconds a second for a quota, up to the next percent.
fn per_second(quota: u64, period: u64) -> u64 {
    let exact = quota.saturating_mul(1_000_000) / period.max(1);
    exact.div_ceil(PERCENT).saturating_mul(PERCENT)
}

fn quota(writes: &[Write], version: u32, now: &dyn Fn(&str) -> Option<String>) -> Vec<Property> {
    let Some((quota, period)) = cpu_limit(writes, now) else { return Vec::new() };
    let share = quota.map_or(INFINITY, |quota| per_second(quota, period));
    let mut found = vec![Property::new("CPUQuotaPerSecUSec", Value::U64(share))];
    if version >= since::CPU_QUOTA_PERIOD {
        found.push(Property::new("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    found
}

/// `memory.oom.group` is what OOMPolicy makes of it, when the unit is loaded; a unit that runs cannot be given another one.
pub fn oom_policy(writes: &[Write], version: u32) -> Option<Property> {
    let write = writes.iter().rev().find(|write| write.file == "memory.oom.group")?;
    let policy = if write.value.trim() == "1" { "kill" } else { "continue" };
    (version >= since::OOM_POLICY).then(|| Property::new("OOMPolicy", Value::text(policy)))
}

/// Whether systemd, told of this limit, writes another value to the file: the default period where there is no quota
/// (`cgroup_cpu_adjust_period`), and with any limit on memory the OOM policy that the unit was started with.
pub fn is_overruled(write: &Write) -> bool {
    match &*write.file {
        "cpu.max" => write.value.starts_with("max"),
        "cpu.cfs_period_us" | "memory.oom.group" => true,
        _ => false,
    }
}

/// Raises a quota to the whole percent of a CPU that systemd keeps, as runc does: otherwise a daemon-reload would write
/// another number to the file.
pub fn round_quota(writes: &mut [Write], now: &dyn Fn(&str) -> Option<String>) {
    let Some((Some(quota), period)) = cpu_limit(writes, now) else { return };
    let rounded = per_second(quota, period).saturating_mul(period) / 1_000_000;
    for write in writes {
        match &*write.file {
            "cpu.max" => {
                let period = write.value.split_once(' ').map(|(_, period)| format!(" {period}"));
                write.value = format!("{rounded}{}", period.unwrap_or_default());
            }
            "cpu.cfs_quota_us" => write.value = rounded.to_string(),
            _ => {}
        }
    }
}

/// A list of the kernel's such as `0-3,6`, as a bit mask, lowest byte first.
fn bits(list: &str) -> Option<Vec<u8>> {
    let mut mask: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if first > last || last > MAX_CPU {
            return None;
        }
        mask.resize(mask.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            if let Some(byte) = mask.get_mut(bit / 8) {
                *byte |= 1 << (bit % 8);
            }
        }
    }
    Some(mask)
}

/// A device in a property: by its number, which systemd reads from the path without looking at the file.
fn on_device(number: &str, value: u64) -> Value {
    Value::Struct(vec![Value::Text(format!("/dev/block/{number}")), Value::U64(value)])
}

fn on_devices(value: Value) -> Value {
    Value::Array("(st)".to_owned(), vec![value])
}

/// A line of `io.max`: `MAJOR:MINOR KEY=RATE...`.
fn add_rates(line: &str, found: &mut Vec<Property>) {
    let mut words = line.split_ascii_whitespace();
    let Some(number) = words.next() else { return };
    for (key, rate) in words.filter_map(|word| word.split_once('=')) {
        let name = RATES.iter().find(|(one, _)| *one == key);
        if let (Some((_, name)), Some(rate)) = (name, limit(rate)) {
            found.push(Property::new(*name, on_devices(on_device(number, rate))));
        }
    }
}

/// A line of `io.weight` or `io.bfq.weight`: `[default] WEIGHT`, or `MAJOR:MINOR WEIGHT`.
fn add_weight(line: &str, found: &mut Vec<Property>, convert: fn(u64) -> u64) {
    let (key, weight) = line.split_once(' ').unwrap_or(("default", line));
    let Ok(weight) = weight.trim().parse().map(convert) else { return };
    found.push(match key {
        "default" => Property::new("IOWeight", Value::U64(weight)),
        number => Property::new("IODeviceWeight", on_devices(on_device(number, weight))),
    });
}

/// systemd writes IOWeight (1 to 10000) to BFQ's file (1 to 1000) too, with 100 as the middle of both (`BFQ_WEIGHT`): this
/// is the way back.
fn from_bfq(weight: u64) -> u64 {
    if weight <= 100 { weight } else { 100 + (weight - 100) * 11 }
}

/// One property for each name: the lists of several devices in one, of anything else the last value.
fn merge(found: Vec<Property>) -> Vec<Property> {
    let mut merged: Vec<Property> = Vec::with_capacity(found.len());
    for property in found {
        match merged.iter_mut().find(|other| other.name == property.name) {
            None => merged.push(property),
            Some(other) => match (&mut other.value, property.value) {
                (Value::Array(kind, values), Value::Array(_, more)) if kind == "(st)" => values.extend(more),
                (value, last) => *value = last,
            },
        }
    }
    merged
}

/// The device rules. systemd's list allows at the least what the rules allow; on v2 skeg's own program, which systemd does
/// not know and so does not replace, decides beside it. On v1 (`exact`) there is one list, which systemd writes again.
///
/// # Errors
/// `exact`: rules that systemd's list cannot express.
pub fn of_devices(policy: &Policy, exact: bool) -> Result<Vec<Property>> {
    let Some(list) = policy.unit_rules(exact)? else {
        return Ok(vec![
            Property::new("DevicePolicy", Value::text("auto")),
            Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), Vec::new())),
        ]);
    };
    let entry = |(device, access)| Value::Struct(vec![Value::Text(device), Value::Text(access)]);
    let list = list.into_iter().map(entry).collect();
    Ok(vec![
        Property::new("DevicePolicy", Value::text("strict")),
        // An empty list first clears what was there.
        Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), Vec::new())),
        Property::new("DeviceAllow", Value::Array("(ss)".to_owned(), list)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::plan::limits;

    const NEWEST: u32 = 257;

    fn text(value: &Value) -> String {
        match value {
            Value::U64(u64::MAX) => "infinity".to_owned(),
            Value::U64(value) => value.to_string(),
            Value::Text(text) => text.clone(),
            Value::Array(kind, values) if kind == "y" => {
                let hex = |value: &Value| {
                    if let Value::Byte(byte) = value { format!("{byte:02x}") } else { String::new() }
                };
                values.iter().map(hex).collect()
            }
            Value::Array(_, values) => values.iter().map(text).collect::<Vec<_>>().join(" "),
            Value::Struct(fields) => fields.iter().map(text).collect::<Vec<_>>().join("="),
            other => format!("{other:?}"),
        }
    }

    fn shown(properties: &[Property]) -> String {
        properties
            .iter()
            .map(|one| format!("{}={}", one.name, text(&one.value)))
            .collect::<Vec<_>>()
            .join("; ")
    }

    /// What a host of that version makes of resources, after the rounding that goes before the writing.
    fn of(json: &str, v1: bool, version: u32, files: &[(&str, &str)]) -> String {
        let resources = serde_json::from_str(json).unwrap();
        let one = |_: &str| v1.then_some(0);
        let limits = limits(&resources, usize::from(v1), &one, true, "").unwrap();
        let mut writes: Vec<Write> = limits.v1.into_iter().flatten().chain(limits.v2).collect();
        let now =
            |file: &str| files.iter().find(|(name, _)| *name == file).map(|(_, text)| (*text).to_owned());
        round_quota(&mut writes, &now);
        shown(&of_writes(&writes, version, &now))
    }

    #[test]
    fn v2_limits_become_properties() {
        for (json, expected) in [
            (r#"{}"#, ""),
            (
                r#"{"memory":{"limit":300,"swap":500,"reservation":200},"pids":{"limit":7}}"#,
                "MemorySwapMax=200; MemoryMax=300; MemoryLow=200; TasksMax=7",
            ),
            (
                r#"{"memory":{"limit":-1},"pids":{"limit":-1}}"#,
                "MemorySwapMax=infinity; MemoryMax=infinity; TasksMax=infinity",
            ),
            (r#"{"cpu":{"shares":1024}}"#, "CPUWeight=100"),
            (r#"{"cpu":{"shares":1024,"idle":1}}"#, "CPUWeight=0"),
            (r#"{"cpu":{"idle":0}}"#, "CPUWeight=100"),
            (r#"{"cpu":{"quota":20000}}"#, "CPUQuotaPerSecUSec=200000; CPUQuotaPeriodUSec=100000"),
            (
                r#"{"cpu":{"quota":-1,"period":50000}}"#,
                "CPUQuotaPerSecUSec=infinity; CPUQuotaPeriodUSec=50000",
            ),
            (r#"{"cpu":{"cpus":"0-1,9","mems":"0"}}"#, "AllowedCPUs=0302; AllowedMemoryNodes=01"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5},{"major":8,"minor":16,"rate":0}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":6}]}}"#,
                "IOReadBandwidthMax=/dev/block/8:0=5 /dev/block/8:16=infinity; IOWriteIOPSMax=/dev/block/8:0=6",
            ),
            (
                r#"{"unified":{"memory.high":"max","memory.min":"4096","memory.zswap.max":"0","cpu.max":"5000 10000",
                    "io.weight":"default 200","hugetlb.2MB.max":"0"}}"#,
                "IOWeight=200; MemoryHigh=infinity; MemoryMin=4096; MemoryZSwapMax=0; CPUQuotaPerSecUSec=500000; CPUQuotaPeriodUSec=10000",
            ),
        ] {
            assert_eq!(of(json, false, NEWEST, &[]), expected, "{json}");
        }
    }

    /// What a scope is given when it starts.
    #[test]
    fn oom_group_is_a_policy() {
        let policy = |value: &str, version| {
            oom_policy(&[Write::new("memory.oom.group", value, "")], version).map(|one| text(&one.value))
        };
        assert_eq!(policy("1", NEWEST).as_deref(), Some("kill"));
        assert_eq!(policy("0", NEWEST).as_deref(), Some("continue"));
        assert_eq!(policy("1", 252), None);
        assert_eq!(oom_policy(&[], NEWEST), None);
    }

    /// The file that the kernel has decides which conversion systemd undoes.
    #[test]
    fn v2_io_weights() {
        let json = r#"{"blockIO":{"weight":505,"weightDevice":[{"major":8,"minor":0,"weight":10}]}}"#;
        assert_eq!(of(json, false, NEWEST, &[]), "", "no cgroup yet");
        assert_eq!(
            of(json, false, NEWEST, &[("io.bfq.weight", "default 100"), ("io.weight", "default 100")]),
            "IOWeight=4555; IODeviceWeight=/dev/block/8:0=10"
        );
        assert_eq!(
            of(json, false, NEWEST, &[("io.weight", "default 100")]),
            "IOWeight=5000; IODeviceWeight=/dev/block/8:0=1"
        );
        // systemd's BFQ_WEIGHT is undone exactly.
        let bfq = |weight: u64| if weight <= 100 { weight } else { 100 + (weight - 100) * 900 / 9900 };
        for weight in 1..=1000 {
            assert_eq!(bfq(from_bfq(weight)), weight);
        }
    }

    #[test]
    fn old_managers_get_what_they_know() {
        let json = r#"{"cpu":{"quota":20000,"cpus":"0","idle":1},"unified":{"memory.zswap.max":"0"}}"#;
        assert_eq!(of(json, false, 239, &[]), "CPUQuotaPerSecUSec=200000");
    }

    #[test]
    fn v1_limits_become_properties() {
        let json = r#"{"memory":{"limit":4096},"cpu":{"shares":512,"quota":5000,"period":10000},"pids":{"limit":7},
            "blockIO":{"weight":300}}"#;
        assert_eq!(
            of(json, true, NEWEST, &[]),
            "MemoryLimit=4096; CPUShares=512; TasksMax=7; BlockIOWeight=300; CPUQuotaPerSecUSec=500000; CPUQuotaPeriodUSec=10000"
        );
        let now = [("cpu.cfs_period_us", "20000\n"), ("cpu.cfs_quota_us", "-1\n")];
        assert_eq!(of(r#"{"cpu":{"quota":5000}}"#, true, 241, &now), "CPUQuotaPerSecUSec=250000");
        assert_eq!(of(r#"{"cpu":{"period":20000}}"#, true, 241, &now), "CPUQuotaPerSecUSec=infinity");
    }

    /// systemd's file has whole percents: what is written to `cpu.max` is what systemd makes of them.
    #[test]
    fn quota_is_a_whole_percent_in_both_places() {
        for (quota, period, rounded) in [
            (12_345, 100_000, 13_000),
            (20_000, 100_000, 20_000),
            (1_001, 50_000, 1_500),
            (150_001, 100_000, 151_000),
        ] {
            let mut writes = [Write::new("cpu.max", format!("{quota} {period}"), "cpu/period")];
            round_quota(&mut writes, &|_| None);
            assert_eq!(writes[0].value, format!("{rounded} {period}"));
            let Value::U64(share) = quota_share(&writes) else { panic!() };
            assert_eq!(share % PERCENT, 0);
            assert_eq!(share * period / 1_000_000, rounded, "what systemd writes");
        }
        let mut writes = [Write::new("cpu.max", "1001", "cpu/quota")];
        round_quota(&mut writes, &|_| Some("max 10000".to_owned()));
        assert_eq!(writes[0].value, "1100", "the period that is there counts");
        let mut writes = [Write::new("cpu.max", "max 10000", "cpu/quota")];
        round_quota(&mut writes, &|_| None);
        assert_eq!(writes[0].value, "max 10000");
    }

    fn quota_share(writes: &[Write]) -> Value {
        quota(writes, NEWEST, &|_| None).swap_remove(0).value
    }

    #[test]
    fn lists_that_are_none_have_no_mask() {
        assert_eq!(bits("0-3, 6"), Some(vec![0b0100_1111]));
        assert_eq!(bits("8"), Some(vec![0, 1]));
        for list in ["3-1", "a", "1-", "99999999"] {
            assert_eq!(bits(list), None, "{list}");
        }
    }

    /// security.md D7, peers.md row 38: systemd allows what the rules allow, and no list where all is allowed.
    #[test]
    fn device_rules_become_a_list() {
        let of = |json: &str, exact| {
            let policy = Policy::new(&serde_json::from_str::<Vec<_>>(json).unwrap()).unwrap();
            of_devices(&policy, exact).map(|found| shown(&found)).map_err(|error| error.to_string())
        };
        let own = of(r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]"#, true).unwrap();
        assert_eq!(
            own,
            "DevicePolicy=strict; DeviceAllow=; DeviceAllow=/dev/char/10:229=rw char-*=m block-*=m /dev/char/1:3=rwm /dev/char/1:8=rwm \
             /dev/char/1:7=rwm /dev/char/5:0=rwm /dev/char/1:5=rwm /dev/char/1:9=rwm char-136=rwm /dev/char/5:2=rwm"
        );
        assert_eq!(
            of(r#"[{"allow":true,"access":"rwm"}]"#, true).unwrap(),
            "DevicePolicy=auto; DeviceAllow="
        );
        let but_one =
            r#"[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":10,"access":"rwm"}]"#;
        assert_eq!(of(but_one, false).unwrap(), "DevicePolicy=auto; DeviceAllow=");
        assert!(of(but_one, true).unwrap_err().starts_with("/linux/resources/devices: "));
        let minor = r#"[{"allow":true,"type":"b","minor":3,"access":"r"}]"#;
        assert!(of(minor, false).unwrap().contains("block-*=rm"));
        assert!(of(minor, true).unwrap_err().starts_with("/linux/resources/devices: "));
    }
}
