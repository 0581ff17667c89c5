# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# podman and buildah for a user without privileges, whom only this run knows.

ROOTLESS_USER=4242
export ROOTLESS_USER

# A command as that user, with nothing of root's but the name of the runtime.
as_user() {
    setpriv --reuid $ROOTLESS_USER --regid $ROOTLESS_USER --clear-groups --inh-caps=-all --bounding-set=-sys_time -- \
        env -i -C "$ENGINES_ROOT/rootless/home" HOME="$ENGINES_ROOT/rootless/home" XDG_RUNTIME_DIR=/run/user/$ROOTLESS_USER \
        ${NOTIFY_SOCKET:+NOTIFY_SOCKET="$NOTIFY_SOCKET"} TMPDIR="$TMPDIR" \
        PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin LC_ALL=C.UTF-8 TERM=xterm "$@"
}
# podman of that user with the runtime of the step.
u() {
    as_user podman --runtime "$ENGINES_ROOT/rootless/bin/$LABEL" "$@"
}

rootless_clean() {
    u pod rm -fa -t 0
    u rm -fa -t 0
}

rootless_setup() {
    local dir=$ENGINES_ROOT/rootless file
    mkdir -p "$dir"/{home/.config/containers,bin,etc} /run/user/$ROOTLESS_USER
    # The runtimes where the user can reach them.
    install -m 0755 "$RUNTIME_UNDER_TEST" "$dir/bin/skeg"
    install -m 0755 "$REFERENCE" "$dir/bin/runc"
    for file in passwd group subuid subgid; do
        cp "/etc/$file" "$dir/etc/$file" 2>/dev/null || : >"$dir/etc/$file"
        [ -e "/etc/$file" ] || : >"/etc/$file"
    done
    echo "tester:x:$ROOTLESS_USER:$ROOTLESS_USER::$dir/home:/bin/sh" >>"$dir/etc/passwd"
    echo "tester:x:$ROOTLESS_USER:" >>"$dir/etc/group"
    echo 'tester:200000:65536' | tee -a "$dir/etc/subuid" >>"$dir/etc/subgid"
    for file in passwd group subuid subgid; do
        mount --bind "$dir/etc/$file" "/etc/$file"
    done
    cat >"$dir/home/.config/containers/containers.conf" <<CONF
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["skeg", "runc"]
[containers]
log_driver = "k8s-file"
CONF
    printf '[storage]\ndriver = "overlay"\n' >"$dir/home/.config/containers/storage.conf"
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$dir/home/.config/containers/policy.json"
    # slirp4netns of a user needs this device, which some machines keep for root.
    mknod -m 0666 "$dir/tun" c 10 200
    mount --bind "$dir/tun" /dev/net/tun
    chown -R $ROOTLESS_USER:$ROOTLESS_USER "$dir/home" /run/user/$ROOTLESS_USER
    chmod 0700 /run/user/$ROOTLESS_USER
    chmod 0644 "$IMAGE_TAR"
    LABEL=runc u import -q --change 'CMD ["/bin/sh"]' --change 'ENV PATH=/bin' "$IMAGE_TAR" localhost/engines/base >/dev/null 2>"$STEP.import" ||
        { cat "$STEP.import"; return 1; }
}

IMAGE=localhost/engines/base
export IMAGE

rootless_info() { u info --format '{{.Host.Security.Rootless}} {{.Host.OCIRuntime.Name}}'; }
rootless_run() { u run --rm --network none $IMAGE sh -c 'echo out; echo err >&2; exit 3'; }
rootless_stdin() { printf 'one\ntwo\n' | u run --rm -i --network none $IMAGE cat; }
rootless_tty() {
    on_terminal bash -c 'u run --rm -it --network none $IMAGE sh -c "tty; read x; until stty size 2>/dev/null; do sleep 0.1; done; echo \"got \$x\"; exit 4"'
}
rootless_ids() {
    u run --rm --network none $IMAGE sh -c 'id; cat /proc/self/uid_map /proc/self/gid_map; touch /x && stat -c "%u %g" /x /proc/self; cat /proc/self/setgroups; grep -E "Cap|Seccomp:|NoNewPrivs" /proc/self/status'
    u run --rm --network none --user guest $IMAGE sh -c 'id; touch /home/guest/x && stat -c %u /home/guest/x'
    u run --rm --network none --userns keep-id $IMAGE sh -c 'id -u; cat /proc/self/uid_map'
    u run --rm --network none --userns nomap $IMAGE cat /proc/self/uid_map 2>/dev/null; echo "nomap: $?"
}
rootless_detached() {
    local name=$LABEL-d
    u run -d --name "$name" --network none $IMAGE sh -c 'trap "echo term; exit 7" TERM; echo started; while :; do sleep 0.1; done' >/dev/null
    eventually bash -c "u logs $name | grep -q started"
    u inspect --format '{{.State.Status}}' "$name"
    u exec "$name" sh -c 'echo in exec; id -u; exit 5'; echo "exec: $?"
    printf 'x\ny\n' | u exec -i "$name" cat
    on_terminal bash -c "u exec -it $name sh -c 'tty; read x; exit 6'"; echo "exec: $?"
    u exec "$name" nosuch 2>/dev/null; echo "missing: $?"
    u top "$name" args | grep -v sleep
    u stop -t 10 "$name"
    u inspect --format '{{.State.Status}} {{.State.ExitCode}}' "$name"
    u start "$name" && u kill "$name" && u wait "$name"
    u rm "$name"
}
rootless_volumes() {
    local dir=$ENGINES_ROOT/rootless/home/volume-$LABEL
    as_user mkdir "$dir"
    as_user sh -c "echo content >$dir/file"
    u run --rm --network none -v "$dir:/data" $IMAGE sh -c 'cat /data/file; stat -c %u /data/file; echo new >/data/new'
    stat -c %u "$dir/new"
    u run --rm --network none -v "$dir:/data:ro" $IMAGE touch /data/x
    u run --rm --network none -v "$LABEL-vol:/v" $IMAGE sh -c 'echo kept >/v/f'
    u run --rm --network none -v "$LABEL-vol:/v" $IMAGE cat /v/f
    u volume rm "$LABEL-vol"
    as_user rm -r "$dir"
}
rootless_options() {
    u run --rm --network none --read-only --tmpfs /scratch:size=1m $IMAGE sh -c 'touch /x; touch /scratch/x; echo $?; grep " /scratch " /proc/mounts'
    u run --rm --network none --cap-drop all --cap-add chown $IMAGE grep CapEff /proc/self/status
    u run --rm --network none --security-opt seccomp=unconfined --security-opt no-new-privileges $IMAGE grep -E 'Seccomp:|NoNewPrivs' /proc/self/status
    u run --rm --network none --privileged $IMAGE sh -c 'mount -t tmpfs t /tmp && echo mounted'
    u run --rm --network none --sysctl net.ipv4.ip_forward=1 -h name $IMAGE sh -c 'cat /proc/sys/net/ipv4/ip_forward; hostname'
    u run --rm --network none --ulimit nofile=100:200 $IMAGE sh -c 'ulimit -n; ulimit -H -n'
    u run --rm --network host $IMAGE ls /sys/class/net
    u run --rm --network none --device /dev/null:/dev/other $IMAGE sh -c 'echo x >/dev/other && echo device'
}
rootless_network() {
    local name=$LABEL-web
    u run -d --name "$name" --network slirp4netns -p 127.0.0.1:15020:5000 $IMAGE sh -c 'echo page >/var/www/index.html; httpd -f -p 5000 -h /var/www' >/dev/null
    eventually busybox wget -q -O- http://127.0.0.1:15020/
    busybox wget -q -O- http://127.0.0.1:15020/ || return
    u rm -f -t 0 "$name"
}
rootless_pod() {
    u pod create --infra-image $IMAGE --infra-command '/bin/sleep 1000' --name "$LABEL-pod" --network none --share net,ipc,uts,pid >/dev/null
    u run -d --pod "$LABEL-pod" --name "$LABEL-pod-a" $IMAGE sh -c 'echo from a | nc -l -p 7777; sleep 1000' >/dev/null
    u run --rm --pod "$LABEL-pod" $IMAGE sh -c 'until nc 127.0.0.1 7777 2>/dev/null; do sleep 0.1; done; until ps -o args | grep -x "[s]leep 1000"; do sleep 0.1; done'
    u pod rm -f -t 0 "$LABEL-pod" >/dev/null 2>&1
}
rootless_build() {
    local dir=$ENGINES_ROOT/rootless/home/build-$LABEL
    as_user mkdir "$dir"
    printf 'FROM %s\nRUN id && echo made >/made && chown 1000 /made\nUSER guest\nRUN ["/bin/sh", "-c", "id -u; stat -c %%u /made"]\n' $IMAGE >"$dir/Dockerfile"
    u build --network none -t "localhost/built-$LABEL" "$dir" 2>&1 | grep -vE 'COMMIT|Success|^-->|^[0-9a-f]{64}$'
    u run --rm --network none "localhost/built-$LABEL" cat /made
    u rmi "localhost/built-$LABEL" >/dev/null
    as_user buildah bud --isolation oci --runtime "$ENGINES_ROOT/rootless/bin/$LABEL" --network none "$dir" 2>&1 | grep -E '^uid=|^[0-9]+$'
    as_user rm -r "$dir"
}
rootless_failures() {
    local command status
    for command in nosuch /no/such /etc/not-executable /etc; do
        status=0
        u run --rm --network none $IMAGE $command 2>/dev/null || status=$?
        echo "$command: $status"
    done
}
# Limits need a cgroup, which nobody delegates here: podman says that it goes without.
rootless_limits() { u run --rm --network none -m 64m $IMAGE echo runs; }
# cgroup v1 gives a user no freezer and no statistics: podman says so before it calls the runtime.
rootless_pause() {
    u run -d --name "$LABEL-p" --network none $IMAGE sleep 1000 >/dev/null
    u pause "$LABEL-p" 2>/dev/null; echo "pause: $?"
    u stats --no-stream "$LABEL-p" 2>/dev/null; echo "stats: $?"
    u inspect --format '{{.State.Status}}' "$LABEL-p"
    u restart -t 0 "$LABEL-p" >/dev/null; echo "restart: $?"
    u rm -f -t 0 "$LABEL-p"
}
# Some of root's steps as they stand, with that user's podman.
rootless_as_root() {
    # shellcheck source=spec-tests/engines/podman.sh
    . "$ENGINES_DIR/podman.sh"
    # shellcheck disable=SC2317 # called by them
    p() { u "$@"; }
    # They need a cgroup, as above.
    KUBE_LIMITS=
    export -f p
}
rootless_left() {
    u ps -aq
    eventually gone '^[^ ]*(conmon|slirp4netns|rootlessport) '
    ls /run/user/$ROOTLESS_USER/"$LABEL" 2>/dev/null
}

podman_rootless_steps() {
    clean_with rootless_clean
    rootless_setup
    step 'rootless podman info' 0 rootless_info
    step 'rootless podman run: output and exit status' 3 rootless_run
    step 'rootless podman run -i: standard input' 0 rootless_stdin
    step 'rootless podman run -it: terminal' 4 rootless_tty
    step 'rootless podman run: users, groups, --userns' 0 rootless_ids
    step 'rootless podman run -d, exec, top, stop, start, kill, rm' 0 rootless_detached
    step 'rootless podman run: volumes' 0 rootless_volumes
    step 'rootless podman run: options' 0 rootless_options
    step 'rootless podman run -p: a page over loopback' 0 rootless_network
    step 'rootless podman pod of two containers' 0 rootless_pod
    step 'rootless podman build, buildah bud' 0 rootless_build
    step 'rootless podman run: 126 and 127' 0 rootless_failures
    step 'rootless podman run -m' 0 rootless_limits
    step 'rootless podman pause and stats, restart' 0 rootless_pause
    rootless_as_root
    step 'rootless podman logs -f' 0 podman_logs
    step 'rootless podman kill and wait' 0 podman_kill
    step 'rootless podman create, init, start, restart' 0 podman_create_start
    step 'rootless podman run --init' 0 podman_init
    step 'rootless podman healthcheck' 0 podman_healthcheck
    step 'rootless podman run --restart' 0 podman_restart_policy
    step 'rootless podman play kube' 0 podman_play_kube
    step 'rootless podman run --sdnotify' 0 podman_sdnotify
    registry 5058
    step 'rootless podman tag, push, rmi, pull, run of what was pulled' 0 podman_registry
    step 'rootless podman diff, commit' 0 podman_commit
    step 'rootless podman: nothing is left' 0 rootless_left
    wall_time 'rootless podman'
}
