//! A pod's sandbox, where containerd leaves it to the shim (`sandboxer = "shim"`; peers.md A3.1): one process that holds
//! the pod's namespaces, in a container like any other. It is this program again, as `pause`, so that no image is needed;
//! a manager that brings a config.json of its own (`ctr sandboxes run`) gets what that says.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use serde_json::{Value, json};
use skeg_proto::pod::{NamespaceMode, NamespaceOption, PodSandboxConfig};
use skeg_proto::task::CreateTaskRequest;
use skeg_proto::types::{Any, Metric, Platform};
use skeg_proto::{Message as _, MessageField, sandbox as api};

use crate::config::Config;
use crate::container::{Container, Recipe};
use crate::error::{Code, Context as _, Error, Result};
use crate::path;
use crate::pod_files;
use crate::process::State;
use crate::reap::Exit;
use crate::record;
use crate::server::Call;
use crate::service::{Shim, answer as reply, parse};

/// The root of the sandbox's process in the bundle. Not `rootfs`, which managers remove as an empty directory.
const ROOT: &str = "sandbox-root";
/// Where the process finds this program.
const PROGRAM: &str = "/pause";
/// The user and group of the process: nobody's.
const USER: u32 = 65535;
/// How long the processes of a pod may take to die of SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// The sandbox of this shim's pod.
pub struct Sandbox {
    container: Rc<Container>,
    created: Exit,
    /// The bundle with the pod's files, where the shim has made it all.
    files: Option<PathBuf>,
}

impl Sandbox {
    /// The directory with the files that containers of the pod get.
    pub fn files(&self) -> Option<&Path> {
        self.files.as_deref()
    }
}

/// Answers one call of the sandbox API.
///
/// # Errors
/// `Unimplemented` for what is not there; `NotFound` for another sandbox than this shim's; the method's own.
pub async fn answer(shim: &Rc<Shim>, call: &Call) -> Result<Vec<u8>> {
    let (payload, deadline) = (call.payload.as_slice(), call.deadline);
    match call.method.as_str() {
        "CreateSandbox" => create(shim, parse(payload)?, deadline).await,
        "StartSandbox" => {
            let request: api::StartSandboxRequest = parse(payload)?;
            let sandbox = find(shim, &request.sandbox_id)?;
            let pid = sandbox.container.start("", deadline).await?;
            let created_at = MessageField::some(sandbox.created.timestamp());
            reply(&api::StartSandboxResponse { pid, created_at, ..Default::default() })
        }
        "Platform" => {
            let architecture = match std::env::consts::ARCH {
                "x86_64" => "amd64",
                "aarch64" => "arm64",
                other => other,
            };
            let platform =
                Platform { os: "linux".into(), architecture: architecture.into(), ..Default::default() };
            reply(&api::PlatformResponse { platform: MessageField::some(platform), ..Default::default() })
        }
        "StopSandbox" => {
            let request: api::StopSandboxRequest = parse(payload)?;
            let sandbox = find(shim, &request.sandbox_id)?;
            stop(shim, &sandbox, Duration::from_secs(request.timeout_secs.into()), deadline).await?;
            reply(&api::StopSandboxResponse::new())
        }
        "WaitSandbox" => {
            let request: api::WaitSandboxRequest = parse(payload)?;
            let exit = find(shim, &request.sandbox_id)?.container.init.exit().await;
            let exited_at = MessageField::some(exit.timestamp());
            reply(&api::WaitSandboxResponse { exit_status: exit.status, exited_at, ..Default::default() })
        }
        "SandboxStatus" => status(shim, &parse(payload)?),
        "PingSandbox" => {
            let request: api::PingRequest = parse(payload)?;
            find(shim, &request.sandbox_id)?;
            reply(&api::PingResponse::new())
        }
        "ShutdownSandbox" => {
            let request: api::ShutdownSandboxRequest = parse(payload)?;
            shutdown(shim, &request.sandbox_id, deadline).await?;
            reply(&api::ShutdownSandboxResponse::new())
        }
        "SandboxMetrics" => {
            let request: api::SandboxMetricsRequest = parse(payload)?;
            let metric = Metric {
                timestamp: MessageField::some(Exit::now(0).timestamp()),
                data: MessageField::some(find(shim, &request.sandbox_id)?.container.metrics()?),
                id: request.sandbox_id,
                ..Default::default()
            };
            reply(&api::SandboxMetricsResponse { metrics: MessageField::some(metric), ..Default::default() })
        }
        other => Err(Error::new(Code::Unimplemented, format!("sandbox method {other}"))),
    }
}

fn find(shim: &Shim, id: &str) -> Result<Rc<Sandbox>> {
    let sandbox = shim.sandbox.borrow().clone().filter(|sandbox| sandbox.container.id == id);
    sandbox.ok_or_else(|| Error::new(Code::NotFound, format!("sandbox {id} does not exist")))
}

/// A sandbox that is being made; another may be where it is dropped, unless it has been made.
struct Making<'a>(&'a Shim);

impl<'a> Making<'a> {
    fn begin(shim: &'a Shim) -> Result<Self> {
        if shim.is_making_sandbox.replace(true) {
            return Err(Error::new(Code::AlreadyExists, "the shim is making a sandbox"));
        }
        Ok(Self(shim))
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        self.0.is_making_sandbox.set(false);
    }
}

async fn create(
    shim: &Rc<Shim>,
    request: api::CreateSandboxRequest,
    deadline: Option<Instant>,
) -> Result<Vec<u8>> {
    path::check_id("sandbox id", &request.sandbox_id)?;
    let _making = Making::begin(shim)?;
    if shim.sandbox.borrow().is_some() {
        return Err(Error::new(Code::AlreadyExists, "the shim has a sandbox"));
    }
    let bundle = path::check_absolute("bundle", &request.bundle_path)?;
    let bundle_dir = path::open_dir(&bundle).context(|| format!("open bundle {}", bundle.display()))?;
    let is_ours = Config::load(&bundle_dir)?.is_none();
    if is_ours {
        let pod = pod_of(request.options.as_ref())?;
        let program = std::env::current_exe().context(|| "find this program")?;
        let config = configuration(&request, &pod, &shim.namespace, &program)?;
        pod_files::write(&bundle_dir, &pod)?;
        path::make_root_in(&bundle_dir, ROOT).context(|| format!("make directory {ROOT}"))?;
        path::write_in(&bundle_dir, "config.json", config.to_string().as_bytes())
            .context(|| "write config.json")?;
    }
    let task = CreateTaskRequest {
        id: request.sandbox_id.clone(),
        bundle: request.bundle_path.clone(),
        rootfs: request.rootfs,
        ..Default::default()
    };
    let options = record::read_options(&bundle_dir)?.unwrap_or_default();
    let container = shim.add(Recipe { request: &task, options, is_task: false }, deadline).await?;
    let files = is_ours.then_some(bundle);
    shim.sandbox.replace(Some(Rc::new(Sandbox { container, created: Exit::now(0), files })));
    reply(&api::CreateSandboxResponse::new())
}

/// The pod as the CRI server describes it; nothing is asked for where there is no description.
fn pod_of(options: Option<&Any>) -> Result<PodSandboxConfig> {
    match options.filter(|any| !any.type_url.is_empty()) {
        None => Ok(PodSandboxConfig::new()),
        Some(any) if any.type_url.ends_with("runtime.v1.PodSandboxConfig") => {
            PodSandboxConfig::parse_from_bytes(&any.value)
                .map_err(|error| Error::invalid(format!("decode the pod's configuration: {error}")))
        }
        Some(any) => Err(Error::invalid(format!(
            "sandbox options of type {:?}: must be runtime.v1.PodSandboxConfig",
            any.type_url
        ))),
    }
}

/// The config.json of the process that holds a pod's namespaces: nobody's, without capabilities, its root empty but for
/// this program.
fn configuration(
    request: &api::CreateSandboxRequest,
    pod: &PodSandboxConfig,
    namespace: &str,
    program: &Path,
) -> Result<Value> {
    let asked = &pod.linux.security_context.namespace_options;
    if asked.userns_options.as_ref().is_some_and(|options| options.mode == NamespaceMode::POD.into()) {
        return Err(Error::new(
            Code::Unimplemented,
            "user namespaces of pods need the sandboxer \"podsandbox\"",
        ));
    }
    let host_network = asked.network == NamespaceMode::NODE.into();
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {
            "args": [PROGRAM, "pause"],
            "cwd": "/",
            "user": { "uid": USER, "gid": USER },
            "noNewPrivileges": true,
            "capabilities": {},
        },
        "root": { "path": ROOT, "readonly": true },
        // The name of the host's own UTS namespace is not the pod's to set.
        "hostname": if host_network { "" } else { pod.hostname.as_str() },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": PROGRAM, "type": "bind", "source": program.to_string_lossy(),
              "options": ["bind", "ro", "nosuid", "nodev"] },
        ],
        "annotations": {
            "io.kubernetes.cri.container-type": "sandbox",
            "io.kubernetes.cri.sandbox-id": request.sandbox_id,
        },
        "linux": {
            "cgroupsPath": cgroup_path(&pod.linux.cgroup_parent, namespace, &request.sandbox_id),
            "namespaces": namespaces(asked, &request.netns_path),
            "resources": { "cpu": { "shares": 2 }, "devices": [{ "allow": false, "access": "rwm" }] },
            "sysctl": pod.linux.sysctls,
        },
    });
    Ok(config)
}

fn namespaces(asked: &NamespaceOption, network: &str) -> Vec<Value> {
    let node = NamespaceMode::NODE.into();
    let mut namespaces = vec![json!({ "type": "mount" })];
    if asked.pid != node {
        namespaces.push(json!({ "type": "pid" }));
    }
    if asked.ipc != node {
        namespaces.push(json!({ "type": "ipc" }));
    }
    if asked.network != node {
        namespaces.push(json!({ "type": "uts" }));
        namespaces.push(match network {
            "" => json!({ "type": "network" }),
            path => json!({ "type": "network", "path": path }),
        });
    }
    namespaces
}

/// As the CRI server places a pod's containers: below the pod's cgroup, or as a scope of the pod's slice.
fn cgroup_path(parent: &str, namespace: &str, id: &str) -> String {
    match parent.rsplit('/').next() {
        None | Some("") => format!("/{namespace}/{id}"),
        Some(slice) if slice.ends_with(".slice") => format!("{slice}:cri-containerd:{id}"),
        Some(_) => format!("{parent}/{id}"),
    }
}

/// Ends every container of the pod, then the pod: with SIGTERM and `grace` where that is not zero, then with SIGKILL.
async fn stop(shim: &Shim, sandbox: &Sandbox, grace: Duration, deadline: Option<Instant>) -> Result<()> {
    let mut running = shim.all();
    running.retain(|one| !Rc::ptr_eq(one, &sandbox.container));
    if !grace.is_zero() {
        for container in &running {
            let _ = container.init.signal(Signal::SIGTERM as i32);
        }
        let _ = tokio::time::timeout(grace, all_ended(&running)).await;
    }
    running.push(Rc::clone(&sandbox.container));
    for container in &running {
        match container.kill("", Signal::SIGKILL as i32, false, deadline).await {
            Err(error) if error.code() != Code::NotFound => return Err(error),
            _ => {}
        }
    }
    tokio::time::timeout(KILL_LIMIT, all_ended(&running)).await.map_err(|_| {
        Error::new(Code::DeadlineExceeded, format!("sandbox {}: processes do not die", sandbox.container.id))
    })
}

async fn all_ended(containers: &[Rc<Container>]) {
    for container in containers {
        container.init.exit().await;
    }
}

fn status(shim: &Shim, request: &api::SandboxStatusRequest) -> Result<Vec<u8>> {
    let sandbox = find(shim, &request.sandbox_id)?;
    let process = &sandbox.container.init;
    let (state, exited_at) = match process.state() {
        State::Running | State::Paused => ("SANDBOX_READY", MessageField::none()),
        State::Ended(exit) => ("SANDBOX_NOTREADY", MessageField::some(exit.timestamp())),
        State::Added | State::Created => ("SANDBOX_NOTREADY", MessageField::none()),
    };
    let mut response = api::SandboxStatusResponse {
        sandbox_id: request.sandbox_id.clone(),
        pid: process.pid(),
        state: state.to_owned(),
        created_at: MessageField::some(sandbox.created.timestamp()),
        exited_at,
        ..Default::default()
    };
    if request.verbose {
        let containers: Vec<String> = shim.all().into_iter().map(|container| container.id.clone()).collect();
        let info = json!({ "shimPid": std::process::id(), "containers": containers });
        response.info.insert("info".to_owned(), info.to_string());
    }
    reply(&response)
}

/// Ends the pod and the shim. Without a sandbox, a shim that has no tasks either ends all the same: making the sandbox may
/// have failed.
async fn shutdown(shim: &Rc<Shim>, id: &str, deadline: Option<Instant>) -> Result<()> {
    if let Ok(sandbox) = find(shim, id) {
        stop(shim, &sandbox, Duration::ZERO, deadline).await?;
        for container in shim.all() {
            container.delete(deadline).await?;
            shim.forget(&container.id);
        }
        shim.sandbox.take();
    }
    if shim.is_empty() {
        shim.quit.notify_one();
    }
    Ok(())
}

/// What the process that holds the namespaces does: it reaps what is left to it as the first process of a PID namespace,
/// until it is told to end.
///
/// # Errors
/// What waiting for signals failed with.
pub fn pause() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    // Blocked, so that they reach the first process of a PID namespace too.
    signals.thread_block().context(|| "block signals")?;
    while signals.wait().context(|| "wait for a signal")? == Signal::SIGCHLD {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(config: &Value) -> Vec<&str> {
        let namespaces = config["linux"]["namespaces"].as_array().unwrap();
        namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap()).collect()
    }

    fn configured(pod: &PodSandboxConfig) -> Result<Value> {
        let request = api::CreateSandboxRequest {
            sandbox_id: "pod1".into(),
            netns_path: "/run/netns/x".into(),
            ..Default::default()
        };
        configuration(&request, pod, "k8s.io", Path::new("/usr/bin/shim"))
    }

    /// peers.md A3.1: what a pod asks for is what its first process gets; what is the node's stays the node's.
    #[test]
    fn a_pod_gets_the_namespaces_that_it_asks_for() {
        let mut pod = PodSandboxConfig { hostname: "web".into(), ..Default::default() };
        let config = configured(&pod).unwrap();
        assert_eq!(kinds(&config), ["mount", "pid", "ipc", "uts", "network"]);
        assert_eq!(config["linux"]["namespaces"][4]["path"], "/run/netns/x");
        assert_eq!(config["hostname"], "web");
        assert_eq!(config["linux"]["cgroupsPath"], "/k8s.io/pod1");
        let linux = pod.linux.mut_or_insert_default();
        linux.cgroup_parent = "/kubepods/burstable/pod7".into();
        linux.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
        let asked = linux.security_context.mut_or_insert_default().namespace_options.mut_or_insert_default();
        asked.network = NamespaceMode::NODE.into();
        asked.pid = NamespaceMode::CONTAINER.into();
        asked.ipc = NamespaceMode::NODE.into();
        let config = configured(&pod).unwrap();
        assert_eq!(kinds(&config), ["mount", "pid"]);
        assert_eq!(config["hostname"], "");
        assert_eq!(config["linux"]["cgroupsPath"], "/kubepods/burstable/pod7/pod1");
        assert_eq!(config["linux"]["sysctl"]["net.ipv4.ip_forward"], "1");
        assert_eq!(cgroup_path("/kubepods.slice/a.slice", "k8s.io", "x"), "a.slice:cri-containerd:x");
    }

    /// security.md G6: what is asked for and is not there is an error.
    #[test]
    fn a_pod_with_a_user_namespace_is_refused() {
        let mut pod = PodSandboxConfig::new();
        let linux = pod.linux.mut_or_insert_default().security_context.mut_or_insert_default();
        let asked = linux.namespace_options.mut_or_insert_default();
        asked.userns_options.mut_or_insert_default().mode = NamespaceMode::POD.into();
        assert_eq!(configured(&pod).unwrap_err().code(), Code::Unimplemented);
        let other = Any { type_url: "some.Other".into(), ..Any::default() };
        assert_eq!(pod_of(Some(&other)).unwrap_err().code(), Code::InvalidArgument);
    }
}
