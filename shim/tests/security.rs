//! Rows of security.md, by their numbers, against the shim as a process.

#![allow(clippy::disallowed_methods, reason = "tests make their own files and processes")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod harness;

use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use harness::*;
use skeg_proto::task as api;
use skeg_proto::types::Any;
use skeg_proto::{Message, MessageField};

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
    // What the test itself has put there stands open under umask 0, the runtime's part is the runtime's.
    let not_ours = ["config.json", "init.pid"];
    let (mut waiting, mut seen) = (vec![shim.dir.join("s"), shim.dir.join("c")], 0);
    while let Some(dir) = waiting.pop() {
        for entry in std::fs::read_dir(&dir).unwrap().flatten() {
            let (name, metadata) = (entry.file_name(), entry.path().symlink_metadata().unwrap());
            if metadata.is_dir() {
                waiting.push(entry.path());
            }
            if !not_ours.iter().any(|other| name == *other) {
                assert_eq!(metadata.mode() & 0o077, 0, "{name:?} {:o}", metadata.mode());
                seen += 1;
            }
        }
    }
    // The socket, the options and the state.
    assert_eq!(seen, 3);
    assert_eq!(std::fs::metadata(shim.dir.join("s")).unwrap().mode() & 0o077, 0);
}

/// security.md I5: ids that are no plain names are refused before anything is touched.
#[test]
fn i5_ids_are_checked_at_the_edge() {
    let shim = Shim::start("i5");
    shim.create("c").unwrap();
    for [namespace, id] in [["../x", "c"], [NAMESPACE, "../x"], ["", "c"], [NAMESPACE, ""], ["a/b", "c"]] {
        for action in ["start", "delete"] {
            let output = Command::new(env!("CARGO_BIN_EXE_containerd-shim-skeg-v2"))
                .args(["-namespace", namespace, "-id", id, action])
                .current_dir(shim.dir.join("c"))
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && error.contains("must be 1 to 240"),
                "{namespace:?} {id:?} {error}"
            );
        }
    }
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

/// security.md I16: a containerd that takes connections and answers nothing holds up no call, nor for long the end of
/// the shim. (Every delivery would take 5 s.)
#[test]
fn i16_a_hung_containerd_holds_up_no_call() {
    let dir = scratch("i16-events");
    let events = dir.join("events.sock");
    let _listener = UnixListener::bind(&events).unwrap();
    let shim = Shim::start_with_events("i16", events.to_str().unwrap());
    let begin = Instant::now();
    let mut client = shim.client();
    for number in 0..10 {
        let id = format!("c{number}");
        shim.create(&id).unwrap();
        let start = api::StartRequest { id: id.clone(), ..Default::default() };
        client.call::<api::StartResponse>("Start", &start).unwrap();
        let kill = api::KillRequest { id: id.clone(), signal: 9, ..Default::default() };
        client.call::<Empty>("Kill", &kill).unwrap();
        let delete = api::DeleteRequest { id, ..Default::default() };
        assert!(eventually(|| client.call::<api::DeleteResponse>("Delete", &delete).is_ok()));
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    client.call::<Empty>("Shutdown", &api::ShutdownRequest::new()).unwrap();
    assert!(eventually(|| !Path::new(&format!("/proc/{}", shim.pid)).exists()), "the shim does not end");
    std::fs::remove_dir_all(&dir).unwrap();
}

fn exec(client: &mut Client, exec_id: &str, terminal: bool) -> std::result::Result<u32, (i32, String)> {
    let spec = Any { value: b"{}".to_vec(), ..Any::default() };
    let exec = api::ExecProcessRequest {
        id: "c".into(),
        exec_id: exec_id.into(),
        terminal,
        spec: MessageField::some(spec),
        ..Default::default()
    };
    client.call::<Empty>("Exec", &exec)?;
    let start = api::StartRequest { id: "c".into(), exec_id: exec_id.into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).map(|response| response.pid)
}

/// What of a process may leak: descriptors, threads, zombies among its children, and KiB of resident memory.
fn holdings(pid: u32) -> (usize, usize, usize, u64) {
    let count = |name: &str| std::fs::read_dir(format!("/proc/{pid}/{name}")).unwrap().count();
    let zombie = |entry: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let (_, fields) = stat.rsplit_once(") ")?;
        fields.starts_with(&format!("Z {pid} ")).then_some(())
    };
    let zombies = std::fs::read_dir("/proc").unwrap().flatten().filter_map(zombie).count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next());
    (count("fd"), count("task"), zombies, resident.unwrap().parse().unwrap())
}

/// The holdings of a process once they have not changed for a second.
fn settled(pid: u32) -> (usize, usize, usize, u64) {
    let (mut last, mut since) = (holdings(pid), Instant::now());
    assert!(eventually(|| {
        let now = holdings(pid);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_secs(1)
    }));
    last
}

/// Twenty execs: some that cannot start, some whose console never comes, some that are killed, some that end by
/// themselves; resized after their end; all deleted.
fn twenty_execs(shim: &Shim) {
    let mut client = shim.client();
    let mut started = Vec::new();
    for number in 0..20 {
        let (kind, terminal) = [("bad", false), ("long", false), ("tty", true), ("short", false)][number % 4];
        let exec_id = format!("{kind}{number}");
        let result = exec(&mut client, &exec_id, terminal);
        assert_eq!(result.is_ok(), matches!(kind, "long" | "short"), "{exec_id} {result:?}");
        started.push(exec_id);
    }
    for exec_id in &started {
        let kill =
            api::KillRequest { id: "c".into(), exec_id: exec_id.clone(), signal: 9, ..Default::default() };
        let killed = client.call::<Empty>("Kill", &kill);
        assert!(killed.is_ok() || !exec_id.starts_with("long"), "{killed:?}");
        let wait = api::WaitRequest { id: "c".into(), exec_id: exec_id.clone(), ..Default::default() };
        client.call::<api::WaitResponse>("Wait", &wait).unwrap();
        let resize = api::ResizePtyRequest {
            id: "c".into(),
            exec_id: exec_id.clone(),
            width: 80,
            height: 24,
            ..Default::default()
        };
        client.call::<Empty>("ResizePty", &resize).unwrap();
        let delete = api::DeleteRequest { id: "c".into(), exec_id: exec_id.clone(), ..Default::default() };
        client.call::<api::DeleteResponse>("Delete", &delete).unwrap();
    }
}

/// security.md I7: descriptors, threads and zombies are as before after any number of execs, however they ended, and
/// resident memory is within 2 MiB.
#[test]
fn i7_execs_leave_nothing_behind() {
    let shim = Shim::start("i7");
    shim.create("c").unwrap();
    let start = api::StartRequest { id: "c".into(), ..Default::default() };
    shim.client().call::<api::StartResponse>("Start", &start).unwrap();
    // Once round, so that what is made once is there; then until connections and copies are closed.
    twenty_execs(&shim);
    let before = settled(shim.pid);
    for _ in 0..10 {
        twenty_execs(&shim);
    }
    let same = |now: (usize, usize, usize, u64)| (now.0, now.1, now.2) == (before.0, before.1, 0);
    assert!(eventually(|| same(holdings(shim.pid))), "{before:?} {:?}", holdings(shim.pid));
    assert!(holdings(shim.pid).3 < before.3 + 2048, "{before:?} {:?}", holdings(shim.pid));
}

/// security.md I11: `delete` after a crash follows no link out of the bundle, unmounts nothing that lies elsewhere, and
/// unmounts what is on the rootfs of the bundle.
#[test]
fn i11_delete_follows_no_link() {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let dir = scratch("i11");
    for (id, rootfs) in [("link", None), ("mounted", Some("mount -t tmpfs inside $bundle/rootfs"))] {
        let bundle = bundle(&dir, id);
        let options = format!(r#"{{"binary_name":"{0}/runtime","root":"{0}/root"}}"#, dir.display());
        std::fs::write(bundle.join("shim-options.json"), options).unwrap();
        let script = format!(
            "set -e; bundle={}; mkdir -p {1}/canary/rootfs; mount -t tmpfs canary {1}/canary/rootfs; {2}; \
             cd $bundle; {3} -namespace {NAMESPACE} -id {id} -bundle $bundle delete >$bundle/answer; \
             cut -d' ' -f5 /proc/self/mountinfo",
            bundle.display(),
            dir.display(),
            rootfs.map_or_else(
                || format!("ln -s {}/canary/rootfs $bundle/rootfs", dir.display()),
                |mount| format!("mkdir $bundle/rootfs; {mount}")
            ),
            env!("CARGO_BIN_EXE_containerd-shim-skeg-v2"),
        );
        let output = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mounts = String::from_utf8(output.stdout).unwrap();
        let canary = dir.join("canary/rootfs");
        assert!(mounts.lines().any(|mount| Path::new(mount) == canary), "{id}: the canary was unmounted");
        assert!(
            !mounts.lines().any(|mount| Path::new(mount) == bundle.join("rootfs")),
            "{id}: still mounted"
        );
        let answer = std::fs::read(bundle.join("answer")).unwrap();
        assert_eq!(api::DeleteResponse::parse_from_bytes(&answer).unwrap().exit_status, 137);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// security.md I13: orphans in any number are reaped and take no exit status with them; the kernel takes a shim before
/// its manager.
#[test]
fn i13_a_storm_of_orphans_leaves_no_zombie() {
    let shim = Shim::start("i13");
    shim.create("c").unwrap();
    let mut client = shim.client();
    let start = api::StartRequest { id: "c".into(), ..Default::default() };
    client.call::<api::StartResponse>("Start", &start).unwrap();
    for number in 0..5 {
        exec(&mut client, &format!("storm{number}"), false).unwrap();
    }
    for number in 0..5 {
        let wait =
            api::WaitRequest { id: "c".into(), exec_id: format!("storm{number}"), ..Default::default() };
        assert_eq!(client.call::<api::WaitResponse>("Wait", &wait).unwrap().exit_status, 9);
    }
    // The last of them may outlive the process that left them.
    let orphans = || std::fs::read_to_string(shim.root().join("orphans")).unwrap().lines().count();
    assert!(eventually(|| orphans() == 5 * 200), "{} orphans", orphans());
    assert!(eventually(|| holdings(shim.pid).2 == 0), "{:?}", holdings(shim.pid));
    assert_eq!(state(&mut client, "c").unwrap().status.value(), 2, "running");
    let score = |pid: &str| -> i32 {
        let score = std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
        score.trim().parse().unwrap()
    };
    assert_eq!(score(&shim.pid.to_string()), (score("self") + 1).min(1000));
}

/// security.md I15: whatever comes in on one connection, others are answered by the same process.
#[test]
fn i15_garbage_on_one_connection_disturbs_no_other() {
    let shim = Shim::start("i15");
    shim.create("c").unwrap();
    let mut client = shim.client();
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    // Not Shutdown: that is to end it.
    let methods = [
        "State",
        "Create",
        "Start",
        "Delete",
        "Pids",
        "Kill",
        "Exec",
        "ResizePty",
        "CloseIO",
        "Update",
        "Stats",
        "Connect",
    ];
    for round in 0..50 {
        let mut garbage = shim.client();
        for method in methods {
            let payload: Vec<u8> = (0..next() % 200).map(|_| next().to_le_bytes()[0]).collect();
            garbage.send_bytes("containerd.task.v2.Task", method, payload);
        }
        // A frame that says to be long and ends early, in bytes of any kind.
        let noise: Vec<u8> = (0..next() % 100).map(|_| next().to_le_bytes()[0]).collect();
        let _ = garbage.0.write_all(&noise);
        drop(garbage);
        assert_eq!(state(&mut client, "c").unwrap().status.value(), 1, "round {round}");
    }
    let connected: api::ConnectResponse = client.call("Connect", &api::ConnectRequest::new()).unwrap();
    assert_eq!(connected.shim_pid, shim.pid);
}
