# shellcheck shell=bash
# What the engines' scripts share: the image, one step under both runtimes, what may differ between them.

: "${RUNTIME_UNDER_TEST:?}" "${REFERENCE:?}" "${ENGINES_ROOT:?}"

# How long a step may take under one runtime, in seconds.
LIMIT=${ENGINES_LIMIT:-60}
export STEP=$ENGINES_ROOT/step IMAGE_TAR=$ENGINES_ROOT/image.tar IMAGE_ARCHIVE=$ENGINES_ROOT/image-archive.tar

# A root file system of one static program and what engines look for, as a tar archive that each engine imports.
setup_images() {
    local rootfs=$ENGINES_ROOT/rootfs applet
    mkdir -p "$rootfs"/{bin,etc,proc,sys,dev,tmp,root,home/guest,var/www}
    install -m 0755 /bin/busybox "$rootfs/bin/busybox"
    for applet in $("$rootfs/bin/busybox" --list); do
        [ "$applet" = busybox ] || ln -s busybox "$rootfs/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/home/guest:/bin/sh\n' >"$rootfs/etc/passwd"
    printf 'root:x:0:\nguest:x:1000:\nextra:x:2000:guest\n' >"$rootfs/etc/group"
    printf 'plain text\n' >"$rootfs/etc/not-executable"
    chmod 1777 "$rootfs/tmp"
    chown -R 1000:1000 "$rootfs/home/guest"
    tar -C "$rootfs" -cf "$IMAGE_TAR" .
    # The same as `docker save` writes it, for engines that import whole images only.
    python3 - "$IMAGE_TAR" "$IMAGE_ARCHIVE" <<'PYTHON'
import hashlib, io, json, sys, tarfile
layer = open(sys.argv[1], "rb").read()
config = json.dumps({
    "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
}).encode()
manifest = json.dumps([{"Config": "config.json", "RepoTags": ["localhost/engines/base:latest"], "Layers": ["layer.tar"]}]).encode()
with tarfile.open(sys.argv[2], "w") as archive:
    for name, content in [("layer.tar", layer), ("config.json", config), ("manifest.json", manifest)]:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
PYTHON
}

# What may differ between two runs of the same step: names of the runtime, ids, times, process numbers, addresses.
normalise() {
    sed -E \
        -e "s#$RUNTIME_UNDER_TEST#RUNTIME#g; s#$REFERENCE#RUNTIME#g; s#$ENGINES_ROOT/(skeg|runc)#STATE#g" \
        -e 's/\b(skeg|runc)\b/RUNTIME/g' \
        -e 's/\b[0-9a-f]{64}\b/ID/g; s/\b[0-9a-f]{12}\b/ID/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( ?[+-][0-9]{4}( [A-Z]+)?|Z)?/TIME/g' \
        -e 's/\bpid=?:? ?[0-9]+/pid N/g' \
        -e 's/\r$//'
}

# Runs the function under one runtime, in a shell of its own with $LABEL (skeg or runc, a word to name things by) and
# $RUNTIME (its path); leaves its output, its exit status in $status and its wall time in $seconds.
under() {
    local label=$1 function=$2 runtime=$RUNTIME_UNDER_TEST begin=$EPOCHREALTIME stream
    [ "$label" = skeg ] || runtime=$REFERENCE
    status=0
    # shellcheck disable=SC2046 # a list of names
    export -f $(compgen -A function)
    LABEL=$label RUNTIME=$runtime timeout -k 5 "$LIMIT" \
        bash -c "$function" >"$STEP.$label.out" 2>"$STEP.$label.err" </dev/null || status=$?
    seconds=$(awk "BEGIN { printf \"%.2f\", $EPOCHREALTIME - $begin }")
    for stream in out err; do
        normalise <"$STEP.$label.$stream" >"$STEP.$label.$stream.normal"
    done
}

# Counts and prints: $1 is the step, $2 how long it took, $3 what is wrong.
verdict() {
    if [ -z "$3" ]; then
        passed=$((passed + 1))
        echo "ok   $1 ($2)"
    else
        failed=$((failed + 1))
        echo "FAIL $1 ($2):${3%;}"
    fi
}

# step NAME STATUS FUNCTION: the function is called once under each runtime. Its exit status has to be STATUS, and status
# and output have to be the same under both.
step() {
    local name=$1 expected=$2 function=$3 label status seconds stream times='' why=''
    for label in skeg runc; do
        under "$label" "$function"
        times="$times${times:+, }$label $seconds s"
        [ "$status" = "$expected" ] || why="$why $label: status $status instead of $expected;"
    done
    for stream in out err; do
        cmp -s "$STEP".{skeg,runc}.$stream.normal || why="$why std$stream differs;"
    done
    verdict "$name" "$times" "$why"
    [ -n "$why" ] || return 0
    for stream in out err; do
        if cmp -s "$STEP".{skeg,runc}.$stream.normal; then
            head -n 20 "$STEP.skeg.$stream" | sed "s/^/     std$stream: /"
        else
            diff -u --label "std$stream skeg" --label "std$stream runc" "$STEP".{skeg,runc}.$stream.normal |
                head -n 40 | sed 's/^/     /' || true
        fi
    done
}

# step_alone NAME STATUS FUNCTION LINE...: what runc cannot do, or not here; its output has to be these lines.
step_alone() {
    local name=$1 expected=$2 function=$3 status seconds why=''
    shift 3
    under skeg "$function"
    [ "$status" = "$expected" ] || why=" status $status instead of $expected;"
    printf '%s\n' "$@" | cmp -s - "$STEP.skeg.out.normal" || why="$why stdout is not what it has to be;"
    verdict "$name" "skeg $seconds s" "$why"
    [ -n "$why" ] || return 0
    head -n 20 "$STEP.skeg.out" "$STEP.skeg.err" | sed 's/^/     /'
}

# Whether this machine has every capability of its kernel to give: runc fails where one is asked for that it has not.
has_all_capabilities() {
    local bounding last
    bounding=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
    last=$(cat /proc/sys/kernel/cap_last_cap)
    [ $((0x$bounding)) -eq $(((1 << (last + 1)) - 1)) ]
}

# Waits until the command succeeds, ten seconds at the most.
eventually() {
    local tries=100
    until "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        [ "$tries" -gt 0 ] || { echo "never came true: $*" >&2; return 1; }
        sleep 0.1
    done
}

# What is typed on a terminal: one line, as soon as the program has had time to ask for it.
type_line() {
    sleep 1
    echo typed
    sleep 1
}

# Runs a command on a terminal of 80 columns and 24 rows, with standard input as what is typed. Who echoes the line
# that is typed depends on how far the program is: it is left out.
on_terminal() {
    local status=0
    script -qefc "stty cols 80 rows 24; $(printf '%q ' "$@")" /dev/null >"$STEP.terminal" || status=$?
    tr -d '\r' <"$STEP.terminal" | grep -vx typed
    return "$status"
}
