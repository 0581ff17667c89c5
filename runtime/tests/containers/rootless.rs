//! Rootless: an unprivileged user, with and without the helpers of the package uidmap (peers.md B 46; security.md E5, E7).

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use crate::support::{Container, SKEG, Said, copy_program};

/// A user with subordinate ids, gone with the test.
struct User {
    name: String,
    id: u32,
}

/// One change of the user database at a time: useradd(8) does not wait for its lock.
static USERS: Mutex<()> = Mutex::new(());

fn run(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl User {
    fn new(suffix: &str) -> Self {
        let name = format!("skeg{}{suffix}", std::process::id() % 1_000_000);
        let _users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(run("useradd", &["--no-create-home", "--home-dir", "/", &name]), "useradd");
        let id = Command::new("id").args(["-u", &name]).output().unwrap().stdout;
        Self { id: String::from_utf8(id).unwrap().trim().parse().unwrap(), name }
    }

    /// The first of its subordinate ids.
    fn subordinate(&self, file: &str) -> u32 {
        let text = fs::read_to_string(file).unwrap();
        let line = text.lines().find(|line| line.starts_with(&format!("{}:", self.name))).unwrap();
        line.split(':').nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _users = USERS.lock().unwrap_or_else(PoisonError::into_inner);
        run("userdel", &[&self.name]);
    }
}

/// A container of the user's.
struct Rootless {
    container: Container,
    user: User,
}

impl Rootless {
    fn new(name: &str) -> Option<Self> {
        let container = Container::new(name)?;
        let user = User::new(&name[name.len() - 1..]);
        for path in [container.bundle().to_owned(), container.bundle().join("config.json")] {
            chown(path, Some(user.id), Some(user.id)).unwrap();
        }
        container.give_rootfs_to(user.id);
        // The target directory may be out of the user's reach.
        copy_program(SKEG, &container.bundle().join("skeg"));
        fs::remove_file(container.bundle().join("config.json")).unwrap();
        let mut rootless = Self { container, user };
        rootless.skeg(&["spec", "--rootless", "-b", "."]).ok();
        let text = fs::read(rootless.container.bundle().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        rootless.container.config = config;
        Some(rootless)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        let user = self.user.id.to_string();
        command.args(["30", "setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "./skeg"]);
        command
            .args(["--root", "state"])
            .args(arguments)
            .current_dir(self.container.bundle())
            .stdin(Stdio::null());
        command
    }

    fn skeg(&self, arguments: &[&str]) -> Said {
        self.command(arguments).output().unwrap().into()
    }

    fn run(&self) -> Said {
        self.container.write_config();
        self.skeg(&["run", &self.container.id])
    }

    fn detach(&self) {
        self.container.write_config();
        let mut command = self.command(&["run", "-d", &self.container.id]);
        assert!(command.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success());
    }
}

impl Drop for Rootless {
    fn drop(&mut self) {
        let _ = self.skeg(&["delete", "-f", &self.container.id]);
    }
}

/// The configuration that `spec --rootless` writes, through the life of a container, without any cgroup of its own.
#[test]
fn a_user_runs_a_container_with_what_spec_writes() {
    let Some(mut rootless) = Rootless::new("rootless-a") else { return };
    rootless
        .container
        .script("id -u; cat /proc/self/setgroups; echo x > /made; ls /sys/fs/cgroup | grep -c .");
    let out = rootless.run().ok();
    assert!(out.starts_with("0\ndeny\n"), "{out}");
    rootless.container.script("sleep 1000");
    rootless.detach();
    let id = rootless.container.id.clone();
    assert!(rootless.skeg(&["list"]).ok().contains(" running "));
    let out = rootless.skeg(&["exec", &id, "/bin/sh", "-c", "id -u; cat /proc/1/comm"]).ok();
    assert_eq!(out, "0\nsleep\n");
    rootless.skeg(&["kill", &id, "KILL"]).ok();
    rootless.skeg(&["delete", "-f", &id]).ok();
    assert_eq!(rootless.skeg(&["list", "-q"]).ok(), "");
}

/// security.md E5: where setgroups is denied, a request for groups is an error, in run as in exec.
#[test]
fn e5_groups_where_setgroups_is_denied() {
    let Some(mut rootless) = Rootless::new("rootless-b") else { return };
    rootless.container.config["process"]["user"]["additionalGids"] = json!([0]);
    let denied = "/process/user/additionalGids: cannot be set in a user namespace where setgroups is denied";
    assert_eq!(rootless.container.script("true").config["process"]["user"]["uid"], 0);
    assert_eq!(rootless.run().error(), denied);
    rootless.container.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    rootless.container.script("sleep 1000");
    rootless.detach();
    let exec = ["exec", "-g", "0", &rootless.container.id, "/bin/true"];
    assert_eq!(rootless.skeg(&exec).error(), denied);
}

/// security.md E7: more ids than one's own are mapped by newuidmap and newgidmap, found where the system has them and not
/// by PATH.
#[test]
fn e7_subordinate_ids_by_the_helpers() {
    let Some(mut rootless) = Rootless::new("rootless-c") else { return };
    if !Path::new("/usr/bin/newuidmap").exists() {
        println!("skipped: needs Debian's uidmap");
        return;
    }
    let user = rootless.user.id;
    let mappings = |file: &str| {
        let first = rootless.user.subordinate(file);
        json!([{"containerID": 0, "hostID": user, "size": 1}, {"containerID": 1, "hostID": first, "size": 65535}])
    };
    let (uids, gids) = (mappings("/etc/subuid"), mappings("/etc/subgid"));
    rootless.container.config["linux"]["uidMappings"] = uids;
    rootless.container.config["linux"]["gidMappings"] = gids;
    rootless.container.config["process"]["user"] = json!({"uid": 1, "gid": 2, "additionalGids": [5]});
    rootless.container.script("id -u; id -G; cat /proc/self/setgroups");
    // A helper of another's in PATH is not asked.
    fs::create_dir(rootless.container.bundle().join("path")).unwrap();
    std::os::unix::fs::symlink("/bin/false", rootless.container.bundle().join("path/newuidmap")).unwrap();
    rootless.container.write_config();
    let mut command = rootless.command(&["run", &rootless.container.id]);
    let path = format!("{}:/usr/bin:/bin", rootless.container.bundle().join("path").display());
    let said: Said = command.env("PATH", path).output().unwrap().into();
    assert_eq!(said.ok(), "1\n2 5\nallow\n");
    rootless.container.script("sleep 1000");
    rootless.detach();
    let exec = ["exec", "-u", "7:8", "-g", "9", &rootless.container.id, "/bin/sh", "-c", "id -u; id -G"];
    assert_eq!(rootless.skeg(&exec).ok(), "7\n8 5 9\n");
    let _ = rootless.skeg(&["delete", "-f", &rootless.container.id]);
    // Ids that are not his are refused, in the helper's words.
    rootless.container.config["linux"]["uidMappings"][1] =
        json!({"containerID": 1, "hostID": 1, "size": 100});
    rootless.container.config["process"]["user"] = json!({"uid": 0, "gid": 0});
    let error = rootless.run().error();
    assert!(error.contains("newuidmap") && error.contains("not allowed"), "{error}");
}

/// A pod without root: user and PID namespace of the first container are joined by the second one.
#[test]
fn namespaces_of_another_container_are_joined() {
    let Some(mut rootless) = Rootless::new("rootless-d") else { return };
    rootless.container.script("sleep 1000");
    rootless.detach();
    let id = rootless.container.id.clone();
    let state: Value = serde_json::from_str(&rootless.skeg(&["state", &id]).ok()).unwrap();
    let pid = i32::try_from(state["pid"].as_i64().unwrap()).unwrap();
    let first = rootless.container.config.clone();
    rootless.container.id = format!("{id}-2");
    for kind in ["user", "pid", "ipc", "uts"] {
        rootless.container.join(kind, pid);
    }
    let config = &mut rootless.container.config;
    config.as_object_mut().unwrap().remove("hostname");
    config["linux"].as_object_mut().unwrap().remove("uidMappings");
    config["linux"].as_object_mut().unwrap().remove("gidMappings");
    rootless.container.script("cat /proc/1/comm; id -u");
    let said = rootless.run();
    rootless.container.id = id;
    rootless.container.config = first;
    assert_eq!(said.ok(), "sleep\n0\n");
}

/// podman and buildah of a user call the runtime as root of a user namespace that they made: no cgroup may be made there, and
/// the state is below `XDG_RUNTIME_DIR` (runc's default of `--rootless` and `--root`).
#[test]
fn root_of_a_user_namespace_is_rootless() {
    let Some(mut rootless) = Rootless::new("rootless-n") else { return };
    let linux = &mut rootless.container.config["linux"];
    for name in ["uidMappings", "gidMappings"] {
        linux.as_object_mut().unwrap().remove(name);
    }
    linux["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != "user");
    rootless.container.script("id -u; cat /proc/self/uid_map").write_config();
    let runtime_dir = rootless.container.bundle().join("runtime-dir");
    fs::create_dir(&runtime_dir).unwrap();
    chown(&runtime_dir, Some(rootless.user.id), Some(rootless.user.id)).unwrap();
    let user = rootless.user.id.to_string();
    let mut command = Command::new("timeout");
    command.args(["30", "setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "unshare"]);
    command.args(["--user", "--map-root-user", "--mount", "./skeg", "run", "--keep", &rootless.container.id]);
    command.current_dir(rootless.container.bundle()).stdin(Stdio::null());
    command.env_remove("USER").env("XDG_RUNTIME_DIR", runtime_dir);
    let said: Said = command.output().unwrap().into();
    let out = said.ok();
    assert!(out.starts_with("0\n") && out.contains(&user), "{out}");
    assert_eq!(
        rootless.skeg(&["--root", "runtime-dir/skeg", "list", "-q"]).ok(),
        format!("{}\n", rootless.container.id)
    );
}
