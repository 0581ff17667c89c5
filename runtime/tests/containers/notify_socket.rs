//! `NOTIFY_SOCKET`: the service in the container and the service manager of the host (peers.md A1.2).

use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use skeg::sys::fd::receive_with_fds;

use crate::support::{Container, wait_for};

/// The service manager: it closes the descriptors that come with a message, as systemd does with a barrier's.
struct Manager(UnixDatagram);

impl Manager {
    fn new(container: &mut Container) -> Self {
        let path = container.bundle().join("manager.sock");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        container.env.push(("NOTIFY_SOCKET", path.to_str().unwrap().to_owned()));
        Self(socket)
    }

    fn next(&self) -> String {
        let mut buffer = [0; 4096];
        let (length, _) = receive_with_fds(self.0.as_fd(), &mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

/// Sends to the container's socket as its service does, once it is there.
fn say(container: &Container, messages: &[&str]) {
    let path = container.state_root().join(&container.id).join("notify/notify.sock");
    let service = UnixDatagram::unbound().unwrap();
    wait_for("the container's socket", || service.connect(&path).ok());
    for message in messages {
        service.send(message.as_bytes()).unwrap();
    }
}

/// A user without rights in the container finds a socket where the variable says, in a directory that nobody can change.
#[test]
fn the_container_has_a_socket_of_its_own() {
    let Some(mut container) = Container::new("notify-inside") else { return };
    let manager = Manager::new(&mut container);
    container.config["process"]["user"] = serde_json::json!({"uid": 1000, "gid": 1000});
    container.script("echo $NOTIFY_SOCKET; test -S $NOTIFY_SOCKET -a -w $NOTIFY_SOCKET && echo socket; touch /run/notify/x 2>&1; true");
    let out = container.run().ok();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["/run/notify/notify.sock", "socket"]);
    assert!(lines[2].ends_with("Read-only file system") || lines[2].ends_with("Permission denied"), "{out}");
    drop(manager);
    assert!(!container.state_root().join(&container.id).exists());
    // Without the variable there is nothing.
    container.env.clear();
    assert_eq!(
        container.script("echo $NOTIFY_SOCKET; cat /proc/self/mounts | grep notify; true").run().ok(),
        "\n"
    );
}

/// `start` returns when the container is ready, and has told who its main process is.
#[test]
fn start_waits_for_readiness_and_names_the_main_process() {
    let Some(mut container) = Container::new("notify-start") else { return };
    let manager = Manager::new(&mut container);
    container.script("sleep 1000").write_config();
    let bundle = container.bundle().to_str().unwrap().to_owned();
    let create = container.command(&["create", "-b", &bundle, &container.id]).status();
    assert!(create.unwrap().success());
    let state = container.state_root().join(&container.id);
    assert_eq!(fs::metadata(state.join("notify")).unwrap().permissions().mode() & 0o777, 0o755);
    let mut start = container.command(&["start", &container.id]).spawn().unwrap();
    say(&container, &["STATUS=loading\nMAINPID=1", "FDSTORE=1"]);
    assert_eq!(manager.next(), "STATUS=loading\n");
    assert!(start.try_wait().unwrap().is_none());
    say(&container, &["READY=1"]);
    assert_eq!(manager.next(), format!("MAINPID={}\nREADY=1\n", container.pid()));
    assert_eq!(manager.next(), "BARRIER=1");
    assert!(start.wait().unwrap().success());
    container.skeg(&["delete", "-f", &container.id]).ok();
    assert!(!state.exists());
}

/// A container that ends before it is ready is no reason to wait, and neither is a manager that is not there.
#[test]
fn nothing_waits_for_ever() {
    let Some(mut container) = Container::new("notify-end") else { return };
    let manager = Manager::new(&mut container);
    container.script("exit 0").detach().ok();
    drop(manager);
    container.skeg(&["delete", "-f", &container.id]).ok();
    fs::remove_file(container.bundle().join("manager.sock")).unwrap();
    let said = container.detach();
    assert_eq!(said.status, Some(0));
    assert!(container.read("err").contains("connect to NOTIFY_SOCKET"), "{said:?}");
}

/// In the foreground the main process is the runtime, and it passes on what comes as long as the container lives.
#[test]
fn run_passes_on_in_the_foreground() {
    let Some(mut container) = Container::new("notify-run") else { return };
    let manager = Manager::new(&mut container);
    container.script("sleep 1000").write_config();
    let bundle = container.bundle().to_str().unwrap().to_owned();
    let mut run = container.command(&["run", "-b", &bundle, &container.id]).spawn().unwrap();
    say(&container, &["READY=1"]);
    let ready = manager.next();
    let main: i32 = ready.lines().next().unwrap().strip_prefix("MAINPID=").unwrap().parse().unwrap();
    let parent = fs::read_to_string(format!("/proc/{main}/stat")).unwrap();
    assert!(parent.contains(&format!(" {} ", run.id())), "{parent}");
    assert_eq!(manager.next(), "BARRIER=1");
    say(&container, &["STATUS=working\n", "STOPPING=1"]);
    assert_eq!((manager.next(), manager.next()), ("STATUS=working\n".into(), "STOPPING=1\n".into()));
    container.skeg(&["kill", &container.id, "KILL"]).ok();
    assert_eq!(run.wait().unwrap().code(), Some(137));
}
