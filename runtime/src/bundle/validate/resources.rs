//! The rules of `/linux/resources`, which `update` reads as well.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxDeviceType, LinuxMemory, LinuxResources};

use super::{child, invalid, missing};
use crate::error::Result;

/// Checks resources; `pointer` is where they stand.
///
/// # Errors
/// The first rule that is broken: pointer, value, what is allowed.
pub fn validate_resources(resources: &LinuxResources, pointer: &str) -> Result<()> {
    devices(resources, pointer)?;
    resources.memory().as_ref().map_or(Ok(()), |memory| validate_memory(memory, pointer))?;
    resources.cpu().as_ref().map_or(Ok(()), |cpu| validate_cpu(cpu, pointer))?;
    resources.block_io().as_ref().map_or(Ok(()), |io| block_io(io, pointer))?;
    for (index, page) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = page.page_size();
        let number = size.strip_suffix("KB").or(size.strip_suffix("MB")).or(size.strip_suffix("GB"));
        if number.is_none_or(|text| text.starts_with('0') || !text.parse::<u64>().is_ok_and(|n| n > 0)) {
            return invalid(
                format_args!("{pointer}/hugepageLimits/{index}/pageSize"),
                size,
                "must be as 64KB, 2MB or 1GB",
            );
        }
        if page.limit() < 0 {
            return invalid(
                format_args!("{pointer}/hugepageLimits/{index}/limit"),
                page.limit(),
                "must be 0 or more",
            );
        }
    }
    for (index, priority) in
        resources.network().iter().flat_map(|network| network.priorities().iter().flatten()).enumerate()
    {
        if priority.name().is_empty() || priority.name().contains(|c: char| c.is_whitespace() || c == '/') {
            return invalid(
                format_args!("{pointer}/network/priorities/{index}/name"),
                priority.name(),
                "must be an interface name",
            );
        }
    }
    for (name, limits) in resources.rdma().iter().flatten() {
        let pointer = child(&format!("{pointer}/rdma"), name);
        if name.is_empty() || name.contains(char::is_whitespace) {
            return invalid(pointer, name, "must be a device name");
        }
        if limits.hca_handles().is_none() && limits.hca_objects().is_none() {
            return missing(pointer, "must have hcaHandles or hcaObjects");
        }
    }
    for key in resources.unified().iter().flatten().map(|(key, _)| key) {
        // A file of the cgroup itself; cgroup.* files are the runtime's own business (cgroup.procs, cgroup.kill).
        let is_file = !key.contains(['/', '\n'])
            && key
                .split_once('.')
                .is_some_and(|(controller, file)| !controller.is_empty() && !file.is_empty());
        if !is_file {
            return invalid(
                child(&format!("{pointer}/unified"), key),
                key,
                // The second half is crun's.
                format_args!(
                    "must be a file name as memory.high: the specified key has not the form CONTROLLER.VALUE `{key}`"
                ),
            );
        }
    }
    Ok(())
}

fn devices(resources: &LinuxResources, pointer: &str) -> Result<()> {
    for (index, rule) in resources.devices().iter().flatten().enumerate() {
        let pointer = format!("{pointer}/devices/{index}");
        if matches!(rule.typ(), Some(LinuxDeviceType::U | LinuxDeviceType::P)) {
            return invalid(
                format_args!("{pointer}/type"),
                rule.typ().unwrap_or_default().as_str(),
                "must be a, b or c",
            );
        }
        for (name, number) in [("major", rule.major()), ("minor", rule.minor())] {
            // -1 is runc's way to write "all", and some managers do so.
            if let Some(number) = number.filter(|number| !(-1..=i64::from(u32::MAX)).contains(number)) {
                return invalid(
                    format_args!("{pointer}/{name}"),
                    number,
                    "must be a device number, or -1 for all",
                );
            }
        }
        let access = rule.access().as_deref().unwrap_or_default();
        // config-linux.md knows no `a`, and runc takes it; what is denied may as well be everything.
        if !access.bytes().all(|c| matches!(c, b'r' | b'w' | b'm') || (c == b'a' && !rule.allow())) {
            return invalid(format_args!("{pointer}/access"), access, "must be made of r, w and m");
        }
    }
    Ok(())
}

fn validate_memory(memory: &LinuxMemory, pointer: &str) -> Result<()> {
    for (name, bytes) in
        [("limit", memory.limit()), ("reservation", memory.reservation()), ("swap", memory.swap())]
    {
        if let Some(bytes) = bytes.filter(|&bytes| bytes < -1) {
            return invalid(
                format_args!("{pointer}/memory/{name}"),
                bytes,
                "must be a number of bytes, or -1 for no limit",
            );
        }
    }
    match memory.swappiness() {
        Some(value) if value > 100 => {
            invalid(format_args!("{pointer}/memory/swappiness"), value, "must be 0 to 100")
        }
        _ => Ok(()),
    }
}

fn validate_cpu(cpu: &LinuxCpu, pointer: &str) -> Result<()> {
    if let Some(idle) = cpu.idle().filter(|idle| !(0..=1).contains(idle)) {
        return invalid(format_args!("{pointer}/cpu/idle"), idle, "must be 0 or 1");
    }
    let quota = cpu.quota().unwrap_or(-1);
    if let (Ok(limit @ 1..), Some(burst)) = (u64::try_from(quota), cpu.burst())
        && burst > limit
    {
        return invalid(
            format_args!("{pointer}/cpu/burst"),
            burst,
            format_args!("must not be greater than the quota {quota}"),
        );
    }
    for (name, list) in [("cpus", cpu.cpus()), ("mems", cpu.mems())] {
        if let Some(list) = list
            .as_deref()
            .filter(|list| !list.bytes().all(|c| c.is_ascii_digit() || matches!(c, b',' | b'-')))
        {
            return invalid(format_args!("{pointer}/cpu/{name}"), list, "must be a list as 0-3,7");
        }
    }
    Ok(())
}

/// blkio weights are 10 to 1000; 0 is what Go programs write for "not set".
fn block_io(io: &LinuxBlockIo, pointer: &str) -> Result<()> {
    let weight = |name: String, value: Option<u16>| match value {
        None | Some(0 | 10..=1000) => Ok(()),
        Some(value) => invalid(format_args!("{pointer}/blockIO/{name}"), value, "must be 10 to 1000"),
    };
    let device = |name: String, major: i64, minor: i64| match u32::try_from(major).and(u32::try_from(minor)) {
        Ok(_) => Ok(()),
        Err(_) => invalid(format_args!("{pointer}/blockIO/{name}"), (major, minor), "must be device numbers"),
    };
    weight("weight".to_owned(), io.weight())?;
    weight("leafWeight".to_owned(), io.leaf_weight())?;
    for (index, entry) in io.weight_device().iter().flatten().enumerate() {
        let name = format!("weightDevice/{index}");
        device(name.clone(), entry.major(), entry.minor())?;
        if entry.weight().is_none() && entry.leaf_weight().is_none() {
            return missing(format_args!("{pointer}/blockIO/{name}"), "must have weight or leafWeight");
        }
        weight(format!("{name}/weight"), entry.weight())?;
        weight(format!("{name}/leafWeight"), entry.leaf_weight())?;
    }
    for (name, entries) in [
        ("throttleReadBpsDevice", io.throttle_read_bps_device()),
        ("throttleWriteBpsDevice", io.throttle_write_bps_device()),
        ("throttleReadIOPSDevice", io.throttle_read_iops_device()),
        ("throttleWriteIOPSDevice", io.throttle_write_iops_device()),
    ] {
        for (index, entry) in entries.iter().flatten().enumerate() {
            device(format!("{name}/{index}"), entry.major(), entry.minor())?;
        }
    }
    Ok(())
}
