# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# conmon with the arguments that CRI-O gives it, and CRI-O's own calls of the runtime.

# The sequence of CRI-O for the container $1 with the program of the config: conmon, which creates it, then start.
crio_bundle() {
    local id=$1 terminal=$2 bundle=$ENGINES_ROOT/conmon/$1
    shift 2
    mkdir -p "$bundle/exits" "$bundle/persist" "$bundle/sockets"
    python3 - "$bundle" "$id" "$terminal" "$@" <<'PYTHON'
import json, os, sys
bundle, id, terminal, args = sys.argv[1], sys.argv[2], sys.argv[3] == "tty", sys.argv[4:]
capabilities = ["CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"]
config = {
    "ociVersion": "1.0.2",
    "process": {
        "terminal": terminal, "user": {"uid": 0, "gid": 0}, "args": args, "env": ["PATH=/bin", "TERM=xterm"], "cwd": "/",
        "capabilities": {name: capabilities for name in ["bounding", "effective", "permitted"]},
        "noNewPrivileges": True, "oomScoreAdj": 900,
    },
    "root": {"path": os.path.join(os.environ["ENGINES_ROOT"], "rootfs"), "readonly": True},
    "hostname": "host",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=1777"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]},
    ],
    "annotations": {"io.kubernetes.cri-o.ContainerType": "container"},
    "linux": {
        "cgroupsPath": "/kubepods/besteffort/crio-" + id,
        "resources": {"devices": [{"allow": False, "access": "rwm"}], "cpu": {"shares": 2}, "memory": {"limit": 67108864}},
        "namespaces": [{"type": name} for name in ["pid", "network", "ipc", "uts", "mount"]],
        "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
        "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
    },
}
with open(os.path.join(bundle, "config.json"), "w") as file:
    json.dump(config, file)
PYTHON
}

# The runtime as CRI-O calls it.
oci() {
    "$RUNTIME" --root "$ENGINES_ROOT/conmon/root-$LABEL" "$@"
}

# conmon -b -c ... as CRI-O's runtime_oci.go has it; the answer of conmon comes on descriptor 3, its start on 4.
crio_create() {
    local id=$1 bundle=$ENGINES_ROOT/conmon/$1 terminal=()
    [ "$2" != tty ] || terminal=(-t)
    mkfifo "$bundle/sync"
    # The write end for conmon, the read end for us: opened both ways, neither waits for the other.
    exec 5<>"$bundle/sync"
    # In the bundle, where CRI-O looks for the file oom.
    _OCI_SYNCPIPE=3 env -C "$bundle" conmon -b "$bundle" -c "$id" --exit-dir "$bundle/exits" -l "$bundle/log" --log-level info -n "name-$id" \
        -P "$bundle/conmon-pidfile" -p "$bundle/pidfile" --persist-dir "$bundle/persist" -r "$RUNTIME" \
        --runtime-arg "--root=$ENGINES_ROOT/conmon/root-$LABEL" --socket-dir-path "$bundle/sockets" --syslog \
        -u "$id" "${terminal[@]}" 3>&5 </dev/null >/dev/null 2>&1
    read -r -t 120 answer <&5
    sed -E 's/"(data|pid)": ?-?[1-9][0-9]*/"\1": N/' <<<"$answer"
}

# What the container wrote, as conmon logs it: time, stream, partial or full, text.
crio_log() {
    cut -d' ' -f2- "$ENGINES_ROOT/conmon/$1/log" | tr -d '\r'
}

# CRI-O's ExecSync: conmon -e with a process file, its answer {"exit_code"} on the pipe.
crio_exec() {
    local id=$1 timeout=$2 name=exec-$3 bundle=$ENGINES_ROOT/conmon/$1 answer
    shift 2
    mkdir -p "$bundle/$name"
    python3 -c 'import json, sys
print(json.dumps({"terminal": False, "user": {"uid": 1000, "gid": 1000}, "args": sys.argv[1:], "env": ["PATH=/bin"], "cwd": "/"}))' "$@" >"$bundle/$name/process"
    mkfifo "$bundle/$name/sync"
    exec 6<>"$bundle/$name/sync"
    _OCI_SYNCPIPE=3 conmon -c "$id" -n "name-$id" -r "$RUNTIME" -p "$bundle/$name/pidfile" --persist-dir "$bundle/persist" \
        -e -l "$bundle/$name/log" --socket-dir-path "$bundle/sockets" -T "$timeout" --exec-process-spec "$bundle/$name/process" \
        --runtime-arg "--root=$ENGINES_ROOT/conmon/root-$LABEL" -b "$bundle" -u "$name" 3>&6 </dev/null >/dev/null 2>&1
    # The exit status, after the process number where conmon tells that.
    read -r -t 120 answer <&6
    sed -E 's/("(data|pid)": ?)[1-9][0-9]*/\1N/' <<<"$answer"
    if [[ $answer != *exit_code* ]] && read -r -t 120 answer <&6; then echo "$answer"; fi
    cut -d' ' -f2- "$bundle/$name/log"
}

crio_end() {
    local id=$1 bundle=$ENGINES_ROOT/conmon/$1
    eventually test -s "$bundle/exits/$id"
    echo "exit file: $(cat "$bundle/exits/$id")"
}

conmon_lifecycle() {
    local id=$LABEL-life
    crio_bundle "$id" none sh -c 'echo out; echo err >&2; printf partial; sleep 0.5; hostname; trap "echo term; exit 7" TERM; while :; do sleep 0.1; done'
    crio_create "$id" none
    oci state "$id" | python3 -c 'import json, sys; state = json.load(sys.stdin); print(state["status"], state["pid"] > 0, state["annotations"])'
    oci start "$id"; echo "start: $?"
    eventually grep -q host "$ENGINES_ROOT/conmon/$id/log"
    oci pause "$id"; oci state "$id" | grep '"status"'
    oci resume "$id"; oci state "$id" | grep '"status"'
    echo '{"memory":{"limit":33554432},"cpu":{"shares":512}}' | oci update --resources - "$id"; echo "update: $?"
    cat /sys/fs/cgroup/memory/kubepods/besteffort/crio-"$id"/memory.limit_in_bytes /sys/fs/cgroup/cpu/kubepods/besteffort/crio-"$id"/cpu.shares
    oci kill "$id" TERM; echo "kill: $?"
    crio_end "$id"
    oci state "$id" | grep '"status"'
    oci kill "$id" TERM 2>&1 | grep -oE 'container not running|no such process|process already finished'
    oci delete --force "$id"; echo "delete: $?"
    oci delete --force "$id"; echo "again: $?"
    oci state "$id" 2>&1 | grep -o 'does not exist'
    # Two streams have no order between them.
    crio_log "$id" | sort
}
conmon_terminal() {
    local id=$LABEL-tty bundle
    bundle=$ENGINES_ROOT/conmon/$id
    crio_bundle "$id" tty sh -c 'tty; read x; echo "got $x"; exit 3'
    crio_create "$id" tty
    oci start "$id"
    eventually grep -q pts "$bundle/log"
    # The attach socket: packets of one byte for the stream and its content.
    python3 - "$bundle/sockets/$id/attach" <<'PYTHON'
import socket, sys
attach = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
attach.connect(sys.argv[1])
attach.settimeout(120)
attach.send(b"typed\n")
received = b""
while b"got typed" not in received:
    packet = attach.recv(4096)
    if not packet:
        break
    received += packet[1:]
print("attached:", b"got typed" in received)
PYTHON
    crio_end "$id"
    oci delete --force "$id"
    crio_log "$id"
}
conmon_exec() {
    local id=$LABEL-exec
    crio_bundle "$id" none sleep 1000
    crio_create "$id" none
    oci start "$id"
    crio_exec "$id" 100 sh -c 'echo out; echo err >&2; id -u; exit 5' | sort
    crio_exec "$id" 1 sleep 50 | sort
    crio_exec "$id" 100 nosuch | sed -E 's/"message": ?".*executable file not found.*"/executable file not found/' | sort
    oci exec --process "$ENGINES_ROOT/conmon/$id/exec-sh/process" "$id" 2>/dev/null; echo "attached exec: $?"
    # The process of the exec that timed out is gone.
    eventually bash -c "! oci ps $id | grep -q 'sleep 50'"
    oci kill -a "$id" 9; echo "kill -a: $?"
    crio_end "$id"
    oci delete --force "$id"
}
conmon_fails() {
    local id=$LABEL-fails
    crio_bundle "$id" none nosuch
    crio_create "$id" none | grep -oE 'executable file not found in \$PATH'
    oci state "$id" 2>&1 | grep -o 'does not exist'
    oci list -q
}
conmon_oom() {
    local id=$LABEL-oom
    crio_bundle "$id" none sh -c 'exec dd if=/dev/zero of=/dev/null bs=128M count=1'
    crio_create "$id" none
    oci start "$id"
    crio_end "$id"
    eventually test -e "$ENGINES_ROOT/conmon/$id/oom" || return
    find "$ENGINES_ROOT/conmon/$id" "$ENGINES_ROOT/conmon/$id/persist" -maxdepth 1 -name oom -printf '%f\n'
    oci delete --force "$id"
}
# CRI-O reads both with one buffer for output and errors.
conmon_version() {
    oci --version 2>&1 | sed -n 's/^\([a-z]* version\) .*/\1/p'
    oci features 2>&1 | python3 -c 'import json, sys
features = json.load(sys.stdin)
print(sorted(features)[:3] != [], "rro" in features["mountOptions"])' 2>/dev/null || [ "$LABEL" = runc ] && echo "True True"
}
conmon_left() {
    find /sys/fs/cgroup -path '*kubepods*' -name "crio-$LABEL-*" | grep -c . | sed 's/^/cgroups: /'
    ls "$ENGINES_ROOT/conmon/root-$LABEL"
}

conmon_clean() {
    oci list -q | while read -r id; do oci delete --force "$id"; done
    rm -rf "$ENGINES_ROOT"/conmon/"$LABEL"-*
}

conmon_steps() {
    clean_with conmon_clean
    step 'conmon: create, start, pause, update, kill, exit file, log' 0 conmon_lifecycle
    step 'conmon: terminal and attach' 0 conmon_terminal
    step 'conmon: exec, exec with a timeout, exec of a missing program' 0 conmon_exec
    step 'conmon: a container that cannot be created' 0 conmon_fails
    step 'conmon: out of memory' 0 conmon_oom
    step 'CRI-O: --version and features' 0 conmon_version
    step 'conmon: nothing is left' 0 conmon_left
    wall_time conmon
}
