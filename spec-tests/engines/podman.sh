# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# podman: each container command as a person types it.

IMAGE=localhost/engines/base

# podman with the runtime of the step. Without a network of its own where it is not asked for.
p() {
    podman --runtime "$RUNTIME" "$@"
}

# What podman itself says of an error: its text ends with the class that it found in the runtime's message.
classified() {
    local status=0
    p "$@" 2>"$ENGINES_ROOT/classified" || status=$?
    # The reason and what podman makes of it; what runtimes add to the reason differs.
    grep -oE 'OCI [A-Za-z ]+$|OCI runtime [a-z ]+|executable file not found in \$PATH|no such file or directory|permission denied' \
        "$ENGINES_ROOT/classified" >&2
    return "$status"
}

podman_setup() {
    mkdir -p "$ENGINES_ROOT"/{containers/containers.conf.d,podman/root,cni}
    cp "$(dirname "${BASH_SOURCE[0]}")/../../contrib/containers.conf.d/skeg.conf" "$ENGINES_ROOT/containers/containers.conf.d/"
    cat >"$ENGINES_ROOT/containers/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[containers]
log_driver = "k8s-file"
[network]
network_config_dir = "$ENGINES_ROOT/cni"
CONF
    cat >"$ENGINES_ROOT/containers/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$ENGINES_ROOT/podman/root"
runroot = "/run/containers/storage"
CONF
    clean_with podman_clean
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$ENGINES_ROOT/containers/policy.json"
    : >"$ENGINES_ROOT/containers/registries.conf"
    mkdir -p /etc/containers
    mount --bind "$ENGINES_ROOT/containers" /etc/containers
    podman --runtime "$REFERENCE" import -q --change 'CMD ["/bin/sh"]' --change 'ENV PATH=/bin' "$IMAGE_TAR" "$IMAGE" >/dev/null
}

export IMAGE

# All containers and pods of this runtime.
podman_clean() {
    p pod rm -fa -t 0
    p rm -fa -t 0
}

podman_run() { p run --rm --network none $IMAGE sh -c 'echo out; echo err >&2; exit 3'; }
podman_info() { p info --format '{{.Host.OCIRuntime.Name}}'; }
podman_version() { p info --format '{{.Host.OCIRuntime.Version}}' | sed -n 's/^spec: .*/spec/p'; }
podman_stdin() { printf 'one\ntwo\n' | p run --rm -i --network none $IMAGE cat; }
podman_tty() { on_terminal podman --runtime "$RUNTIME" run --rm -it --network none $IMAGE sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 4'; }
podman_env() { p run --rm --network none -e A=b --env C --hostname h $IMAGE sh -c 'env | sort; hostname'; }
podman_detached() {
    p run -d --name "$LABEL-d" --network none $IMAGE sh -c 'trap "echo term; exit 7" TERM; echo started; while :; do sleep 0.1; done' >/dev/null
    eventually bash -c "p logs $LABEL-d | grep -q started"
    p inspect --format '{{.State.Status}} {{.OCIRuntime}} {{.State.Pid}}' "$LABEL-d" | sed 's/ [1-9][0-9]*$/ N/'
    p exec "$LABEL-d" sh -c 'echo in exec; exit 5'; echo "exec: $?"
    p exec -u 1000:2000 -w /tmp -e X=y "$LABEL-d" sh -c 'id; pwd; echo $X'; echo "exec: $?"
    p top "$LABEL-d" args | grep -v sleep
    p stop -t 10 "$LABEL-d"
    p inspect --format '{{.State.Status}} {{.State.ExitCode}} {{.State.OOMKilled}}' "$LABEL-d"
    p logs "$LABEL-d"
    p rm "$LABEL-d"
}
podman_exec_tty() {
    p run -d --name "$LABEL-xt" --network none $IMAGE sleep 1000 >/dev/null
    on_terminal podman --runtime "$RUNTIME" exec -it "$LABEL-xt" sh -c 'tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 6'; echo "exec: $?"
    printf 'x\ny\n' | p exec -i "$LABEL-xt" cat
    p exec -d "$LABEL-xt" sh -c 'echo done >/tmp/d' >/dev/null
    eventually p exec "$LABEL-xt" test -f /tmp/d
    p exec --privileged "$LABEL-xt" grep Cap /proc/self/status
    p exec "$LABEL-xt" nosuch 2>/dev/null; echo "missing: $?"
    p exec "$LABEL-xt" /etc/not-executable 2>/dev/null; echo "not executable: $?"
    p exec "$LABEL-xt" /etc 2>/dev/null; echo "directory: $?"
    p exec --workdir /nosuch "$LABEL-xt" true 2>/dev/null; echo "no directory: $?"
    p exec --user nosuch "$LABEL-xt" true 2>/dev/null; echo "no user: $?"
    p rm -f -t 0 "$LABEL-xt"
}
podman_exec_missing() {
    p run -d --name "$LABEL-xm" --network none $IMAGE sleep 1000 >/dev/null
    classified exec "$LABEL-xm" nosuch; status=$?
    p rm -f -t 0 "$LABEL-xm" >/dev/null
    return $status
}
podman_kill() {
    p run -d --name "$LABEL-k" --network none $IMAGE sleep 1000 >/dev/null
    p kill "$LABEL-k"
    p wait "$LABEL-k"
    p run -d --name "$LABEL-k2" --network none $IMAGE sh -c 'trap "exit 9" USR1; echo ready; while :; do sleep 0.1; done' >/dev/null
    eventually bash -c "p logs $LABEL-k2 | grep -q ready"
    p kill -s USR1 "$LABEL-k2"
    p wait "$LABEL-k2"
    p start "$LABEL-k2" && eventually bash -c "p logs $LABEL-k2 | grep -c ready | grep -q 2" && p kill -s SIGUSR1 "$LABEL-k2" && p wait "$LABEL-k2"
    p rm "$LABEL-k" "$LABEL-k2" | sort
}
podman_create_start() {
    p create --name "$LABEL-c" --network none $IMAGE sh -c 'echo hello; exit 2'
    p ps -a --filter "name=$LABEL-c" --format '{{.State}}'
    p init "$LABEL-c"
    p ps -a --filter "name=$LABEL-c" --format '{{.State}}'
    p start -a "$LABEL-c"; echo "start: $?"
    p start -a "$LABEL-c"; echo "again: $?"
    p restart "$LABEL-c" >/dev/null
    p wait "$LABEL-c"
    p rm "$LABEL-c"
}
podman_pause() {
    p run -d --name "$LABEL-p" --network none $IMAGE sleep 1000 >/dev/null
    p pause "$LABEL-p"
    p inspect --format '{{.State.Status}}' "$LABEL-p"
    p exec "$LABEL-p" true 2>/dev/null; echo "exec: $?"
    p unpause "$LABEL-p"
    p exec "$LABEL-p" echo awake
    p rm -f -t 0 "$LABEL-p"
}
podman_limits() {
    p run --rm --network none -m 64m --memory-swap 64m --cpus 0.5 --cpu-shares 300 --pids-limit 33 --cpuset-cpus 0 --memory-reservation 32m --blkio-weight 0 \
        -v /sys/fs/cgroup:/sys/fs/cgroup:ro $IMAGE sh -c '
            at() { sed -n "s/^[0-9]*:$1:\///p" /proc/self/cgroup; }
            for file in memory/memory.limit_in_bytes memory/memory.soft_limit_in_bytes cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares pids/pids.max cpuset/cpuset.cpus; do
                echo "$file $(cat "/sys/fs/cgroup/${file%/*}/$(at "${file%/*}")/${file#*/}")"
            done'
}
podman_oom() {
    p run --name "$LABEL-oom" --network none -m 16m --memory-swap 16m $IMAGE sh -c 'dd if=/dev/zero of=/dev/null bs=64M count=1 2>/dev/null; echo "dd: $?"'; echo "run: $?"
    p run --name "$LABEL-oom2" --network none -m 16m --memory-swap 16m $IMAGE dd if=/dev/zero of=/dev/null bs=64M count=1; echo "run: $?"
    p inspect --format '{{.State.OOMKilled}}' "$LABEL-oom2"
    p rm "$LABEL-oom" "$LABEL-oom2" | sort
}
podman_pids() { p run --rm --network none --pids-limit 5 $IMAGE sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait' 2>&1 | tail -n 1; }
podman_user() {
    p run --rm --network none --user guest $IMAGE id
    p run --rm --network none --user 1234:5678 --group-add 99 $IMAGE id
    p run --rm --network none --user nosuch $IMAGE id 2>/dev/null; echo "no user: $?"
}
podman_caps() {
    p run --rm --network none $IMAGE grep Cap /proc/self/status
    p run --rm --network none --cap-drop all $IMAGE grep Cap /proc/self/status
    p run --rm --network none --cap-drop all --cap-add net_bind_service,chown $IMAGE grep Cap /proc/self/status
    p run --rm --network none --user 1000 --cap-add net_raw $IMAGE grep Cap /proc/self/status
    p run --rm --network none --cap-drop chown $IMAGE chown 1000 /tmp; echo "chown: $?"
}
podman_privileged() {
    p run --rm --network none --privileged $IMAGE sh -c 'grep -E "Cap|Seccomp:|NoNewPrivs" /proc/self/status; mount -t tmpfs t /tmp && echo mounted; ls /dev/null /dev/kmsg; grep -c . /proc/kcore >/dev/null 2>&1; test -w /proc/sys && echo writable'
}
podman_read_only() {
    p run --rm --network none --read-only $IMAGE sh -c 'touch /x; echo $?; touch /tmp/x; echo $?; touch /run/x; echo $?'
    p run --rm --network none --read-only --read-only-tmpfs=false $IMAGE sh -c 'touch /tmp/x; echo $?'
}
podman_volumes() {
    local dir=$ENGINES_ROOT/volume-$LABEL
    mkdir -p "$dir"; echo content >"$dir/file"
    p run --rm --network none -v "$dir:/data" $IMAGE sh -c 'cat /data/file; echo new >/data/new'
    cat "$dir/new"
    p run --rm --network none -v "$dir:/data:ro,noexec" $IMAGE sh -c 'touch /data/x; grep " /data " /proc/self/mountinfo | sed "s/.* - //; s/^/type /"; grep -o " /data [a-z,]* " /proc/self/mountinfo'
    p run --rm --network none -v "$LABEL-vol:/var/www" $IMAGE sh -c 'echo volume >/var/www/f'
    p run --rm --network none -v "$LABEL-vol:/elsewhere:z" $IMAGE cat /elsewhere/f
    p run --rm --network none --mount "type=bind,src=$dir/file,dst=/a/b/file,ro=true" $IMAGE sh -c 'cat /a/b/file; echo x >/a/b/file'
    p run --rm --network none -v "$dir/nosuch:/data" $IMAGE true 2>&1 | grep -o 'no such file or directory'
    p volume rm "$LABEL-vol"
    rm -r "$dir"
}
podman_tmpfs() {
    p run --rm --network none --tmpfs /scratch:size=1m,mode=1770,noexec $IMAGE sh -c 'stat -c "%a %U" /scratch; grep " /scratch " /proc/mounts'
    p run --rm --network none --tmpfs /etc:rw,tmpcopyup $IMAGE cat /etc/not-executable
    p run --rm --network none --shm-size 2m $IMAGE grep ' /dev/shm ' /proc/mounts
}
# Without what skeg makes stricter than runc: tmpfs and device node that cover masked paths, the directory of the v1
# hierarchies.
podman_mounts() {
    p run --rm --network none $IMAGE cat /proc/self/mountinfo | sed -E \
        -e 's/^[0-9]+ [0-9]+ [0-9]+:[0-9]+ //' \
        -e 's#^.*/(overlay-containers|userdata)/[^ ]* #SOURCE #' \
        -e 's/(lowerdir|upperdir|workdir)=[^, ]*/\1/g' \
        -e 's#^(.*) (/proc/keys|/proc/timer_list|/proc/acpi|/sys/firmware|/sys/dev/block|/sys/fs/cgroup) .*#\2 covered#' | sort
}
podman_dev() { p run --rm --network none $IMAGE sh -c 'cd /dev; ls -l | sed -E "s/ +[A-Z][a-z]{2} +[0-9]+ +[0-9:]+ / /"'; }
podman_device() {
    p run --rm --network none --device /dev/zero:/dev/other:r $IMAGE sh -c 'head -c 3 /dev/other | wc -c; echo x >/dev/other; echo $?'
    p run --rm --network none $IMAGE sh -c 'mknod /tmp/m c 1 1 && head -c 1 /tmp/m'; echo "mknod: $?"
}
podman_seccomp() {
    p run --rm --network none $IMAGE sh -c 'grep Seccomp: /proc/self/status; unshare -U true; echo $?'
    p run --rm --network none --security-opt seccomp=unconfined $IMAGE sh -c 'grep Seccomp: /proc/self/status; unshare -U true; echo $?'
    p run --rm --network none --security-opt no-new-privileges $IMAGE grep -E 'Seccomp:|NoNewPrivs' /proc/self/status
    local profile=$ENGINES_ROOT/profile-$LABEL.json
    echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}' >"$profile"
    p run --rm --network none --security-opt "seccomp=$profile" $IMAGE mkdir /tmp/x; echo "mkdir: $?"
    p run --rm --network none --security-opt unmask=all $IMAGE sh -c 'grep -c /proc/ /proc/mounts'
    p run --rm --network none --security-opt mask=/etc/passwd $IMAGE sh -c 'wc -c </etc/passwd'
}
podman_init() { p run --rm --network none --init --init-path /usr/bin/tini-static $IMAGE sh -c 'ps -o args | sed -n 2,3p'; }
podman_healthcheck() {
    p run -d --name "$LABEL-h" --network none --health-cmd 'test -f /tmp/ok' --health-retries 1 --health-interval disable $IMAGE sleep 1000 >/dev/null
    p healthcheck run "$LABEL-h"; echo "first: $?"
    p exec "$LABEL-h" touch /tmp/ok
    p healthcheck run "$LABEL-h"; echo "second: $?"
    p rm -f -t 0 "$LABEL-h"
}
podman_pod() {
    p pod create --infra-image $IMAGE --infra-command '/bin/sleep 1000' --name "$LABEL-pod" --network none --share net,ipc,uts,pid >/dev/null
    p run -d --pod "$LABEL-pod" --name "$LABEL-pod-a" $IMAGE sh -c 'echo from a | nc -l -p 7777; sleep 1000' >/dev/null
    p run --rm --pod "$LABEL-pod" --name "$LABEL-pod-b" $IMAGE sh -c 'until nc 127.0.0.1 7777 2>/dev/null; do sleep 0.1; done; until ps -o args | grep -x "[s]leep 1000"; do sleep 0.1; done; hostname' | sed "s/$LABEL/NAME/"
    p pod ps --filter "name=$LABEL-pod" --format '{{.Status}} {{.NumberOfContainers}}'
    p pod stop -t 1 "$LABEL-pod" >/dev/null 2>&1
    p pod ps --filter "name=$LABEL-pod" --format '{{.Status}}'
    p pod rm -f -t 0 "$LABEL-pod" >/dev/null
}
export KUBE_LIMITS='memory: 64Mi, cpu: 500m'
# What Kubernetes would say: two containers of a pod, limits, a volume of the host, an environment, and its end.
podman_play_kube() {
    local dir=$TMPDIR/kube-$LABEL
    mkdir -p "$dir/data"; echo from the host >"$dir/data/file"
    cat >"$dir/pod.yaml" <<YAML
apiVersion: v1
kind: Pod
metadata: {name: $LABEL-kube, labels: {app: web}}
spec:
  hostname: kube
  restartPolicy: Never
  securityContext: {runAsUser: 1000}
  volumes: [{name: data, hostPath: {path: $dir/data, type: Directory}}]
  containers:
  - name: server
    image: $IMAGE
    command: [sh, -c, 'id -u; hostname; cat /data/file; touch /data/x 2>/dev/null || echo read-only; echo page | nc -l -p 7778; echo "env \$A"; trap exit TERM; sleep 1000 & wait']
    env: [{name: A, value: b}]
    volumeMounts: [{name: data, mountPath: /data, readOnly: true}]
    resources: {limits: {$KUBE_LIMITS}}
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [all]}}
  - name: client
    image: $IMAGE
    command: [sh, -c, 'until nc 127.0.0.1 7778; do sleep 0.1; done; grep -E "NoNewPrivs|CapBnd" /proc/self/status']
YAML
    p play kube --network none "$dir/pod.yaml" >/dev/null
    p wait "$LABEL-kube-client"
    p logs "$LABEL-kube-client" 2>/dev/null | grep -v refused
    eventually bash -c "p logs $LABEL-kube-server | grep -q env"
    p logs "$LABEL-kube-server" 2>&1
    p inspect --format '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' "$LABEL-kube-server"
    p pod inspect --format '{{.State}}' "$LABEL-kube"
    p generate kube "$LABEL-kube" 2>/dev/null | grep -cE '^kind: Pod|name: server'
    p play kube --down "$dir/pod.yaml" >/dev/null 2>&1; echo "down: $?"
    p pod exists "$LABEL-kube"; echo "exists: $?"
    rm -r "$dir"
}
podman_logs() {
    local name=$LABEL-log follower
    p run -d --name "$name" --network none $IMAGE sh -c 'for i in 1 2 3; do echo line $i; done; until test -e /go; do sleep 0.1; done; echo last >&2; exit 3' >/dev/null
    p logs -f "$name" >"$STEP.followed" 2>&1 & follower=$!
    eventually grep -q 'line 3' "$STEP.followed"
    p exec "$name" touch /go
    wait $follower; echo "logs: $?"; cat "$STEP.followed"
    p wait "$name"
    p logs --tail 2 "$name" 2>/dev/null
    p logs -t "$name" 2>/dev/null | grep -cE '^[0-9-]+T[0-9:.]+[+Z]'
    p rm "$name" >/dev/null
}
# Someone who is told when a service is ready: systemd's place is taken by a socket.
listen_for_readiness() {
    exec python3 -c 'import socket, sys
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.bind(sys.argv[1])
told.settimeout(120)
while True:
    try:
        print(told.recv(4096).decode().strip(), flush=True)
    except OSError:
        break' "$1" >>"$2"
}
# conmon says that the container runs, or the program itself does; the host has a program that can.
podman_sdnotify() {
    local socket=$TMPDIR/notify-$LABEL listener
    : >"$STEP.told"
    listen_for_readiness "$socket" "$STEP.told" & listener=$!
    eventually test -S "$socket"
    chmod 0666 "$socket"
    NOTIFY_SOCKET=$socket p run -d --rm --name "$LABEL-sd" --sdnotify conmon --network none $IMAGE sh -c 'echo "socket: $NOTIFY_SOCKET"; sleep 1000' >/dev/null
    eventually grep -q READY=1 "$STEP.told"
    p logs "$LABEL-sd"
    p rm -f -t 0 "$LABEL-sd" >/dev/null
    sed 's/[1-9][0-9]*$/N/' "$STEP.told" | sort -u
    : >"$STEP.told"
    NOTIFY_SOCKET=$socket p run -d --name "$LABEL-sd2" --sdnotify container --network none -v /usr:/usr:ro -v /lib:/lib:ro -v /lib64:/lib64:ro $IMAGE \
        /usr/bin/python3 -c 'import os, socket, time
told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
told.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
print("told", flush=True)
time.sleep(100)' >/dev/null; echo "run: $?"
    eventually grep -q READY=1 "$STEP.told"
    eventually bash -c "p logs $LABEL-sd2 2>&1 | grep -q told"
    p logs "$LABEL-sd2" 2>&1
    sed 's/[1-9][0-9]*$/N/' "$STEP.told" | sort -u
    p rm -f -t 0 "$LABEL-sd2" >/dev/null
    kill $listener
    rm -f "$socket"
}
podman_restart_policy() {
    local name=$LABEL-rp
    p run -d --name "$name" --network none --restart on-failure:2 $IMAGE false >/dev/null
    eventually bash -c "p inspect --format '{{.RestartCount}} {{.State.Status}}' $name | grep -qx '2 exited'"
    p inspect --format '{{.RestartCount}} {{.State.Status}} {{.State.ExitCode}}' "$name"
    p rm "$name" >/dev/null
}
# REGISTRY is a port.
podman_registry() {
    local remote=127.0.0.1:$REGISTRY/engines/image-$LABEL:v1
    p tag $IMAGE "$remote"
    p push -q --tls-verify=false "$remote"; echo "push: $?"
    p rmi "$remote" >/dev/null
    p run --rm --pull never --network none "$remote" true 2>/dev/null; echo "before the pull: $?"
    p pull -q --tls-verify=false "$remote" >/dev/null; echo "pull: $?"
    p run --rm --network none "$remote" echo pulled
    p rmi "$remote" >/dev/null
}
podman_commit() {
    p run --name "$LABEL-cm" --network none $IMAGE sh -c 'echo made >/made'
    p diff "$LABEL-cm" | grep made
    p commit -q "$LABEL-cm" "localhost/committed-$LABEL" >/dev/null
    p rm "$LABEL-cm" >/dev/null
    p run --rm --network none "localhost/committed-$LABEL" cat /made
    p rmi "localhost/committed-$LABEL" >/dev/null
}
podman_namespaces() {
    p run -d --name "$LABEL-ns" --network none $IMAGE sleep 1000 >/dev/null
    p run --rm --pid "container:$LABEL-ns" --network "container:$LABEL-ns" --ipc "container:$LABEL-ns" $IMAGE ps -o pid,args | sed -n 2p
    p run --rm --pid host --network host --ipc host --uts host $IMAGE sh -c 'test $$ -gt 2 && echo host'
    p run --rm --network none --cgroupns private $IMAGE cat /proc/self/cgroup
    p rm -f -t 0 "$LABEL-ns"
}
podman_userns() {
    p run --rm --network none --uidmap 0:100000:5000 --gidmap 0:200000:5000 $IMAGE sh -c 'id; cat /proc/self/uid_map /proc/self/gid_map; touch /x && stat -c "%u %g" /x; ls -ld /proc/1 >/dev/null; grep Cap /proc/self/status'
    p run --rm --network none --userns auto:size=70000 $IMAGE true 2>/dev/null; echo "auto: $?"
}
podman_build() {
    local dir=$ENGINES_ROOT/build-$LABEL
    mkdir -p "$dir"; echo hello >"$dir/copied"
    cat >"$dir/Dockerfile" <<DOCKERFILE
FROM $IMAGE
COPY copied /copied
RUN cat /copied && echo made > /made && id && pwd
USER guest
WORKDIR /home/guest
RUN ["/bin/sh", "-c", "id -u; pwd; touch mine"]
ENV A=b
CMD ["sh", "-c", "cat /made; stat -c %U mine; echo \$A"]
DOCKERFILE
    p build -q=false --network none -t "localhost/engines/built-$LABEL" "$dir" 2>&1 | grep -vE 'COMMIT|Success|^-->'
    p run --rm --network none "localhost/engines/built-$LABEL"
    printf 'FROM %s\nRUN exit 42\n' "$IMAGE" >"$dir/Dockerfile"
    p build --network none "$dir" >/dev/null 2>&1; echo "build: $?"
    p rmi "localhost/engines/built-$LABEL" >/dev/null
    rm -r "$dir"
}
podman_bridge() {
    p run -d --name "$LABEL-web" -p 127.0.0.1:15000:5000 $IMAGE sh -c 'echo page >/var/www/index.html; httpd -f -p 5000 -h /var/www' >/dev/null
    eventually busybox wget -q -O- http://127.0.0.1:15000/
    busybox wget -q -O- http://127.0.0.1:15000/ || return
    p rm -f -t 0 "$LABEL-web"
}
podman_ulimit() { p run --rm --network none --ulimit nofile=100:200 --ulimit core=0 --ulimit nproc=500:500 --oom-score-adj 500 $IMAGE sh -c 'ulimit -n; ulimit -H -n; ulimit -c; cat /proc/self/oom_score_adj'; }
podman_sysctl() { p run --rm --network none --sysctl net.ipv4.ip_forward=1 --sysctl kernel.msgmax=1234 $IMAGE cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax; }
podman_update() {
    p run -d --name "$LABEL-u" --network none -m 64m -v /sys/fs/cgroup:/sys/fs/cgroup:ro $IMAGE sleep 1000 >/dev/null
    p update -m 32m --cpus 0.25 "$LABEL-u"; echo "update: $?"
    p exec "$LABEL-u" sh -c 'at() { sed -n "s/^[0-9]*:$1:\///p" /proc/self/cgroup; }; cat /sys/fs/cgroup/memory/$(at memory)/memory.limit_in_bytes /sys/fs/cgroup/cpu/$(at cpu)/cpu.cfs_quota_us'
    p rm -f -t 0 "$LABEL-u"
}
podman_preserve_fds() { p run --rm --network none --preserve-fds 1 $IMAGE sh -c 'cat <&3' 3<<<'from descriptor 3'; }
podman_no_cgroups() { p run --rm --network none --cgroups=disabled $IMAGE sh -c 'cut -d: -f3 /proc/self/cgroup | sort -u; echo without'; }
# As someone uses it who has not copied the drop-in: podman reads the reason from standard error then.
podman_bare() {
    local status
    export CONTAINERS_CONF=/etc/containers/containers.conf
    p run --rm --network none $IMAGE sh -c 'exit 3'; echo "run: $?"
    for command in nosuch /no/such /etc/not-executable /etc; do
        status=0
        p run --rm --network none $IMAGE $command 2>/dev/null || status=$?
        echo "$command: $status"
    done
}
podman_stats() {
    p run -d --name "$LABEL-s" --network none $IMAGE sleep 1000 >/dev/null
    p stats --no-stream --format '{{.PIDs}} {{.Name}}' "$LABEL-s"
    p rm -f -t 0 "$LABEL-s" >/dev/null
}
podman_checkpoint() {
    p run -d --name "$LABEL-cp" --network none $IMAGE sleep 1000 >/dev/null
    p container checkpoint "$LABEL-cp" >/dev/null 2>&1; echo "checkpoint fails: $(($? != 0))"
    p inspect --format '{{.State.Status}}' "$LABEL-cp"
    p rm -f -t 0 "$LABEL-cp"
}
podman_rm_running() {
    p run -d --name "$LABEL-r" --network none $IMAGE sleep 1000 >/dev/null
    p rm "$LABEL-r" >/dev/null 2>&1; echo "rm: $?"
    p rm -f -t 0 "$LABEL-r"
    p exec "$LABEL-r" true 2>&1
}
podman_missing() { classified run --rm --network none $IMAGE nosuch; }
podman_missing_path() { classified run --rm --network none $IMAGE /no/such; }
podman_not_executable() { classified run --rm --network none $IMAGE /etc/not-executable; }
podman_directory() { classified run --rm --network none $IMAGE /etc; }
podman_bad_workdir() { classified run --rm --network none --workdir /etc/passwd $IMAGE true; }
podman_bad_sysctl() { p run --rm --network none --sysctl net.nosuch=1 $IMAGE true 2>/dev/null; }
podman_oci_log() {
    # The message of a failed start as inspect has it.
    p create --name "$LABEL-e" --network none $IMAGE nosuch >/dev/null
    p start "$LABEL-e" 2>/dev/null; echo "start: $?"
    p inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$LABEL-e"
    p rm "$LABEL-e"
}
podman_left() {
    p ps -aq
    eventually gone "^$RUNTIME |^[^ ]*conmon "
}

podman_steps() {
    podman_setup
    step 'podman info: name of the runtime' 0 podman_info
    step 'podman info: version of the specification' 0 podman_version
    step 'podman run: output and exit status' 3 podman_run
    step 'podman run -i: standard input' 0 podman_stdin
    step 'podman run -it: terminal' 4 podman_tty
    step 'podman run: environment and hostname' 0 podman_env
    step 'podman run -d, ps, inspect, exec, top, stop, logs, rm' 0 podman_detached
    step 'podman logs -f, --tail, -t' 0 podman_logs
    step 'podman exec: terminal, stdin, detached, privileged, failures' 0 podman_exec_tty
    step 'podman exec: a missing command is 127' 127 podman_exec_missing
    step 'podman kill and wait' 0 podman_kill
    step 'podman create, init, start, restart' 0 podman_create_start
    step 'podman pause, unpause' 0 podman_pause
    step 'podman run: -m --cpus --pids-limit and others' 0 podman_limits
    step 'podman run: out of memory' 0 podman_oom
    step 'podman run --pids-limit holds' 0 podman_pids
    step 'podman run --user' 0 podman_user
    step 'podman run --cap-add --cap-drop' 0 podman_caps
    step 'podman run --privileged' 0 podman_privileged
    step 'podman run --read-only' 0 podman_read_only
    step 'podman run: volumes' 0 podman_volumes
    step 'podman run --tmpfs' 0 podman_tmpfs
    step 'podman run: mount table' 0 podman_mounts
    step 'podman run: /dev' 0 podman_dev
    step 'podman run --device' 0 podman_device
    step 'podman run --security-opt' 0 podman_seccomp
    step 'podman run --init' 0 podman_init
    step 'podman healthcheck' 0 podman_healthcheck
    step 'podman pod of two containers' 0 podman_pod
    step 'podman play kube' 0 podman_play_kube
    step 'podman run --sdnotify' 0 podman_sdnotify
    step 'podman run --restart' 0 podman_restart_policy
    registry 5057
    step 'podman tag, push, rmi, pull, run of what was pulled' 0 podman_registry
    step 'podman diff, commit' 0 podman_commit
    step 'podman run: namespaces of another container, of the host' 0 podman_namespaces
    step 'podman run --uidmap' 0 podman_userns
    step 'podman run --ulimit --oom-score-adj' 0 podman_ulimit
    step 'podman run --sysctl' 0 podman_sysctl
    step 'podman update' 0 podman_update
    step 'podman run --preserve-fds' 0 podman_preserve_fds
    step 'podman stats' 0 podman_stats
    step 'podman build' 0 podman_build
    step 'podman run -p: a page over loopback' 0 podman_bridge
    step 'podman rm of a running container' 125 podman_rm_running
    step 'podman run: a missing command is 127' 127 podman_missing
    step 'podman run: a missing path is 127' 127 podman_missing_path
    step 'podman run: not executable is 126' 126 podman_not_executable
    step 'podman run: a directory is 126' 126 podman_directory
    step 'podman run: working directory that is a file' 126 podman_bad_workdir
    step 'podman run: sysctl that does not exist' 127 podman_bad_sysctl
    step 'podman start: a failure as inspect has it' 0 podman_oci_log
    step_alone 'podman run --cgroups=disabled' 0 podman_no_cgroups / without
    step 'podman without the drop-in' 0 podman_bare
    step 'podman: nothing is left' 0 podman_left
    wall_time podman
}
