# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# buildah: images whose RUN steps the runtime does.

BUILD_IMAGE=localhost/engines/build-base
export BUILD_IMAGE

b() {
    buildah --storage-driver overlay --root "$ENGINES_ROOT/buildah/root" --runroot "$ENGINES_ROOT/buildah/run" "$@"
}

buildah_setup() {
    local container
    mkdir -p "$ENGINES_ROOT"/{buildah,etc-containers}
    echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$ENGINES_ROOT/etc-containers/policy.json"
    : >"$ENGINES_ROOT/etc-containers/registries.conf"
    mkdir -p /etc/containers
    mount --bind "$ENGINES_ROOT/etc-containers" /etc/containers
    container=$(b from scratch)
    b add -q "$container" "$IMAGE_TAR" / >/dev/null
    b config --cmd /bin/sh --env PATH=/bin "$container" 2>/dev/null
    b commit -q "$container" "$BUILD_IMAGE" >/dev/null
    b rm "$container" >/dev/null
}

# The RUN steps of a Dockerfile on standard input; what buildah says of layers and images is left out.
bud() {
    local dir=$ENGINES_ROOT/context-$LABEL status=0
    mkdir -p "$dir"
    echo hello >"$dir/copied"
    cat >"$dir/Dockerfile"
    b bud --isolation oci --runtime "$RUNTIME" --network none "$@" "$dir" >"$STEP.bud" 2>&1 || status=$?
    grep -vE '^(-->|COMMIT|Getting|Copying|Writing|Storing|Successfully|[0-9a-f]{64}$)' "$STEP.bud"
    rm -r "$dir"
    return "$status"
}

buildah_run_steps() {
    bud -t "localhost/engines/bud-$LABEL" <<DOCKERFILE
FROM $BUILD_IMAGE
COPY copied /copied
RUN cat /copied && echo made > /made && id && pwd
RUN grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status
USER guest
WORKDIR /home/guest
RUN ["/bin/sh", "-c", "id; pwd; touch mine; stat -c %U mine"]
ARG WITH=default
ENV A=\$WITH
RUN env | sort
DOCKERFILE
    b rmi "localhost/engines/bud-$LABEL" >/dev/null
}
buildah_fails() {
    printf 'FROM %s\nRUN echo before; exit 42\n' "$BUILD_IMAGE" | bud
}
buildah_missing() {
    printf 'FROM %s\nRUN ["nosuch"]\n' "$BUILD_IMAGE" | bud >/dev/null
}
buildah_volume() {
    mkdir -p "$ENGINES_ROOT/volume-$LABEL"
    echo from outside >"$ENGINES_ROOT/volume-$LABEL/file"
    printf 'FROM %s\nRUN cat /data/file; touch /data/x 2>/dev/null || echo read-only\n' "$BUILD_IMAGE" | bud -v "$ENGINES_ROOT/volume-$LABEL:/data:ro"
}
buildah_options() {
    bud --cap-drop all --cap-add chown --ulimit nofile=64:64 --shm-size 1m -m 64m --security-opt seccomp=unconfined <<DOCKERFILE
FROM $BUILD_IMAGE
RUN grep -E 'CapEff|Seccomp:' /proc/self/status; ulimit -n; grep ' /dev/shm ' /proc/mounts
DOCKERFILE
}
buildah_run() {
    local container
    container=$(b from "$BUILD_IMAGE")
    b run --isolation oci --runtime "$RUNTIME" --network none "$container" sh -c 'echo out; echo err >&2; exit 3'; echo "run: $?"
    echo input | b run --isolation oci --runtime "$RUNTIME" --network none "$container" cat
    on_terminal buildah --storage-driver overlay --root "$ENGINES_ROOT/buildah/root" --runroot "$ENGINES_ROOT/buildah/run" \
        run --isolation oci --runtime "$RUNTIME" --network none -t "$container" sh -c 'tty; read x; echo "got $x"; exit 4'; echo "tty: $?"
    b run --isolation oci --runtime "$RUNTIME" --network none --user guest "$container" id
    b run --isolation oci --runtime "$RUNTIME" --network host "$container" sh -c 'ls /sys/class/net'
    b rm "$container" >/dev/null
}
buildah_left() {
    "$RUNTIME" list -q
    find /sys/fs/cgroup -name 'buildah-*' | grep -c . | sed 's/^/cgroups: /'
}

buildah_steps() {
    buildah_setup
    step 'buildah bud: RUN with and without a shell, USER, WORKDIR, ENV' 0 buildah_run_steps
    step 'buildah bud: a RUN that fails' 42 buildah_fails
    step 'buildah bud: a RUN of a missing program' 1 buildah_missing
    step 'buildah bud -v' 0 buildah_volume
    step 'buildah bud --cap-drop --cap-add --ulimit --shm-size -m --security-opt' 0 buildah_options
    step 'buildah run: status, standard input, terminal, user, host network' 0 buildah_run
    step 'buildah: nothing is left' 0 buildah_left
    wall_time buildah
}
