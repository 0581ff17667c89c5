# shellcheck shell=bash
# What the engines' scripts share: the image, one step under both runtimes, what may differ between them.

: "${RUNTIME_UNDER_TEST:?}" "${REFERENCE:?}" "${ENGINES_ROOT:?}"

# How long a step may take under one runtime, in seconds: nothing that works comes near it, however slow the machine.
LIMIT=${ENGINES_LIMIT:-240}
CLEAN=true
passed=0 failed=0
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

# What may differ between two runs of the same step: names of the runtime, ids, times, process numbers, addresses, and the v1
# hierarchies that others on the machine mount for a while (the conformance suites do).
normalise() {
    sed -E \
        -e "s#$RUNTIME_UNDER_TEST#RUNTIME#g; s#$REFERENCE#RUNTIME#g; s#$ENGINES_ROOT/(skeg|runc)#STATE#g" \
        -e 's/\b(skeg|runc)\b/RUNTIME/g' \
        -e 's/\b(web|committed|built)-(skeg|runc)\b/\1-RUNTIME/g' \
        -e 's/\b[0-9a-f]{64}\b/ID/g; s/\b[0-9a-f]{12}\b/ID/g' \
        -e 's/[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9:.]+( ?[+-][0-9]{4}( [A-Z]+)?|Z)?/TIME/g' \
        -e 's/\bpid=?:? ?[0-9]+/pid N/g' \
        -e '/^[0-9]+:(hugetlb|net_cls|net_prio):/d' \
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

# What all steps of this engine took under one runtime, in seconds.
declare -A total=([skeg]=0 [runc]=0)

# Prints how long the steps of engine $1 took under both runtimes, and begins to count anew. It tells what a user waits for: the
# engine's own work is in it.
wall_time() {
    awk "BEGIN { printf \"     %s: skeg %.1f s, runc %.1f s, ratio %.2f\n\", \"$1\", ${total[skeg]}, ${total[runc]}, ${total[skeg]} / ${total[runc]} }"
    total=([skeg]=0 [runc]=0)
}

# A registry on loopback that listens on port $1.
registry() {
    mkdir "$ENGINES_ROOT/registry-$1"
    printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: 127.0.0.1:%s}\nlog: {level: error}\n' \
        "$ENGINES_ROOT/registry-$1" "$1" >"$ENGINES_ROOT/registry-$1.yml"
    docker-registry serve "$ENGINES_ROOT/registry-$1.yml" >"$ENGINES_ROOT/registry-$1.log" 2>&1 &
    export REGISTRY=$1
    eventually busybox wget -q -O- "http://127.0.0.1:$1/v2/"
}

# Which runtime comes first in a step: by turns, so that neither always finds the warmer caches.
order=(skeg runc)

# Does the step once: exit status STATUS and FUNCTION under each runtime; says in $times how long it took, in $why what is wrong.
step_once() {
    local expected=$1 function=$2 label status seconds stream
    times='' why=''
    for label in "${order[@]}"; do
        under "$label" "$function"
        times="$times${times:+, }$label $seconds s"
        total[$label]=$(awk "BEGIN { print ${total[$label]} + $seconds }")
        [ "$status" = "$expected" ] || why="$why $label: status $status instead of $expected;"
    done
    order=("${order[1]}" "${order[0]}")
    for stream in out err; do
        cmp -s "$STEP".{skeg,runc}.$stream.normal || why="$why std$stream differs;"
    done
}

# How both outputs of a step differ; where they are the same, what they are.
step_show() {
    local stream
    for stream in out err; do
        if cmp -s "$STEP".{skeg,runc}.$stream.normal; then
            head -n 20 "$STEP.skeg.$stream" | sed "s/^/     std$stream: /"
        else
            diff -U 2 --label "std$stream skeg" --label "std$stream runc" "$STEP".{skeg,runc}.$stream.normal |
                head -n 40 | sed 's/^/     /' || true
        fi
    done
}

# Names what removes all containers and whatever else a step may have left under one runtime, once a step has failed.
clean_with() {
    CLEAN=$1
}

# step NAME STATUS FUNCTION: the function is called once under each runtime. Its exit status has to be STATUS, and status
# and output have to be the same under both.
#
# A step that fails is done a second time, and said so in the summary: engines have races of their own, most of all on a machine
# that others use too, and they meet either runtime.
step() {
    local name=$1 label status seconds times why
    step_once "$2" "$3"
    if [ -n "$why" ]; then
        echo "AGAIN $name ($times):${why%;}"
        step_show
        for label in skeg runc; do under "$label" "$CLEAN"; done
        step_once "$2" "$3"
    fi
    verdict "$name" "$times" "$why"
    [ -n "$why" ] || return 0
    step_show
    for label in skeg runc; do under "$label" "$CLEAN"; done
}

# step_alone NAME STATUS FUNCTION LINE...: what runc cannot do, or not here; its output has to be these lines.
step_alone() {
    local name=$1 expected=$2 function=$3 status seconds why
    shift 3
    alone_once "$@"
    if [ -n "$why" ]; then
        echo "AGAIN $name (skeg $seconds s):${why%;}"
        alone_show
        under skeg "$CLEAN"
        alone_once "$@"
    fi
    verdict "$name" "skeg $seconds s" "$why"
    [ -z "$why" ] || alone_show
}
alone_once() {
    why=''
    under skeg "$function"
    [ "$status" = "$expected" ] || why=" status $status instead of $expected;"
    printf '%s\n' "$@" | cmp -s - "$STEP.skeg.out.normal" || why="$why stdout is not what it has to be;"
}
alone_show() {
    head -n 20 "$STEP.skeg.out" "$STEP.skeg.err" | sed 's/^/     /'
}

# Whether this machine has every capability of its kernel to give: runc fails where one is asked for that it has not.
has_all_capabilities() {
    local bounding last
    bounding=$(sed -n 's/^CapBnd:\t//p' /proc/self/status)
    last=$(cat /proc/sys/kernel/cap_last_cap)
    [ $((0x$bounding)) -eq $(((1 << (last + 1)) - 1)) ]
}

# Waits until the command succeeds, two minutes at the most.
eventually() {
    local end=$((SECONDS + 120))
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "never came true: $*" >&2; return 1; }
        sleep 0.05
    done
}

# Whether no process has that command line.
gone() {
    ! pgrep -f "$1" >/dev/null
}

# Runs a command on a terminal of 80 columns and 24 rows. The program in it says first which terminal it has ("tty"), and is typed a
# line then; nothing tells it the end of its input. Who echoes that line depends on how far the program is: it is left out.
on_terminal() {
    local status=0 typist
    : >"$STEP.terminal"
    rm -f "$STEP.keys"
    mkfifo "$STEP.keys"
    exec 7<>"$STEP.keys"
    { eventually grep -q /dev/ "$STEP.terminal" && echo typed >&7; } & typist=$!
    script -qefc "stty cols 80 rows 24; $(printf '%q ' "$@")" /dev/null <&7 7<&- >"$STEP.terminal" || status=$?
    kill "$typist" 2>/dev/null
    exec 7<&-
    tr -d '\r' <"$STEP.terminal" | grep -vx typed
    return "$status"
}
