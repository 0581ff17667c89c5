//! `skeg update`: new limits for a container, from a JSON document or from flags.

use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::bundle;
use crate::cgroup::Cgroup;
use crate::cli::UpdateOptions;
use crate::error::{CONTAINER_NOT_RUNNING, Context as _, Error, Result};
use crate::log::Log;
use crate::rdt;
use crate::state::{Container, Status};
use crate::sys::fd::read_to_end;
use crate::sys::path::open_given;

/// The longest document of resources that is read; those of managers have a few hundred bytes.
const DOCUMENT_LIMIT: usize = 1 << 20;

/// Sets the limits that `options` name and leaves all others as they are.
///
/// # Errors
/// [`CONTAINER_NOT_RUNNING`]; a value that cannot be had; a limit that the kernel refuses.
pub fn update(container: &Container, options: &UpdateOptions, log: &mut Log) -> Result<()> {
    let resources = resources(options, log)?;
    if options.resources.is_none() && options.kernel_memory {
        log.warn("--kernel-memory and --kernel-memory-tcp are ignored: Linux has no such limits any more");
    }
    if container.status()? == Status::Stopped {
        return Err(Error::new(CONTAINER_NOT_RUNNING));
    }
    Cgroup::open(&container.state.cgroup).update(&resources)?;
    update_rdt(container.state.rdt.as_ref(), options)
}

/// The schemata of the container's class of resctrl; runc's words where it is in none.
fn update_rdt(group: Option<&rdt::Group>, options: &UpdateOptions) -> Result<()> {
    let (cache, bandwidth) = (options.l3_cache_schema.as_deref(), options.mem_bw_schema.as_deref());
    match (group, cache, bandwidth) {
        (_, None, None) => Ok(()),
        (Some(group), ..) => group.update(&[cache, bandwidth].into_iter().flatten().collect::<Vec<_>>()),
        (None, Some(_), _) => Err(Error::new("Intel RDT/CAT: l3 cache schema is not enabled")),
        (None, None, Some(_)) => Err(Error::new("Intel RDT/MBA: memory bandwidth schema is not enabled")),
    }
}

/// The resources that the command line asks for: a document, or else the flags.
///
/// # Errors
/// The document cannot be read; a value that is no number of its kind.
pub fn resources(options: &UpdateOptions, log: &mut Log) -> Result<LinuxResources> {
    let resources = match &options.resources {
        Some(path) => document(path, log),
        None => from_flags(options),
    }?;
    bundle::validate_resources(&resources, "")?;
    Ok(resources)
}

fn document(path: &Path, log: &mut Log) -> Result<LinuxResources> {
    let name = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let what = || format!("read {name}");
    let text = if path == Path::new("-") {
        read_to_end(std::io::stdin(), DOCUMENT_LIMIT).context(what)?
    } else {
        let file = open_given(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, Mode::empty()).context(what)?;
        read_to_end(file, DOCUMENT_LIMIT).context(what)?
    };
    let loaded = bundle::parse(&name, "", bundle::RESOURCES, text)?;
    loaded.warn(log);
    Ok(*loaded.value)
}

fn from_flags(options: &UpdateOptions) -> Result<LinuxResources> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(number("cpu-share", options.cpu_share.as_deref())?)
        .set_quota(number("cpu-quota", options.cpu_quota.as_deref())?)
        .set_burst(number("cpu-burst", options.cpu_burst.as_deref())?)
        .set_period(number("cpu-period", options.cpu_period.as_deref())?)
        .set_realtime_runtime(number("cpu-rt-runtime", options.cpu_rt_runtime.as_deref())?)
        .set_realtime_period(number("cpu-rt-period", options.cpu_rt_period.as_deref())?)
        .set_idle(number("cpu-idle", options.cpu_idle.as_deref())?)
        .set_cpus(options.cpuset_cpus.clone())
        .set_mems(options.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(bytes("memory", options.memory.as_deref())?)
        .set_reservation(bytes("memory-reservation", options.memory_reservation.as_deref())?)
        .set_swap(bytes("memory-swap", options.memory_swap.as_deref())?);
    let mut block_io = LinuxBlockIo::default();
    block_io.set_weight(number("blkio-weight", options.blkio_weight.as_deref())?);
    let mut pids = LinuxPids::default();
    pids.set_limit(number("pids-limit", options.pids_limit.as_deref())?.unwrap_or(0));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu)).set_memory(Some(memory)).set_block_io(Some(block_io)).set_pids(Some(pids));
    Ok(resources)
}

/// A decimal number; an empty value is "not given", as in runc.
fn number<T: std::str::FromStr>(flag: &str, text: Option<&str>) -> Result<Option<T>> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    match text.parse() {
        Ok(value) => Ok(Some(value)),
        Err(_) => {
            Err(Error::new(format!("invalid value for {flag}: {text:?}: must be a number in its range")))
        }
    }
}

/// Bytes, or -1 for no limit.
fn bytes(flag: &str, text: Option<&str>) -> Result<Option<i64>> {
    match text {
        None | Some("") => Ok(None),
        Some("-1") => Ok(Some(-1)),
        Some(text) => match size(text) {
            Some(size) => Ok(Some(size)),
            None => Err(Error::new(format!(
                "invalid value for {flag}: {text:?}: must be -1 or a size in bytes such as 1048576, 512k, 64M or 1.5GiB"
            ))),
        },
    }
}

/// A size as runc's flags take it: a decimal number, perhaps with a fraction, and perhaps a unit (`b`, `k`, `m`, `g`, `t`,
/// `p`, in either case, with `b` or `ib` behind it), always counted in powers of 1024. What is less than a byte is cut off.
fn size(text: &str) -> Option<i64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        _ => {
            let power = "kmgtp".find(unit.chars().next()?)?;
            if !matches!(unit.get(1..)?, "" | "b" | "ib") {
                return None;
            }
            10 * (power + 1)
        }
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || fraction.len() > 15 {
        return None;
    }
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let digits = format!("{whole}{fraction}").parse::<u128>().ok()?;
    let bytes = digits.checked_mul(1_u128.checked_shl(u32::try_from(shift).ok()?)?)? / scale;
    i64::try_from(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "test code")]

    use super::*;
    use crate::cli;
    use crate::log::Level;

    fn options(args: &str) -> Box<UpdateOptions> {
        let args: Vec<_> =
            ["update"].into_iter().chain(args.split(' ')).chain(["web"]).map(Into::into).collect();
        match cli::parse(&args).unwrap().command {
            cli::Command::Update(options) => options,
            other => panic!("{other:?}"),
        }
    }

    fn parsed(args: &str) -> Result<LinuxResources> {
        resources(&options(args), &mut Log::stderr(Level::Error))
    }

    /// peers.md A1.2 update: the units of runc's memory flags.
    #[test]
    fn sizes_are_read_as_runc_reads_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("512k", 512 << 10),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64 MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("0.1k", 102),
            ("32b", 32),
            ("2t", 2 << 40),
            ("8191p", 8191 << 50),
        ] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            ".",
            "-1",
            "-5m",
            "k",
            "1kk",
            "1bb",
            "1 x",
            "1..2",
            "1.2.3",
            "8192p",
            "1e3",
            "99999999999999999999",
            "0x10",
            "1  m",
            "+1",
        ] {
            assert_eq!(size(text), None, "{text}");
        }
    }

    #[test]
    fn flags_become_resources() {
        let resources = parsed(
            "--memory 64M --memory-swap=-1 --cpu-quota -1 --cpu-period 50000 --cpuset-cpus 0-1 --pids-limit 7 --blkio-weight 300 --cpu-idle 1",
        )
        .unwrap();
        let memory = resources.memory().as_ref().unwrap();
        assert_eq!((memory.limit(), memory.swap(), memory.reservation()), (Some(64 << 20), Some(-1), None));
        let cpu = resources.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.idle(), cpu.shares()),
            (Some(-1), Some(50_000), Some(1), None)
        );
        assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
        assert_eq!(resources.pids().as_ref().unwrap().limit(), 7);
        assert_eq!(resources.block_io().as_ref().unwrap().weight(), Some(300));
    }

    #[test]
    fn values_out_of_range_are_errors_that_name_the_flag() {
        for (args, start) in [
            ("--memory 1x", "invalid value for memory: \"1x\": "),
            ("--cpu-period -1", "invalid value for cpu-period: \"-1\": "),
            ("--cpu-share 18446744073709551616", "invalid value for cpu-share: "),
            ("--blkio-weight 65546", "invalid value for blkio-weight: "),
        ] {
            let text = parsed(args).unwrap_err().to_string();
            assert!(text.starts_with(start), "{args}: {text}");
        }
    }

    /// runc's words for a container that is in no class of resctrl.
    #[test]
    fn schemata_without_resctrl_are_an_error() {
        let refused = |args: &str| update_rdt(None, &options(args)).map_err(|error| error.to_string());
        assert_eq!(refused("--memory 1"), Ok(()));
        let cache = Err("Intel RDT/CAT: l3 cache schema is not enabled".to_owned());
        assert_eq!(refused("--l3-cache-schema L3:0=f"), cache);
        let bandwidth = Err("Intel RDT/MBA: memory bandwidth schema is not enabled".to_owned());
        assert_eq!(refused("--mem-bw-schema MB:0=1"), bandwidth);
    }

    /// peers.md A1.3: managers give a document; all other flags are ignored then.
    #[test]
    fn document_is_read_and_a_wrong_type_is_named_by_its_pointer() {
        let path = format!("/tmp/cgroup-update-{}.json", std::process::id());
        std::fs::write(&path, r#"{"memory":{"limit":4096,"checkBeforeUpdate":true},"cpu":{},"pids":{}}"#)
            .unwrap();
        let resources = parsed(&format!("--memory 1x --resources {path}")).unwrap();
        assert_eq!(resources.memory().as_ref().unwrap().limit(), Some(4096));
        std::fs::write(&path, r#"{"memory":{"limit":"4096"}}"#).unwrap();
        let text = parsed(&format!("-r {path}")).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(text.starts_with("/memory/limit: "), "{text}");
    }
}
