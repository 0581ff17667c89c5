//! How a shim comes up and what is done after one is gone: `start`, `delete`, `-info`, and the dialects that
//! containerd 1.6 to 2.3 and CRI-O speak with them (peers.md A3.2).

use std::ffi::{CString, OsStr};
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::SFlag;
use sha2::{Digest as _, Sha256};
use skeg_proto::bootstrap::{BootstrapParams, BootstrapResult, RuntimeInfo, RuntimeVersion};
use skeg_proto::task::DeleteResponse;
use skeg_proto::types::Any;
use skeg_proto::{Message as _, MessageField};

use crate::args::Args;
use crate::config::Config;
use crate::error::{Context as _, Error, Result};
use crate::options::Options;
use crate::path;
use crate::reap::Reaper;
use crate::record::{self, Init};
use crate::rootfs;
use crate::runtime::{Inputs, Runtime, environment};
use crate::sys;

/// Where the sockets of shims are on every host that containerd runs on.
const SOCKET_DIR: &str = "/run/containerd/s";
/// The longest standard input.
const INPUT_LIMIT: usize = 4 << 20;
/// The environment variable with the address that events go to.
pub const TTRPC_ADDRESS: &str = "TTRPC_ADDRESS";
/// The descriptor that a shim finds its listening socket at.
pub const LISTENER: i32 = 3;
/// Annotations that name the group of a container: its containers share one shim.
const GROUPS: [&str; 2] = ["io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"];
/// The type that the runtime's features document goes under.
const FEATURES: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/// What `start` is told, in whichever dialect.
#[derive(Debug, Default)]
struct Start {
    /// Whether the answer is a `BootstrapResult`.
    protobuf: bool,
    options: Option<Any>,
    /// Where events go.
    ttrpc_address: String,
    /// Which containerd it is; part of the socket's name.
    address: String,
    socket_dir: Option<String>,
    debug: bool,
}

impl Start {
    /// Tells the dialects apart. A runtime option of 2.2 and earlier can be read as `BootstrapParams` by accident,
    /// hence the comparison with the command line.
    fn read(args: &Args, input: &[u8]) -> Self {
        let ttrpc_address = std::env::var(TTRPC_ADDRESS).unwrap_or_default();
        let params = BootstrapParams::parse_from_bytes(input).ok();
        match params.filter(|params| params.instance_id == args.id && params.namespace == args.namespace) {
            Some(params) => {
                let or = |given: String, other: &str| if given.is_empty() { other.to_owned() } else { given };
                Self {
                    protobuf: true,
                    options: params
                        .extensions
                        .into_iter()
                        .filter_map(|extension| extension.value.into_option())
                        .find(|any| any.type_url.ends_with(".Options")),
                    ttrpc_address: or(params.containerd_ttrpc_address, &ttrpc_address),
                    address: or(args.address.clone(), &params.containerd_grpc_address),
                    socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
                    debug: args.debug || params.log_level < 0,
                }
            }
            None => Self {
                options: Any::parse_from_bytes(input).ok(),
                ttrpc_address,
                address: args.address.clone(),
                debug: args.debug,
                ..Self::default()
            },
        }
    }

    /// The answer, in the dialect that was spoken. Containerd 1.7 to 2.2 announce JSON by a variable; 1.6 takes the
    /// plain address only, and 1.7 would refuse version 3.
    fn answer(&self, address: &str) -> Result<Vec<u8>> {
        if self.protobuf {
            let result = BootstrapResult {
                version: 3,
                address: address.to_owned(),
                protocol: "ttrpc".to_owned(),
                ..BootstrapResult::default()
            };
            return result.write_to_bytes().map_err(|error| Error::other(format!("encode: {error}")));
        }
        if std::env::var_os("MAX_SHIM_VERSION").is_some() {
            let json = serde_json::json!({ "version": 2, "address": address, "protocol": "ttrpc" });
            return Ok(json.to_string().into_bytes());
        }
        Ok(address.as_bytes().to_vec())
    }
}

fn check(args: &Args) -> Result<()> {
    path::check_id("namespace", &args.namespace)?;
    path::check_id("id", &args.id)
}

fn read_input() -> Result<Vec<u8>> {
    let stdin = std::io::stdin();
    if nix::unistd::isatty(&stdin).unwrap_or(false) {
        return Ok(Vec::new());
    }
    let stdin = stdin.as_fd().try_clone_to_owned().context(|| "standard input")?;
    path::read_to_end(stdin, INPUT_LIMIT).context(|| "read standard input")
}

fn print(bytes: &[u8]) -> Result<()> {
    std::io::stdout().write_all(bytes).context(|| "write standard output")
}

/// `start`: prints the address of the group's shim, which is made where there is none.
///
/// # Errors
/// What failed; no shim is left then.
pub fn start(args: &Args) -> Result<()> {
    check(args)?;
    let bundle = path::open_dir(Path::new(".")).context(|| "open the bundle")?;
    let start = Start::read(args, &read_input()?);
    let options = Options::from_any(start.options.as_ref())?;
    let config = match Config::load(&bundle)? {
        Some(config) => config,
        // A pod's sandbox, which the shim is to make: the requests for it carry no options of the runtime.
        None => {
            record::write_options(&bundle, &options)?;
            Config::default()
        }
    };
    let group = group_of(&config, &args.id);
    path::check_id("group", &group)?;
    let dir = match &start.socket_dir {
        Some(dir) => path::check_absolute("socket directory", dir)?,
        None => PathBuf::from(SOCKET_DIR),
    };
    let private = path::private_dir(&dir)?;
    let name = socket_name(&start.address, &args.namespace, &group);
    let socket = path::child(&dir, &name);
    let address = format!("unix://{}", socket.display());
    if let Some(listener) = claim(&private, &socket, &name)?
        && let Err(error) = launch(args, &start, &options, &listener)
    {
        let _ = path::remove_in(&private, &name);
        return Err(error);
    }
    path::write_in(&bundle, "address", address.as_bytes()).context(|| "write address")?;
    print(&start.answer(&address)?)
}

fn group_of(config: &Config, id: &str) -> String {
    let group = GROUPS.iter().find_map(|name| config.annotations.get(*name));
    group.filter(|group| !group.is_empty()).cloned().unwrap_or_else(|| id.to_owned())
}

/// One name for a group of one namespace of one containerd; short, because a socket's path must be.
fn socket_name(address: &str, namespace: &str, group: &str) -> String {
    let mut hash = Sha256::new();
    for part in [address, "/", namespace, "/", group] {
        hash.update(part.as_bytes());
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The listening socket of a new shim, mode 0600 from the first moment; nothing where one answers already.
fn claim(dir: &OwnedFd, socket: &Path, name: &str) -> Result<Option<UnixListener>> {
    // The look, the removal of a dead socket and the new one are one step to other `start`s.
    let lock = nix::fcntl::openat(
        dir,
        ".",
        nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY | nix::fcntl::OFlag::O_CLOEXEC,
        nix::sys::stat::Mode::empty(),
    )
    .context(|| "open the socket directory")?;
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .context(|| "lock the socket directory")?;
    match path::stat_in(dir, name).context(|| format!("stat {}", socket.display()))? {
        None => {}
        Some(stat) if path::is_type(&stat, SFlag::S_IFSOCK) => {
            if UnixStream::connect(socket).is_ok() {
                return Ok(None);
            }
            path::remove_in(dir, name).context(|| format!("remove {}", socket.display()))?;
        }
        Some(_) => {
            return Err(Error::other(format!("{}: is not a socket", socket.display())));
        }
    }
    let before = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(socket);
    nix::sys::stat::umask(before);
    bound.context(|| format!("bind {}", socket.display())).map(Some)
}

/// Starts the process that serves, with the socket at descriptor 3, and prepares it for its life.
fn launch(args: &Args, start: &Start, options: &Options, listener: &UnixListener) -> Result<()> {
    sys::mark_cloexec_from(3).context(|| "close_range")?;
    // containerd's option sched_core: the shim inherits the group, and so do its containers.
    if std::env::var_os("SCHED_CORE").is_some_and(|value| !value.is_empty()) {
        sys::create_core_scheduling_group().context(|| "enable core scheduling")?;
    }
    let program = std::env::current_exe().context(|| "find this program")?;
    let text =
        |text: &OsStr| CString::new(text.as_bytes()).map_err(|_| Error::invalid("a NUL in an argument"));
    let file = text(program.as_os_str())?;
    let mut arguments = vec![file.clone()];
    for word in ["-namespace", &args.namespace, "-id", &args.id, "-address", &start.address] {
        arguments.push(text(word.as_ref())?);
    }
    if start.debug {
        arguments.push(c"-debug".to_owned());
    }
    let mut environment = environment();
    environment.push(text(format!("{TTRPC_ADDRESS}={}", start.ttrpc_address).as_ref())?);
    let null = path::null_device().context(|| "open /dev/null")?;
    // Standard output and error belong to the answer alone: containerd reads until they are closed.
    let child = sys::spawn(&sys::Program {
        path: &file,
        arguments: &arguments,
        environment: &environment,
        stdio: [null.as_fd(); 3],
        placed: &[(listener.as_fd(), LISTENER)],
        dies_with_us: false,
        new_session: true,
    })
    .context(|| "start the shim")?;
    // A cgroup that is missing is told, like every control that cannot be applied.
    let placed = match options.shim_cgroup.as_str() {
        "" => Ok(()),
        cgroup => enter_cgroup(cgroup, child.pid),
    };
    if placed.is_err() {
        let _ = sys::pidfd_send_signal(&child.pidfd, libc::SIGKILL);
    }
    placed
}

/// Moves a process into an existing cgroup, in every hierarchy that has it.
fn enter_cgroup(cgroup: &str, pid: i32) -> Result<()> {
    let plain = path::check_absolute("option shim_cgroup", &format!("/{}", cgroup.trim_start_matches('/')))?;
    let mut hierarchies = path::directories_in(Path::new("/sys/fs/cgroup"), 64).context(|| "list cgroups")?;
    hierarchies.push(PathBuf::from("/sys/fs/cgroup"));
    let mut entered = false;
    for hierarchy in hierarchies {
        let file = PathBuf::from(format!("{}{}/cgroup.procs", hierarchy.display(), plain.display()));
        match path::write_kernel_file(&file, pid.to_string().as_bytes()) {
            Ok(()) => entered = true,
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(errno).context(|| format!("write {}", file.display())),
        }
    }
    if entered {
        Ok(())
    } else {
        Err(Error::invalid(format!("option shim_cgroup {cgroup:?}: no such cgroup")))
    }
}

/// `delete`: containerd has lost the shim of a container. Ends what is left, and prints how the init process ended.
///
/// # Errors
/// What failed.
pub async fn delete(args: &Args) -> Result<()> {
    check(args)?;
    let bundle = match &args.bundle {
        Some(bundle) => path::check_absolute("bundle", bundle)?,
        None => PathBuf::from("."),
    };
    let bundle = path::open_dir(&bundle).context(|| format!("open bundle {}", bundle.display()))?;
    let record = Init::read(&bundle);
    let (pid, exit) = Init::last_words(record);
    if let Some(Init::Alive(..)) = record {
        // What this end is told to be stays true if this call dies on the way and another one comes. Without it the rest is
        // done all the same.
        let _ = Init::Ended(pid, exit).write(&bundle);
    }
    // containerd up to 2.2 calls this after every deletion; what the shim has done needs no second call of the runtime.
    if !matches!(record, Some(Init::Deleted(..))) {
        clean_up(args, &bundle).await?;
    }
    remove_dead_socket(&bundle);
    let response = DeleteResponse {
        pid: u32::try_from(pid).unwrap_or(0),
        exit_status: exit.status,
        exited_at: MessageField::some(exit.timestamp()),
        ..DeleteResponse::default()
    };
    print(&response.write_to_bytes().map_err(|error| Error::other(format!("encode: {error}")))?)
}

/// Ends and deletes what a shim that was killed has left of a container.
async fn clean_up(args: &Args, bundle: &OwnedFd) -> Result<()> {
    // They are on record before the first call of the runtime.
    let Some(options) = record::read_options(bundle)? else { return rootfs::unmount(bundle, &[]) };
    let reaper = Rc::new(Reaper::default());
    let runtime = Runtime::new(&options, &args.namespace, args.debug, &reaper)?;
    let removed = runtime.call(&["delete", "--force", &args.id], Inputs::default()).await;
    rootfs::unmount(bundle, &[])?;
    match removed {
        Err(error) if !error.to_string().contains("does not exist") => {
            Err(error.context("OCI runtime delete failed"))
        }
        _ => Ok(()),
    }
}

/// Removes the socket that the bundle names where nobody answers on it any more.
fn remove_dead_socket(bundle: &OwnedFd) {
    let address = path::read_in(bundle, "address", 4096).unwrap_or_default();
    let Some(socket) = String::from_utf8(address).ok().and_then(|text| {
        Some(PathBuf::from(text.trim().strip_prefix("unix://")?)).filter(|socket| socket.is_absolute())
    }) else {
        return;
    };
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name().and_then(OsStr::to_str)) else {
        return;
    };
    let Ok(dir) = path::open_dir(dir) else { return };
    let is_socket = path::stat_in(&dir, name)
        .is_ok_and(|stat| stat.is_some_and(|stat| path::is_type(&stat, SFlag::S_IFSOCK)));
    if is_socket && UnixStream::connect(&socket).is_err() {
        let _ = path::remove_in(&dir, name);
    }
}

/// `-info`: prints what the runtime of the options on standard input can do.
///
/// # Errors
/// Options that cannot be read, a runtime that is not found.
pub async fn info() -> Result<()> {
    let options = Any::parse_from_bytes(&read_input()?).ok().filter(|any| !any.type_url.is_empty());
    let reaper = Rc::new(Reaper::default());
    let parsed = Options::from_any(options.as_ref())?;
    let runtime = Runtime::new(&parsed, "default", false, &reaper)?;
    let features =
        runtime.features().await.map(|value| Any { type_url: FEATURES.to_owned(), value, ..Any::default() });
    let version = RuntimeVersion { version: env!("CARGO_PKG_VERSION").into(), ..RuntimeVersion::default() };
    let info = RuntimeInfo {
        name: "io.containerd.skeg.v2".to_owned(),
        version: MessageField::some(version),
        options: options.into(),
        features: features.into(),
        ..RuntimeInfo::default()
    };
    print(&info.write_to_bytes().map_err(|error| Error::other(format!("encode: {error}")))?)
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use skeg_proto::bootstrap::Extension;

    use super::*;

    fn args() -> Args {
        let line = "-namespace k8s.io -address /run/c.sock -publish-binary b -id web start";
        Args::parse(line.split(' ').map(str::to_owned)).unwrap()
    }

    fn options() -> Any {
        Any { type_url: "containerd.runc.v1.Options".into(), value: vec![], ..Any::default() }
    }

    /// peers.md A3.2: options of 1.6 to 2.2, BootstrapParams of 2.3, and the mistake between the two.
    #[test]
    fn dialects_are_told_apart() {
        let legacy = Start::read(&args(), &options().write_to_bytes().unwrap());
        assert!(!legacy.protobuf);
        assert_eq!(legacy.options.as_ref().unwrap().type_url, "containerd.runc.v1.Options");
        assert_eq!(legacy.answer("unix:///s").unwrap(), b"unix:///s");
        let params = BootstrapParams {
            instance_id: "web".into(),
            namespace: "k8s.io".into(),
            log_level: -4,
            containerd_ttrpc_address: "/run/c.sock.ttrpc".into(),
            extensions: vec![Extension { value: MessageField::some(options()), ..Extension::default() }],
            socket_dir: Some("/run/other".into()),
            ..BootstrapParams::default()
        };
        let modern = Start::read(&args(), &params.write_to_bytes().unwrap());
        assert!(modern.protobuf && modern.debug && modern.options.is_some());
        assert_eq!(modern.ttrpc_address, "/run/c.sock.ttrpc");
        assert_eq!(modern.socket_dir.as_deref(), Some("/run/other"));
        let answer = BootstrapResult::parse_from_bytes(&modern.answer("unix:///s").unwrap()).unwrap();
        assert_eq!((answer.version, answer.protocol.as_str()), (3, "ttrpc"));
        let foreign = BootstrapParams { instance_id: "other".into(), ..params };
        assert!(!Start::read(&args(), &foreign.write_to_bytes().unwrap()).protobuf);
        assert!(Start::read(&args(), b"").options.unwrap_or_default().type_url.is_empty());
    }

    #[test]
    fn a_group_has_one_socket() {
        let config = |json: &str| serde_json::from_str::<Config>(json).unwrap();
        let pod = config(r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}"#);
        assert_eq!(group_of(&pod, "web"), "pod");
        assert_eq!(group_of(&config("{}"), "web"), "web");
        let name = socket_name("/run/c.sock", "k8s.io", "pod");
        assert_eq!(name.len(), 64);
        assert_ne!(name, socket_name("/run/c.sock", "k8s.io", "web"));
        assert_ne!(name, socket_name("/run/d.sock", "k8s.io", "pod"));
    }

    /// security.md I1 to I3: 0600 whatever the umask, a live socket is left alone, a dead one replaced, and what is no
    /// socket neither followed nor removed.
    #[test]
    fn i3_a_socket_is_claimed_with_care() {
        use std::os::unix::fs::MetadataExt as _;
        let path = std::env::temp_dir().join(format!("shim-claim-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let dir = path::private_dir(&path).unwrap();
        let socket = path.join("s");
        let listener = claim(&dir, &socket, "s").unwrap().unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
        assert!(claim(&dir, &socket, "s").unwrap().is_none(), "a live socket was taken");
        drop(listener);
        assert!(claim(&dir, &socket, "s").unwrap().is_some(), "a dead socket was kept");
        let canary = path.join("canary");
        std::fs::write(&canary, "x").unwrap();
        let link = path.join("link");
        std::os::unix::fs::symlink(&canary, &link).unwrap();
        assert!(claim(&dir, &link, "link").is_err());
        assert!(canary.exists() && link.is_symlink());
        std::fs::remove_dir_all(&path).unwrap();
    }
}
