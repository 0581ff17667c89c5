//! The shim as a process, asked by a raw ttrpc client, with a runtime that is a shell script: what needs no containerd
//! and no root.

#![allow(dead_code, reason = "each test program uses its part")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use skeg_proto::bootstrap::{BootstrapParams, BootstrapResult, Extension};
use skeg_proto::options::Options;
use skeg_proto::task as api;
use skeg_proto::ttrpc::{Request, Response};
use skeg_proto::types::Any;
use skeg_proto::{Message, MessageField};

pub const NAMESPACE: &str = "shimtest";

/// A runtime that keeps the pid of a `sleep` for a container. What it is given, it writes into its root. Its processes
/// outlive it: a shell may wait for a child that ends before it does, which a runtime never does.
pub const RUNTIME: &str = r#"#!/bin/sh
root=$2
mkdir -p "$root"
for last; do :; done
bundle= pidfile= command= signal=
while [ $# -gt 0 ]; do
	case $1 in
	create|start|delete|kill|exec|pause|resume|update|state|ps|features) command=$1 ;;
	--bundle) bundle=$2; shift ;;
	--pid-file) pidfile=$2; shift ;;
	--root|--log|--log-format|--process) [ "$1" = --log ] && log=$2; shift ;;
	esac
	shift
done
echo "$command" >>"$root/calls"
case $command in
create)
	env >"$root/environment"
	ls -l /proc/self/fd >"$root/descriptors"
	case $last in
	hang*) sleep 1000 ;;
	fail*) echo '{"level":"error","msg":"made to fail"}' >>"$log"; exit 1 ;;
	loud*) sh -c 'echo words; exec sleep 100' & ;;
	short*) sh -c 'sleep 0.5; exit 5' & ;;
	*) sleep 100 & ;;
	esac
	echo $! >"$pidfile"
	;;
exec)
	case $pidfile in
	*/bad*) echo '{"level":"error","msg":"no such program"}' >>"$log"; exit 1 ;;
	*/long*) sleep 100 & ;;
	*/loud*) sh -c 'head -c 100000 /dev/zero; sleep 0.5' & ;;
	*/storm*) sh -c 'sleep 0.5; for i in $(seq 200); do (echo x >>"$0" &); done; exit 9' "$root/orphans" & ;;
	*) sh -c 'sleep 0.5; exit 3' & ;;
	esac
	echo $! >"$pidfile"
	;;
pause) sleep 1000 ;;
delete) case $last in fail*|hang*) : ;; esac ;;
esac
exit 0
"#;

pub struct Shim {
    pub dir: PathBuf,
    pub address: PathBuf,
    pub pid: u32,
}

impl Drop for Shim {
    fn drop(&mut self) {
        // It may have ended, and its pid be another's.
        let program = std::fs::read_link(format!("/proc/{}/exe", self.pid));
        if program.is_ok_and(|program| program == Path::new(env!("CARGO_BIN_EXE_containerd-shim-skeg-v2"))) {
            let killed = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
            assert!(killed.is_ok());
        }
        // What its containers left runs on as orphans of this process group: end them by their root.
        for child in children_of(&self.dir) {
            let _ = Command::new("kill").args(["-9", &child.to_string()]).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Processes whose working directory is below `dir`.
pub fn children_of(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        })
        .collect()
}

pub fn bundle(dir: &Path, id: &str) -> PathBuf {
    let bundle = dir.join(id);
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).unwrap();
    bundle
}

pub fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("shim-api-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    write_program(&dir.join("runtime"), RUNTIME);
    dir
}

/// By a process of its own: while this one has a program open for writing, a child that another test forks has it too, until
/// its execve, and who executes the program meanwhile meets ETXTBSY.
pub fn write_program(path: &Path, text: &str) {
    let script = r#"printf %s "$1" >"$2" && chmod 755 "$2""#;
    let status = Command::new("sh").args(["-c", script, "sh", text]).arg(path).status().unwrap();
    assert!(status.success(), "write {}: {status}", path.display());
}

pub fn start_command(dir: &Path, id: &str, events: &str) -> Command {
    let mut command = Command::new("sh");
    // umask 0: nothing may depend on the caller's (rows I1, I4).
    command
        .args(["-c", "umask 0; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_containerd-shim-skeg-v2")])
        .args([
            "-namespace",
            NAMESPACE,
            "-address",
            "/nonexistent.sock",
            "-publish-binary",
            "none",
            "-id",
            id,
        ])
        .arg("start")
        .current_dir(bundle(dir, id))
        .env("SECRET_CANARY", "x")
        .env("TTRPC_ADDRESS", events)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs `start` with what containerd 2.3 writes to its standard input; `options` are those of the runtime.
pub fn start(mut command: Command, dir: &Path, id: &str, options: Option<Any>) -> Output {
    let extension = options.map(|any| Extension { value: MessageField::some(any), ..Default::default() });
    let params = BootstrapParams {
        instance_id: id.into(),
        namespace: NAMESPACE.into(),
        socket_dir: Some(dir.join("s").to_str().unwrap().into()),
        extensions: extension.into_iter().collect(),
        ..BootstrapParams::default()
    };
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
    child.wait_with_output().unwrap()
}

pub fn boot(dir: &Path, id: &str, events: &str) -> BootstrapResult {
    let output = start(start_command(dir, id, events), dir, id, None);
    assert!(output.status.success(), "{output:?}");
    BootstrapResult::parse_from_bytes(&output.stdout).unwrap()
}

impl Shim {
    pub fn start(name: &str) -> Self {
        Self::start_with_events(name, "")
    }

    pub fn start_with_events(name: &str, events: &str) -> Self {
        let dir = scratch(name);
        let result = boot(&dir, "first", events);
        assert_eq!(result.version, 3);
        let address = PathBuf::from(result.address.strip_prefix("unix://").unwrap());
        let mut shim = Self { dir, address, pid: 0 };
        let connected: api::ConnectResponse =
            shim.client().call("Connect", &api::ConnectRequest::new()).unwrap();
        shim.pid = connected.shim_pid;
        shim
    }

    pub fn client(&self) -> Client {
        Client(UnixStream::connect(&self.address).unwrap())
    }

    pub fn create_request(&self, id: &str) -> api::CreateTaskRequest {
        let options = Options {
            binary_name: self.dir.join("runtime").to_str().unwrap().into(),
            root: self.dir.join("root").to_str().unwrap().into(),
            ..Options::default()
        };
        let any = Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.write_to_bytes().unwrap(),
            ..Any::default()
        };
        api::CreateTaskRequest {
            id: id.into(),
            bundle: bundle(&self.dir, id).to_str().unwrap().into(),
            options: MessageField::some(any),
            ..api::CreateTaskRequest::default()
        }
    }

    pub fn create(&self, id: &str) -> std::result::Result<api::CreateTaskResponse, (i32, String)> {
        self.client().call("Create", &self.create_request(id))
    }

    pub fn root(&self) -> PathBuf {
        self.dir.join("root").join(NAMESPACE)
    }
}

pub struct Client(pub UnixStream);

impl Client {
    pub fn send(&mut self, service: &str, method: &str, payload: &impl Message) {
        self.send_bytes(service, method, payload.write_to_bytes().unwrap());
    }

    pub fn send_bytes(&mut self, service: &str, method: &str, payload: Vec<u8>) {
        let request =
            Request { service: service.into(), method: method.into(), payload, ..Request::default() };
        let bytes = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0, 0, 1, 1, 0]);
        frame.extend_from_slice(&bytes);
        self.0.write_all(&frame).unwrap();
    }

    pub fn receive(&mut self) -> Response {
        self.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut header = [0; 10];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        Response::parse_from_bytes(&payload).unwrap()
    }

    pub fn call<R: Message>(
        &mut self,
        method: &str,
        payload: &impl Message,
    ) -> std::result::Result<R, (i32, String)> {
        self.call_service("containerd.task.v2.Task", method, payload)
    }

    pub fn call_service<R: Message>(
        &mut self,
        service: &str,
        method: &str,
        payload: &impl Message,
    ) -> std::result::Result<R, (i32, String)> {
        self.send(service, method, payload);
        let response = self.receive();
        match response.status.code {
            0 => Ok(R::parse_from_bytes(&response.payload).unwrap()),
            code => Err((code, response.status.message.clone())),
        }
    }
}

pub type Empty = skeg_proto::types::Empty;

pub fn state(client: &mut Client, id: &str) -> std::result::Result<api::StateResponse, (i32, String)> {
    client.call("State", &api::StateRequest { id: id.into(), ..Default::default() })
}

pub const NOT_FOUND: i32 = 5;
pub const ALREADY_EXISTS: i32 = 6;
pub const FAILED_PRECONDITION: i32 = 9;
pub const INVALID_ARGUMENT: i32 = 3;
pub const UNIMPLEMENTED: i32 = 12;

/// Whether `condition` comes true within 20 s.
pub fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if condition() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}
