# shellcheck shell=bash disable=SC2016,SC2086 # what stands in single quotes is for the shell in the container
# Docker Engine: one daemon with skeg as its default runtime, one with runc, both with their own containerd.

DOCKER_IMAGE=localhost/engines/base
export DOCKER_IMAGE

# shellcheck disable=SC2153 # LABEL is what lib.sh gives to a step
# docker with the daemon of the step.
d() {
    docker -H "unix://$ENGINES_ROOT/docker-$LABEL.sock" "$@"
}

# docker_start_daemon LABEL RUNTIME SUBNET file|flags|type: a daemon that has the runtime as its default, by configuration file or by
# flags; or, by file, the type of a shim.
docker_start_daemon() {
    local label=$1 runtime=$2 subnet=$3 root=$ENGINES_ROOT/docker-$1 in_file='' flags=()
    case $4 in
        file) in_file="\"path\": \"$runtime\"" ;;
        type) in_file="\"runtimeType\": \"$runtime\"" ;;
        flags) flags=(--add-runtime "$label-under-test=$runtime" --default-runtime "$label-under-test") ;;
    esac
    [ -z "$in_file" ] || in_file="\"runtimes\": { \"$label-under-test\": { $in_file } }, \"default-runtime\": \"$label-under-test\","
    ip link add "br-$label" type bridge
    ip address add "$subnet.1/24" dev "br-$label"
    ip link set "br-$label" up
    mkdir -p "$root"
    cat >"$root/daemon.json" <<CONF
{
    $in_file
    "data-root": "$root/data", "exec-root": "$root/exec", "pidfile": "$root/pid",
    "hosts": ["unix://$ENGINES_ROOT/docker-$label.sock"], "group": "root",
    "bridge": "br-$label", "iptables": false, "ip-masq": false, "storage-driver": "overlay2",
    "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "/docker-$label"
}
CONF
    dockerd --config-file "$root/daemon.json" "${flags[@]}" >"$root/log" 2>&1 &
    DOCKERDS="$DOCKERDS $!"
}

# Waits for both daemons and gives each the image; a first container brings into memory what all need.
docker_ready() {
    local label
    for label in skeg runc; do
        LABEL=$label eventually d version || { tail -n 5 "$ENGINES_ROOT/docker-$label/log"; return 1; }
        LABEL=$label d load -q -i "$IMAGE_ARCHIVE" >/dev/null
        LABEL=$label d run --rm $DOCKER_IMAGE true
    done
}

# All containers and volumes of the step's daemon.
docker_clean() {
    d ps -aq | xargs -r docker -H "unix://$ENGINES_ROOT/docker-$LABEL.sock" rm -f
    d volume prune -f
}

docker_setup() {
    DOCKERDS=""
    clean_with docker_clean
    docker_start_daemon skeg "$RUNTIME_UNDER_TEST" 10.231.1 "$1"
    docker_start_daemon runc "$REFERENCE" 10.231.2 "$1"
    docker_ready
}

# What docker says of a failed start: its class, not the words of the runtime around it. Of a directory runc 1.1 says
# that permission is denied.
docker_class() {
    grep -oE 'executable file not found in \$PATH|no such file or directory|permission denied|is a directory' "$1" | tail -n 1 |
        sed 's/is a directory/permission denied/'
}

docker_info() { d info --format '{{.DefaultRuntime}} {{.CgroupDriver}} {{.CgroupVersion}}' | sed "s/$LABEL-under-test/default/"; }
docker_run() { d run --rm $DOCKER_IMAGE sh -c 'echo out; echo err >&2; exit 3'; }
docker_runtime() { d run --rm --runtime "$LABEL-under-test" $DOCKER_IMAGE echo by name; }
docker_stdin() { printf 'one\ntwo\n' | d run --rm -i $DOCKER_IMAGE cat; }
docker_tty() { on_terminal docker -H "unix://$ENGINES_ROOT/docker-$LABEL.sock" run --rm -it $DOCKER_IMAGE sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 4'; }
docker_detached() {
    local name=$LABEL-d
    d run -d --name "$name" $DOCKER_IMAGE sh -c 'trap "echo term; exit 7" TERM; echo err >&2; echo started; while :; do sleep 0.1; done' >/dev/null
    eventually bash -c "d logs $name 2>&1 | grep -q started"
    d inspect --format '{{.State.Status}} {{.HostConfig.Runtime}}' "$name" | sed "s/$LABEL-under-test/default/"
    d exec "$name" sh -c 'echo in exec; echo err >&2; exit 5'; echo "exec: $?"
    d exec -u 1000:2000 -w /tmp -e X=y "$name" sh -c 'id; pwd; echo $X'; echo "exec: $?"
    printf 'x\ny\n' | d exec -i "$name" cat
    on_terminal docker -H "unix://$ENGINES_ROOT/docker-$LABEL.sock" exec -it "$name" sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 6'; echo "exec: $?"
    d exec "$name" nosuch >/dev/null 2>&1; echo "missing: $?"
    d exec "$name" /etc/not-executable >/dev/null 2>&1; echo "not executable: $?"
    d exec -w /nosuch "$name" true >/dev/null 2>&1; echo "no directory: $?"
    d exec -d "$name" sh -c 'echo done >/tmp/d'; eventually d exec "$name" test -f /tmp/d
    d top "$name" -o pid,args | sed 's/^ *[0-9]* *//' | grep -v sleep
    d stop -t 10 "$name"
    d inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$name"
    d start "$name"
    eventually bash -c "d logs $name 2>&1 | grep -c started | grep -q 2"
    d restart -t 10 "$name"
    eventually bash -c "d logs $name 2>&1 | grep -c started | grep -q 3"
    d kill "$name"
    d wait "$name"
    d logs "$name" 2>/dev/null
    d rm "$name"
}
docker_pause() {
    local name=$LABEL-p
    d run -d --name "$name" $DOCKER_IMAGE sleep 1000 >/dev/null
    d pause "$name"
    d inspect --format '{{.State.Status}}' "$name"
    d exec "$name" true 2>/dev/null; echo "exec: $?"
    d unpause "$name"
    d exec "$name" echo awake
    d rm -f "$name"
}
docker_stats() {
    local name=$LABEL-s
    d run -d --name "$name" -m 64m --pids-limit 50 $DOCKER_IMAGE sleep 1000 >/dev/null
    d stats --no-stream --format '{{.Name}} {{.PIDs}} {{.MemUsage}}' "$name" | sed 's/ [0-9.]*[KM]iB / USAGE /'
    d rm -f "$name"
}
docker_limits() {
    d run --rm -m 64m --memory-swap 64m --memory-reservation 32m --cpus 0.5 --cpu-shares 300 --cpuset-cpus 0 --pids-limit 33 \
        -v /sys/fs/cgroup:/cg:ro $DOCKER_IMAGE sh -c '
            at() { sed -n "s/^[0-9]*:$1:\///p" /proc/self/cgroup; }
            for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares pids/pids.max cpuset/cpuset.cpus; do
                echo "$file $(cat "/cg/${file%/*}/$(at "${file%/*}")/${file#*/}")"
            done'
}
docker_update() {
    local name=$LABEL-u
    d run -d --name "$name" -m 64m --memory-swap 64m -v /sys/fs/cgroup:/cg:ro $DOCKER_IMAGE sleep 1000 >/dev/null
    d update -m 32m --memory-swap 48m --cpus 0.25 --pids-limit 44 "$name" >/dev/null; echo "update: $?"
    d exec "$name" sh -c 'at() { sed -n "s/^[0-9]*:$1:\///p" /proc/self/cgroup; }
        cat /cg/memory/$(at memory)/memory.limit_in_bytes /cg/cpu/$(at cpu)/cpu.cfs_quota_us /cg/pids/$(at pids)/pids.max'
    d rm -f "$name"
}
# On cgroup v1 containerd's shim loses the news now and then, with either runtime: asked for is what skeg's own shim tells.
docker_oom() {
    local name=$LABEL-oom
    d run --name "$name" -m 16m --memory-swap 16m $DOCKER_IMAGE dd if=/dev/zero of=/dev/null bs=64M count=1; echo "run: $?"
    if [ "$LABEL" = skeg ] && [ -n "${OWN_SHIM:-}" ]; then
        eventually bash -c "d inspect --format '{{.State.OOMKilled}}' $name | grep -q true" || echo not told
    fi
    d rm "$name"
}
docker_user() {
    d run --rm --user guest $DOCKER_IMAGE id
    d run --rm --user 1234:5678 --group-add 99 $DOCKER_IMAGE id
    d run --rm --user nosuch $DOCKER_IMAGE id >/dev/null 2>&1; echo "no user: $?"
}
docker_caps() {
    d run --rm $DOCKER_IMAGE grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status
    d run --rm --cap-drop all --cap-add net_bind_service $DOCKER_IMAGE grep Cap /proc/self/status
    d run --rm --user 1000 $DOCKER_IMAGE grep Cap /proc/self/status
}
# Which capabilities there are is the machine's matter, and runc fails where it lacks one that is asked for.
docker_privileged() {
    d run --rm --privileged $DOCKER_IMAGE sh -c 'grep -E "Seccomp:" /proc/self/status; mount -t tmpfs t /tmp && echo mounted; ls /dev/kmsg; test -w /proc/sys && echo writable'
    d run -d --name "$LABEL-priv" $DOCKER_IMAGE sleep 1000 >/dev/null
    [ "$(d exec --privileged "$LABEL-priv" grep CapEff /proc/self/status)" != "$(d exec "$LABEL-priv" grep CapEff /proc/self/status)" ] && echo more
    d rm -f "$LABEL-priv" >/dev/null
}
docker_security() {
    local profile=$ENGINES_ROOT/docker-profile.json
    d run --rm $DOCKER_IMAGE sh -c 'unshare -U true; echo $?; mount -t tmpfs t /tmp; echo $?'
    d run --rm --security-opt seccomp=unconfined $DOCKER_IMAGE sh -c 'grep Seccomp: /proc/self/status; unshare -U true; echo $?'
    d run --rm --security-opt no-new-privileges $DOCKER_IMAGE grep NoNewPrivs /proc/self/status
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}' >"$profile"
    d run --rm --security-opt "seccomp=$profile" $DOCKER_IMAGE mkdir /tmp/x; echo "mkdir: $?"
    d run --rm --security-opt systempaths=unconfined $DOCKER_IMAGE grep -c ' /proc/' /proc/mounts || true
}
docker_files() {
    local dir=$ENGINES_ROOT/docker-volume-$LABEL
    mkdir -p "$dir"; echo content >"$dir/file"
    d run --rm -v "$dir:/data" $DOCKER_IMAGE sh -c 'cat /data/file; echo new >/data/new'
    cat "$dir/new"
    d run --rm -v "$dir:/data:ro" $DOCKER_IMAGE touch /data/x
    d run --rm -v "$LABEL-vol:/home/guest" $DOCKER_IMAGE sh -c 'stat -c "%u %a" /home/guest; echo volume >/home/guest/f'
    d run --rm --volumes-from "$(d create -v "$LABEL-vol:/elsewhere" --name "$LABEL-from" $DOCKER_IMAGE)" $DOCKER_IMAGE cat /elsewhere/f
    d rm "$LABEL-from"
    d run --rm --tmpfs /scratch:size=1m,mode=1770 --shm-size 2m $DOCKER_IMAGE grep -E ' /scratch | /dev/shm ' /proc/mounts
    d run --rm --read-only --tmpfs /tmp $DOCKER_IMAGE sh -c 'touch /x; touch /tmp/x; echo $?'
    d run --rm --device /dev/zero:/dev/other:r $DOCKER_IMAGE sh -c 'head -c 3 /dev/other | wc -c; echo x >/dev/other; echo $?'
    d run --rm --ulimit nofile=100:200 --oom-score-adj 500 --sysctl net.ipv4.ip_forward=1 -h name $DOCKER_IMAGE \
        sh -c 'ulimit -n; ulimit -H -n; cat /proc/self/oom_score_adj /proc/sys/net/ipv4/ip_forward; hostname'
    d volume rm "$LABEL-vol"
    rm -r "$dir"
}
docker_namespaces() {
    local name=$LABEL-ns
    d run -d --name "$name" --ipc shareable $DOCKER_IMAGE sleep 1000 >/dev/null
    d run --rm --pid "container:$name" --network "container:$name" --ipc "container:$name" $DOCKER_IMAGE ps -o args | sed -n 2p
    d run --rm --pid host --network host --ipc host --uts host $DOCKER_IMAGE sh -c 'test $$ -gt 2 && echo host'
    d run --rm --cgroupns private $DOCKER_IMAGE cat /proc/self/cgroup
    d run --rm --network none $DOCKER_IMAGE ls /sys/class/net
    d rm -f "$name"
}
docker_init() { d run --rm --init $DOCKER_IMAGE sh -c 'ps -o args | sed -n 2,3p'; }
docker_healthcheck() {
    local name=$LABEL-h
    d run -d --name "$name" --health-cmd 'test -f /tmp/ok' --health-interval 300ms --health-retries 1 $DOCKER_IMAGE sleep 1000 >/dev/null
    eventually bash -c "d inspect --format '{{.State.Health.Status}}' $name | grep -qx unhealthy" && echo unhealthy
    d exec "$name" touch /tmp/ok
    eventually bash -c "d inspect --format '{{.State.Health.Status}}' $name | grep -qx healthy" && echo healthy
    d rm -f "$name"
}
docker_restart_policy() {
    local name=$LABEL-rp
    d run -d --name "$name" --restart on-failure:2 $DOCKER_IMAGE false >/dev/null
    eventually bash -c "d inspect --format '{{.RestartCount}} {{.State.Status}}' $name | grep -qx '2 exited'"
    d inspect --format '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' "$name"
    d rm "$name"
}
docker_build() {
    local dir=$ENGINES_ROOT/docker-build-$LABEL
    mkdir -p "$dir"; echo page >"$dir/index.html"
    cat >"$dir/Dockerfile" <<DOCKERFILE
FROM $DOCKER_IMAGE
COPY index.html /var/www/
RUN cat /var/www/index.html && echo made > /made && id && env | grep PATH
USER guest
WORKDIR /home/guest
RUN ["/bin/sh", "-c", "id -u; pwd; touch mine"]
ENV A=b
EXPOSE 5000
CMD ["httpd", "-f", "-p", "5000", "-h", "/var/www"]
DOCKERFILE
    DOCKER_BUILDKIT=0 d build --force-rm -t "built-$LABEL" "$dir" 2>&1 | grep -vE '^( --->|Removing|Sending|Success)'
    printf 'FROM %s\nRUN exit 42\n' "$DOCKER_IMAGE" >"$dir/Dockerfile"
    DOCKER_BUILDKIT=0 d build --force-rm "$dir" >/dev/null 2>&1; echo "build: $?"
    rm -r "$dir"
}
# BuildKit calls the runtime by itself.
docker_buildkit() {
    local dir=$ENGINES_ROOT/docker-buildkit-$LABEL
    mkdir -p "$dir"; echo page >"$dir/index.html"
    printf 'FROM %s\nCOPY index.html /var/www/\nRUN cat /var/www/index.html; id; pwd; echo made >/made\nUSER guest\nENV A=b\nRUN id -u; env | sort\n' \
        "$DOCKER_IMAGE" >"$dir/Dockerfile"
    DOCKER_BUILDKIT=1 d build --progress plain -t "kit-$LABEL" "$dir" 2>&1 | sed -nE 's/^#[0-9]+ ([0-9.]+ )(.*)/\2/p' | grep -vE '^(DONE|sha256|transferring|extracting)'
    d run --rm "kit-$LABEL" sh -c 'cat /made; id -u'
    printf 'FROM %s\nRUN exit 42\n' "$DOCKER_IMAGE" >"$dir/Dockerfile"
    DOCKER_BUILDKIT=1 d build --progress plain "$dir" 2>&1 | grep -o 'exit code: 42' | sort -u
    d rmi "kit-$LABEL" >/dev/null
    rm -r "$dir"
}
docker_port() {
    local name=$LABEL-web
    d run -d --name "$name" -p 5000:5000 "built-$LABEL" >/dev/null
    eventually busybox wget -q -O- http://127.0.0.1:5000/
    busybox wget -q -O- http://127.0.0.1:5000/ || return
    d port "$name"
    d rm -f "$name"
}
# A registry on loopback, which Docker asks without TLS.
docker_registry() {
    local remote=127.0.0.1:$REGISTRY/engines/web-$LABEL:v1
    d tag "built-$LABEL" "$remote"
    d push -q "$remote"; echo "push: $?"
    d rmi "$remote" "built-$LABEL" >/dev/null
    d run --rm --pull never "$remote" true 2>/dev/null; echo "before the pull: $?"
    d pull -q "$remote"; echo "pull: $?"
    d run --rm "$remote" sh -c 'cat /var/www/index.html /made; id -u; echo $A'
    d rmi "$remote" >/dev/null
    busybox wget -q -O- "http://127.0.0.1:$REGISTRY/v2/_catalog" | grep -c "web-$LABEL"
}
# The log is followed until the container ends, and read by its end and with times. Of what is written just before the end Docker
# 20.10 may show nothing to those who follow or are attached, whatever the runtime: the container ends when it has been seen.
docker_logs() {
    local name=$LABEL-log follower
    d run -d --name "$name" $DOCKER_IMAGE sh -c 'for i in 1 2 3; do echo line $i; done
        until test -e /go; do sleep 0.1; done; echo last >&2; until test -e /done; do sleep 0.1; done' >/dev/null
    d logs -f "$name" >"$STEP.followed" 2>&1 & follower=$!
    eventually grep -q 'line 3' "$STEP.followed"; d exec "$name" touch /go
    eventually grep -q last "$STEP.followed"; d exec "$name" touch /done
    wait $follower; echo "logs: $?"; cat "$STEP.followed"
    d logs --tail 2 "$name" 2>/dev/null
    d logs -t "$name" 2>/dev/null | grep -cE '^[0-9-]+T[0-9:.]+Z '
    eventually d rm "$name"
    d run --rm --log-driver none $DOCKER_IMAGE echo no log
}
# More than a pipe holds, in both directions at once.
docker_stream() {
    head -c 3000000 /dev/zero | tr '\0' x | d run --rm -i $DOCKER_IMAGE cat | wc -c
    d run --rm $DOCKER_IMAGE sh -c 'head -c 2000000 /dev/zero; head -c 1000000 /dev/zero >&2' 2>"$STEP.stream" | wc -c
    wc -c <"$STEP.stream"
}
# What docker makes of a container that is attached to with the command $2...: it goes on until it has been heard. Docker closes the
# output of a client whose input ends: it stays open.
docker_attached() {
    local name=$1 client
    shift
    rm -f "$STEP.keys"; mkfifo "$STEP.keys"
    exec 7<>"$STEP.keys"
    { d "$@" "$name" <&7 7<&- >"$STEP.attached"; echo "$1: $?"; } & client=$!
    echo typed >&7
    eventually grep -q 'got typed' "$STEP.attached"
    d exec "$name" touch /done
    wait $client
    cat "$STEP.attached"
    d wait "$name"
    d rm "$name"
}
docker_attach() {
    local name=$LABEL-at program='read x; echo "got $x"; until test -e /done; do sleep 0.1; done; exit'
    d run -d -i --name "$name" $DOCKER_IMAGE sh -c "$program 5" >/dev/null
    docker_attached "$name" attach
    d create -i --name "$name" $DOCKER_IMAGE sh -c "$program 6" >/dev/null
    docker_attached "$name" start -ai
}
docker_cp() {
    local name=$LABEL-cp1 dir=$ENGINES_ROOT/docker-cp-$LABEL
    mkdir -p "$dir"; echo from outside >"$dir/in"
    d run -d --name "$name" $DOCKER_IMAGE sleep 1000 >/dev/null
    d cp "$dir/in" "$name:/home/guest/in" 2>/dev/null
    d exec "$name" cat /home/guest/in
    d exec "$name" sh -c 'echo from inside >/out'
    d cp "$name:/out" "$dir/out" 2>/dev/null; cat "$dir/out"
    d diff "$name" | sort
    d commit -q "$name" "committed-$LABEL" >/dev/null
    d rm -f "$name"
    d run --rm "committed-$LABEL" cat /out
    d rmi "committed-$LABEL" >/dev/null
    rm -r "$dir"
}
docker_missing() { d run --rm $DOCKER_IMAGE nosuch 2>"$STEP.class"; local status=$?; docker_class "$STEP.class"; return $status; }
docker_missing_path() { d run --rm $DOCKER_IMAGE /no/such 2>"$STEP.class"; local status=$?; docker_class "$STEP.class"; return $status; }
docker_not_executable() { d run --rm $DOCKER_IMAGE /etc/not-executable 2>"$STEP.class"; local status=$?; docker_class "$STEP.class"; return $status; }
docker_directory() { d run --rm $DOCKER_IMAGE /etc 2>"$STEP.class"; local status=$?; docker_class "$STEP.class"; return $status; }
docker_bad_workdir() { d run --rm -w /etc/passwd $DOCKER_IMAGE true >/dev/null 2>&1; }
docker_bad_sysctl() { d run --rm --sysctl net.nosuch=1 $DOCKER_IMAGE true >/dev/null 2>&1; }
# What docker makes of the runtime's words for other mistakes: its exit status, and a hint that it adds.
docker_mistakes() {
    local dir=$ENGINES_ROOT/docker-mistakes-$LABEL option
    mkdir -p "$dir"; echo '{"defaultAction":"SCMP_ACT_NOSUCH"}' >"$dir/profile"
    for option in "-v $dir/profile:/tmp" "-v $dir:/etc/passwd" "-v $dir:/etc/passwd/below" "--mount type=bind,src=/no/such,dst=/x" '--device /dev/nosuch' \
        '--device /etc/passwd:/dev/x' '--cap-add nosuch' "--security-opt seccomp=$dir/profile" '--ulimit nofile=2000000000' '--ulimit nofile=20:10' \
        '--sysctl kernel.pid_max=1000' '--sysctl net.ipv4.ip_forward=word' '--user 4294967296' '--user nosuch' '-m 1m' '--cpuset-cpus 99' \
        '--oom-score-adj 2000' '--tmpfs /x:nosuch' '-w /etc/passwd/below' '--network container:nosuch' '--pid container:nosuch' '--entrypoint /etc/not-executable'; do
        d run --rm $option $DOCKER_IMAGE true 2>"$STEP.mistake"; echo "${option//$LABEL/NAME}: $?"
        grep -oE 'Are you trying to mount a directory onto a file' "$STEP.mistake"
    done
    rm -r "$dir"
}
docker_checkpoint() {
    local name=$LABEL-cp
    d run -d --name "$name" $DOCKER_IMAGE sleep 1000 >/dev/null
    d checkpoint create "$name" one >/dev/null 2>&1; echo "checkpoint fails: $(($? != 0))"
    d inspect --format '{{.State.Status}}' "$name"
    d rm -f "$name"
}
docker_rm_running() {
    d run -d --name "$LABEL-r" $DOCKER_IMAGE sleep 1000 >/dev/null
    d rm "$LABEL-r" >/dev/null 2>&1; echo "rm: $?"
    d rm -f "$LABEL-r"
    d run --name "$LABEL-r" -d $DOCKER_IMAGE sh -c 'sleep 1000 & sleep 1000' >/dev/null
    d rm -f "$LABEL-r"
}
# Shims end a little after their containers.
docker_left() {
    d ps -aq
    eventually gone "containerd-shim.*docker-$LABEL"
    find /sys/fs/cgroup -path "*/docker-$LABEL/*" -type d | grep -c . | sed 's/^/cgroups: /'
}

docker_steps() {
    docker_setup file
    step 'docker info: default runtime' 0 docker_info
    step 'docker run: output and exit status' 3 docker_run
    step 'docker run --runtime' 0 docker_runtime
    step 'docker run -i: standard input' 0 docker_stdin
    step 'docker run -it: terminal' 4 docker_tty
    step 'docker run -d, logs, exec, top, stop, start, restart, kill, wait, rm' 0 docker_detached
    step 'docker pause, unpause' 0 docker_pause
    step 'docker stats' 0 docker_stats
    step 'docker run: -m --cpus --pids-limit and others' 0 docker_limits
    step 'docker update' 0 docker_update
    step 'docker run: out of memory' 0 docker_oom
    step 'docker run --user' 0 docker_user
    step 'docker run --cap-add --cap-drop' 0 docker_caps
    if has_all_capabilities; then
        step 'docker run --privileged' 0 docker_privileged
    else
        step_alone 'docker run --privileged (runc cannot without all capabilities)' 0 docker_privileged \
            'Seccomp:	0' mounted /dev/kmsg writable more
    fi
    step 'docker run --security-opt' 0 docker_security
    step 'docker run: volumes, tmpfs, --read-only, devices, ulimits, sysctls' 0 docker_files
    step 'docker run: namespaces of another container, of the host' 0 docker_namespaces
    step 'docker run --init' 0 docker_init
    step 'docker run --health-cmd' 0 docker_healthcheck
    step 'docker run --restart' 0 docker_restart_policy
    step 'docker build' 0 docker_build
    step 'docker run -p: a page over loopback' 0 docker_port
    registry 5056
    step 'docker tag, push, rmi, pull, run of what was pulled' 0 docker_registry
    step 'docker logs -f, --tail, -t' 0 docker_logs
    step 'docker run: megabytes of input and output' 0 docker_stream
    step 'docker attach, start -ai' 0 docker_attach
    step 'docker cp, diff, commit' 0 docker_cp
    step 'docker run: a missing command is 127' 127 docker_missing
    step 'docker run: a missing path is 127' 127 docker_missing_path
    step 'docker run: not executable is 126' 126 docker_not_executable
    step 'docker run: a directory is 126' 126 docker_directory
    step 'docker run: working directory that is a file' 125 docker_bad_workdir
    step 'docker run: sysctl that does not exist' 127 docker_bad_sysctl
    step 'docker run: 22 other mistakes' 0 docker_mistakes
    step 'docker checkpoint says that it is not supported' 0 docker_checkpoint
    step 'docker rm of a running container' 0 docker_rm_running
    docker_end docker
}

# What is left, how long the steps of $1 took, and the end of the daemons.
docker_end() {
    step 'docker: nothing is left' 0 docker_left
    wall_time "$1"
    docker_stop_daemons
}
docker_stop_daemons() {
    # shellcheck disable=SC2086 # a list of numbers
    kill $DOCKERDS
    # shellcheck disable=SC2086
    wait $DOCKERDS || true
    # The next daemons begin anew.
    ip link delete br-skeg
    ip link delete br-runc
    umount "$ENGINES_ROOT"/docker-{skeg,runc}/exec/netns/default 2>/dev/null || true
    rm -rf --one-file-system "$ENGINES_ROOT"/docker-{skeg,runc}
}
