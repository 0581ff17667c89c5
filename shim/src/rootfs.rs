//! The root file system's mounts that the manager asks for: made by fd (fsopen, open_tree), attached to a directory that
//! was reached without links, and taken away by name without following one (security.md I11, I17).

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags};
use skeg_proto::types::Mount;

use crate::error::{Context as _, Error, Result};
use crate::path;
use crate::runtime::descriptor_path;
use crate::sys;

/// The directory of a bundle that the mounts are made on.
const ROOTFS: &str = "rootfs";
/// mount(2) takes a page of options.
const OPTIONS_LIMIT: usize = 4095;
/// Mounts that are taken away at the most; more than anybody stacks.
const STACK_LIMIT: usize = 64;

/// What the options of one mount ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Request<'a> {
    /// `MOUNT_ATTR_*`.
    attributes: u64,
    /// `MS_SHARED` and the like; 0 for none.
    propagation: u64,
    /// Whether it is a bind mount.
    bind: bool,
    /// Whether the mounts below are bound too.
    recursive: bool,
    /// Whether the file system itself is read-only.
    read_only: bool,
    /// What is left for the file system.
    data: Vec<&'a str>,
}

impl<'a> Request<'a> {
    fn new(mount: &'a Mount) -> Self {
        let mut request = Self { bind: mount.type_ == "bind" || mount.type_ == "rbind", ..Self::default() };
        request.recursive = mount.type_ == "rbind";
        for option in mount.options.iter().flat_map(|option| split_options(option)) {
            request.take(option);
        }
        request
    }

    fn take(&mut self, option: &'a str) {
        let set = |attributes: &mut u64, on: u64| *attributes |= on;
        let propagation = |flags: MsFlags| flags.bits();
        match option {
            "ro" => {
                set(&mut self.attributes, libc::MOUNT_ATTR_RDONLY);
                self.read_only = true;
            }
            "nosuid" => set(&mut self.attributes, libc::MOUNT_ATTR_NOSUID),
            "nodev" => set(&mut self.attributes, libc::MOUNT_ATTR_NODEV),
            "noexec" => set(&mut self.attributes, libc::MOUNT_ATTR_NOEXEC),
            "noatime" => set(&mut self.attributes, libc::MOUNT_ATTR_NOATIME),
            "strictatime" => set(&mut self.attributes, libc::MOUNT_ATTR_STRICTATIME),
            "nodiratime" => set(&mut self.attributes, libc::MOUNT_ATTR_NODIRATIME),
            "nosymfollow" => set(&mut self.attributes, libc::MOUNT_ATTR_NOSYMFOLLOW),
            // The kernel's own defaults.
            "rw" | "suid" | "dev" | "exec" | "relatime" | "defaults" | "" => {}
            "bind" => self.bind = true,
            "rbind" => (self.bind, self.recursive) = (true, true),
            "shared" => self.propagation = propagation(MsFlags::MS_SHARED),
            "rshared" => self.propagation = propagation(MsFlags::MS_SHARED | MsFlags::MS_REC),
            "private" => self.propagation = propagation(MsFlags::MS_PRIVATE),
            "rprivate" => self.propagation = propagation(MsFlags::MS_PRIVATE | MsFlags::MS_REC),
            "slave" => self.propagation = propagation(MsFlags::MS_SLAVE),
            "rslave" => self.propagation = propagation(MsFlags::MS_SLAVE | MsFlags::MS_REC),
            // Notes of containerd to itself.
            other if other.starts_with("X-containerd.") => {}
            other => self.data.push(other),
        }
    }
}

/// The parts of an option list, which a backslash before a comma does not split (overlayfs writes paths so).
fn split_options(options: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, byte) in options.bytes().enumerate() {
        match byte {
            b',' if !escaped => {
                parts.push(&options[start..at]);
                start = at + 1;
            }
            b'\\' if !escaped => {
                escaped = true;
                continue;
            }
            _ => {}
        }
        escaped = false;
    }
    parts.push(&options[start..]);
    parts
}

/// Makes the mounts on the rootfs directory of a bundle, in their order.
///
/// # Errors
/// Which mount failed, and why; those before it stay (`unmount` takes them away).
pub fn mount(bundle: impl AsFd, mounts: &[Mount]) -> Result<()> {
    if mounts.is_empty() {
        return Ok(());
    }
    path::make_dir_in(&bundle, ROOTFS).context(|| "make directory rootfs")?;
    let rootfs = || path::open_mount_target(&bundle, ROOTFS);
    for mount in mounts {
        let below = mount.target.trim_matches('/');
        // Opened anew for each: an earlier mount covers the directory.
        let target = match below {
            "" => rootfs(),
            below => rootfs().and_then(|rootfs| path::open_mount_target(rootfs, below)),
        };
        let target = target.context(|| format!("open mount target rootfs/{}", mount.target))?;
        mount_one(mount, &target)
            .map_err(|error| error.context(format!("mount {} {} on rootfs", mount.type_, mount.source)))?;
    }
    Ok(())
}

fn mount_one(mount: &Mount, target: &OwnedFd) -> Result<()> {
    let request = Request::new(mount);
    if request.data.iter().any(|option| *option == "loop" || option.starts_with("loop=")) {
        return Err(Error::invalid("option loop: the manager makes loop devices"));
    }
    let detached = if request.bind {
        let source = c_string(&mount.source)?;
        let tree = sys::clone_tree(&source, request.recursive).context(|| "open_tree")?;
        if request.attributes != 0 {
            sys::mount_setattr(&tree, request.recursive, request.attributes, 0)
                .context(|| "mount_setattr")?;
        }
        tree
    } else {
        match make_filesystem(mount, &request) {
            Ok(detached) => detached,
            // Overlayfs before Linux 6.5 takes its options by mount(2) alone.
            Err(Errno::EINVAL | Errno::ENAMETOOLONG | Errno::E2BIG) if mount.type_ == "overlay" => {
                return mount_overlay_by_name(&request, target);
            }
            Err(errno) => return Err(errno).context(|| "fsmount"),
        }
    };
    if request.propagation != 0 {
        let recursive = request.propagation & MsFlags::MS_REC.bits() != 0;
        let kind = request.propagation & !MsFlags::MS_REC.bits();
        sys::mount_setattr(&detached, recursive, 0, kind).context(|| "set propagation")?;
    }
    sys::move_mount(&detached, target).context(|| "move_mount")
}

/// fsopen(2) to fsmount(2), one value a call (row A15).
fn make_filesystem(mount: &Mount, request: &Request<'_>) -> nix::Result<OwnedFd> {
    let context = sys::fsopen(&to_c(&mount.type_)?)?;
    if !mount.source.is_empty() {
        sys::fsconfig_string(&context, c"source", &to_c(&mount.source)?)?;
    }
    if request.read_only {
        sys::fsconfig_flag(&context, c"ro")?;
    }
    for option in &request.data {
        match option.split_once('=') {
            Some(("lowerdir", layers)) if mount.type_ == "overlay" => {
                for layer in split_layers(layers) {
                    sys::fsconfig_string(&context, c"lowerdir+", &to_c(&layer)?)?;
                }
            }
            Some((key, value)) if mount.type_ == "overlay" => {
                sys::fsconfig_string(&context, &to_c(key)?, &to_c(&unescape(value))?)?;
            }
            Some((key, value)) => sys::fsconfig_string(&context, &to_c(key)?, &to_c(value)?)?,
            None => sys::fsconfig_flag(&context, &to_c(option)?)?,
        }
    }
    sys::fsconfig_create(&context)?;
    sys::fsmount(&context, request.attributes)
}

/// The layers of a `lowerdir` value, without the backslashes that guard their own colons.
fn split_layers(layers: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut characters = layers.chars();
    while let Some(character) = characters.next() {
        match (character, parts.last_mut()) {
            ('\\', Some(last)) => last.extend(characters.next()),
            (':', _) => parts.push(String::new()),
            (other, Some(last)) => last.push(other),
            (_, None) => {}
        }
    }
    parts
}

fn unescape(value: &str) -> String {
    let mut characters = value.chars();
    let mut plain = String::with_capacity(value.len());
    while let Some(character) = characters.next() {
        plain.extend(if character == '\\' { characters.next() } else { Some(character) });
    }
    plain
}

/// mount(2) for overlayfs. Layers that do not fit into a page of options are named by their descriptors, which are
/// short: room for more than two hundred.
#[allow(clippy::disallowed_methods, reason = "overlayfs had no other interface before Linux 6.5")]
fn mount_overlay_by_name(request: &Request<'_>, target: &OwnedFd) -> Result<()> {
    let mut opened = Vec::new();
    let mut data = request.data.join(",");
    if data.len() > OPTIONS_LIMIT {
        let mut options = Vec::new();
        for option in &request.data {
            let Some(layers) = option.strip_prefix("lowerdir=") else {
                options.push((*option).to_owned());
                continue;
            };
            let mut short = Vec::new();
            for layer in split_layers(layers) {
                let fd =
                    path::open_dir(std::path::Path::new(&layer)).context(|| format!("open layer {layer}"))?;
                short.push(descriptor_path(&fd));
                opened.push(fd);
            }
            options.push(format!("lowerdir={}", short.join(":")));
        }
        data = options.join(",");
    }
    let mut flags = MsFlags::empty();
    for (attribute, flag) in [
        (libc::MOUNT_ATTR_RDONLY, MsFlags::MS_RDONLY),
        (libc::MOUNT_ATTR_NOSUID, MsFlags::MS_NOSUID),
        (libc::MOUNT_ATTR_NODEV, MsFlags::MS_NODEV),
        (libc::MOUNT_ATTR_NOEXEC, MsFlags::MS_NOEXEC),
    ] {
        flags.set(flag, request.attributes & attribute == attribute);
    }
    let target = descriptor_path(target);
    nix::mount::mount(Some("overlay"), target.as_str(), Some("overlay"), flags, Some(data.as_str()))
        .context(|| "mount")
}

fn to_c(text: &str) -> nix::Result<CString> {
    CString::new(text).map_err(|_| Errno::EINVAL)
}

fn c_string(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::invalid(format!("{text:?}: contains a NUL")))
}

/// Takes away every mount on the rootfs directory of a bundle, the last first, never through a link. Detached: what
/// still uses them does not hold up the removal.
///
/// # Errors
/// The errno of umount2(2) but "not a mount".
#[allow(clippy::disallowed_methods, reason = "umount2 by the fd of the bundle, UMOUNT_NOFOLLOW")]
pub fn unmount(bundle: impl AsFd, mounts: &[Mount]) -> Result<()> {
    let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
    let bundle_path = descriptor_path(&bundle);
    let below =
        mounts.iter().rev().map(|mount| mount.target.trim_matches('/')).filter(|path| !path.is_empty());
    for target in below.map(|path| format!("{ROOTFS}/{path}")) {
        // The same way in as when it was mounted, and by what was found there: processes that outlive the container may exchange
        // the directories on the way.
        if let Ok(found) = path::open_mount_target(&bundle, &target) {
            let _ = nix::mount::umount2(descriptor_path(&found).as_str(), MntFlags::MNT_DETACH);
        }
    }
    let rootfs = format!("{bundle_path}/{ROOTFS}");
    for _ in 0..STACK_LIMIT {
        match nix::mount::umount2(rootfs.as_str(), flags) {
            Ok(()) => {}
            // Not a mount, not there, or a link (which UMOUNT_NOFOLLOW takes for what it is).
            Err(Errno::EINVAL | Errno::ENOENT) => return Ok(()),
            Err(errno) => return Err(errno).context(|| "unmount rootfs"),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own trees")]
mod tests {
    use std::path::{Path, PathBuf};

    use super::*;

    fn mount_of(kind: &str, source: &str, options: &[&str]) -> Mount {
        Mount {
            type_: kind.into(),
            source: source.into(),
            options: options.iter().map(|option| (*option).to_owned()).collect(),
            ..Mount::default()
        }
    }

    #[test]
    fn options_become_attributes_and_data() {
        let mount = mount_of(
            "overlay",
            "overlay",
            &["ro", "nosuid,nodev", "lowerdir=/a\\,b:/c", "X-containerd.x=1", "index=off", "rslave"],
        );
        let request = Request::new(&mount);
        let wanted = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        assert_eq!(request.attributes, wanted);
        assert_eq!(request.data, ["lowerdir=/a\\,b:/c", "index=off"]);
        assert_eq!(request.propagation, (MsFlags::MS_SLAVE | MsFlags::MS_REC).bits());
        assert!(request.read_only && !request.bind);
    }

    /// security.md I17: separators in paths stay in their paths.
    #[test]
    fn i17_escaped_separators_stay_in_their_layer() {
        assert_eq!(split_layers("/a\\:b:/c\\\\d:/e\\,f"), ["/a:b", "/c\\d", "/e,f"]);
        assert_eq!(unescape("/up\\,per"), "/up,per");
    }

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("shim-rootfs-{}-{name}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(path.join("bundle")).unwrap();
            Self(path)
        }

        fn dir(&self, name: &str) -> PathBuf {
            let dir = self.0.join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        }

        fn bundle(&self) -> OwnedFd {
            path::open_dir(&self.0.join("bundle")).unwrap()
        }
    }

    impl Drop for Tree {
        /// Takes away what a test that failed has mounted, from here or to here, wherever that is.
        fn drop(&mut self) {
            let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
            let ours = self.0.display().to_string();
            let of_ours = |line: &&str| line.split(' ').skip(3).take(2).any(|path| path.starts_with(&ours));
            for at in mounts.lines().rev().filter(of_ours).filter_map(|line| line.split(' ').nth(4)) {
                let _ = nix::mount::umount2(at, MntFlags::MNT_DETACH);
            }
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn is_mounted(path: &Path) -> bool {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        mounts.lines().any(|line| line.split(' ').nth(4) == path.to_str())
    }

    /// peers.md A3, "any number of layers": options far beyond a page, with a colon in a layer's name.
    #[test]
    fn an_overlay_of_300_layers_is_mounted_and_taken_away() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let tree = Tree::new("layers");
        let mut layers = Vec::new();
        for number in 0..300 {
            let name = format!("layer:with-a-name-long-enough-to-fill-pages-{number:03}");
            let dir = tree.dir(&name);
            std::fs::write(dir.join(format!("file{number}")), "").unwrap();
            layers.push(dir.to_str().unwrap().replace(':', "\\:"));
        }
        let (upper, work) = (tree.dir("upper"), tree.dir("work"));
        let options = [
            format!("lowerdir={}", layers.join(":")),
            format!("upperdir={}", upper.display()),
            format!("workdir={}", work.display()),
        ];
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let mounts = [mount_of("overlay", "overlay", &options)];
        let bundle = tree.bundle();
        mount(&bundle, &mounts).unwrap();
        let rootfs = tree.0.join("bundle/rootfs");
        for number in [0, 150, 299] {
            assert!(rootfs.join(format!("file{number}")).exists());
        }
        std::fs::write(rootfs.join("new"), "").unwrap();
        assert!(upper.join("new").exists());
        unmount(&bundle, &mounts).unwrap();
        assert!(!is_mounted(&rootfs));
    }

    /// security.md I11 and I17: a link in the place of rootfs leads nowhere, neither for mounting nor for unmounting.
    #[test]
    fn i11_a_link_in_place_of_rootfs_is_not_followed() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let tree = Tree::new("i11");
        let (source, canary) = (tree.dir("source"), tree.dir("canary/rootfs"));
        let bind = [mount_of("bind", source.to_str().unwrap(), &["rbind", "ro"])];
        let canary_bundle = path::open_dir(canary.parent().unwrap()).unwrap();
        mount(&canary_bundle, &bind).unwrap();
        assert!(is_mounted(&canary));
        std::os::unix::fs::symlink(&canary, tree.0.join("bundle/rootfs")).unwrap();
        let bundle = tree.bundle();
        unmount(&bundle, &bind).unwrap();
        assert!(is_mounted(&canary), "unmount has followed the link");
        assert!(mount(&bundle, &bind).is_err());
        unmount(&canary_bundle, &bind).unwrap();
        assert!(!is_mounted(&canary));
    }

    /// security.md I17: a target cannot leave rootfs.
    #[test]
    fn i17_a_target_stays_in_rootfs() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let tree = Tree::new("i17");
        let source = tree.dir("source");
        let mut bad = mount_of("bind", source.to_str().unwrap(), &["rbind"]);
        tree.dir("bundle/escape");
        tree.dir("bundle/rootfs/a");
        std::os::unix::fs::symlink("/", tree.0.join("bundle/rootfs/link")).unwrap();
        for target in ["../escape", "a/../../escape", "link/tmp"] {
            bad.target = target.into();
            assert!(mount(tree.bundle(), std::slice::from_ref(&bad)).is_err(), "{target}");
        }
        bad.target = "/a".into();
        mount(tree.bundle(), std::slice::from_ref(&bad)).unwrap();
        assert!(is_mounted(&tree.0.join("bundle/rootfs/a")));
        unmount(tree.bundle(), std::slice::from_ref(&bad)).unwrap();
        assert!(!is_mounted(&tree.0.join("bundle/rootfs/a")));
    }
}
