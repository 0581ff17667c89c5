//! A container's cgroup as the kernel shows it: metrics, processes, out-of-memory kills. Kernel files only, opened below
//! their hierarchy's mount, read with a bound (security.md I18).

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use skeg_proto::{Message as _, MessageField, metrics_v1 as v1, metrics_v2 as v2};

use skeg_proto::types::Any;

use crate::error::{Context as _, Error, Result};
use crate::path;

/// Where cgroups are mounted on every host that containerd runs on.
const MOUNT: &str = "/sys/fs/cgroup";
/// The longest kernel file that is read.
const LIMIT: usize = 1 << 20;
/// How deep and how wide a container's own tree of cgroups is searched for processes.
const GROUPS_LIMIT: usize = 1024;
/// Processes that are listed at most.
const PIDS_LIMIT: usize = 65_536;
/// `cpuacct.stat` counts in hundredths of a second (USER_HZ).
const NANOSECONDS_A_TICK: u64 = 10_000_000;

/// The cgroup of a container in each hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    /// Whether the host has the unified hierarchy only.
    unified: bool,
    /// `hierarchy:controllers:path` lines of /proc/PID/cgroup.
    membership: String,
}

impl Cgroup {
    /// The cgroup that process `pid` is in; nothing where that is the shim's own.
    ///
    /// # Errors
    /// What reading /proc failed with.
    pub fn of(pid: i32) -> Result<Option<Self>> {
        let read = |who: &str| {
            let bytes = path::read(Path::new(&format!("/proc/{who}/cgroup")), LIMIT)
                .context(|| format!("read the cgroup of process {who}"))?;
            String::from_utf8(bytes).map_err(|_| Error::other("/proc/PID/cgroup: not UTF-8"))
        };
        let membership = read(&pid.to_string())?;
        if membership == read("self")? {
            return Ok(None);
        }
        let unified = statfs(MOUNT).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC);
        Ok(Some(Self { unified, membership }))
    }

    /// The directory in the hierarchy of a controller; with an empty name, in the unified one.
    pub fn directory(&self, controller: &str) -> Option<PathBuf> {
        self.membership.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':');
            let (controllers, group) = (parts.nth(1)?, parts.next()?);
            if group.split('/').any(|part| part == "..") {
                return None;
            }
            let found = if controller.is_empty() {
                controllers.is_empty()
            } else {
                controllers.split(',').any(|name| name == controller)
            };
            let hierarchy = match controllers {
                "" if self.unified => String::new(),
                "" => "/unified".to_owned(),
                // systemd and others mount a hierarchy at the list of its controllers.
                list => format!("/{}", list.strip_prefix("name=").unwrap_or(list)),
            };
            found.then(|| PathBuf::from(format!("{MOUNT}{hierarchy}{group}")))
        })
    }

    fn open(&self, controller: &str) -> Option<Files> {
        path::open_dir(&self.directory(controller)?).ok().map(Files)
    }

    /// Every process of the container, in its sub-cgroups too.
    pub fn processes(&self) -> Vec<u32> {
        let hierarchies: &[&str] =
            if self.unified { &[""] } else { &["pids", "devices", "memory", "freezer", "cpu"] };
        let top = hierarchies.iter().find_map(|controller| self.directory(controller));
        let mut waiting: Vec<PathBuf> = top.into_iter().collect();
        let (mut found, mut groups) = (Vec::new(), 0);
        while let Some(dir) = waiting.pop() {
            groups += 1;
            if groups > GROUPS_LIMIT || found.len() > PIDS_LIMIT {
                break;
            }
            if let Ok(fd) = path::open_dir(&dir) {
                found.extend(Files(fd).lines("cgroup.procs").filter_map(|line| u32::from_str(&line).ok()));
            }
            waiting.extend(path::directories_in(&dir, GROUPS_LIMIT).unwrap_or_default());
        }
        found
    }

    /// How many processes the kernel has killed here for want of memory; nothing where it does not count them.
    pub fn oom_kills(&self) -> Option<u64> {
        let (controller, file) =
            if self.unified { ("", "memory.events") } else { ("memory", "memory.oom_control") };
        self.open(controller)?.value(file, "oom_kill")
    }

    /// Whether the host has the unified hierarchy only.
    pub fn is_unified(&self) -> bool {
        self.unified
    }

    /// The metrics in the type of the host's cgroup version.
    pub fn metrics(&self) -> Any {
        let (name, bytes) = if self.unified {
            ("io.containerd.cgroups.v2.Metrics", self.metrics_v2().write_to_bytes())
        } else {
            ("io.containerd.cgroups.v1.Metrics", self.metrics_v1().write_to_bytes())
        };
        Any { type_url: name.to_owned(), value: bytes.unwrap_or_default(), ..Any::default() }
    }

    fn metrics_v1(&self) -> v1::Metrics {
        let mut metrics = v1::Metrics::new();
        if let Some(files) = self.open("pids") {
            metrics.pids = MessageField::some(v1::PidsStat {
                current: files.number("pids.current"),
                limit: files.number("pids.max"),
                ..Default::default()
            });
        }
        metrics.cpu = MessageField::some(self.cpu_v1());
        if let Some(files) = self.open("memory") {
            metrics.memory = MessageField::some(memory_v1(&files));
            let control = |name| files.value("memory.oom_control", name).unwrap_or(0);
            metrics.memory_oom_control = MessageField::some(v1::MemoryOomControl {
                oom_kill_disable: control("oom_kill_disable"),
                under_oom: control("under_oom"),
                oom_kill: control("oom_kill"),
                ..Default::default()
            });
        }
        if let Some(files) = self.open("blkio") {
            metrics.blkio = MessageField::some(v1::BlkIOStat {
                io_service_bytes_recursive: blkio(&files, "blkio.throttle.io_service_bytes_recursive"),
                io_serviced_recursive: blkio(&files, "blkio.throttle.io_serviced_recursive"),
                ..Default::default()
            });
        }
        if let Some(files) = self.open("hugetlb") {
            metrics.hugetlb = huge_page_sizes()
                .into_iter()
                .map(|size| v1::HugetlbStat {
                    usage: files.number(&format!("hugetlb.{size}.usage_in_bytes")),
                    max: files.number(&format!("hugetlb.{size}.max_usage_in_bytes")),
                    failcnt: files.number(&format!("hugetlb.{size}.failcnt")),
                    pagesize: size,
                    ..Default::default()
                })
                .collect();
        }
        metrics
    }

    fn cpu_v1(&self) -> v1::CPUStat {
        let mut cpu = v1::CPUStat::new();
        if let Some(files) = self.open("cpuacct") {
            let ticks =
                |name| files.value("cpuacct.stat", name).unwrap_or(0).saturating_mul(NANOSECONDS_A_TICK);
            let per_cpu = files.text("cpuacct.usage_percpu");
            cpu.usage = MessageField::some(v1::CPUUsage {
                total: files.number("cpuacct.usage"),
                kernel: ticks("system"),
                user: ticks("user"),
                per_cpu: per_cpu.split_whitespace().filter_map(|text| text.parse().ok()).collect(),
                ..Default::default()
            });
        }
        if let Some(files) = self.open("cpu") {
            let value = |name| files.value("cpu.stat", name).unwrap_or(0);
            cpu.throttling = MessageField::some(v1::Throttle {
                periods: value("nr_periods"),
                throttled_periods: value("nr_throttled"),
                throttled_time: value("throttled_time"),
                ..Default::default()
            });
        }
        cpu
    }

    fn metrics_v2(&self) -> v2::Metrics {
        let mut metrics = v2::Metrics::new();
        let Some(files) = self.open("") else { return metrics };
        metrics.pids = MessageField::some(v2::PidsStat {
            current: files.number("pids.current"),
            limit: files.number("pids.max"),
            ..Default::default()
        });
        let stat = files.text("cpu.stat");
        let value = |name| keyed(&stat, name).unwrap_or(0);
        metrics.cpu = MessageField::some(v2::CPUStat {
            usage_usec: value("usage_usec"),
            user_usec: value("user_usec"),
            system_usec: value("system_usec"),
            nr_periods: value("nr_periods"),
            nr_throttled: value("nr_throttled"),
            throttled_usec: value("throttled_usec"),
            nr_bursts: value("nr_bursts"),
            burst_usec: value("burst_usec"),
            psi: pressure(&files, "cpu.pressure"),
            ..Default::default()
        });
        metrics.memory = MessageField::some(memory_v2(&files));
        let events = files.text("memory.events");
        let event = |name| keyed(&events, name).unwrap_or(0);
        metrics.memory_events = MessageField::some(v2::MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            ..Default::default()
        });
        metrics.io = MessageField::some(v2::IOStat {
            usage: files.lines("io.stat").filter_map(|line| io_entry(&line)).collect(),
            psi: pressure(&files, "io.pressure"),
            ..Default::default()
        });
        metrics.hugetlb = huge_page_sizes()
            .into_iter()
            .map(|size| v2::HugeTlbStat {
                current: files.number(&format!("hugetlb.{size}.current")),
                max: files.number(&format!("hugetlb.{size}.max")),
                pagesize: size,
                ..Default::default()
            })
            .collect();
        metrics
    }
}

/// The files of one cgroup directory.
struct Files(OwnedFd);

impl Files {
    /// The content of a file; empty where it is not there.
    fn text(&self, name: &str) -> String {
        path::read_in(&self.0, name, LIMIT)
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    fn lines(&self, name: &str) -> impl Iterator<Item = String> {
        self.text(name).lines().map(str::to_owned).collect::<Vec<_>>().into_iter()
    }

    /// A file with one number; `max` is the largest one, and a file that is not there is 0.
    fn number(&self, name: &str) -> u64 {
        number(self.text(name).trim())
    }

    /// The value of a key in a file of `key value` lines.
    fn value(&self, name: &str, key: &str) -> Option<u64> {
        keyed(&self.text(name), key)
    }
}

fn number(text: &str) -> u64 {
    match text {
        "max" => u64::MAX,
        // memory.memsw.limit_in_bytes and the like may be -1.
        negative if negative.starts_with('-') => u64::MAX,
        other => other.parse().unwrap_or(0),
    }
}

fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| number_after(line, key))
}

fn number_after(line: &str, key: &str) -> Option<u64> {
    line.strip_prefix(key)?.strip_prefix([' ', '='])?.trim().parse().ok()
}

fn memory_v1(files: &Files) -> v1::MemoryStat {
    let stat = files.text("memory.stat");
    let value = |name| keyed(&stat, name).unwrap_or(0);
    let entry = |middle: &str| {
        let file = |last: &str| files.number(&format!("memory.{middle}{last}"));
        MessageField::some(v1::MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..Default::default()
        })
    };
    v1::MemoryStat {
        cache: value("cache"),
        rss: value("rss"),
        rss_huge: value("rss_huge"),
        mapped_file: value("mapped_file"),
        dirty: value("dirty"),
        writeback: value("writeback"),
        pg_pg_in: value("pgpgin"),
        pg_pg_out: value("pgpgout"),
        pg_fault: value("pgfault"),
        pg_maj_fault: value("pgmajfault"),
        inactive_anon: value("inactive_anon"),
        active_anon: value("active_anon"),
        inactive_file: value("inactive_file"),
        active_file: value("active_file"),
        unevictable: value("unevictable"),
        hierarchical_memory_limit: value("hierarchical_memory_limit"),
        hierarchical_swap_limit: value("hierarchical_memsw_limit"),
        total_cache: value("total_cache"),
        total_rss: value("total_rss"),
        total_rss_huge: value("total_rss_huge"),
        total_mapped_file: value("total_mapped_file"),
        total_dirty: value("total_dirty"),
        total_writeback: value("total_writeback"),
        total_pg_pg_in: value("total_pgpgin"),
        total_pg_pg_out: value("total_pgpgout"),
        total_pg_fault: value("total_pgfault"),
        total_pg_maj_fault: value("total_pgmajfault"),
        total_inactive_anon: value("total_inactive_anon"),
        total_active_anon: value("total_active_anon"),
        total_inactive_file: value("total_inactive_file"),
        total_active_file: value("total_active_file"),
        total_unevictable: value("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..Default::default()
    }
}

fn memory_v2(files: &Files) -> v2::MemoryStat {
    let stat = files.text("memory.stat");
    let value = |name| keyed(&stat, name).unwrap_or(0);
    v2::MemoryStat {
        anon: value("anon"),
        file: value("file"),
        kernel_stack: value("kernel_stack"),
        slab: value("slab"),
        sock: value("sock"),
        shmem: value("shmem"),
        file_mapped: value("file_mapped"),
        file_dirty: value("file_dirty"),
        file_writeback: value("file_writeback"),
        anon_thp: value("anon_thp"),
        inactive_anon: value("inactive_anon"),
        active_anon: value("active_anon"),
        inactive_file: value("inactive_file"),
        active_file: value("active_file"),
        unevictable: value("unevictable"),
        slab_reclaimable: value("slab_reclaimable"),
        slab_unreclaimable: value("slab_unreclaimable"),
        pgfault: value("pgfault"),
        pgmajfault: value("pgmajfault"),
        workingset_refault: value("workingset_refault_file").saturating_add(value("workingset_refault_anon")),
        workingset_activate: value("workingset_activate_file")
            .saturating_add(value("workingset_activate_anon")),
        workingset_nodereclaim: value("workingset_nodereclaim"),
        pgrefill: value("pgrefill"),
        pgscan: value("pgscan"),
        pgsteal: value("pgsteal"),
        pgactivate: value("pgactivate"),
        pgdeactivate: value("pgdeactivate"),
        pglazyfree: value("pglazyfree"),
        pglazyfreed: value("pglazyfreed"),
        thp_fault_alloc: value("thp_fault_alloc"),
        thp_collapse_alloc: value("thp_collapse_alloc"),
        usage: files.number("memory.current"),
        usage_limit: files.number("memory.max"),
        swap_usage: files.number("memory.swap.current"),
        swap_limit: files.number("memory.swap.max"),
        max_usage: files.number("memory.peak"),
        swap_max_usage: files.number("memory.swap.peak"),
        psi: pressure(files, "memory.pressure"),
        ..Default::default()
    }
}

/// A pressure file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`.
fn pressure(files: &Files, name: &str) -> MessageField<v2::PSIStats> {
    let text = files.text(name);
    if text.is_empty() {
        return MessageField::none();
    }
    let line = |kind: &str| {
        let fields = text.lines().find_map(|line| line.strip_prefix(kind));
        let field =
            |key: &str| fields.and_then(|line| line.split(' ').find_map(|part| part.strip_prefix(key)));
        let share = |key| field(key).and_then(|text| text.parse().ok()).unwrap_or(0.0);
        fields.map(|_| v2::PSIData {
            avg10: share("avg10="),
            avg60: share("avg60="),
            avg300: share("avg300="),
            total: field("total=").and_then(|text| text.parse().ok()).unwrap_or(0),
            ..Default::default()
        })
    };
    MessageField::some(v2::PSIStats {
        some: line("some ").into(),
        full: line("full ").into(),
        ..Default::default()
    })
}

/// A line `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0` of io.stat.
fn io_entry(line: &str) -> Option<v2::IOEntry> {
    let mut parts = line.split(' ');
    let (major, minor) = parts.next()?.split_once(':')?;
    let mut entry =
        v2::IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
    for part in parts {
        let (key, value) = part.split_once('=')?;
        let value = value.parse().unwrap_or(0);
        match key {
            "rbytes" => entry.rbytes = value,
            "wbytes" => entry.wbytes = value,
            "rios" => entry.rios = value,
            "wios" => entry.wios = value,
            _ => {}
        }
    }
    Some(entry)
}

/// Lines `8:0 Read 4096` of a blkio file; the last one, `Total N`, is of no device.
fn blkio(files: &Files, name: &str) -> Vec<v1::BlkIOEntry> {
    files
        .lines(name)
        .filter_map(|line| {
            let mut parts = line.split(' ');
            let (major, minor) = parts.next()?.split_once(':')?;
            Some(v1::BlkIOEntry {
                major: major.parse().ok()?,
                minor: minor.parse().ok()?,
                op: parts.next()?.to_owned(),
                value: parts.next()?.parse().ok()?,
                ..Default::default()
            })
        })
        .collect()
}

/// The sizes that the kernel names its huge page counters after: `2MB`, `1GB`.
fn huge_page_sizes() -> Vec<String> {
    let pools = path::directories_in(Path::new("/sys/kernel/mm/hugepages"), 16).unwrap_or_default();
    let mut sizes: Vec<u64> = pools
        .iter()
        .filter_map(|pool| {
            pool.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()
        })
        .collect();
    sizes.sort_unstable();
    sizes
        .into_iter()
        .map(|kilobytes| match kilobytes {
            giga if giga % (1 << 20) == 0 => format!("{}GB", giga >> 20),
            mega if mega % (1 << 10) == 0 => format!("{}MB", mega >> 10),
            kilo => format!("{kilo}KB"),
        })
        .collect()
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use super::*;

    #[test]
    fn directories_of_both_versions() {
        let membership =
            "12:cpu,cpuacct:/k/pod/c\n5:memory:/k/pod/c\n2:name=systemd:/k\n1:pids:/../x\n0::/u\n";
        let hybrid = Cgroup { unified: false, membership: membership.into() };
        assert_eq!(hybrid.directory("cpuacct").unwrap(), Path::new("/sys/fs/cgroup/cpu,cpuacct/k/pod/c"));
        assert_eq!(hybrid.directory("").unwrap(), Path::new("/sys/fs/cgroup/unified/u"));
        assert_eq!(hybrid.directory("name=systemd").unwrap(), Path::new("/sys/fs/cgroup/systemd/k"));
        assert_eq!(hybrid.directory("pids"), None, "a path above the root is of no use");
        let unified = Cgroup { unified: true, membership: "0::/kubepods/x\n".into() };
        assert_eq!(unified.directory("").unwrap(), Path::new("/sys/fs/cgroup/kubepods/x"));
    }

    #[test]
    fn kernel_numbers() {
        assert_eq!((number("max"), number("-1"), number("17"), number("")), (u64::MAX, u64::MAX, 17, 0));
        assert_eq!(keyed("oom 1\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(keyed("oom_kill_disable 1\n", "oom_kill"), None);
        let entry = io_entry("8:16 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0").unwrap();
        assert_eq!((entry.major, entry.minor, entry.rbytes, entry.wios), (8, 16, 10, 2));
        assert!(io_entry("garbage").is_none());
    }

    /// security.md I18: what is read of a cgroup is bounded.
    #[test]
    fn i18_reads_are_bounded() {
        let dir = std::env::temp_dir().join(format!("shim-stats-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), "1\n".repeat(LIMIT)).unwrap();
        std::fs::write(dir.join("memory.stat"), "anon 5\n").unwrap();
        let files = Files(path::open_dir(&dir).unwrap());
        assert_eq!(files.text("cgroup.procs"), "");
        assert_eq!(files.value("memory.stat", "anon"), Some(5));
        assert_eq!(files.text("missing"), "");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    /// The machine's own cgroups, whichever version they are.
    #[test]
    fn the_metrics_of_a_real_process_are_readable() {
        if let Some(cgroup) = Cgroup::of(1).unwrap() {
            assert!(cgroup.metrics().type_url.starts_with("io.containerd.cgroups.v"));
        }
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Cgroup::of(own).unwrap().is_none(), "our own cgroup is not a container's");
    }
}
