# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# containerd and its Go shim, by ctr.

CTR_IMAGE=localhost/engines/base:latest
export CTR_IMAGE

c() {
    ctr -a "$ENGINES_ROOT/containerd.sock" "$@"
}
# ctr run with the runtime of the step.
cr() {
    c run --runc-binary "$RUNTIME" "$@"
}

containerd_setup() {
    mkdir -p "$ENGINES_ROOT/containerd"
    cat >"$ENGINES_ROOT/containerd.toml" <<CONF
version = 2
root = "$ENGINES_ROOT/containerd/root"
state = "$ENGINES_ROOT/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "$ENGINES_ROOT/containerd.sock"
CONF
    clean_with containerd_clean
    containerd -c "$ENGINES_ROOT/containerd.toml" >"$ENGINES_ROOT/containerd.log" 2>&1 &
    CONTAINERD=$!
    eventually c version
    c image import "$IMAGE_ARCHIVE" >/dev/null
}

# All tasks and containers: only the step's own are left by the other runtime.
containerd_clean() {
    c task ls -q | xargs -r -n 1 ctr -a "$ENGINES_ROOT/containerd.sock" task rm -f
    c container ls -q | xargs -r ctr -a "$ENGINES_ROOT/containerd.sock" container rm
}

# Ends a task that runs, and the container.
containerd_remove() {
    c task kill -s KILL "$1" 2>/dev/null
    eventually c task rm "$1"
    c container rm "$1"
}

containerd_run() { cr --rm $CTR_IMAGE "$LABEL-run" sh -c 'echo out; echo err >&2; exit 3'; }
# Not to the end of the input: ctr 1.6 does not hand that on.
containerd_stdin() { printf 'one\ntwo\n' | cr --rm $CTR_IMAGE "$LABEL-in" head -n 2; }
containerd_tty() { on_terminal ctr -a "$ENGINES_ROOT/containerd.sock" run --runc-binary "$RUNTIME" --rm -t $CTR_IMAGE "$LABEL-tty" sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 4'; }
containerd_detached() {
    local id=$LABEL-d
    cr -d --log-uri "file://$ENGINES_ROOT/$id.log" --pid-file "$ENGINES_ROOT/$id.pid" $CTR_IMAGE "$id" sh -c 'trap "echo term; exit 7" TERM; echo started; while :; do sleep 0.1; done'
    eventually grep -q started "$ENGINES_ROOT/$id.log"
    [ "$(cat "$ENGINES_ROOT/$id.pid")" -gt 1 ] && echo pid file
    c task ls | awk -v id="$id" '$1 == id { print $3 }'
    c task exec --exec-id e1 "$id" sh -c 'echo in exec; echo err >&2; exit 5'; echo "exec: $?"
    c task exec --exec-id e2 --user 1000:2000 --cwd /tmp "$id" sh -c 'id; pwd'; echo "exec: $?"
    printf 'x\ny\n' | c task exec --exec-id e3 "$id" cat
    on_terminal ctr -a "$ENGINES_ROOT/containerd.sock" task exec --exec-id e4 -t "$id" sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 6'; echo "exec: $?"
    c task exec --exec-id e5 "$id" nosuch 2>&1 | grep -o 'executable file not found in $PATH'
    c task exec --exec-id e6 "$id" true; echo "after a failure: $?"
    c task exec -d --exec-id e7 "$id" sleep 1000
    c task ps "$id" | wc -l
    c task kill --exec-id e7 -s KILL "$id"
    c task kill -s TERM "$id"
    eventually bash -c "c task ls | grep $id | grep -q STOPPED"
    c task rm "$id"; echo "rm: $?"
    c container rm "$id"
    cat "$ENGINES_ROOT/$id.log"
}
containerd_pause() {
    local id=$LABEL-p
    cr -d --null-io $CTR_IMAGE "$id" sleep 1000
    c task pause "$id"
    c task ls | awk -v id="$id" '$1 == id { print $3 }'
    c task exec --exec-id e "$id" true 2>/dev/null; echo "exec: $?"
    c task resume "$id"
    c task ls | awk -v id="$id" '$1 == id { print $3 }'
    c task exec --exec-id e "$id" echo awake
    containerd_remove "$id"
}
containerd_kill_all() {
    local id=$LABEL-ka
    cr -d --null-io $CTR_IMAGE "$id" sh -c 'sleep 1000 & sleep 1000'
    c task kill -a -s KILL "$id"; echo "kill: $?"
    eventually bash -c "c task ls | grep $id | grep -q STOPPED"
    c task rm "$id" 2>&1
    c container rm "$id"
    cr -d --null-io $CTR_IMAGE "$id" sleep 1000
    c task rm -f "$id"; echo "rm -f: $?"
    c container rm "$id"
}
containerd_metrics() {
    local id=$LABEL-m
    cr -d --null-io --memory-limit 33554432 $CTR_IMAGE "$id" sleep 1000
    # The very first reading may have nothing, whatever the runtime.
    eventually bash -c "c task metrics --format json $id >$STEP.metrics"
    python3 -c 'import json, sys
metrics = json.load(sys.stdin)
print(sorted(metrics), metrics["memory"]["usage"]["limit"], metrics["pids"]["current"], metrics["cpu"]["usage"]["total"] > 0)' <"$STEP.metrics"
    containerd_remove "$id"
}
# In a process that takes ctr with it when it is killed, and into a file that only it writes to.
watch_events() {
    exec ctr -a "$ENGINES_ROOT/containerd.sock" events >"$STEP.events"
}
# Whether it is told of what happens by now.
watch_hears() {
    c namespaces label default "heard=$RANDOM"
    grep -aq /namespaces/update "$STEP.events"
}
# The events of a container from its creation to its end, with one exec, in their order.
containerd_events() {
    local id=$LABEL-ev watch
    watch_events & watch=$!
    eventually watch_hears
    cr -d --null-io $CTR_IMAGE "$id" sleep 1000
    c task exec --exec-id e "$id" true
    c task pause "$id"; c task resume "$id"
    containerd_remove "$id"
    eventually grep -aq " /tasks/delete .*\"container_id\":\"$id\",\"pid\"" "$STEP.events"
    kill $watch
    grep -aoE ' /tasks/[a-z-]+ ' "$STEP.events"
    grep -a ' /tasks/exit ' "$STEP.events" | grep -oE '"exit_status":[0-9]+'
}
# On cgroup v1 containerd's shim loses the event now and then, with either runtime.
containerd_oom() { cr --rm --memory-limit 16777216 $CTR_IMAGE "$LABEL-oom" dd if=/dev/zero of=/dev/null bs=128M count=1; }
containerd_limits() {
    cr --rm --memory-limit 33554432 --cpus 0.5 --mount type=bind,src=/sys/fs/cgroup,dst=/sys/fs/cgroup,options=rbind:ro $CTR_IMAGE "$LABEL-l" sh -c '
        at() { sed -n "s/^[0-9]*:$1:\///p" /proc/self/cgroup; }
        cat "/sys/fs/cgroup/memory/$(at memory)/memory.limit_in_bytes" "/sys/fs/cgroup/cpu/$(at cpu)/cpu.cfs_quota_us"'
    cr --rm --cgroup "/own-$LABEL/deep" $CTR_IMAGE "$LABEL-l" sed -n 's/.*:memory://p' /proc/self/cgroup
}
containerd_options() {
    cr --rm --read-only --mount "type=bind,src=$ENGINES_ROOT/rootfs/etc,dst=/mnt,options=rbind:ro" $CTR_IMAGE "$LABEL-o" sh -c 'touch /x; touch /mnt/x; cat /mnt/not-executable'
    cr --rm --env A=b --cwd /tmp $CTR_IMAGE "$LABEL-o" sh -c 'echo $A; pwd'
    cr --rm --seccomp $CTR_IMAGE "$LABEL-o" sh -c 'grep -E "Seccomp:|NoNewPrivs|Cap" /proc/self/status; unshare -U true; echo "unshare: $?"'
    cr --rm --allow-new-privs --cap-drop CAP_CHOWN --cap-add CAP_SYS_TIME $CTR_IMAGE "$LABEL-o" grep -E "NoNewPrivs|Cap" /proc/self/status
    cr --rm --privileged $CTR_IMAGE "$LABEL-o" sh -c 'grep -E "Seccomp:|Cap" /proc/self/status; mount -t tmpfs t /tmp && echo mounted'
    cr --rm --device /dev/zero $CTR_IMAGE "$LABEL-o" sh -c 'head -c 2 /dev/zero | wc -c'
    cr --rm --net-host $CTR_IMAGE "$LABEL-o" sh -c 'test -e /proc/net/dev && echo net'
    cr --rm --rootfs --env PATH=/bin "$ENGINES_ROOT/rootfs" "$LABEL-o" echo own rootfs
}
containerd_no_pivot() { cr --rm --no-pivot $CTR_IMAGE "$LABEL-np" echo without pivot_root; }
containerd_userns() {
    cr --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 $CTR_IMAGE "$LABEL-u" sh -c 'id -u; cat /proc/self/uid_map; touch /tmp/x; stat -c %u /tmp/x; stat -c %u /bin/busybox'
}
containerd_with_ns() {
    local id=$LABEL-w pid
    cr -d --null-io --pid-file "$ENGINES_ROOT/$id.pid" $CTR_IMAGE "$id" sleep 1000
    pid=$(cat "$ENGINES_ROOT/$id.pid")
    cr --rm --with-ns "network:/proc/$pid/ns/net" --with-ns "ipc:/proc/$pid/ns/ipc" --with-ns "pid:/proc/$pid/ns/pid" $CTR_IMAGE "$id-2" ps -o args | sed -n 2p
    containerd_remove "$id"
}
containerd_missing() { cr --rm $CTR_IMAGE "$LABEL-x" nosuch 2>&1 | grep -o 'executable file not found in $PATH'; return "${PIPESTATUS[0]}"; }
containerd_not_executable() { cr --rm $CTR_IMAGE "$LABEL-x" /etc/not-executable 2>&1 | grep -o 'permission denied'; return "${PIPESTATUS[0]}"; }
containerd_checkpoint() {
    local id=$LABEL-cp
    cr -d --null-io $CTR_IMAGE "$id" sleep 1000
    c task checkpoint "$id" >"$STEP.checkpoint" 2>&1; echo "checkpoint: $?"
    if [ "$LABEL" = skeg ] && ! grep -q 'checkpoint is not supported' "$STEP.checkpoint"; then cat "$STEP.checkpoint"; fi
    c task ls | awk -v id="$id" '$1 == id { print $3 }'
    containerd_remove "$id"
}
# The shim goes on when containerd is started anew.
containerd_left() {
    c task ls -q; c container ls -q
    eventually gone containerd-shim-runc-v2
    ls "/run/containerd/runc/default" 2>/dev/null
    find /sys/fs/cgroup -name "$LABEL-*" | grep -c . | sed 's/^/cgroups: /'
}

containerd_steps() {
    containerd_setup
    step 'ctr run: output and exit status' 3 containerd_run
    step 'ctr run: standard input' 0 containerd_stdin
    step 'ctr run -t: terminal' 4 containerd_tty
    step 'ctr run -d, task exec, ps, kill, rm, log' 0 containerd_detached
    step 'ctr task pause, resume' 0 containerd_pause
    step 'ctr task kill -a, rm -f' 0 containerd_kill_all
    step 'ctr task metrics' 0 containerd_metrics
    step 'ctr events' 0 containerd_events
    step 'ctr run: out of memory' 137 containerd_oom
    step 'ctr run: limits and cgroup path' 0 containerd_limits
    step 'ctr run: options' 0 containerd_options
    step 'ctr run --no-pivot' 0 containerd_no_pivot
    step 'ctr run --uidmap' 0 containerd_userns
    step 'ctr run --with-ns' 0 containerd_with_ns
    step 'ctr run: a missing command' 1 containerd_missing
    step 'ctr run: not executable' 1 containerd_not_executable
    step 'ctr task checkpoint says that it is not supported' 0 containerd_checkpoint
    step 'containerd: nothing is left' 0 containerd_left
    wall_time containerd
    kill "$CONTAINERD"
    wait "$CONTAINERD" || true
}
