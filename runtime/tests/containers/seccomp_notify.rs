//! Seccomp notification with a real agent (config-linux.md, seccomp: listenerPath, listenerMetadata).

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixListener;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use skeg::sys::fd::receive_with_fds;

use crate::agent::{let_all_pass, refuse_next};
use crate::support::Container;

fn accept(agent: &UnixListener) -> (Value, OwnedFd) {
    let asked = poll(&mut [PollFd::new(agent.as_fd(), PollFlags::POLLIN)], PollTimeout::from(60_000_u16));
    assert_eq!(asked, Ok(1), "nobody has asked the agent within a minute");
    let (connection, _) = agent.accept().unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (length, mut fds) = receive_with_fds(connection.as_fd(), &mut buffer).unwrap();
    assert_eq!(fds.len(), 1);
    (serde_json::from_slice(&buffer[..length]).unwrap(), fds.remove(0))
}

/// The agent gets the listener and the state of the process, of the init process and of each exec process; its answers
/// are what the container sees (row C15: the container itself has no descriptor of it).
#[test]
fn c15_the_agent_answers_for_create_and_exec() {
    for no_new_privileges in [true, false] {
        let Some(mut container) = Container::new(&format!("notify-{no_new_privileges}")) else { return };
        let path = container.bundle().join("agent.sock");
        let agent = UnixListener::bind(&path).unwrap();
        container.config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        container.config["annotations"] = json!({"a": "b"});
        container.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "metadata of ours",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}]
        });
        container.script("/bin/busybox mkdir /x; ls /proc/self/fd | grep -c .; sleep 1000");
        let (pid, init) = std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                let (state, listener) = accept(&agent);
                let (_, caller) = refuse_next(&listener, Errno::EDQUOT);
                assert_ne!(caller, 0);
                (state, listener)
            });
            container.detach().ok();
            let (state, listener) = answers.join().unwrap();
            let pid = container.pid();
            assert_eq!(state["fds"], json!(["seccompFd"]));
            assert_eq!((&state["pid"], &state["metadata"]), (&json!(pid), &json!("metadata of ours")));
            let of = &state["state"];
            assert_eq!((&of["id"], &of["status"]), (&json!(container.id), &json!("creating")));
            assert_eq!((&of["pid"], &of["annotations"]["a"]), (&json!(pid), &json!("b")));
            assert_eq!(of["bundle"], json!(container.bundle()));
            (pid, listener)
        });
        let text = crate::support::wait_for("the container's output", || {
            let text = container.read("out");
            (text.lines().count() > 0).then_some(text)
        });
        // 0, 1, 2 and the directory that ls reads.
        assert_eq!(text, "4\n", "{}", container.read("err"));
        assert!(
            container.read("err").contains("Disk quota exceeded")
                || container.read("err").contains("Quota exceeded")
        );

        std::thread::scope(|scope| {
            let answers = scope.spawn(|| {
                let (state, listener) = accept(&agent);
                refuse_next(&listener, Errno::ENOSPC);
                state
            });
            let said = container.exec(&[], "/bin/busybox mkdir /y");
            let state = answers.join().unwrap();
            assert!(said.err.contains("No space left"), "{said:?}");
            assert_ne!(state["pid"], json!(pid));
            assert_eq!((&state["state"]["pid"], &state["state"]["status"]), (&json!(pid), &json!("running")));
            assert_eq!(state["metadata"], json!("metadata of ours"));
        });
        drop(init);
    }
}

/// The agent may be asked of calls that the runtime itself makes between the filter and the program: it has the listener
/// before any of them (config-linux.md, seccomp: listenerPath).
#[test]
fn the_agent_is_there_before_the_first_call_that_waits() {
    for no_new_privileges in [true, false] {
        let Some(mut container) = Container::new(&format!("notify-own-{no_new_privileges}")) else { return };
        let path = container.bundle().join("agent.sock");
        let agent = UnixListener::bind(&path).unwrap();
        container.script("echo done").config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        container.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "syscalls": [{"names": ["execve", "open", "openat", "read", "close"], "action": "SCMP_ACT_NOTIFY"}]
        });
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| {
                let (_, listener) = accept(&agent);
                let_all_pass(&listener)
            });
            assert_eq!(container.run().ok(), "done\n");
            assert!(asked.join().unwrap().contains(&i32::try_from(libc::SYS_execve).unwrap()));
        });
    }
}

/// The programs of startContainer hooks are the image's: they run under the filter (config-linux.md, seccomp).
#[test]
fn start_container_hooks_are_under_the_filter() {
    for no_new_privileges in [true, false] {
        let Some(mut container) = Container::new(&format!("filtered-hook-{no_new_privileges}")) else {
            return;
        };
        container.script("true").config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        container.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL"}]
        });
        container.config["hooks"] = json!({"startContainer": [
            {"path": "/bin/busybox", "args": ["busybox", "mkdir", "/made"]}
        ]});
        let error = container.run().error();
        assert!(error.contains("startContainer hook #0") && error.contains("bad system call"), "{error}");
        assert!(!container.rootfs().join("made").exists());
    }
}

/// A profile need not allow what the runtime asks of the kernel to check the working directory (CVE-2024-21626).
#[test]
fn a_profile_without_getcwd() {
    for no_new_privileges in [true, false] {
        let Some(mut container) = Container::new(&format!("getcwd-{no_new_privileges}")) else { return };
        container.script("echo runs").config["process"]["noNewPrivileges"] = json!(no_new_privileges);
        container.config["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["getcwd"], "action": "SCMP_ACT_ERRNO"}]
        });
        assert_eq!(container.run().ok(), "runs\n");
    }
}

/// An agent that is not there is an error, and leaves nothing behind.
#[test]
fn an_agent_that_is_not_there_is_an_error() {
    let Some(mut container) = Container::new("notify-nobody") else { return };
    container.script("true").config["linux"]["seccomp"] = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": "/nowhere/agent.sock",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]
    });
    let error = container.run().error();
    assert_eq!(
        error,
        "/linux/seccomp/listenerPath: failed to connect with seccomp agent: connect to socket /nowhere/agent.sock: \
         no such file or directory"
    );
    container.config["linux"]["seccomp"].as_object_mut().unwrap().remove("listenerPath");
    assert!(container.run().error().starts_with("/linux/seccomp/listenerPath: "));
    assert!(!container.state_root().join(&container.id).exists());
}
