#!/usr/bin/env python3
"""A CRI client against a containerd that cri.sh has started: a pod of three containers, from RunPodSandbox to
RemovePodSandbox. Arguments: those of cri_client.py."""

import json
import os
import sys
import time

from cri_client import LIMIT, PATIENCE, address, api, check, container, cri, exec_sync, failed, ours, pod_status, remove_pod, run_pod, shims, state, work
import grpc
import websocket


def memory_limit(pid):
    """What the cgroup of a process has: of the hierarchy of v1, or of the only one of v2."""
    paths = dict(line.rstrip("\n").split(":", 2)[1:] for line in open(f"/proc/{pid}/cgroup"))
    if "memory" in paths:
        return open(f"/sys/fs/cgroup/memory{paths['memory']}/memory.limit_in_bytes").read().strip()
    return open(f"/sys/fs/cgroup{paths['']}/memory.max").read().strip()


def pid_of(marker):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
        except OSError:
            continue
        if marker.encode() in words and not any(word.startswith(b"-") and word == b"-x" for word in words):
            return int(pid)


pod = run_pod()
status = pod_status(pod)
check("the pod is ready", 0, status.state)
check("the pod has an address of the CNI network", True, status.network.ip.startswith("10.88.77."))
first = container(pod, "first", ["/bin/sh", "-c", "trap 'exit 5' TERM; echo started; while :; do sleep 0.1; done"])
second = container(pod, "second", ["/bin/sh", "-c", "trap '' TERM; exec sleep 100001"])
third = container(pod, "third", ["/bin/sleep", "100002"])
check("one shim serves the pod of three", 1, len(shims()))
check("running", [1, 1, 1], [state(one).state for one in (first, second, third)])
answer = exec_sync(second, "/bin/sh", "-c", "echo out; echo err >&2; exit 3")
check("ExecSync", (b"out\n", b"err\n", 3), (answer.stdout, answer.stderr, answer.exit_code))
check("the containers share the pod's host name", b"skegpod\n", exec_sync(first, "/bin/hostname").stdout)
check("and its resolver", b"search skeg.test\nnameserver 10.88.77.53\n", exec_sync(third, "/bin/cat", "/etc/resolv.conf").stdout)
check("and its files", 2, exec_sync(second, "/bin/ls", "/etc/hostname", "/etc/hosts").stdout.count(b"/etc/host"))
if ours == "yes":
    # With the Go shim this call never returns.
    begin = time.time()
    exec_sync(second, "/bin/sh", "-c", f"sleep {300 * PATIENCE} & echo left")
    check("i8 ExecSync ends although its output stays open", True, time.time() - begin < 60 * PATIENCE)
begin = time.time()
try:
    exec_sync(second, "/bin/sleep", str(30 * PATIENCE), timeout=1)
    check("ExecSync with a limit is cut off", True, False)
except grpc.RpcError as error:
    check("ExecSync with a limit is cut off", grpc.StatusCode.DEADLINE_EXCEEDED, error.code())
check("long before the command would end", True, time.time() - begin < 20 * PATIENCE)
check("logs reach the log file", True, "stdout F started" in open(work + "/pod-logs/first.log").read())


def stream(command, tty, data, size=None):
    request = api.ExecRequest(container_id=second, cmd=command, tty=tty, stdin=True, stdout=True, stderr=not tty)
    url = cri.Exec(request, timeout=LIMIT).url.replace("http://", "ws://")
    socket = websocket.create_connection(url, subprotocols=["v4.channel.k8s.io"], timeout=20 * PATIENCE)
    if size:
        socket.send_binary(b"\4" + json.dumps({"Width": size[0], "Height": size[1]}).encode())
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
# The size comes when it comes.
sized = f"read x; n=0; until stty size | grep -q '37 101' || [ $n = {80 * PATIENCE} ]; do n=$((n + 1)); sleep 0.2; done; stty size"
output, _ = stream(["/bin/sh", "-c", sized], True, b"\n", (101, 37))
check("Exec with a terminal of another size", True, b"37 101" in output[1])



def container_stats():
    for _ in range(20):
        try:
            return cri.ContainerStats(api.ContainerRequest(container_id=first), timeout=LIMIT).stats
        except grpc.RpcError as error:
            # With the Go shim containerd 2 may have no metrics at first.
            if ours == "yes" or "unexpected metrics response" not in error.details():
                raise
            time.sleep(0.5)
    raise SystemExit("no metrics")


stats = container_stats()
check("stats: cpu time", True, stats.cpu.usage_core_nano_seconds.value > 0)
check("stats: memory", True, stats.memory.working_set_bytes.value > 0)
resources = api.LinuxContainerResources(memory_limit_in_bytes=32 << 20, cpu_shares=512)
cri.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=second, linux=resources), timeout=LIMIT)
check("the new memory limit is in the cgroup", str(32 << 20), memory_limit(pid_of("100001")))

begin = time.time()
cri.StopContainer(api.StopContainerRequest(container_id=first, timeout=50 * PATIENCE), timeout=LIMIT)
check("a stop lets the container end by itself", 5, state(first).exit_code)
check("without waiting for the whole grace", True, time.time() - begin < 50 * PATIENCE)
begin = time.time()
cri.StopContainer(api.StopContainerRequest(container_id=second, timeout=1), timeout=LIMIT)
check("a stop kills after the grace", (137, True), (state(second).exit_code, time.time() - begin < 50 * PATIENCE))
out_of_memory = container(pod, "oom", ["/bin/sh", "-c", "exec sort /dev/zero"])
for _ in range(300 * PATIENCE):
    if state(out_of_memory).state == 2:
        break
    time.sleep(0.1)
check("out of memory is told", "OOMKilled", state(out_of_memory).reason)
for one in (first, second, third, out_of_memory):
    cri.RemoveContainer(api.ContainerRequest(container_id=one), timeout=LIMIT)
remove_pod(pod)
time.sleep(0.5)
check("no shim is left", [], shims())
sys.exit(1 if failed else 0)
