//! The task API, asked by a raw ttrpc client.

#![allow(clippy::disallowed_methods, reason = "tests make their own files and processes")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod harness;

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use harness::*;
use skeg_proto::bootstrap::BootstrapResult;
use skeg_proto::options::Options;
use skeg_proto::task as api;
use skeg_proto::types::Any;
use skeg_proto::{Message, MessageField};

/// peers.md A3.1: both service names answer, states are checked, and codes are those that containerd acts on.
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
    // containerd up to 2.2 runs `delete` after the deletion: there is nothing to do any more.
    assert_eq!(told_by_delete(&shim, "c").exit_status, 143);
    let calls = std::fs::read_to_string(shim.root().join("calls")).unwrap();
    assert_eq!(calls, "create\nstart\nexec\ndelete\n", "one runtime call an operation");
}

/// ARCHITECTURE.md, "The shim": a stuck runtime call blocks only its own container; a failed one leaves its id free.
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

/// What `delete` says of a container.
fn told_by_delete(shim: &Shim, id: &str) -> api::DeleteResponse {
    let output = Command::new(env!("CARGO_BIN_EXE_containerd-shim-skeg-v2"))
        .args(["-namespace", NAMESPACE, "-id", id, "-bundle"])
        .arg(shim.dir.join(id))
        .arg("delete")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    api::DeleteResponse::parse_from_bytes(&output.stdout).unwrap()
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
        let told = told_by_delete(&shim, id);
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
    let output = start(command, &shim.dir, "other", None);
    let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
    assert_eq!(result.address, format!("unix://{}", shim.address.display()));
}

/// peers.md A3.1: `Shutdown` is for a shim without tasks.
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

fn runtime_options(change: impl FnOnce(&mut Options)) -> Any {
    let mut options = Options::new();
    change(&mut options);
    let value = options.write_to_bytes().unwrap();
    Any { type_url: "containerd.runc.v1.Options".into(), value, ..Any::default() }
}

/// The names of the sockets in a shim's directory.
fn sockets(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir.join("s")).unwrap().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// peers.md A3.1, `shim_cgroup`: the shim is in the cgroup that the options name; one that is not there is an error, and
/// leaves no shim.
#[test]
fn the_shim_goes_into_the_cgroup_of_its_options() {
    let dir = scratch("cgroup");
    let missing = runtime_options(|options| options.shim_cgroup = "/no/such/cgroup".into());
    let output = start(start_command(&dir, "first", ""), &dir, "first", Some(missing));
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("option shim_cgroup"), "{output:?}");
    assert_eq!(sockets(&dir), Vec::<String>::new());
    // One hierarchy is enough; whichever this machine lets us write to.
    let name = format!("shim-test-{}", std::process::id());
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = ["pids", "unified", "."].map(|hierarchy| root.join(hierarchy));
    let own = hierarchies.iter().map(|hierarchy| hierarchy.join(&name));
    let Some(group) = own.into_iter().find(|group| std::fs::create_dir(group).is_ok()) else { return };
    let options = runtime_options(|options| options.shim_cgroup = name.clone());
    let output = start(start_command(&dir, "first", ""), &dir, "first", Some(options));
    let members = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    for member in members.lines() {
        assert!(Command::new("kill").args(["-9", member]).status().unwrap().success());
    }
    assert!(eventually(|| std::fs::remove_dir(&group).is_ok()));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(members.lines().count(), 1);
    std::fs::remove_dir_all(&dir).unwrap();
}

/// peers.md A3.1, `SCHED_CORE`: a group of its own, or an error that says that the machine has none, and no shim.
#[test]
fn core_scheduling_is_there_or_an_error() {
    let dir = scratch("sched-core");
    let mut command = start_command(&dir, "first", "");
    command.env("SCHED_CORE", "1");
    let output = start(command, &dir, "first", None);
    if output.status.success() {
        let result = BootstrapResult::parse_from_bytes(&output.stdout).unwrap();
        let address = result.address.strip_prefix("unix://").unwrap();
        let mut client = Client(std::os::unix::net::UnixStream::connect(address).unwrap());
        client.call::<Empty>("Shutdown", &api::ShutdownRequest::new()).unwrap();
    } else {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("enable core scheduling: "), "{error}");
    }
    assert!(eventually(|| sockets(&dir).is_empty()));
    std::fs::remove_dir_all(&dir).unwrap();
}

/// peers.md A3.1: a logging binary that ends before it is ready fails the creation with `binary-v2`, and goes unnoticed
/// with `binary`, as containerd defines both.
#[test]
fn a_logging_binary_says_that_it_is_ready() {
    let shim = Shim::start("logger");
    for (name, script, strict) in
        [("dead", "exit 1", false), ("ready", "printf x >&5; exec 5>&-; sleep 0.1", true)]
    {
        let logger = shim.dir.join(name);
        write_program(&logger, &format!("#!/bin/sh\n{script}\n"));
        for scheme in ["binary", "binary-v2"] {
            let mut request = shim.create_request(&format!("{name}-{scheme}"));
            request.stdout = format!("{scheme}://{}", logger.display());
            let made = shim.client().call::<api::CreateTaskResponse>("Create", &request);
            assert_eq!(made.is_ok(), strict || scheme == "binary", "{name} {scheme} {made:?}");
            if let Err((_, text)) = made {
                assert!(text.ends_with("dead: ended before it was ready"), "{text}");
            }
        }
    }
}

/// Deleting an exec is answered once its output is with its reader, which reads no more then (ctr of containerd 2): what a
/// pipe and a FIFO hold is not lost to a reader that is late.
#[test]
fn output_is_delivered_before_the_deletion_is_answered() {
    let shim = Shim::start("deliver");
    shim.create("c").unwrap();
    let mut client = shim.client();
    let start = api::StartRequest { id: "c".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).unwrap();
    let fifo = shim.dir.join("out");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let exec = api::ExecProcessRequest {
        id: "c".into(),
        exec_id: "loud".into(),
        stdout: fifo.to_str().unwrap().into(),
        spec: MessageField::some(Any { value: b"{}".to_vec(), ..Default::default() }),
        ..Default::default()
    };
    client.call::<Empty>("Exec", &exec).unwrap();
    let start = api::StartRequest { id: "c".into(), exec_id: "loud".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).unwrap();
    let wait = api::WaitRequest { id: "c".into(), exec_id: "loud".into(), ..Default::default() };
    assert_eq!(client.call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 0);
    let answered = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&answered);
    let reading = std::thread::spawn(move || {
        let (mut total, mut buffer) = (0, [0; 4096]);
        std::thread::sleep(Duration::from_millis(500));
        while total < 100_000 && !stop.load(Ordering::SeqCst) {
            total += reader.read(&mut buffer).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        total
    });
    let delete = api::DeleteRequest { id: "c".into(), exec_id: "loud".into(), ..Default::default() };
    client.call::<api::DeleteResponse>("Delete", &delete).unwrap();
    answered.store(true, Ordering::SeqCst);
    assert_eq!(reading.join().unwrap(), 100_000);
}

/// An exec of `c` with this id.
fn exec_request(exec_id: &str) -> api::ExecProcessRequest {
    api::ExecProcessRequest {
        id: "c".into(),
        exec_id: exec_id.into(),
        spec: MessageField::some(Any { value: b"{}".to_vec(), ..Default::default() }),
        ..Default::default()
    }
}

/// peers.md A3.1: a deletion that waits for the reader of the output deletes what it was asked to delete, and not an exec that has come
/// to the same id since.
#[test]
fn a_late_deletion_leaves_the_next_exec_alone() {
    let shim = Shim::start("late-deletion");
    shim.create("c").unwrap();
    let mut client = shim.client();
    let fifo = shim.dir.join("out");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let mut reader = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    reader.write_all(b"unread").unwrap();
    let exec = api::ExecProcessRequest { stdout: fifo.to_str().unwrap().into(), ..exec_request("e") };
    client.call::<Empty>("Exec", &exec).unwrap();
    let start = api::StartRequest { id: "c".into(), exec_id: "e".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).unwrap();
    let wait = api::WaitRequest { id: "c".into(), exec_id: "e".into(), ..Default::default() };
    assert_eq!(client.call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 3);
    let delete = api::DeleteRequest { id: "c".into(), exec_id: "e".into(), ..Default::default() };
    let mut late = shim.client();
    late.send("containerd.task.v3.Task", "Delete", &delete);
    // It has taken the streams, and waits, once a second deletion finds nothing to wait for.
    std::thread::sleep(Duration::from_millis(300));
    client.call::<api::DeleteResponse>("Delete", &delete).unwrap();
    client.call::<Empty>("Exec", &exec_request("e")).unwrap();
    assert_eq!(reader.read(&mut [0; 64]).unwrap(), 6);
    assert_eq!(late.receive().status.code, 0);
    client.call::<Empty>("Exec", &exec_request("e")).expect_err("the second exec is gone");
}

/// A process whose streams cannot be set up, here because the runtime has sent no terminal, does not go on unknown to all.
#[test]
fn an_exec_without_its_terminal_is_ended() {
    let shim = Shim::start("no-terminal");
    shim.create("c").unwrap();
    let mut client = shim.client();
    let before = children_of(&shim.dir);
    let exec = api::ExecProcessRequest { terminal: true, ..exec_request("long") };
    client.call::<Empty>("Exec", &exec).unwrap();
    let start = api::StartRequest { id: "c".into(), exec_id: "long".into(), ..Default::default() };
    let (_, text) = client.call::<api::StartResponse>("Start", &start).unwrap_err();
    assert!(text.contains("the runtime has sent no console"), "{text}");
    assert!(eventually(|| children_of(&shim.dir) == before), "{:?} {before:?}", children_of(&shim.dir));
}
