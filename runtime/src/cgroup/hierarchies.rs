//! Which cgroup hierarchies this host has mounted, and where the caller itself is in them.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

use crate::cgroup::systemd::Instance;
use crate::error::{Context as _, Error, Result};
use crate::sys::path::{append, clean, open_given};
use crate::sys::procfs::Procfs;

/// Where a host with cgroup v2 alone has it (file-hierarchy(7)).
const UNIFIED_MOUNT_POINT: &str = "/sys/fs/cgroup";

/// The controllers of cgroup v1 (`kernel/cgroup`, `include/linux/cgroup_subsys.h`). The super block options of a mount
/// name them among other options (`xattr`, `clone_children`).
const V1_CONTROLLERS: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// v1: its controllers, or `name=NAME` for one without; v2: empty.
    pub controllers: Vec<String>,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Which of its cgroups is at the mount point: `/`, but in a container without a cgroup namespace.
    mount_root: PathBuf,
    /// The id of that mount (mountinfo).
    mount_id: u64,
    /// Where the calling process is, as `/proc/self/cgroup` has it; known only where it was asked for.
    own: Option<PathBuf>,
}

impl Hierarchy {
    /// The caller's own cgroup, relative to the mount point.
    ///
    /// # Errors
    /// The own cgroup is not below what is mounted, or was not asked for.
    pub fn own(&self) -> Result<&Path> {
        let own = self.own.as_deref().ok_or_else(|| {
            Error::new(format!("cgroup {}: the caller is in no cgroup there", self.mount_point.display()))
        })?;
        own.strip_prefix(&self.mount_root).map_err(|_| {
            Error::new(format!(
                "the caller's cgroup {} is not below {}, which is what {} shows: give an absolute cgroupsPath",
                own.display(),
                self.mount_root.display(),
                self.mount_point.display()
            ))
        })
    }
}

/// All mounted hierarchies.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hierarchies {
    /// The v1 hierarchies in the order of their mounts; empty on a pure v2 host.
    pub v1: Vec<Hierarchy>,
    /// The v2 hierarchy; beside v1 ones it makes a hybrid host.
    pub v2: Option<Hierarchy>,
    /// The instance of systemd that makes the container's cgroup, where one is to.
    pub systemd: Option<Instance>,
}

impl Hierarchies {
    /// Looks at the mounts, and, where `with_own` is set (no absolute `cgroupsPath`), at where the caller is.
    ///
    /// A pure v2 host costs an open and a fstatfs(2); another one a read of mountinfo.
    ///
    /// # Errors
    /// procfs cannot be read.
    pub fn detect(procfs: &Procfs, with_own: bool) -> Result<Self> {
        let mut found = if is_unified()? {
            Self { v2: Some(unified(UNIFIED_MOUNT_POINT.into())), ..Self::default() }
        } else {
            let mountinfo = procfs.read_self("mountinfo").context(|| "read mountinfo")?;
            Self::from_mountinfo(&mountinfo, &|path| {
                let at = open_given(path, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()).ok()?;
                procfs.mount_id(at).ok()
            })
        };
        if with_own {
            found.place_caller(&procfs.read_self("cgroup").context(|| "read the caller's cgroups")?);
        }
        Ok(found)
    }

    /// The hierarchies that mountinfo shows; the first mount of each counts, as the host's come before any bind of them,
    /// unless another mount covers it: then `seen_at`, which tells the mount id that a path leads to, has another answer
    /// (an engine in a container that mounts cgroups of its own over those it was given).
    pub fn from_mountinfo(mountinfo: &[u8], seen_at: &dyn Fn(&Path) -> Option<u64>) -> Self {
        let mut found = Self::default();
        for line in mountinfo.split(|&byte| byte == b'\n') {
            let Some(mount) = std::str::from_utf8(line).ok().and_then(parse_mount) else { continue };
            let hierarchy = Hierarchy {
                controllers: v1_controllers(&mount),
                mount_point: unescape(mount.point),
                mount_root: unescape(mount.root),
                mount_id: mount.id,
                own: None,
            };
            let known = match mount.fs_type {
                "cgroup2" => found.v2.as_mut(),
                "cgroup" if hierarchy.controllers.is_empty() => continue,
                "cgroup" => found.v1.iter_mut().find(|other| other.controllers == hierarchy.controllers),
                _ => continue,
            };
            match known {
                Some(known) if seen_at(&known.mount_point) == Some(known.mount_id) => {}
                Some(known) => *known = hierarchy,
                None if hierarchy.controllers.is_empty() => found.v2 = Some(hierarchy),
                None => found.v1.push(hierarchy),
            }
        }
        found
    }

    /// Takes in `/proc/PID/cgroup` (cgroups(7)): `ID:CONTROLLERS:PATH`, with ID 0 and no controllers for v2.
    pub(super) fn place_caller(&mut self, cgroup_file: &[u8]) {
        for line in cgroup_file.split(|&byte| byte == b'\n') {
            let Ok(line) = std::str::from_utf8(line) else { continue };
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let hierarchy = match controllers {
                "" => self.v2.as_mut(),
                _ => self.v1.iter_mut().find(|one| {
                    controllers.split(',').any(|name| one.controllers.iter().any(|own| own == name))
                }),
            };
            if let Some(hierarchy) = hierarchy {
                hierarchy.own = Some(clean(Path::new(path)));
            }
        }
    }

    /// Whether v2 is all there is.
    pub fn is_pure_v2(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    /// The v1 hierarchy that has `controller`.
    pub fn v1_with(&self, controller: &str) -> Option<usize> {
        self.v1.iter().position(|one| one.controllers.iter().any(|name| name == controller))
    }
}

/// Whether `/sys/fs/cgroup` itself is a cgroup v2 mount.
fn is_unified() -> Result<bool> {
    let dir = match open_given(UNIFIED_MOUNT_POINT, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(false),
        other => other.context(|| format!("open {UNIFIED_MOUNT_POINT}"))?,
    };
    let fs = fstatfs(&dir).context(|| format!("statfs {UNIFIED_MOUNT_POINT}"))?;
    Ok(fs.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

fn unified(mount_point: PathBuf) -> Hierarchy {
    Hierarchy { controllers: Vec::new(), mount_point, mount_root: "/".into(), mount_id: 0, own: None }
}

/// The controllers or the name of a v1 hierarchy, as the super block's options have them; of v2 none.
fn v1_controllers(mount: &Mount<'_>) -> Vec<String> {
    if mount.fs_type != "cgroup" {
        return Vec::new();
    }
    let is_controller = |option: &&str| V1_CONTROLLERS.contains(option) || option.starts_with("name=");
    mount.super_options.split(',').filter(is_controller).map(str::to_owned).collect()
}

/// The fields of a line of mountinfo (proc_pid_mountinfo(5)) that matter here.
struct Mount<'a> {
    id: u64,
    root: &'a str,
    point: &'a str,
    fs_type: &'a str,
    super_options: &'a str,
}

fn parse_mount(line: &str) -> Option<Mount<'_>> {
    // The optional fields between the two halves vary in number; a lone `-` ends them.
    let (mount, fs) = line.split_once(" - ")?;
    let mut mount = mount.split(' ');
    let id = mount.next()?.parse().ok()?;
    let mut mount = mount.skip(2);
    let (root, point) = (mount.next()?, mount.next()?);
    let mut fs = fs.split(' ');
    let (fs_type, _source, super_options) = (fs.next()?, fs.next()?, fs.next()?);
    Some(Mount { id, root, point, fs_type, super_options })
}

/// A path of mountinfo as it is: the kernel writes space, tab, newline and backslash as `\ooo` there.
fn unescape(text: &str) -> PathBuf {
    let mut path = PathBuf::new();
    if !text.contains('\\') {
        append(&mut path, text);
        return path;
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    append(&mut path, plain);
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 master:2 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/lib/agent,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
50 31 0:29 /a /mnt/with\\040space rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn hybrid_mounts_are_told_apart_and_the_first_of_a_hierarchy_counts() {
        let found = Hierarchies::from_mountinfo(HYBRID.as_bytes(), &|_| Some(32));
        assert_eq!(found.v1.len(), 2);
        assert_eq!(found.v1[0].controllers, ["cpu", "cpuacct"]);
        assert_eq!(found.v1[0].mount_point, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found.v1[1].controllers, ["name=systemd"]);
        assert_eq!(found.v2.as_ref().unwrap().mount_point, Path::new("/sys/fs/cgroup/unified"));
        assert!(!found.is_pure_v2());
        assert_eq!((found.v1_with("cpuacct"), found.v1_with("memory")), (Some(0), None));
        assert_eq!(unescape("/mnt/with\\040space"), Path::new("/mnt/with space"));
    }

    /// An engine in a container may mount the hierarchies of its cgroup namespace over
    /// those that it was given, which no path leads to any more.
    #[test]
    fn a_mount_that_is_covered_does_not_count() {
        let mountinfo = format!(
            "{HYBRID}60 31 0:50 / /sys/fs/cgroup rw - tmpfs cgroup rw\n\
             61 60 0:29 /inner /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             62 60 0:38 /inner /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        );
        let seen_at = |path: &Path| Some(if path.ends_with("unified") { 62 } else { 61 });
        let found = Hierarchies::from_mountinfo(mountinfo.as_bytes(), &seen_at);
        assert_eq!(found.v1[0].mount_id, 61);
        assert_eq!(found.v2.unwrap().mount_id, 62);
        assert_eq!(found.v1.len(), 2);
    }

    #[test]
    fn the_caller_is_found_in_each_hierarchy_below_what_is_mounted() {
        let mountinfo = HYBRID.replace("0:29 / /sys", "0:29 /docker/c1 /sys");
        let mut found = Hierarchies::from_mountinfo(mountinfo.as_bytes(), &|_| Some(32));
        found.place_caller(b"9:name=systemd:/user.slice\n1:cpu,cpuacct:/docker/c1/sub\n0::/\n");
        assert_eq!(found.v1[0].own().unwrap(), Path::new("sub"));
        assert_eq!(found.v1[1].own().unwrap(), Path::new("user.slice"));
        assert_eq!(found.v2.as_ref().unwrap().own().unwrap(), Path::new(""));
        found.place_caller(b"1:cpu,cpuacct:/docker/c1-other\n");
        assert!(found.v1[0].own().is_err(), "compared by component, not by text");
    }

    #[test]
    fn this_host_has_a_hierarchy() {
        let found = Hierarchies::detect(&Procfs::processes().unwrap(), true).unwrap();
        assert!(found.v2.is_some() || !found.v1.is_empty());
    }
}
