//! The shim as a process, asked by a raw ttrpc client, with a runtime that is a shell script: what needs no containerd
//! and no root. Rows of security.md carry their number in the test's name.

#![allow(clippy::disallowed_methods, reason = "tests make their own files and processes")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use skeg_proto::bootstrap::{BootstrapParams, BootstrapResult};
use skeg_proto::options::Options;
use skeg_proto::task as api;
use skeg_proto::ttrpc::{Request, Response};
use skeg_proto::types::Any;
use skeg_proto::{Message, MessageField};

const NAMESPACE: &str = "shimtest";

/// A runtime that keeps the pid of a `sleep` for a container. What it is given, it writes into its root. Its processes
/// outlive it: a shell may wait for a child that ends before it does, which a runtime never does.
const RUNTIME: &str = r#"#!/bin/sh
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
exec) sh -c 'sleep 0.5; exit 3' & echo $! >"$pidfile" ;;
pause) sleep 1000 ;;
delete) case $last in fail*|hang*) : ;; esac ;;
esac
exit 0
"#;

struct Shim {
    dir: PathBuf,
    address: PathBuf,
    pid: u32,
}

impl Drop for Shim {
    fn drop(&mut self) {
        let killed = Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        assert!(killed.is_ok());
        // What its containers left runs on as orphans of this process group: end them by their root.
        for child in children_of(&self.dir) {
            let _ = Command::new("kill").args(["-9", &child.to_string()]).status();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Processes whose working directory is below `dir`.
fn children_of(dir: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir))
        })
        .collect()
}

fn bundle(dir: &Path, id: &str) -> PathBuf {
    let bundle = dir.join(id);
    std::fs::create_dir_all(&bundle).unwrap();
    std::fs::write(bundle.join("config.json"), r#"{"linux":{"namespaces":[{"type":"pid"}]}}"#).unwrap();
    bundle
}

fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("shim-api-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("runtime"), RUNTIME).unwrap();
    std::fs::set_permissions(dir.join("runtime"), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

fn start_command(dir: &Path, id: &str, events: &str) -> Command {
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
        .stdout(Stdio::piped());
    command
}

fn boot(dir: &Path, id: &str, events: &str) -> BootstrapResult {
    let mut child = start_command(dir, id, events).spawn().unwrap();
    let params = BootstrapParams {
        instance_id: id.into(),
        namespace: NAMESPACE.into(),
        socket_dir: Some(dir.join("s").to_str().unwrap().into()),
        ..BootstrapParams::default()
    };
    child.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    BootstrapResult::parse_from_bytes(&output.stdout).unwrap()
}

impl Shim {
    fn start(name: &str) -> Self {
        Self::start_with_events(name, "")
    }

    fn start_with_events(name: &str, events: &str) -> Self {
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

    fn client(&self) -> Client {
        Client(UnixStream::connect(&self.address).unwrap())
    }

    fn create_request(&self, id: &str) -> api::CreateTaskRequest {
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

    fn create(&self, id: &str) -> std::result::Result<api::CreateTaskResponse, (i32, String)> {
        self.client().call("Create", &self.create_request(id))
    }

    fn root(&self) -> PathBuf {
        self.dir.join("root").join(NAMESPACE)
    }
}

struct Client(UnixStream);

impl Client {
    fn send(&mut self, service: &str, method: &str, payload: &impl Message) {
        let request = Request {
            service: service.into(),
            method: method.into(),
            payload: payload.write_to_bytes().unwrap(),
            ..Request::default()
        };
        let bytes = request.write_to_bytes().unwrap();
        let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 0, 0, 1, 1, 0]);
        frame.extend_from_slice(&bytes);
        self.0.write_all(&frame).unwrap();
    }

    fn receive(&mut self) -> Response {
        self.0.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut header = [0; 10];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).unwrap();
        Response::parse_from_bytes(&payload).unwrap()
    }

    fn call<R: Message>(
        &mut self,
        method: &str,
        payload: &impl Message,
    ) -> std::result::Result<R, (i32, String)> {
        self.call_service("containerd.task.v2.Task", method, payload)
    }

    fn call_service<R: Message>(
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

type Empty = skeg_proto::types::Empty;

fn state(client: &mut Client, id: &str) -> std::result::Result<api::StateResponse, (i32, String)> {
    client.call("State", &api::StateRequest { id: id.into(), ..Default::default() })
}

const NOT_FOUND: i32 = 5;
const ALREADY_EXISTS: i32 = 6;
const FAILED_PRECONDITION: i32 = 9;
const INVALID_ARGUMENT: i32 = 3;
const UNIMPLEMENTED: i32 = 12;

/// issue 4: both service names answer, states are checked, and codes are those that containerd acts on.
#[test]
fn the_life_of_a_task_under_both_service_names() {
    let shim = Shim::start("life");
    let mut client = shim.client();
    assert_eq!(state(&mut client, "c").unwrap_err().0, NOT_FOUND);
    let pid = shim.create("c").unwrap().pid;
    assert_eq!(shim.create("c").unwrap_err().0, ALREADY_EXISTS);
    assert_eq!(state(&mut client, "c").unwrap().pid, pid);
    for service in ["containerd.task.v2.Task", "containerd.task.v3.Task"] {
        let request = api::StateRequest { id: "c".into(), ..Default::default() };
        let state: api::StateResponse = client.call_service(service, "State", &request).unwrap();
        assert_eq!(state.status.value(), 1, "created");
    }
    let start = api::StartRequest { id: "c".into(), ..Default::default() };
    assert_eq!(client.call::<api::StartResponse>("Start", &start).unwrap().pid, pid);
    assert_eq!(client.call::<api::StartResponse>("Start", &start).unwrap_err().0, FAILED_PRECONDITION);
    let delete = api::DeleteRequest { id: "c".into(), ..Default::default() };
    assert_eq!(client.call::<Empty>("Delete", &delete).unwrap_err().0, FAILED_PRECONDITION);
    let checkpoint = api::CheckpointTaskRequest { id: "c".into(), ..Default::default() };
    assert_eq!(client.call::<Empty>("Checkpoint", &checkpoint).unwrap_err().0, UNIMPLEMENTED);
    assert_eq!(client.call::<Empty>("Nonsense", &delete).unwrap_err().0, UNIMPLEMENTED);
    let exec = api::ExecProcessRequest {
        id: "c".into(),
        exec_id: "e".into(),
        spec: MessageField::some(Any { value: b"{}".to_vec(), ..Default::default() }),
        ..Default::default()
    };
    client.call::<Empty>("Exec", &exec).unwrap();
    assert_eq!(client.call::<Empty>("Exec", &exec).unwrap_err().0, ALREADY_EXISTS);
    let kill_exec = api::KillRequest { id: "c".into(), exec_id: "e".into(), signal: 9, ..Default::default() };
    assert_eq!(client.call::<Empty>("Kill", &kill_exec).unwrap_err().0, FAILED_PRECONDITION);
    let start_exec = api::StartRequest { id: "c".into(), exec_id: "e".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start_exec).unwrap();
    let wait_exec = api::WaitRequest { id: "c".into(), exec_id: "e".into(), ..Default::default() };
    assert_eq!(client.call::<api::WaitResponse>("Wait", &wait_exec).unwrap().exit_status, 3);
    let kill = api::KillRequest { id: "c".into(), signal: 15, ..Default::default() };
    client.call::<Empty>("Kill", &kill).unwrap();
    let wait = api::WaitRequest { id: "c".into(), ..Default::default() };
    assert_eq!(client.call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 143);
    assert_eq!(client.call::<Empty>("Kill", &kill).unwrap_err().0, NOT_FOUND);
    let deleted: api::DeleteResponse = client.call("Delete", &delete).unwrap();
    assert_eq!((deleted.pid, deleted.exit_status), (pid, 143));
    assert_eq!(state(&mut client, "c").unwrap_err().0, NOT_FOUND);
    let calls = std::fs::read_to_string(shim.root().join("calls")).unwrap();
    assert_eq!(calls, "create\nstart\nexec\ndelete\n", "one runtime call an operation");
}

/// security.md I1: a path socket, 0600 in a 0700 directory, that nobody else reaches; nothing abstract.
#[test]
fn i1_the_socket_is_out_of_reach_for_others() {
    let shim = Shim::start("i1");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&shim.address), 0o600);
    assert_eq!(mode(shim.address.parent().unwrap()), 0o700);
    let unix = std::fs::read_to_string("/proc/net/unix").unwrap();
    let ours = unix.lines().filter(|line| line.contains(shim.dir.to_str().unwrap()));
    assert!(ours.clone().count() > 0 && !ours.clone().any(|line| line.contains('@')));
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        let output = Command::new("setpriv")
            .args(["--reuid=1000", "--regid=1000", "--clear-groups", "stat"])
            .arg(&shim.address)
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("Permission denied"), "{output:?}");
    }
}

/// security.md I4: whatever the shim makes under umask 0 is closed to others.
#[test]
fn i4_nothing_that_is_made_is_open_to_others() {
    let shim = Shim::start("i4");
    shim.create("c").unwrap();
    for name in ["shim-options.json", "init-state"] {
        let mode = std::fs::metadata(shim.dir.join("c").join(name)).unwrap().mode();
        assert_eq!(mode & 0o077, 0, "{name} {mode:o}");
    }
    assert_eq!(std::fs::metadata(shim.dir.join("s")).unwrap().mode() & 0o077, 0);
}

/// security.md I5: ids that are no plain names are refused before anything is touched.
#[test]
fn i5_ids_are_checked_at_the_edge() {
    let shim = Shim::start("i5");
    shim.create("c").unwrap();
    let mut client = shim.client();
    for bad in ["../../x", "a/b", "..", "a\nb", "a b"] {
        let exec = api::ExecProcessRequest { id: "c".into(), exec_id: bad.into(), ..Default::default() };
        assert_eq!(client.call::<Empty>("Exec", &exec).unwrap_err().0, INVALID_ARGUMENT, "{bad:?}");
        for method in ["State", "Start", "Delete", "Wait", "Kill", "ResizePty", "CloseIO"] {
            let as_exec = api::StateRequest { id: "c".into(), exec_id: bad.into(), ..Default::default() };
            let as_id = api::StateRequest { id: bad.into(), ..Default::default() };
            assert_eq!(
                client.call::<Empty>(method, &as_exec).unwrap_err().0,
                INVALID_ARGUMENT,
                "{method} {bad:?}"
            );
            assert_eq!(
                client.call::<Empty>(method, &as_id).unwrap_err().0,
                INVALID_ARGUMENT,
                "{method} {bad:?}"
            );
        }
        let mut create = shim.create_request("d");
        create.id = bad.into();
        assert_eq!(client.call::<Empty>("Create", &create).unwrap_err().0, INVALID_ARGUMENT, "{bad:?}");
    }
}

/// security.md I9 and I10: stream URIs are an allow-list; a FIFO without its other end blocks nothing; other files are
/// an error.
#[test]
fn i10_streams_neither_block_nor_surprise() {
    let shim = Shim::start("i10");
    let fifo = shim.dir.join("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let begin = Instant::now();
    let mut request = shim.create_request("c");
    request.stdin = fifo.to_str().unwrap().into();
    shim.client().call::<api::CreateTaskResponse>("Create", &request).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2));
    let regular = shim.dir.join("regular");
    std::fs::write(&regular, "").unwrap();
    for (number, bad) in
        ["relative", "http://x/y", "file://../x", regular.to_str().unwrap()].iter().enumerate()
    {
        let mut request = shim.create_request(&format!("bad{number}"));
        request.stdout = (*bad).into();
        assert!(shim.client().call::<Empty>("Create", &request).is_err(), "{bad}");
    }
    assert_eq!(std::fs::read(&regular).unwrap(), b"");
}

/// security.md I12: the runtime gets an allow-list of variables and no descriptor but 0, 1, 2.
#[test]
fn i12_the_runtime_inherits_nothing_else() {
    let shim = Shim::start("i12");
    shim.create("c").unwrap();
    let environment = std::fs::read_to_string(shim.root().join("environment")).unwrap();
    assert!(!environment.contains("SECRET_CANARY") && !environment.contains("TTRPC"), "{environment}");
    let descriptors = std::fs::read_to_string(shim.root().join("descriptors")).unwrap();
    // `ls` itself has the directory open.
    let inherited = descriptors.lines().filter(|line| line.contains("->") && !line.contains("/proc/"));
    assert_eq!(inherited.count(), 3, "{descriptors}");
    assert!(!descriptors.contains("socket:"), "{descriptors}");
}

/// design.md 6: a stuck runtime call blocks only its own container; a failed one leaves its id free.
#[test]
fn a_stuck_call_blocks_its_own_container_only() {
    let shim = Shim::start("stuck");
    let mut stuck = shim.client();
    stuck.send("containerd.task.v3.Task", "Create", &shim.create_request("hang"));
    let mut client = shim.client();
    shim.create("c").unwrap();
    assert_eq!(state(&mut client, "c").unwrap().status.value(), 1);
    let failed = shim.create("fail").unwrap_err();
    assert!(failed.1.contains("made to fail"), "{failed:?}");
    assert_eq!(state(&mut client, "fail").unwrap_err().0, NOT_FOUND);
    assert_eq!(state(&mut client, "hang").unwrap_err().0, NOT_FOUND);
    // A paused that never comes back does not keep a signal away.
    let start = api::StartRequest { id: "c".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).unwrap();
    let mut pausing = shim.client();
    pausing.send(
        "containerd.task.v3.Task",
        "Pause",
        &api::PauseRequest { id: "c".into(), ..Default::default() },
    );
    let kill = api::KillRequest { id: "c".into(), signal: 9, ..Default::default() };
    client.call::<Empty>("Kill", &kill).unwrap();
    let wait = api::WaitRequest { id: "c".into(), ..Default::default() };
    assert_eq!(client.call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 137);
}

/// security.md I16: a containerd that takes connections and answers nothing holds up no call.
#[test]
fn i16_a_hung_containerd_holds_up_no_call() {
    let dir = scratch("i16-events");
    let events = dir.join("events.sock");
    let _listener = UnixListener::bind(&events).unwrap();
    let shim = Shim::start_with_events("i16", events.to_str().unwrap());
    let begin = Instant::now();
    for number in 0..5 {
        let id = format!("c{number}");
        shim.create(&id).unwrap();
        let mut client = shim.client();
        client.call::<api::StartResponse>("Start", &api::StartRequest { id, ..Default::default() }).unwrap();
    }
    assert!(begin.elapsed() < Duration::from_secs(4), "{:?}", begin.elapsed());
    std::fs::remove_dir_all(&dir).unwrap();
}

/// peers.md B2, B7: the end is on disk for `delete`, which tells it when the shim is gone.
#[test]
fn the_true_end_is_told_after_the_shim_was_killed() {
    let shim = Shim::start("true-end");
    shim.create("short").unwrap();
    let wait = api::WaitRequest { id: "short".into(), ..Default::default() };
    assert_eq!(shim.client().call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 5);
    shim.create("running").unwrap();
    assert!(Command::new("kill").args(["-9", &shim.pid.to_string()]).status().unwrap().success());
    for (id, wanted) in [("short", 5), ("running", 137)] {
        let output = Command::new(env!("CARGO_BIN_EXE_containerd-shim-skeg-v2"))
            .args(["-namespace", NAMESPACE, "-id", id, "-bundle"])
            .arg(shim.dir.join(id))
            .arg("delete")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let told = api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap();
        assert_eq!(told.exit_status, wanted, "{id}");
    }
}

/// peers.md A3.1: a second container of the group is served by the shim of the first.
#[test]
fn a_group_shares_one_shim() {
    let shim = Shim::start("group");
    let second = bundle(&shim.dir, "second");
    std::fs::write(second.join("config.json"), r#"{"annotations":{"io.kubernetes.cri.sandbox-id":"first"}}"#)
        .unwrap();
    // `bundle` of `boot` would write the plain configuration again.
    let mut command = start_command(&shim.dir, "other", "");
    command.current_dir(&second);
    let mut child = command.spawn().unwrap();
    let params = BootstrapParams {
        instance_id: "other".into(),
        namespace: NAMESPACE.into(),
        socket_dir: Some(shim.dir.join("s").to_str().unwrap().into()),
        ..BootstrapParams::default()
    };
    child.stdin.take().unwrap().write_all(&params.write_to_bytes().unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(result.address, format!("unix://{}", shim.address.display()));
}

/// issue 4: `Shutdown` is for a shim without tasks.
#[test]
fn shutdown_ends_an_empty_shim_only() {
    let shim = Shim::start("shutdown");
    shim.create("c").unwrap();
    let mut client = shim.client();
    client.call::<Empty>("Shutdown", &api::ShutdownRequest::new()).unwrap();
    assert!(state(&mut client, "c").is_ok());
    client
        .call::<api::DeleteResponse>("Delete", &api::DeleteRequest { id: "c".into(), ..Default::default() })
        .unwrap();
    client.call::<Empty>("Shutdown", &api::ShutdownRequest::new()).unwrap();
    let end = Instant::now() + Duration::from_secs(5);
    while shim.address.exists() {
        assert!(Instant::now() < end, "the socket is still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}
