//! Device nodes and the links in `/dev`: made by the fd of their directory, inside the container's root.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, major, makedev, minor, mknodat};
use nix::unistd::{Gid, Uid, fchownat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

use crate::error::{Context as _, Error, Result};
use crate::sys::mount::{clone_tree_of, move_mount};
use crate::sys::path::{clean, make_file_in_root, mkdir_all_in_root, open_in_root, remove_file, stat};
use crate::sys::procfs;

use super::Rootfs;
use super::mounts::link;

/// Where device nodes are.
pub(super) const DEV: &str = "/dev";

/// The permission bits of a mode, set-id and sticky bits among them.
const PERMISSIONS: u32 = 0o7777;

/// A device node of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Absolute, without `.` and `..`.
    pub path: PathBuf,
    /// Character, block or FIFO.
    pub kind: SFlag,
    /// The driver's number; 0 for a FIFO.
    pub major: u64,
    /// The device's number; 0 for a FIFO.
    pub minor: u64,
    /// Permission bits, not masked by any umask.
    pub mode: Mode,
    /// The owner, as the container numbers users.
    pub uid: Uid,
    /// The group, as the container numbers groups.
    pub gid: Gid,
}

impl Device {
    /// `/dev/null`, which also covers masked files.
    pub(super) fn null() -> Self {
        Self::default_device("null", 1, 3)
    }

    fn default_device(name: &str, major: u64, minor: u64) -> Self {
        Self {
            path: clean(Path::new(&format!("{DEV}/{name}"))),
            kind: SFlag::S_IFCHR,
            major,
            minor,
            mode: Mode::from_bits_truncate(0o666),
            uid: Uid::from_raw(0),
            gid: Gid::from_raw(0),
        }
    }

    fn matches(&self, found: &FileStat) -> bool {
        SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == self.kind
            && (self.kind == SFlag::S_IFIFO || found.st_rdev == makedev(self.major, self.minor))
    }
}

/// The devices of `linux.devices`, and the default devices (config-linux.md, "Default Devices") that it does not name.
/// `/dev/console` and `/dev/ptmx` are made in their own steps.
///
/// # Errors
/// A type or number that is no device's, with its JSON pointer.
pub fn plan(devices: Option<&[LinuxDevice]>) -> Result<Vec<Device>> {
    const DEFAULT: [(&str, u64, u64); 6] =
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];
    let mut planned: Vec<Device> = Vec::new();
    for (index, device) in devices.unwrap_or_default().iter().enumerate() {
        planned.push(plan_device(index, device)?);
    }
    for (name, major, minor) in DEFAULT {
        let device = Device::default_device(name, major, minor);
        if planned.iter().all(|known| known.path != device.path) {
            planned.push(device);
        }
    }
    Ok(planned)
}

fn plan_device(index: usize, device: &LinuxDevice) -> Result<Device> {
    let path = clean(device.path());
    if path.file_name().is_none() {
        return Err(Error::new(format!(
            "/linux/devices/{index}/path: {:?}: must name a file",
            device.path()
        )));
    }
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => SFlag::S_IFCHR,
        LinuxDeviceType::B => SFlag::S_IFBLK,
        LinuxDeviceType::P => SFlag::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::new(format!("/linux/devices/{index}/type: \"a\": must be one of c, u, b, p")));
        }
    };
    // The kernel has 12 bits for the major and 20 for the minor number (linux/kdev_t.h).
    let number = |name: &str, value: i64, bits: u32| match u64::try_from(value) {
        _ if kind == SFlag::S_IFIFO => Ok(0),
        Ok(value) if value >> bits == 0 => Ok(value),
        _ => Err(Error::new(format!(
            "/linux/devices/{index}/{name}: {value}: must be from 0 to {}",
            (1_u32 << bits) - 1
        ))),
    };
    Ok(Device {
        path,
        kind,
        major: number("major", device.major(), 12)?,
        minor: number("minor", device.minor(), 20)?,
        mode: Mode::from_bits_truncate(device.file_mode().unwrap_or(0o666) & PERMISSIONS),
        uid: Uid::from_raw(device.uid().unwrap_or(0)),
        gid: Gid::from_raw(device.gid().unwrap_or(0)),
    })
}

impl Rootfs<'_> {
    /// Step 4: device nodes, `/dev/fd` and its kin, `/dev/ptmx`. All by the fd of the directory they are in, which is
    /// resolved inside the root (rows A3, D6). Nothing where the config binds something on `/dev`.
    ///
    /// # Errors
    /// Which node could not be made; a node of another number that stands in its place (config-linux.md, "Devices").
    pub fn make_devices(&mut self) -> Result<()> {
        let Some(devices) = &self.plan.devices else { return Ok(()) };
        let dev = self.device_directory(Path::new(DEV))?;
        let mut bound = std::mem::take(&mut self.devices).into_iter();
        for device in devices {
            let what = || format!("make device {}", device.path.display());
            let parent = device.path.parent().unwrap_or(Path::new("/"));
            // A FIFO is no device of the host's; it can be made in a user namespace too.
            match if device.kind == SFlag::S_IFIFO { None } else { bound.next() } {
                Some(tree) => self.bind_device(device, &tree),
                None if parent == Path::new(DEV) => self.make_device(device, &dev),
                None => self.device_directory(parent).and_then(|dir| self.make_device(device, &dir)),
            }
            .map_err(|error| error.context(what()))?;
        }
        make_links(&dev)
    }

    fn device_directory(&self, path: &Path) -> Result<OwnedFd> {
        mkdir_all_in_root(&self.root, path, Mode::from_bits_truncate(0o755))
    }

    fn make_device(&self, device: &Device, dir: &OwnedFd) -> Result<()> {
        let name = device.path.file_name().unwrap_or_default();
        let number = makedev(device.major, device.minor);
        match mknodat(dir, name, device.kind, device.mode, number) {
            Ok(()) => {
                let found = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "stat")?;
                check(device, &found)?;
                self.own_device(device, dir, &found)
            }
            Err(Errno::EEXIST) => {
                check(device, &fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).context(|| "stat")?)
            }
            // Without CAP_MKNOD over the file system, or where a device cgroup above forbids it, the host's own node.
            Err(Errno::EPERM) if device.kind != SFlag::S_IFIFO => {
                let host = super::sources::open_device(device, false)?;
                self.bind_device(device, &host)
            }
            Err(errno) => Err(Error::from_errno("mknod", errno)),
        }
    }

    /// The mode is right since the umask is 0. The owner may not be: a directory with the set-group-id bit lends its
    /// group.
    fn own_device(&self, device: &Device, dir: &OwnedFd, found: &FileStat) -> Result<()> {
        if found.st_uid == device.uid.as_raw() && found.st_gid == device.gid.as_raw() {
            return Ok(());
        }
        let name = device.path.file_name().unwrap_or_default();
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let node =
            crate::sys::path::open_own(dir, Path::new(name), flags, Mode::empty()).context(|| "open")?;
        check(device, &stat(&node).context(|| "stat")?)?;
        fchownat(&node, "", Some(device.uid), Some(device.gid), AtFlags::AT_EMPTY_PATH).context(|| "chown")
    }

    /// The host's node, bound on an empty file. Not on one of procfs, where the path or a link of the image may lead (row A6).
    fn bind_device(&self, device: &Device, tree: &OwnedFd) -> Result<()> {
        let target = make_file_in_root(&self.root, &device.path)?;
        if procfs::is_procfs(&target).context(|| "statfs the destination")? {
            return Err(Error::new("the destination is in procfs"));
        }
        move_mount(tree, &target).context(|| "bind the host's device")
    }

    /// Step 6: binds the pseudoterminal `pty` on `/dev/console`, after the pivot, by fd (rows D1, D2). The file is made
    /// without following anything; a link in its place is an error.
    ///
    /// # Errors
    /// `pty` is no pseudoterminal, `/dev/console` is a link, or the errno of a system call.
    pub fn bind_console(&self, pty: &OwnedFd) -> Result<()> {
        /// The major numbers of Unix98 pseudoterminals (Documentation/admin-guide/devices.txt).
        const PTY: std::ops::RangeInclusive<u64> = 136..=143;
        const NAME: &str = "console";
        let what = || format!("mount the terminal on {DEV}/{NAME}");
        let found = stat(pty).context(what)?;
        let is_character = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR;
        if !is_character || !PTY.contains(&major(found.st_rdev)) {
            return Err(Error::new(format!("{}: it is no pseudoterminal", what())));
        }
        let dev = open_in_root(&self.root, DEV, OFlag::O_PATH | OFlag::O_DIRECTORY).context(what)?;
        match mknodat(&dev, NAME, SFlag::S_IFREG, Mode::from_bits_truncate(0o666), 0) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(Error::from_errno(what(), errno)),
        }
        let target = crate::sys::path::open_own(&dev, NAME, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())
            .context(what)?;
        // openat2(2) gives the link itself for O_PATH | O_NOFOLLOW, even with RESOLVE_NO_SYMLINKS.
        if stat(&target).context(what)?.st_mode & libc::S_IFMT == libc::S_IFLNK {
            return Err(Error::from_errno(what(), Errno::ELOOP));
        }
        let tree = clone_tree_of(pty, false).context(what)?;
        move_mount(&tree, &target).context(what)
    }
}

/// The object that is there is the one that was asked for, and not a link.
fn check(device: &Device, found: &FileStat) -> Result<()> {
    if device.matches(found) {
        return Ok(());
    }
    Err(Error::new(format!(
        "there is something else: mode {:o}, {}:{}",
        found.st_mode,
        major(found.st_rdev),
        minor(found.st_rdev)
    )))
}

/// The links that every container has (config-linux.md, "/dev symbolic links"), and `/dev/ptmx`, which must be that of
/// the container's own devpts whatever the image has there.
fn make_links(dev: &OwnedFd) -> Result<()> {
    for (name, target) in procfs::STDIO_LINKS {
        link(target, dev, name).context(|| format!("make link {DEV}/{name}"))?;
    }
    if procfs::has_core() {
        link(procfs::CORE, dev, "core").context(|| format!("make link {DEV}/core"))?;
    }
    let what = || format!("make link {DEV}/ptmx");
    match nix::unistd::symlinkat("pts/ptmx", dev, "ptmx") {
        Err(Errno::EEXIST) => {
            remove_file(dev, "ptmx").context(what)?;
            nix::unistd::symlinkat("pts/ptmx", dev, "ptmx").context(what)
        }
        other => other.context(what),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn plan_of(devices: Value) -> Result<Vec<Device>> {
        let devices: Vec<LinuxDevice> = serde_json::from_value(devices).unwrap();
        plan(Some(&devices))
    }

    /// config-linux.md, "Default Devices": all are there, and one that the config names is the config's.
    #[test]
    fn default_devices_are_added_unless_the_config_names_them() {
        let planned = plan_of(
            json!([{"path": "/dev/./null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o20600}]),
        )
        .unwrap();
        assert_eq!(planned.len(), 6);
        assert_eq!(planned[0].mode.bits(), 0o600);
        let tty = planned.iter().find(|device| device.path == Path::new("/dev/tty")).unwrap();
        assert_eq!((tty.major, tty.minor, tty.mode.bits()), (5, 0, 0o666));
    }

    #[test]
    fn device_types_and_numbers_are_checked() {
        let error = |device: Value| plan_of(json!([device])).unwrap_err().to_string();
        let device = |typ: &str, major: i64, minor: i64| json!({"path": "/dev/x", "type": typ, "major": major, "minor": minor});
        assert!(error(device("a", 1, 1)).starts_with("/linux/devices/0/type: \"a\": must be one of"));
        assert!(error(device("c", -1, 1)).starts_with("/linux/devices/0/major: -1: must be from 0 to 4095"));
        assert!(error(device("b", 1, 1 << 20)).starts_with("/linux/devices/0/minor: 1048576: must be from"));
        assert!(error(json!({"path": "/", "type": "p"})).starts_with("/linux/devices/0/path: "));
        // A FIFO has no number.
        assert_eq!(plan_of(json!([device("p", -1, 7)])).unwrap()[0].major, 0);
        assert_eq!(plan_of(json!([device("u", 4095, 3)])).unwrap()[0].kind, SFlag::S_IFCHR);
    }
}
