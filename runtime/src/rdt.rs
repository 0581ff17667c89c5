//! Intel RDT: classes of service and monitoring groups of the resctrl file system (config-linux.md, intelRdt; the
//! kernel's Documentation/filesystems/resctrl.rst).
//!
//! A class of the container's own has its id as its name and goes with it. A class that the configuration names is
//! somebody else's: it is made where it is missing and never removed. As with cgroup v1, the process enters by itself, so
//! that all its children are in it too.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{FsType, fstatfs};
use oci_spec::runtime::{LinuxIntelRdt, Spec};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};
use crate::rootfs::pivot::mount_point_of_type;
use crate::sys::path::{open_given, open_own, read_own, remove_dir, write_own};
use crate::sys::procfs::Procfs;

/// `RDTGROUP_SUPER_MAGIC` of `linux/magic.h`.
const MAGIC: FsType = FsType(0x0765_5821);
/// The class that everything is in that is in no other.
pub const DEFAULT_CLASS: &str = "/";
/// The most that is read of a file.
const READ_LIMIT: usize = 1 << 20;

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY);
const MODE: Mode = Mode::from_bits_truncate(0o755);

/// Where a container is in resctrl: the part of its state by which later commands find it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Where resctrl is mounted.
    mount: PathBuf,
    /// The name of the class, [`DEFAULT_CLASS`] for that of the whole host.
    class: String,
    /// The class has been made for this container.
    own_class: bool,
    /// The name of its monitoring group in the class.
    monitor: Option<String>,
}

/// What the container's process writes itself to.
#[derive(Debug)]
pub struct Entry(Vec<OwnedFd>);

impl Group {
    /// Where the container `id` will be; `None` where its configuration asks for nothing.
    ///
    /// # Errors
    /// There is no resctrl on this host.
    pub fn of(spec: &Spec, id: &str) -> Result<Option<Self>> {
        let Some(rdt) = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref()) else {
            return Ok(None);
        };
        let what = || "/linux/intelRdt: look for the resctrl file system";
        let table = Procfs::mounted()?.read_self("mountinfo").context(what)?;
        let mount = mount_point_of_type(&table, "resctrl")
            .ok_or_else(|| Error::new("/linux/intelRdt: no resctrl file system is mounted on this host"))?;
        Ok(Some(Self::new(rdt, id, mount)))
    }

    fn new(rdt: &LinuxIntelRdt, id: &str, mount: PathBuf) -> Self {
        let monitored = rdt.enable_monitoring().unwrap_or(false);
        Self {
            mount,
            class: rdt.clos_id().clone().unwrap_or_else(|| id.to_owned()),
            own_class: rdt.clos_id().is_none(),
            monitor: monitored.then(|| id.to_owned()),
        }
    }

    /// Makes the class and the monitoring group as far as they are missing, and sets or checks the schemata.
    ///
    /// # Errors
    /// A class that has to be there and is not, or that has other schemata; what the kernel said.
    pub fn make(&self, spec: &Spec) -> Result<()> {
        let rdt = spec.linux().as_ref().and_then(|linux| linux.intel_rdt().as_ref());
        let Some(rdt) = rdt else { return Ok(()) };
        let root = self.open_mount()?;
        let lines = schemata(rdt);
        let made = !lines.is_empty() || self.own_class;
        let made = made && self.make_class(&root)?;
        let class = self.open_class(&root)?;
        if made || self.own_class {
            set_schemata(&root, &class, &lines)?;
        } else {
            check_schemata(&class, &self.class, &lines)?;
        }
        self.make_monitor(&root, &class)
    }

    /// Sets lines of the schemata anew (`skeg update`).
    ///
    /// # Errors
    /// What the kernel said.
    pub fn update(&self, lines: &[&str]) -> Result<()> {
        let root = self.open_mount()?;
        set_schemata(&root, &self.open_class(&root)?, lines)
    }

    /// Opens what the container's process writes itself to.
    ///
    /// # Errors
    /// What opening said.
    pub fn entry(&self) -> Result<Entry> {
        let root = self.open_mount()?;
        self.entry_in(&root)
    }

    fn entry_in(&self, root: &OwnedFd) -> Result<Entry> {
        let class = self.open_class(root)?;
        let what = || format!("/linux/intelRdt: open the tasks of class {:?}", self.class);
        let open = |path: &str| open_own(&class, path, OFlag::O_WRONLY, Mode::empty()).context(what);
        let mut tasks = vec![open("tasks")?];
        if let Some(monitor) = &self.monitor {
            tasks.push(open(&format!("mon_groups/{monitor}/tasks"))?);
        }
        Ok(Entry(tasks))
    }

    /// Removes what was made for this container alone; what is gone already is fine.
    ///
    /// # Errors
    /// What removing said.
    pub fn remove(&self) -> Result<()> {
        match self.open_mount() {
            // Unmounted, and with it all that was in it.
            Err(error) if error.errno().is_none_or(|errno| errno == Errno::ENOENT) => Ok(()),
            root => self.remove_in(&root?),
        }
    }

    fn remove_in(&self, root: &OwnedFd) -> Result<()> {
        let what = || format!("remove class {:?} of resctrl", self.class);
        if let Some(monitor) = &self.monitor
            && let Ok(class) = self.open_class(root)
            && let Ok(groups) = open_own(&class, "mon_groups", DIRECTORY, Mode::empty())
        {
            remove_dir(&groups, monitor.as_str())
                .context(|| format!("remove monitoring group {monitor:?} of resctrl"))?;
        }
        if self.own_class { remove_dir(root, self.class.as_str()).context(what) } else { Ok(()) }
    }

    fn open_mount(&self) -> Result<OwnedFd> {
        let what = || format!("open resctrl on {}", self.mount.display());
        let root = open_given(&self.mount, DIRECTORY, Mode::empty()).context(what)?;
        if fstatfs(&root).context(what)?.filesystem_type() != MAGIC {
            return Err(Error::new(format!("{}: it is no resctrl", what())));
        }
        Ok(root)
    }

    /// Whether it was missing.
    fn make_class(&self, root: &OwnedFd) -> Result<bool> {
        if self.class == DEFAULT_CLASS {
            return Ok(false);
        }
        match mkdirat(root, self.class.as_str(), MODE) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) => Ok(false),
            Err(errno) => {
                Err(refused(root, errno)).context(|| format!("/linux/intelRdt: make class {:?}", self.class))
            }
        }
    }

    fn open_class(&self, root: &OwnedFd) -> Result<OwnedFd> {
        let name = if self.class == DEFAULT_CLASS { "." } else { self.class.as_str() };
        match open_own(root, name, DIRECTORY, Mode::empty()) {
            Err(Errno::ENOENT) if !self.own_class => Err(Error::new(format!(
                "/linux/intelRdt/closID: {:?}: must be a class of resctrl that is there, or have schemata",
                self.class
            ))),
            other => other.context(|| format!("/linux/intelRdt: open class {:?}", self.class)),
        }
    }

    fn make_monitor(&self, root: &OwnedFd, class: &OwnedFd) -> Result<()> {
        let Some(monitor) = &self.monitor else { return Ok(()) };
        let what = || "/linux/intelRdt/enableMonitoring: make a monitoring group";
        let groups = open_own(class, "mon_groups", DIRECTORY, Mode::empty()).context(what)?;
        match mkdirat(&groups, monitor.as_str(), MODE) {
            Ok(()) | Err(Errno::EEXIST) => Ok(()),
            Err(errno) => Err(refused(root, errno)).context(what),
        }
    }
}

impl Entry {
    /// Moves this process into the groups.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn enter_self(&self) -> Result<()> {
        for tasks in &self.0 {
            nix::unistd::write(tasks, b"0").context(|| "/linux/intelRdt: enter the class")?;
        }
        Ok(())
    }
}

/// The lines for the `schemata` file. Memory bandwidth in `l3CacheSchema` gives way to `memBwSchema` (config-linux.md).
fn schemata(rdt: &LinuxIntelRdt) -> Vec<&str> {
    let cache = rdt.l3_cache_schema().as_deref().unwrap_or_default().lines();
    let cache = cache.filter(|line| !line.is_empty() && !line.starts_with("MB:"));
    let bandwidth = rdt.mem_bw_schema().as_deref().filter(|line| !line.is_empty());
    cache.chain(bandwidth).chain(rdt.schemata().iter().flatten().map(String::as_str)).collect()
}

fn set_schemata(root: &OwnedFd, class: &OwnedFd, lines: &[&str]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut text = lines.join("\n");
    text.push('\n');
    write_own(class, "schemata", text.as_bytes())
        .map_err(|errno| refused(root, errno))
        .context(|| format!("/linux/intelRdt: write {:?} to schemata", text.trim_end()))
}

fn check_schemata(class: &OwnedFd, name: &str, lines: &[&str]) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let what = || format!("/linux/intelRdt: read the schemata of class {name:?}");
    let text = read_own(class, "schemata", READ_LIMIT).context(what)?;
    let text = String::from_utf8_lossy(&text);
    let is: Vec<_> = text.lines().flat_map(allocations).collect();
    for line in lines {
        let wanted: Vec<_> = allocations(line).collect();
        if wanted.is_empty() || wanted.iter().any(|one| !is.contains(one)) {
            return Err(Error::new(format!(
                "/linux/intelRdt/closID: {name:?}: must have the schemata {line:?}, and has {:?}",
                text.trim()
            )));
        }
    }
    Ok(())
}

/// What a line of schemata says, as resource, domain and value: `L3:0=ff;1=3` gives two. The kernel pads lines and bit
/// masks for looks.
fn allocations(line: &str) -> impl Iterator<Item = (&str, &str, String)> {
    let (resource, domains) = line.split_once(':').unwrap_or_default();
    domains.split(';').filter_map(move |domain| {
        let (domain, value) = domain.split_once('=')?;
        let value = value.trim().to_ascii_lowercase();
        let value = value.trim_start_matches('0');
        Some((resource.trim(), domain.trim(), value.to_owned()))
    })
}

/// The errno with the kernel's own words for the last mistake.
fn refused(root: &OwnedFd, errno: Errno) -> Error {
    let status = read_own(root, "info/last_cmd_status", READ_LIMIT).unwrap_or_default();
    let status = String::from_utf8_lossy(status.trim_ascii()).into_owned();
    let error = Error::from_errno("resctrl", errno);
    if status.is_empty() || status == "ok" { error } else { error.because(status) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "tests make a tree that stands for resctrl")]

    use std::fs;

    use serde_json::{Value, json};

    use super::*;

    /// A directory that stands for resctrl. The kernel fills a directory that is made in it; here `fill` does.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("skeg-rdt-{}-{name}", std::process::id()));
            let _ = fs::remove_dir_all(&path);
            fs::create_dir_all(path.join("info")).unwrap();
            let fake = Self(path);
            fake.fill(".", "L3:0=7ff;1=7ff\n    MB:0=100;1=100\n");
            fake
        }

        fn fill(&self, group: &str, schemata: &str) {
            fs::create_dir_all(self.0.join(group).join("mon_groups")).unwrap();
            fs::write(self.0.join(group).join("schemata"), schemata).unwrap();
            fs::write(self.0.join(group).join("tasks"), "").unwrap();
        }

        fn root(&self) -> OwnedFd {
            open_given(&self.0, DIRECTORY, Mode::empty()).unwrap()
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.0.join(file)).unwrap()
        }

        fn group(&self, rdt: &Value) -> (Group, LinuxIntelRdt) {
            let rdt: LinuxIntelRdt = serde_json::from_value(rdt.clone()).unwrap();
            (Group::new(&rdt, "ctr", self.0.clone()), rdt)
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// config-linux.md, intelRdt: without closID a class with the container's id is made, and removed with it.
    #[test]
    fn a_class_of_the_containers_own_comes_and_goes() {
        let fake = Fake::new("own");
        let (group, rdt) = fake.group(&json!({
            "l3CacheSchema": "L3:0=7f0;1=1f\nMB:0=50;1=50",
            "memBwSchema": "MB:0=20;1=70",
            "schemata": ["L2:0=f"],
            "enableMonitoring": true
        }));
        let root = fake.root();
        assert!(group.make_class(&root).unwrap());
        fake.fill("ctr", "");
        let class = group.open_class(&root).unwrap();
        set_schemata(&root, &class, &schemata(&rdt)).unwrap();
        assert_eq!(fake.read("ctr/schemata"), "L3:0=7f0;1=1f\nMB:0=20;1=70\nL2:0=f\n");
        group.make_monitor(&root, &class).unwrap();
        fs::write(fake.0.join("ctr/mon_groups/ctr/tasks"), "").unwrap();
        group.entry_in(&root).unwrap().enter_self().unwrap();
        assert_eq!((fake.read("ctr/tasks"), fake.read("ctr/mon_groups/ctr/tasks")), ("0".into(), "0".into()));
        // The kernel takes a group's own files with it.
        for file in ["mon_groups/ctr/tasks", "schemata", "tasks"] {
            fs::remove_file(fake.0.join("ctr").join(file)).unwrap();
        }
        let error = group.remove_in(&root).unwrap_err();
        assert_eq!(error.errno(), Some(Errno::ENOTEMPTY));
        assert!(!fake.0.join("ctr/mon_groups/ctr").exists());
        fs::remove_dir(fake.0.join("ctr/mon_groups")).unwrap();
        group.remove_in(&root).unwrap();
        group.remove_in(&root).unwrap();
        assert!(!fake.0.join("ctr").exists());
    }

    /// config-linux.md, intelRdt: a class that is named must be there or be described, and match what is there.
    #[test]
    fn a_named_class_is_checked_and_stays() {
        let fake = Fake::new("named");
        let root = fake.root();
        let (missing, _) = fake.group(&json!({"closID": "gold"}));
        let error = missing.open_class(&root).unwrap_err().to_string();
        assert!(error.starts_with("/linux/intelRdt/closID: \"gold\": must be a class"), "{error}");
        fake.fill("gold", "    MB:0= 20;1=  70\n    L3:0=0007F0;1=00001f\n");
        let (gold, rdt) = fake.group(&json!({"closID": "gold", "l3CacheSchema": "L3:1=1f;0=7f0"}));
        assert!(!gold.make_class(&root).unwrap());
        let class = gold.open_class(&root).unwrap();
        check_schemata(&class, "gold", &schemata(&rdt)).unwrap();
        check_schemata(&class, "gold", &["MB:0=20"]).unwrap();
        for other in ["L3:0=7ff", "MB:0=70", "L2:0=20", "MB:2=20", "nonsense"] {
            assert!(check_schemata(&class, "gold", &[other]).is_err(), "{other}");
        }
        gold.remove_in(&root).unwrap();
        assert!(fake.0.join("gold").is_dir());
    }

    /// The class of the whole host is no directory of its own, and is never made or removed.
    #[test]
    fn the_default_class_is_the_root() {
        let fake = Fake::new("default");
        let root = fake.root();
        let (group, _) = fake.group(&json!({"closID": "/", "enableMonitoring": true}));
        assert!(!group.make_class(&root).unwrap());
        let class = group.open_class(&root).unwrap();
        check_schemata(&class, "/", &["L3:0=7ff"]).unwrap();
        group.make_monitor(&root, &class).unwrap();
        assert!(fake.0.join("mon_groups/ctr").is_dir());
        group.remove_in(&root).unwrap();
        assert!(!fake.0.join("mon_groups/ctr").exists() && fake.0.join("tasks").exists());
    }

    #[test]
    fn what_the_kernel_says_of_a_mistake_is_told() {
        let fake = Fake::new("status");
        fs::write(fake.0.join("info/last_cmd_status"), "mask f0f is not contiguous\n").unwrap();
        assert_eq!(
            refused(&fake.root(), Errno::EINVAL).to_string(),
            "resctrl: invalid argument (mask f0f is not contiguous)"
        );
    }

    /// A directory that is no resctrl is not taken for one.
    #[test]
    fn f4_the_file_system_is_checked() {
        let fake = Fake::new("magic");
        let (group, _) = fake.group(&json!({}));
        assert!(group.entry().unwrap_err().to_string().ends_with("it is no resctrl"));
    }
}
