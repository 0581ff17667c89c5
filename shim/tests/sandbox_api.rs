//! The sandbox API (peers.md A3.1), asked by a raw ttrpc client.

#![allow(clippy::disallowed_methods, reason = "tests make their own files and processes")]
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod harness;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use harness::*;
use skeg_proto::pod::PodSandboxConfig;
use skeg_proto::types::Any;
use skeg_proto::{Message, MessageField, sandbox as api, task};

const SANDBOX: &str = "containerd.runtime.sandbox.v1.Sandbox";
const POD: &str = "pod";

fn call<R: Message>(
    client: &mut Client,
    method: &str,
    request: &impl Message,
) -> std::result::Result<R, (i32, String)> {
    client.call_service(SANDBOX, method, request)
}

/// A request for a pod in a bundle without config.json, and with the options that `start` leaves there.
fn request(shim: &Shim) -> api::CreateSandboxRequest {
    request_of(shim, POD)
}

fn request_of(shim: &Shim, id: &str) -> api::CreateSandboxRequest {
    let bundle = shim.dir.join(id);
    std::fs::create_dir_all(&bundle).unwrap();
    let options = format!(r#"{{"binary_name":"{0}/runtime","root":"{0}/root"}}"#, shim.dir.display());
    std::fs::write(bundle.join("shim-options.json"), options).unwrap();
    let config = PodSandboxConfig { hostname: "podhost".into(), ..Default::default() };
    let options = Any {
        type_url: "runtime.v1.PodSandboxConfig".into(),
        value: config.write_to_bytes().unwrap(),
        ..Any::default()
    };
    api::CreateSandboxRequest {
        sandbox_id: id.into(),
        bundle_path: bundle.to_str().unwrap().into(),
        options: MessageField::some(options),
        netns_path: "/proc/self/ns/net".into(),
        ..Default::default()
    }
}

fn status(client: &mut Client) -> api::SandboxStatusResponse {
    let request = api::SandboxStatusRequest { sandbox_id: POD.into(), verbose: true, ..Default::default() };
    call(client, "SandboxStatus", &request).unwrap()
}

/// From CreateSandbox to ShutdownSandbox, as containerd's controller for `sandboxer = "shim"` calls them.
#[test]
fn the_life_of_a_pod() {
    let shim = Shim::start("sandbox");
    let mut client = shim.client();
    let ping = api::PingRequest { sandbox_id: POD.into(), ..Default::default() };
    assert_eq!(call::<api::PingResponse>(&mut client, "PingSandbox", &ping).unwrap_err().0, NOT_FOUND);
    let request = request(&shim);
    call::<api::CreateSandboxResponse>(&mut client, "CreateSandbox", &request).unwrap();
    let again = call::<api::CreateSandboxResponse>(&mut client, "CreateSandbox", &request);
    assert_eq!(again.unwrap_err().0, ALREADY_EXISTS);
    let config = std::fs::read(shim.dir.join(POD).join("config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!((&config["hostname"], &config["process"]["args"][0]), (&"podhost".into(), &"/pause".into()));
    // The process is nobody's: its root can be searched, and nothing else can be done with it.
    let root = std::fs::metadata(shim.dir.join(POD).join("sandbox-root")).unwrap();
    assert_eq!(root.mode() & 0o777, 0o711);
    assert_eq!(status(&mut client).state, "SANDBOX_NOTREADY");
    let start = api::StartSandboxRequest { sandbox_id: POD.into(), ..Default::default() };
    let started: api::StartSandboxResponse = call(&mut client, "StartSandbox", &start).unwrap();
    let running = status(&mut client);
    assert_eq!((running.state.as_str(), running.pid), ("SANDBOX_READY", started.pid));
    assert!(running.info["info"].contains(&shim.pid.to_string()));
    call::<api::PingResponse>(&mut client, "PingSandbox", &ping).unwrap();
    let platform: api::PlatformResponse =
        call(&mut client, "Platform", &api::PlatformRequest::new()).unwrap();
    assert_eq!(platform.platform.os, "linux");
    // The script has no cgroup.
    let metrics = api::SandboxMetricsRequest { sandbox_id: POD.into(), ..Default::default() };
    let metrics = call::<api::SandboxMetricsResponse>(&mut client, "SandboxMetrics", &metrics);
    assert_eq!(metrics.unwrap_err().0, NOT_FOUND);
    shim.create("c").unwrap();
    let container = std::fs::read_to_string(shim.dir.join("c/config.json")).unwrap();
    assert!(container.contains("/pod/hostname") && container.contains("/etc/hostname"), "{container}");
    let start = task::StartRequest { id: "c".into(), ..Default::default() };
    client.call::<task::StartResponse>("Start", &start).unwrap();
    let mut waiting = shim.client();
    let wait = api::WaitSandboxRequest { sandbox_id: POD.into(), ..Default::default() };
    waiting.send(SANDBOX, "WaitSandbox", &wait);
    let stop = api::StopSandboxRequest { sandbox_id: POD.into(), timeout_secs: 10, ..Default::default() };
    call::<api::StopSandboxResponse>(&mut client, "StopSandbox", &stop).unwrap();
    let waited = api::WaitSandboxResponse::parse_from_bytes(&waiting.receive().payload).unwrap();
    assert_eq!(waited.exit_status, 137);
    // Its container was asked first.
    let ended = state(&mut client, "c").unwrap();
    assert_eq!((ended.status.value(), ended.exit_status), (3, 143));
    let stopped = status(&mut client);
    assert_eq!(stopped.state, "SANDBOX_NOTREADY");
    assert!(stopped.exited_at.seconds > 0);
    let shutdown = api::ShutdownSandboxRequest { sandbox_id: POD.into(), ..Default::default() };
    call::<api::ShutdownSandboxResponse>(&mut client, "ShutdownSandbox", &shutdown).unwrap();
    assert!(eventually(|| !Path::new(&format!("/proc/{}", shim.pid)).exists()), "the shim does not end");
    let calls = std::fs::read_to_string(shim.root().join("calls")).unwrap();
    assert_eq!(calls, "create\nstart\ncreate\nstart\ndelete\ndelete\n", "one runtime call an operation");
}

/// A pod that cannot be made leaves a shim that ends when it is told to, and an id that is free.
#[test]
fn a_pod_that_cannot_be_made() {
    let shim = Shim::start("no-sandbox");
    let mut client = shim.client();
    let mut bad = request(&shim);
    bad.options.mut_or_insert_default().type_url = "some.Other".into();
    let failed = call::<api::CreateSandboxResponse>(&mut client, "CreateSandbox", &bad);
    assert_eq!(failed.unwrap_err().0, INVALID_ARGUMENT);
    bad.sandbox_id = "../x".into();
    let failed = call::<api::CreateSandboxResponse>(&mut client, "CreateSandbox", &bad);
    assert_eq!(failed.unwrap_err().0, INVALID_ARGUMENT);
    call::<api::CreateSandboxResponse>(&mut client, "CreateSandbox", &request(&shim)).unwrap();
    let shutdown = api::ShutdownSandboxRequest { sandbox_id: POD.into(), ..Default::default() };
    call::<api::ShutdownSandboxResponse>(&mut client, "ShutdownSandbox", &shutdown).unwrap();
    assert!(eventually(|| !Path::new(&format!("/proc/{}", shim.pid)).exists()), "the shim does not end");
}

/// One sandbox a shim, also where a second is asked for, under another id, while the first is being made; where that fails, the
/// place is free.
#[test]
fn one_sandbox_at_a_time() {
    let shim = Shim::start("two-sandboxes");
    let mut first = shim.client();
    first.send(SANDBOX, "CreateSandbox", &request_of(&shim, "hang1"));
    let calls = shim.root().join("calls");
    assert!(eventually(|| calls.exists()), "the runtime is not called");
    let mut second = shim.client();
    let early = call::<api::CreateSandboxResponse>(&mut second, "CreateSandbox", &request(&shim));
    assert_eq!(early.unwrap_err().0, ALREADY_EXISTS);
    assert!(!shim.dir.join(POD).join("config.json").exists(), "a bundle is written for it");
    let is_stuck =
        |pid: &u32| std::fs::read(format!("/proc/{pid}/comm")).is_ok_and(|name| name == b"sleep\n");
    let stuck = || children_of(&shim.dir).into_iter().find(is_stuck);
    assert!(eventually(|| stuck().is_some()), "the runtime is not stuck");
    let ended = std::process::Command::new("kill").args(["-9", &stuck().unwrap().to_string()]).status();
    assert!(ended.unwrap().success());
    assert_ne!(first.receive().status.code, 0, "a runtime without a container");
    call::<api::CreateSandboxResponse>(&mut second, "CreateSandbox", &request(&shim)).unwrap();
}
