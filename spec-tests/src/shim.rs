//! containerd's shim under test, without containerd: a shim process, bundles for it, calls of its task API, and what it
//! publishes.

pub mod client;
pub mod events;
pub mod sweep;
pub mod walk;

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use skeg_proto::task::{CreateTaskRequest, DeleteResponse};
use skeg_proto::types::{Any, Mount};
use skeg_proto::{Message, MessageField};

use crate::failure::{During, Failure, Outcome};
use crate::harness::Ctx;
use crate::sys::{self, ChildSetup};
use crate::{ensure, leftovers, probe, runner};

/// containerd's namespace.
pub const NAMESPACE: &str = "shimtest";
/// What a process of SIGKILL ends with.
pub const KILLED: u32 = 137;

/// Where shims, their bundles and sockets are.
pub struct Place {
    /// All ids begin with it.
    pub tag: String,
    /// All files are below it.
    pub dir: PathBuf,
    /// The runtime's state, a directory for the namespace in it.
    root: PathBuf,
    shim: PathBuf,
    runtime: PathBuf,
    rootfs: PathBuf,
    config: Value,
}

impl Place {
    /// A place of its own below the temporary directory.
    pub fn new(shim: &Path, runtime: &Path, tag: &str) -> Outcome<(Ctx, Self)> {
        nix::sys::prctl::set_child_subreaper(true)?;
        let dir = leftovers::base_dir().join(tag);
        let kind = runner::runtime_kind(runtime)?;
        let ctx = Ctx::new(runtime, &kind, &dir, tag, &probe::locate()?, 1)?;
        let image = ctx.bundle()?;
        fs::create_dir_all(dir.join("s"))?;
        fs::create_dir_all(ctx.root.join(NAMESPACE))?;
        let place = Self {
            tag: tag.to_owned(),
            root: ctx.root.clone(),
            shim: shim.to_owned(),
            runtime: runtime.to_owned(),
            rootfs: image.rootfs(),
            config: image.config,
            dir,
        };
        Ok((ctx, place))
    }

    /// Takes away all that is here.
    pub fn clean(&self) {
        leftovers::clean(&self.dir, &self.tag);
        leftovers::remove_tree(&self.dir);
    }

    /// Where the runtime has its states.
    pub fn states(&self) -> PathBuf {
        self.root.join(NAMESPACE)
    }

    /// The socket of a shim.
    pub fn socket(&self, id: &str) -> PathBuf {
        self.dir.join("s").join(id)
    }

    /// The bundle of a container.
    pub fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join(format!("b-{id}"))
    }

    /// Makes the bundle of a container as containerd does: a configuration (whose program is the probe with `words`), an empty directory for the root file system, and
    /// the address of the shim.
    pub fn make_bundle(&self, id: &str, shim: &str, words: &[&str]) -> Outcome {
        let mut config = self.config.clone();
        config["process"]["args"] = args(words);
        crate::config::set(&mut config, "/linux/cgroupsPath", json!(format!("/{id}")));
        let bundle = self.bundle(id);
        fs::create_dir_all(bundle.join("rootfs")).during("make a bundle")?;
        fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
        fs::write(bundle.join("address"), format!("unix://{}", self.socket(shim).display()))?;
        Ok(())
    }

    /// Removes it as containerd does: what is still mounted there stays, and is found.
    pub fn remove_bundle(&self, id: &str) {
        let mounted = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        if !mounted.contains(&format!("{}/", self.bundle(id).display())) {
            leftovers::remove_tree(&self.bundle(id));
        }
    }

    /// What asks for a container in that bundle, its root file system to be mounted by the shim.
    pub fn create_request(&self, id: &str) -> Outcome<CreateTaskRequest> {
        let options = skeg_proto::options::Options {
            binary_name: self.runtime.display().to_string(),
            root: self.root.display().to_string(),
            ..Default::default()
        };
        let rootfs = Mount {
            type_: "bind".into(),
            source: self.rootfs.display().to_string(),
            options: vec!["rbind".into(), "rw".into()],
            ..Mount::default()
        };
        Ok(CreateTaskRequest {
            id: id.into(),
            bundle: self.bundle(id).display().to_string(),
            rootfs: vec![rootfs],
            options: any("containerd.runc.v1.Options", options.write_to_bytes()?),
            ..CreateTaskRequest::default()
        })
    }

    /// The specification of a process that is the probe with these words.
    pub fn process(&self, words: &[&str]) -> Outcome<MessageField<Any>> {
        let mut process: Value = self.config["process"].clone();
        process["args"] = args(words);
        Ok(any("types.containerd.io/opencontainers/runtime-spec/1/Process", serde_json::to_vec(&process)?))
    }

    /// The command line of a shim that serves at its socket, as `start` runs it; `events` is where containerd would take them.
    /// The listening socket is to be kept until the shim runs, and no longer: nobody else may answer there.
    pub fn serve(&self, id: &str, events: &Path) -> Outcome<(Command, UnixListener)> {
        let socket = self.socket(id);
        let _old = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let mut command = self.command(id);
        command.current_dir(self.bundle(id)).env("TTRPC_ADDRESS", events);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let setup = ChildSetup { fds: vec![(listener.as_raw_fd(), 3)], ..ChildSetup::default() };
        sys::prepare(&mut command, setup);
        Ok((command, listener))
    }

    /// `shim delete`, what containerd calls when a shim has gone.
    pub fn cleanup_command(&self, id: &str) -> Command {
        let mut command = self.command(id);
        command.arg("-bundle").arg(self.bundle(id)).arg("delete").current_dir(self.bundle(id));
        command
    }

    /// The same, done: how the init process ended, as containerd is told. What the dead shim has left to this process is reaped
    /// meanwhile: a PID namespace does not end before each of its processes has been.
    pub fn clean_up(&self, ctx: &Ctx, id: &str) -> Outcome<u32> {
        let call =
            ctx.program(&self.shim).args(arguments(id)).arg("-bundle").arg(self.bundle(id)).arg("delete");
        let done = call.cwd(&self.bundle(id)).run()?.ok().during("delete after the end of the shim")?;
        let printed = done.printed()?;
        ensure!(!printed.is_empty(), "delete printed nothing");
        Ok(DeleteResponse::parse_from_bytes(&printed)?.exit_status)
    }

    fn command(&self, id: &str) -> Command {
        let mut command = Command::new(&self.shim);
        command.args(arguments(id)).stdin(Stdio::null());
        command
    }
}

fn arguments(id: &str) -> [&str; 6] {
    ["-namespace", NAMESPACE, "-id", id, "-address", "/nonexistent.sock"]
}

fn args(words: &[&str]) -> Value {
    std::iter::once("/probe").chain(words.iter().copied()).collect()
}

/// A message of a type that is named.
pub fn any(type_url: &str, value: Vec<u8>) -> MessageField<Any> {
    MessageField::some(Any { type_url: type_url.into(), value, ..Any::default() })
}

/// What both programs here are told.
pub struct Told<'a> {
    /// The shim.
    pub shim: PathBuf,
    /// The runtime.
    pub runtime: PathBuf,
    /// More pairs of words.
    pub more: Vec<(&'a str, &'a str)>,
}

/// Reads the words of a command line.
pub fn told<'a>(arguments: &'a [String], usage: &str) -> Outcome<Told<'a>> {
    let mut told = Told { shim: PathBuf::new(), runtime: PathBuf::new(), more: Vec::new() };
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(Failure::new(usage)) };
        match name.as_str() {
            "--shim" => told.shim = fs::canonicalize(value).during(value)?,
            "--runtime" => told.runtime = fs::canonicalize(value).during(value)?,
            _ => told.more.push((name.as_str(), value.as_str())),
        }
    }
    ensure!(told.shim.is_absolute() && told.runtime.is_absolute(), "{usage}");
    Ok(told)
}
