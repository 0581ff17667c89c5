#!/usr/bin/env python3
"""A pod whose containerd or whose shim is killed by cri.sh in between. Arguments: those of cri_client.py, then

make              makes a pod of one container and prints `pod POD CONTAINER SHIM`
restarted POD CONTAINER SHIM   after containerd was killed: the pod lives on
lost POD CONTAINER SHIM        after the shim was killed: the pod is told to be dead, and can be removed
remove POD CONTAINER SHIM      removes the pod"""

import os
import sys
import time

from cri_client import LIMIT, PATIENCE, api, check, container, cri, exec_sync, failed, pod_status, remove_pod, run_pod, shims, state


def is_ours(pid):
    try:
        return b"100003" in open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")
    except OSError:
        return False


def eventually(condition):
    for _ in range(200 * PATIENCE):
        if condition():
            return True
        time.sleep(0.05)
    return False


if sys.argv[6] == "make":
    pod = run_pod()
    made = container(pod, "lives", ["/bin/sleep", "100003"])
    print("pod", pod, made, *shims())
    sys.exit()
pod, one, shim = sys.argv[7:10]
if sys.argv[6] == "restarted":
    check("a pod outlives containerd", (0, 1), (pod_status(pod).state, state(one).state))
    check("with the same shim", [int(shim)], shims())
    check("ExecSync after the restart", b"again\n", exec_sync(one, "/bin/echo", "again").stdout)
elif sys.argv[6] == "remove":
    remove_pod(pod)
else:
    check("a pod whose shim is killed is told to be dead", True, eventually(lambda: pod_status(pod).state == 1))
    check("and so is its container", True, eventually(lambda: state(one).state == 2))
    check("whose processes are gone", [], [pid for pid in filter(str.isdigit, os.listdir("/proc")) if is_ours(pid)])
    remove_pod(pod)
    check("no shim is left", True, eventually(lambda: not shims()))
sys.exit(1 if failed else 0)
