"""A client of containerd's CRI socket, for the scripts beside it, whose arguments it takes: the socket, the image, a directory for
logs and generated code, the proto directory, whether the shim is ours. `check` prints `ok` and `FAIL` lines."""

import os
import subprocess
import sys

address, image, work, protos, ours = sys.argv[1:6]
subprocess.run(
    [sys.executable, "-m", "grpc_tools.protoc", "-I", protos, "--python_out", work, "--grpc_python_out", work, "cri.proto"],
    check=True,
)
sys.path.insert(0, work)
import grpc
import cri_pb2 as api
import cri_pb2_grpc

cri = cri_pb2_grpc.RuntimeServiceStub(grpc.insecure_channel("unix://" + address))
PATIENCE = int(os.environ.get("PATIENCE") or 1)
LIMIT = 60 * PATIENCE
# With systemd's cgroups a pod's is a slice.
PARENT = "skegcri.slice" if os.environ.get("SYSTEMD") == "yes" else "/skeg-cri"
failed = []


def check(name, wanted, got):
    if wanted == got:
        print("ok  ", name, flush=True)
    else:
        failed.append(name)
        print(f"FAIL {name}: wanted [{wanted}], got [{got}]", flush=True)


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


pod_config = api.PodSandboxConfig(
    metadata=api.PodSandboxMetadata(name="pod", uid="uid-1", namespace="default", attempt=0),
    hostname="skegpod",
    log_directory=work + "/pod-logs",
    dns_config=api.DNSConfig(servers=["10.88.77.53"], searches=["skeg.test"]),
    linux=api.LinuxPodSandboxConfig(cgroup_parent=PARENT),
)
os.makedirs(work + "/pod-logs", exist_ok=True)


def run_pod():
    request = api.RunPodSandboxRequest(config=pod_config, runtime_handler="tested")
    return cri.RunPodSandbox(request, timeout=LIMIT).pod_sandbox_id


def pod_status(pod):
    return cri.PodSandboxStatus(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT).status


def remove_pod(pod):
    cri.StopPodSandbox(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)
    check("a stopped pod is not ready", 1, pod_status(pod).state)
    cri.RemovePodSandbox(api.PodSandboxRequest(pod_sandbox_id=pod), timeout=LIMIT)


def container(pod, name, command, **more):
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


def exec_sync(one, *words, timeout=10 * PATIENCE):
    return cri.ExecSync(api.ExecSyncRequest(container_id=one, cmd=words, timeout=timeout), timeout=LIMIT)
