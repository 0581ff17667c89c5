//! What a case works with: bundles, containers, and calls of the runtime under test with their output and a bound
//! in time.
//!
//! A case runs in a process of its own that is the reaper of everything below it, so that a container's init process
//! becomes its child when the runtime has gone: the case reads its exit status, and whatever still lives at the end
//! was left behind.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::failure::{During, Outcome, skip};
use crate::sys::ChildSetup;
use crate::{cgroups, config, ensure, ensure_eq, sys};

/// How long one call of the runtime may take before it counts as hung.
const CALL_LIMIT: Duration = Duration::from_secs(60);
/// How long a container may take to reach an awaited state.
const STATE_LIMIT: Duration = Duration::from_secs(60);
/// The pause between two looks at something awaited.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The surroundings of one case.
pub struct Ctx {
    /// The runtime under test.
    pub runtime: PathBuf,
    /// Its family: the first word of `--version`, by which deviations are looked up.
    pub kind: String,
    /// The case's own directory, gone after the case.
    pub dir: PathBuf,
    /// The runtime's state root.
    pub root: PathBuf,
    /// The beginning of every id, cgroup and directory name of this case.
    pub tag: String,
    /// The statically linked probe on the host.
    pub probe: PathBuf,
    /// How often the repeating cases repeat.
    pub soak: usize,
    /// What limits in time are multiplied by.
    pub patience: u32,
    /// Whether each container is a scope of systemd's.
    pub systemd: bool,
    next: Cell<usize>,
    containers: RefCell<Vec<String>>,
}

impl Ctx {
    /// Makes the directories of a case under `dir`.
    pub fn new(
        runtime: &Path,
        kind: &str,
        dir: &Path,
        tag: &str,
        probe: &Path,
        soak: usize,
    ) -> Outcome<Self> {
        let root = dir.join("state");
        fs::create_dir_all(dir.join("calls")).during(format!("make {}", dir.display()))?;
        fs::create_dir_all(&root)?;
        Ok(Self {
            runtime: runtime.to_owned(),
            kind: kind.to_owned(),
            dir: dir.to_owned(),
            root,
            tag: tag.to_owned(),
            probe: probe.to_owned(),
            soak,
            patience: 1,
            systemd: false,
            next: Cell::new(0),
            containers: RefCell::new(Vec::new()),
        })
    }

    /// The same with limits in time so many times as long.
    #[must_use]
    pub fn patient(mut self, patience: u32) -> Self {
        self.patience = patience;
        self
    }

    /// The same with a runtime that makes cgroups by systemd.
    #[must_use]
    pub fn by_systemd(mut self, systemd: bool) -> Self {
        self.systemd = systemd;
        self
    }

    /// Ends a case about paths of the cgroup file system where systemd makes the cgroups.
    pub fn needs_cgroup_paths(&self) -> Outcome {
        if self.systemd { skip("cgroupsPath names a scope with --systemd-cgroup") } else { Ok(()) }
    }

    /// A `cgroupsPath` by which [`crate::cgroups`] finds the container's cgroup under its id.
    pub fn cgroups_path(&self, id: &str) -> String {
        if self.systemd { format!(":{}:{id}", cgroups::SCOPE_PREFIX) } else { format!("/{id}") }
    }

    fn number(&self) -> usize {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    /// A container id that nobody else uses; what it names is deleted when the case ends.
    pub fn id(&self) -> String {
        let id = format!("{}-{}", self.tag, self.number());
        self.containers.borrow_mut().push(id.clone());
        id
    }

    /// A fresh path in the case's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-{}", self.number()))
    }

    /// A call of the runtime with this case's state root.
    pub fn call<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Call {
        let call = self.bare_call([OsStr::new("--root"), self.root.as_os_str()]);
        let call = if self.systemd { call.arg("--systemd-cgroup") } else { call };
        call.args(arguments)
    }

    /// A call of the runtime with nothing but the given arguments.
    pub fn bare_call<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Call {
        self.program(&self.runtime).args(arguments)
    }

    /// A call of any program, bounded and recorded like those of the runtime.
    pub fn program(&self, program: &Path) -> Call {
        let number = self.number();
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        Call {
            command,
            words: vec![program.file_name().unwrap_or_default().to_string_lossy().into_owned()],
            out: self.dir.join(format!("calls/{number}.out")),
            err: self.dir.join(format!("calls/{number}.err")),
            setup: ChildSetup::default(),
            limit: CALL_LIMIT * self.patience,
            keep_output: true,
        }
    }

    /// A bundle with the default configuration, without a terminal, whose process is the probe's report.
    pub fn bundle(&self) -> Outcome<Bundle> {
        let id = self.id();
        let dir = self.dir.join(format!("bundle-{}", self.number()));
        let rootfs = dir.join("rootfs");
        fs::create_dir_all(&rootfs)?;
        place_probe(&self.probe, &rootfs)?;
        let mut config = config::default_config();
        config::set(&mut config, "/process/terminal", json!(false));
        config::set(&mut config, "/process/args", json!(["/probe", "report"]));
        config::set(&mut config, "/linux/cgroupsPath", json!(self.cgroups_path(&id)));
        Ok(Bundle { id, dir, config })
    }

    /// The containers that the case has named so far.
    pub fn named(&self) -> Vec<String> {
        self.containers.borrow().clone()
    }

    /// Deletes every container that the case has named, and reaps what they left to this process. What went wrong.
    pub fn delete_all(&self) -> Vec<String> {
        let mut said = Vec::new();
        for id in self.named() {
            if self.root.join(&id).exists() {
                let deleted = self.call(["delete", "--force", &id]).run().and_then(Ran::ok);
                said.extend(deleted.err().map(|failure| format!("delete {id}: {failure:?}")));
            }
        }
        reap_dead();
        said
    }
}

/// Puts the probe into a rootfs: a hard link where the file system allows it, else a copy.
pub fn place_probe(probe: &Path, rootfs: &Path) -> Outcome {
    let target = rootfs.join("probe");
    if fs::hard_link(probe, &target).is_err() {
        fs::copy(probe, &target).during("copy the probe into the rootfs")?;
    }
    Ok(())
}

thread_local! {
    /// The exit statuses of reaped children that nobody has asked for yet, by pid. Everything is reaped as it ends: the
    /// end of a pid namespace waits for each of its processes, those that became ours included.
    static ENDED: RefCell<BTreeMap<i32, i32>> = const { RefCell::new(BTreeMap::new()) };
}

/// Reaps the children of this process that have ended and keeps their statuses.
pub fn reap_dead() {
    loop {
        let (pid, status) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) => (pid, status),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            _ => return,
        };
        ENDED.with_borrow_mut(|ended| ended.insert(pid.as_raw(), status));
    }
}

/// Takes down the end of a child that somebody else has reaped.
pub fn note_end(pid: Pid, status: i32) {
    ENDED.with_borrow_mut(|ended| ended.insert(pid.as_raw(), status));
}

/// The exit status of a child that has ended (128 and the signal's number), once.
fn end_of(pid: Pid) -> Option<i32> {
    reap_dead();
    ENDED.with_borrow_mut(|ended| ended.remove(&pid.as_raw()))
}

/// Waits until `look` gives a value.
pub fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Outcome<Option<T>>,
) -> Outcome<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = look()? {
            return Ok(value);
        }
        ensure!(Instant::now() < end, "{what}: not within {limit:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// A call to be made.
pub struct Call {
    command: Command,
    words: Vec<String>,
    out: PathBuf,
    err: PathBuf,
    setup: ChildSetup,
    limit: Duration,
    keep_output: bool,
}

impl Call {
    /// Appends one argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.words.push(argument.as_ref().to_string_lossy().into_owned());
        self.command.arg(argument);
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, arguments: impl IntoIterator<Item = S>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives a text on standard input.
    pub fn stdin(mut self, text: &str) -> Outcome<Self> {
        let file = self.out.with_extension("in");
        fs::write(&file, text)?;
        self.command.stdin(fs::File::open(file)?);
        Ok(self)
    }

    /// Changes what the child does before the runtime starts.
    #[must_use]
    pub fn setup(mut self, change: impl FnOnce(&mut ChildSetup)) -> Self {
        change(&mut self.setup);
        self
    }

    /// Leaves the three standard descriptors to `setup`.
    #[must_use]
    pub fn own_stdio(mut self) -> Self {
        self.keep_output = false;
        self.command.stdin(Stdio::inherit());
        self
    }

    /// Another bound in time.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts the call and does not wait for it.
    pub fn spawn(mut self) -> Outcome<Running> {
        if self.keep_output {
            self.command.stdout(fs::File::create(&self.out)?).stderr(fs::File::create(&self.err)?);
        }
        sys::prepare(&mut self.command, self.setup);
        let label = self.words.join(" ");
        let started = Instant::now();
        let child = self.command.spawn().during(format!("start {label}"))?;
        // Pids come round again: what is known of an earlier process with this one is not about this child.
        ENDED.with_borrow_mut(|ended| ended.remove(&i32::try_from(child.id()).unwrap_or(0)));
        Ok(Running { child, label, out: self.out, err: self.err, started, limit: self.limit })
    }

    /// Makes the call and waits for its end.
    pub fn run(self) -> Outcome<Ran> {
        self.spawn()?.wait()
    }
}

/// A call under way.
pub struct Running {
    child: Child,
    label: String,
    out: PathBuf,
    err: PathBuf,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// The process.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap_or(0))
    }

    /// Whether it has not ended yet.
    pub fn lives(&self) -> bool {
        reap_dead();
        !ENDED.with_borrow(|ended| ended.contains_key(&self.pid().as_raw()))
    }

    /// Waits for the end; a call that takes too long is killed and fails the case.
    pub fn wait(mut self) -> Outcome<Ran> {
        let pid = self.pid();
        let status = loop {
            if let Some(status) = end_of(pid) {
                break status;
            }
            // The pid stays ours until it is reaped, which happens in this thread only.
            let pidfd = sys::pidfd_open(pid)?;
            if self.started.elapsed() > self.limit {
                self.child.kill()?;
                ensure!(
                    false,
                    "{}: still running after {:?}: {}",
                    self.label,
                    self.limit,
                    read_text(&self.err)
                );
            }
            let slice = PollTimeout::from(50u8);
            poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], slice)?;
        };
        Ok(Ran { label: self.label, status, out: self.out, err: self.err })
    }
}

fn read_text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).trim().to_owned()
}

/// A call that has ended.
pub struct Ran {
    /// The command line.
    pub label: String,
    /// The exit status, or 128 and the number of the signal that ended it.
    pub status: i32,
    out: PathBuf,
    err: PathBuf,
}

impl Ran {
    /// What has been written to standard output by now; a container may still be writing.
    pub fn stdout(&self) -> String {
        read_text(&self.out)
    }

    /// The same as it is.
    pub fn printed(&self) -> Outcome<Vec<u8>> {
        Ok(fs::read(&self.out)?)
    }

    /// What has been written to standard error by now.
    pub fn stderr(&self) -> String {
        read_text(&self.err)
    }

    /// Demands success.
    pub fn ok(self) -> Outcome<Self> {
        ensure!(self.status == 0, "{}: exit status {}: {}", self.label, self.status, self.stderr());
        Ok(self)
    }

    /// Demands an exit status.
    pub fn exits(self, status: i32) -> Outcome<Self> {
        ensure!(
            self.status == status,
            "{}: exit status {}, expected {status}: {}",
            self.label,
            self.status,
            self.stderr()
        );
        Ok(self)
    }

    /// Demands a failure that says something on standard error and is no crash.
    pub fn fails(self) -> Outcome<Self> {
        ensure!(self.status != 0, "{}: succeeded, an error was expected", self.label);
        ensure!(
            self.status < 128 || self.status == 255,
            "{}: ended by a signal: {}",
            self.label,
            self.status
        );
        ensure!(!self.stderr().is_empty(), "{}: failed without a word", self.label);
        ensure!(!self.stderr().contains("panicked at"), "{}: panicked: {}", self.label, self.stderr());
        Ok(self)
    }

    /// Demands a failure told in one line.
    pub fn fails_in_one_line(self) -> Outcome<Self> {
        let ran = self.fails()?;
        let text = ran.stderr();
        ensure_eq!(text.lines().count(), 1, "{}: lines of the error {text:?}", ran.label);
        Ok(ran)
    }

    /// Demands that the error text contains a phrase.
    pub fn says(self, phrase: &str) -> Outcome<Self> {
        let text = self.stderr();
        ensure!(text.contains(phrase), "{}: the error {text:?} does not say {phrase:?}", self.label);
        Ok(self)
    }

    /// Standard output as JSON.
    pub fn json(&self) -> Outcome<Value> {
        let text = self.stdout();
        serde_json::from_str(&text).during(format!("{}: output {text:?} {}", self.label, self.stderr()))
    }
}

/// A bundle whose configuration is written when it is used.
#[derive(Clone)]
pub struct Bundle {
    /// The id that its container will have.
    pub id: String,
    /// The bundle directory.
    pub dir: PathBuf,
    /// The configuration.
    pub config: Value,
}

impl Bundle {
    /// The rootfs on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// Sets a value by JSON pointer.
    pub fn set(&mut self, pointer: &str, value: Value) -> &mut Self {
        config::set(&mut self.config, pointer, value);
        self
    }

    /// Removes a value by JSON pointer.
    pub fn remove(&mut self, pointer: &str) -> &mut Self {
        config::remove(&mut self.config, pointer);
        self
    }

    /// Appends to an array by JSON pointer.
    pub fn push(&mut self, pointer: &str, value: Value) -> &mut Self {
        config::push(&mut self.config, pointer, value);
        self
    }

    /// Sets the container's command: the probe with these arguments.
    pub fn probe<S: AsRef<str>>(&mut self, arguments: impl IntoIterator<Item = S>) -> &mut Self {
        let mut command = vec![json!("/probe")];
        command.extend(arguments.into_iter().map(|argument| json!(argument.as_ref())));
        self.set("/process/args", Value::Array(command))
    }

    /// Lets the probe do `actions` one after the other and print what came of each.
    pub fn actions(&mut self, actions: &Value) -> &mut Self {
        let text = actions.to_string();
        self.probe(["actions", &text])
    }

    /// Appends a mount.
    pub fn mount(&mut self, destination: &str, kind: &str, source: &str, options: &[&str]) -> &mut Self {
        self.push(
            "/mounts",
            json!({"destination": destination, "type": kind, "source": source, "options": options}),
        )
    }

    /// Removes the mount at a destination.
    pub fn unmount(&mut self, destination: &str) -> &mut Self {
        if let Some(Value::Array(mounts)) = self.config.pointer_mut("/mounts") {
            mounts.retain(|mount| mount["destination"] != destination);
        }
        self
    }

    /// Removes a namespace type.
    pub fn without_namespace(&mut self, kind: &str) -> &mut Self {
        if let Some(Value::Array(namespaces)) = self.config.pointer_mut("/linux/namespaces") {
            namespaces.retain(|namespace| namespace["type"] != kind);
        }
        self
    }

    /// Sets all five capability sets; those left out are absent from the configuration.
    pub fn capabilities(&mut self, sets: &[(&str, &[&str])]) -> &mut Self {
        self.set("/process/capabilities", json!({}));
        for (set, names) in sets {
            self.set(&format!("/process/capabilities/{set}"), json!(names));
        }
        self
    }

    /// Gives the process these capabilities in the bounding, effective and permitted sets.
    pub fn privileged_by(&mut self, names: &[&str]) -> &mut Self {
        self.capabilities(&[("bounding", names), ("effective", names), ("permitted", names)])
    }

    /// Writes config.json.
    pub fn write(&self) -> Outcome {
        fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(&self.config)?)?;
        Ok(())
    }

    /// The `create` call of this bundle.
    pub fn create_call(&self, ctx: &Ctx, flags: &[&str]) -> Outcome<Call> {
        self.write()?;
        Ok(ctx.call(["create", "--bundle"]).arg(&self.dir).args(flags).arg(&self.id))
    }

    /// Creates the container.
    pub fn create<'c>(&self, ctx: &'c Ctx) -> Outcome<Container<'c>> {
        let created = self.create_call(ctx, &[])?.run()?.ok()?;
        Ok(Container { ctx, id: self.id.clone(), dir: self.dir.clone(), created })
    }

    /// Creates and starts the container.
    pub fn start<'c>(&self, ctx: &'c Ctx) -> Outcome<Container<'c>> {
        let container = self.create(ctx)?;
        container.start()?.ok()?;
        Ok(container)
    }

    /// The `run` call of this bundle.
    pub fn run_call(&self, ctx: &Ctx, flags: &[&str]) -> Outcome<Call> {
        self.write()?;
        Ok(ctx.call(["run", "--bundle"]).arg(&self.dir).args(flags).arg(&self.id))
    }

    /// Runs the container in the foreground.
    pub fn run(&self, ctx: &Ctx) -> Outcome<Ran> {
        self.run_call(ctx, &[])?.run()
    }

    /// Runs the container in the foreground and reads the probe's JSON.
    pub fn run_json(&self, ctx: &Ctx) -> Outcome<Value> {
        self.run(ctx)?.ok()?.json()
    }
}

/// A container that was created.
pub struct Container<'c> {
    ctx: &'c Ctx,
    /// Its id.
    pub id: String,
    /// Its bundle directory.
    pub dir: PathBuf,
    /// The `create` call, whose output descriptors the container has.
    pub created: Ran,
}

impl Container<'_> {
    /// Calls the runtime with a command, the id and further arguments.
    pub fn call(&self, command: &str, rest: &[&str]) -> Outcome<Ran> {
        self.ctx.call([command, &self.id]).args(rest).run()
    }

    /// `start`.
    pub fn start(&self) -> Outcome<Ran> {
        self.call("start", &[])
    }

    /// `kill` with a signal.
    pub fn kill(&self, signal: &str) -> Outcome<Ran> {
        self.call("kill", &[signal])
    }

    /// `delete`, after which the init process is reaped here.
    pub fn delete(&self) -> Outcome<Ran> {
        let ran = self.call("delete", &[])?;
        reap_dead();
        Ok(ran)
    }

    /// `state` as JSON.
    pub fn state(&self) -> Outcome<Value> {
        self.call("state", &[])?.ok()?.json()
    }

    /// The status that `state` shows.
    pub fn status(&self) -> Outcome<String> {
        Ok(self.state()?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// The pid that `state` shows.
    pub fn pid(&self) -> Outcome<Pid> {
        let pid = self.state()?["pid"].as_i64().during("pid in the state")?;
        Ok(Pid::from_raw(pid.try_into()?))
    }

    /// Waits for a status.
    pub fn wait_for(&self, status: &str) -> Outcome {
        let mut last = String::new();
        eventually(&format!("{}: status {status}", self.id), STATE_LIMIT * self.ctx.patience, || {
            last = self.status()?;
            Ok((last == status).then_some(()))
        })
        .during(format!("last status {last}"))
    }

    /// Waits for the end of the init process and gives its exit status (128 and the signal's number).
    pub fn wait_exit(&self, pid: Pid) -> Outcome<i32> {
        eventually(&format!("{}: exit of {pid}", self.id), STATE_LIMIT * self.ctx.patience, || {
            Ok(end_of(pid))
        })
    }

    /// Waits until the container's output contains a text.
    pub fn wait_output(&self, text: &str) -> Outcome<String> {
        eventually(&format!("{}: output {text:?}", self.id), STATE_LIMIT * self.ctx.patience, || {
            let output = self.created.stdout();
            Ok(output.contains(text).then_some(output))
        })
        .during(format!("output so far {:?} {:?}", self.created.stdout(), self.created.stderr()))
    }

    /// An `exec` call of the probe with flags before the id.
    pub fn exec_call(&self, flags: &[&str], arguments: &[&str]) -> Call {
        self.ctx.call(["exec"]).args(flags).args([&*self.id, "/probe"]).args(arguments)
    }

    /// `exec` of the probe.
    pub fn exec(&self, arguments: &[&str]) -> Outcome<Ran> {
        self.exec_call(&[], arguments).run()
    }

    /// `exec` of the probe's report.
    pub fn exec_report(&self, flags: &[&str]) -> Outcome<Value> {
        self.exec_call(flags, &["report"]).run()?.ok()?.json()
    }

    /// `exec` of a list of actions and their results.
    pub fn exec_actions(&self, actions: &Value) -> Outcome<Value> {
        self.exec(&["actions", &actions.to_string()])?.ok()?.json()
    }
}
