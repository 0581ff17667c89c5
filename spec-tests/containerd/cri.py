#!/usr/bin/env python3
"""A CRI client against a containerd that cri.sh has started: a pod of three containers, from RunPodSandbox to
RemovePodSandbox. Arguments: the containerd socket, the image, a directory for logs and generated code, the proto
directory, whether the shim is ours. Prints `ok` and `FAIL` lines; `shims PIDS` is for the caller to check."""

import json
import os
import subprocess
import sys
import time

address, image, work, protos, ours = sys.argv[1:6]
subprocess.run(
    [sys.executable, "-m", "grpc_tools.protoc", "-I", protos, "--python_out", work, "--grpc_python_out", work, "cri.proto"],
    check=True,
)
sys.path.insert(0, work)
import grpc
import websocket
import cri_pb2 as api
import cri_pb2_grpc

channel = grpc.insecure_channel("unix://" + address)
cri = cri_pb2_grpc.RuntimeServiceStub(channel)
LIMIT = 60
failed = 0


def check(name, wanted, got):
    global failed
    if wanted == got:
        print("ok  ", name)
    else:
        failed += 1
        print(f"FAIL {name}: wanted [{wanted}], got [{got}]")


def shims():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().decode().split("\0")
        except OSError:
            continue
        if "containerd-shim" in words[0] and address in words:
            found.append(int(pid))
    return found


def cgroup_file(pid, controller, name):
    for line in open(f"/proc/{pid}/cgroup"):
        _, controllers, path = line.rstrip("\n").split(":", 2)
        if controller in controllers.split(","):
            return open(f"/sys/fs/cgroup/{controllers}{path}/{name}").read().strip()


def pid_of(marker):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        if marker.encode() in words and not any(word.startswith(b"-") and word == b"-x" for word in words):
            return int(pid)


pod_config = api.PodSandboxConfig(
    metadata=api.PodSandboxMetadata(name="pod", uid="uid-1", namespace="default", attempt=0),
    hostname="skegpod",
    log_directory=work + "/pod-logs",
    linux=api.LinuxPodSandboxConfig(cgroup_parent="/skeg-cri"),
)
os.makedirs(work + "/pod-logs", exist_ok=True)
pod = cri.RunPodSandbox(api.RunPodSandboxRequest(config=pod_config, runtime_handler="tested"), timeout=LIMIT).pod_sandbox_id
status = cri.PodSandboxStatus(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT).status
check("the pod is ready", 0, status.state)
check("the pod has an address of the CNI network", True, status.network.ip.startswith("10.88.77."))


def container(name, command, **more):
    config = api.ContainerConfig(
        metadata=api.ContainerMetadata(name=name),
        image=api.ImageSpec(image=image),
        command=command,
        log_path=name + ".log",
        linux=api.LinuxContainerConfig(resources=api.LinuxContainerResources(memory_limit_in_bytes=64 << 20)),
        **more,
    )
    request = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=pod_config)
    made = cri.CreateContainer(request, timeout=LIMIT).container_id
    cri.StartContainer(api.ContainerRequest(container_id=made), timeout=LIMIT)
    return made


def state(one):
    return cri.ContainerStatus(api.ContainerRequest(container_id=one), timeout=LIMIT).status


def exec_sync(one, *words, timeout=10):
    return cri.ExecSync(api.ExecSyncRequest(container_id=one, cmd=words, timeout=timeout), timeout=LIMIT)


first = container("first", ["/bin/sh", "-c", "trap 'exit 5' TERM; echo started; while :; do sleep 0.1; done"])
second = container("second", ["/bin/sh", "-c", "trap '' TERM; exec sleep 100001"])
check("one shim serves the pod", 1, len(shims()))
check("running", [1, 1], [state(first).state, state(second).state])
answer = exec_sync(second, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
check("ExecSync", (b"out\n", b"err\n", 3), (answer.stdout, answer.stderr, answer.exit_code))
check("the containers share the pod's host name", b"skegpod\n", exec_sync(first, "/bin/hostname").stdout)
if ours == "yes":
    # With the Go shim this call never returns.
    begin = time.time()
    exec_sync(second, "/bin/sh", "-c", "sleep 300 & echo left")
    check("ExecSync with output that stays open ends within 3 s", True, time.time() - begin < 3)
begin = time.time()
try:
    exec_sync(second, "/bin/sleep", "30", timeout=1)
    check("ExecSync with a limit is cut off", True, False)
except grpc.RpcError as error:
    check("ExecSync with a limit is cut off", grpc.StatusCode.DEADLINE_EXCEEDED, error.code())
check("in about that time", True, time.time() - begin < 5)
check("logs reach the log file", True, "stdout F started" in open(work + "/pod-logs/first.log").read())


def stream(command, tty, data):
    request = api.ExecRequest(container_id=second, cmd=command, tty=tty, stdin=True, stdout=True, stderr=not tty)
    url = cri.Exec(request, timeout=LIMIT).url.replace("http://", "ws://")
    socket = websocket.create_connection(url, subprotocols=["v4.channel.k8s.io"], timeout=20)
    socket.send_binary(b"\0" + data)
    output, result = {1: b"", 2: b""}, None
    while True:
        try:
            message = socket.recv()
        except websocket.WebSocketConnectionClosedException:
            break
        if not message:
            break
        if message[0] == 3:
            result = json.loads(message[1:])
        else:
            output[message[0]] += message[1:]
    return output, result


output, result = stream(["/bin/sh", "-c", "read x; echo got $x; echo bad >&2; exit 6"], False, b"hello\n")
check("Exec streams", (b"got hello\n", b"bad\n"), (output[1], output[2]))
check("Exec tells the exit code", "6", (result or {}).get("details", {}).get("causes", [{}])[0].get("message"))
output, _ = stream(["/bin/sh", "-c", "read x; test -t 0 && echo tty $x"], True, b"there\n")
check("Exec with a terminal", True, b"tty there" in output[1])

stats = cri.ContainerStats(api.ContainerRequest(container_id=first), timeout=LIMIT).stats
check("stats: cpu time", True, stats.cpu.usage_core_nano_seconds.value > 0)
check("stats: memory", True, stats.memory.working_set_bytes.value > 0)
resources = api.LinuxContainerResources(memory_limit_in_bytes=32 << 20, cpu_shares=512)
cri.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=second, linux=resources), timeout=LIMIT)
check("the new memory limit is in the cgroup", str(32 << 20), cgroup_file(pid_of("100001"), "memory", "memory.limit_in_bytes"))

begin = time.time()
cri.StopContainer(api.StopContainerRequest(container_id=first, timeout=10), timeout=LIMIT)
check("a stop lets the container end by itself", 5, state(first).exit_code)
check("without waiting for the whole grace", True, time.time() - begin < 5)
begin = time.time()
cri.StopContainer(api.StopContainerRequest(container_id=second, timeout=1), timeout=LIMIT)
check("a stop kills after the grace", (137, True), (state(second).exit_code, time.time() - begin < 6))
out_of_memory = container("oom", ["/bin/sh", "-c", "exec sort /dev/zero"])
for _ in range(100):
    if state(out_of_memory).state == 2:
        break
    time.sleep(0.1)
check("out of memory is told", "OOMKilled", state(out_of_memory).reason)
for one in (first, second, out_of_memory):
    cri.RemoveContainer(api.ContainerRequest(container_id=one), timeout=LIMIT)
cri.StopPodSandbox(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)
cri.RemovePodSandbox(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)
time.sleep(0.5)
check("no shim is left", [], shims())
sys.exit(1 if failed else 0)
