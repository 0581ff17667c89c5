//! Bundles and the runtime's commands on them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub const SKEG: &str = env!("CARGO_BIN_EXE_skeg");
/// Where the ids of a container's user namespace begin on the host, and how many there are.
pub const FIRST_ID: u32 = 100_000;
pub const IDS: u32 = 65_536;
/// No command takes longer unless it hangs.
const PATIENCE: &str = "30";

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 24] = [
    "cat", "chmod", "cut", "date", "echo", "env", "grep", "head", "hostname", "id", "ionice", "ip", "ls",
    "mount", "ps", "readlink", "sh", "sleep", "stat", "stty", "test", "touch", "tty", "uname",
];

/// A container that is made of a bundle of its own.
pub struct Container {
    pub id: String,
    dir: PathBuf,
    /// What config.json will say.
    pub config: Value,
    /// More environment for the runtime.
    pub env: Vec<(&'static str, String)>,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Said {
    /// Its output, where it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, Some(0), "{self:?}");
        self.out
    }

    /// Its error, where it failed.
    #[track_caller]
    pub fn error(self) -> String {
        assert_ne!(self.status, Some(0), "{self:?}");
        self.err.trim_end().to_owned()
    }
}

/// Whether real containers can be run here.
pub fn possible() -> bool {
    let reason = if !nix::unistd::geteuid().is_root() {
        "needs root"
    } else if !Path::new(BUSYBOX).exists() {
        "needs Debian's busybox-static"
    } else {
        return true;
    };
    println!("skipped: {reason}");
    false
}

/// By a process of its own: while this one has a program open for writing, a child that another test forks has it too, until
/// its execve, and who executes the program meanwhile meets ETXTBSY.
pub fn copy_program(from: &str, to: &Path) {
    let status = Command::new("cp").arg(from).arg(to).status().unwrap();
    assert!(status.success(), "cp {from} {}: {status}", to.display());
}

impl Container {
    /// A bundle with busybox and the configuration of `skeg spec`, without a terminal and with a root that can be written
    /// to. `None` where containers cannot be run.
    pub fn new(name: &str) -> Option<Self> {
        if !possible() {
            return None;
        }
        let id = format!("containers-{}-{name}", std::process::id());
        let dir = std::env::temp_dir().join(&id);
        let _ = fs::remove_dir_all(&dir);
        let root = dir.join("rootfs");
        for directory in ["bin", "dev", "etc", "proc", "run", "sys", "tmp"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        copy_program(BUSYBOX, &root.join("bin/busybox"));
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let spec = Command::new(SKEG).arg("spec").arg("-b").arg(&dir).output().unwrap();
        assert!(spec.status.success(), "{spec:?}");
        let mut config: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        Some(Self { id, dir, config, env: Vec::new() })
    }

    pub fn bundle(&self) -> &Path {
        &self.dir
    }

    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub fn state_root(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// What a shell is to do in the container.
    pub fn script(&mut self, script: &str) -> &mut Self {
        self.config["process"]["args"] = json!(["/bin/sh", "-c", script]);
        self
    }

    /// A namespace of its own, or the one at `path`.
    pub fn namespace(&mut self, kind: &str, path: Option<String>) -> &mut Self {
        self.without_namespace(kind);
        let namespace = match path {
            Some(path) => json!({"type": kind, "path": path}),
            None => json!({"type": kind}),
        };
        self.config["linux"]["namespaces"].as_array_mut().unwrap().push(namespace);
        self
    }

    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        let namespaces = self.config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != kind);
        self
    }

    /// The namespace of process `pid`.
    pub fn join(&mut self, kind: &str, pid: i32) -> &mut Self {
        let file = match kind {
            "network" => "net",
            "mount" => "mnt",
            kind => kind,
        };
        self.namespace(kind, Some(format!("/proc/{pid}/ns/{file}")))
    }

    /// A user namespace whose root owns the image.
    pub fn user_namespace(&mut self) -> &mut Self {
        self.namespace("user", None);
        let mapping = json!([{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]);
        self.config["linux"]["uidMappings"] = mapping.clone();
        self.config["linux"]["gidMappings"] = mapping;
        self.give_rootfs_to(FIRST_ID);
        self
    }

    pub fn give_rootfs_to(&self, id: u32) {
        let chown = Command::new("chown").args(["-hR", &format!("{id}:{id}")]).arg(self.rootfs()).status();
        assert!(chown.unwrap().success());
    }

    /// A command of the runtime, with the time that it may take.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command.args([PATIENCE, SKEG, "--root"]).arg(self.state_root()).args(arguments);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }

    pub fn write_config(&self) {
        fs::write(self.dir.join("config.json"), self.config.to_string()).unwrap();
    }

    /// `skeg run` in the foreground.
    pub fn run(&self) -> Said {
        self.write_config();
        let bundle = self.dir.to_str().unwrap();
        self.command(&["run", "-b", bundle, &self.id]).output().unwrap().into()
    }

    /// `skeg run --detach`. What it and the container write goes to files.
    pub fn detach(&self) -> Said {
        self.write_config();
        let log = |name: &str| fs::File::create(self.dir.join(name)).unwrap();
        let bundle = self.dir.to_str().unwrap();
        let mut command = self.command(&["run", "-d", "-b", bundle, &self.id]);
        let status = command.stdout(log("out")).stderr(log("err")).status().unwrap();
        Said { status: status.code(), out: self.read("out"), err: self.read("err") }
    }

    /// A container that sleeps; its process.
    #[track_caller]
    pub fn start_sleeping(&mut self) -> i32 {
        self.config["process"]["args"] = json!(["/bin/sleep", "1000"]);
        self.detach().ok();
        self.pid()
    }

    #[track_caller]
    pub fn pid(&self) -> i32 {
        let state: Value = serde_json::from_str(&self.skeg(&["state", &self.id]).ok()).unwrap();
        i32::try_from(state["pid"].as_i64().unwrap()).unwrap()
    }

    /// `skeg exec` of a shell with `flags`.
    pub fn exec(&self, flags: &[&str], script: &str) -> Said {
        let arguments = [&["exec"], flags, &[&self.id, "/bin/sh", "-c", script]].concat();
        self.skeg(&arguments)
    }

    /// `skeg exec --process`: the configuration's process object with another shell script and what `change` does.
    pub fn exec_process(&self, script: &str, change: impl FnOnce(&mut Value)) -> Said {
        let mut process = self.config["process"].clone();
        process["args"] = json!(["/bin/sh", "-c", script]);
        change(&mut process);
        let path = self.dir.join("process.json");
        fs::write(&path, process.to_string()).unwrap();
        self.skeg(&["exec", "--process", path.to_str().unwrap(), &self.id])
    }

    pub fn skeg(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    /// A file of the bundle.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.command(&["delete", "-f", &self.id]).output();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Waits until `condition` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in 20 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}
