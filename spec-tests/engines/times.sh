# shellcheck shell=bash disable=SC2317,SC2086,SC2016 # the functions are called by name; DOCKER_IMAGE is one word; Markdown has backticks
# How long a person waits for single commands of the engines under each runtime: a table of medians, which is written into
# docs/engines-times.md and, its rows there, README.md when all of it was measured. Nothing is compared or judged.
#
#   ENGINES_TIMES=15     how often each command is done under each runtime, by turns
#   ENGINES_ONLY=REGEX   which commands, by their names in the table

# The median of a command's wall times in milliseconds for both runtimes. NAME_before and NAME_after are not counted.
measure() {
    local title=$1 name=$2 round label begin
    [[ $title =~ ${ENGINES_ONLY:-.} ]] || return 0
    : >"$STEP.times"
    for ((round = 0; round <= ${ENGINES_TIMES:-15}; round++)); do
        for label in "${order[@]}"; do
            export LABEL=$label RUNTIME=$RUNTIME_UNDER_TEST
            [ "$label" = skeg ] || RUNTIME=$REFERENCE
            ! declare -F "${name}_before" >/dev/null || "${name}_before" >/dev/null 2>&1
            begin=$EPOCHREALTIME
            "$name" >"$STEP.out" 2>&1 </dev/null || { echo "$title fails under $label:"; tail -n 3 "$STEP.out"; return 1; }
            # The first round warms the caches.
            [ "$round" = 0 ] || echo "$label $(((${EPOCHREALTIME/./} - ${begin/./}) / 100))" >>"$STEP.times"
            ! declare -F "${name}_after" >/dev/null || "${name}_after" >/dev/null 2>&1
        done
        order=("${order[1]}" "${order[0]}")
    done
    sort -k1,1 -k2,2n "$STEP.times" | awk -v title="$title" '{ times[$1, ++count[$1]] = $2 / 10 }
        END { skeg = times["skeg", int((count["skeg"] + 1) / 2)]; runc = times["runc", int((count["runc"] + 1) / 2)]
              printf "| %s | %.0f ms | %.0f ms | %.2f |\n", title, skeg, runc, skeg / runc }' | tee -a "$ENGINES_ROOT/table"
}

# readme_row NAME TITLE: the command TITLE of the table is NAME in README.md.
readme_row() {
    local row
    row=$(awk -F ' *[|] *' -v name="$1" -v title="$2" '
        $2 == title { printf "| %s | %d | %d, %.1f x |", name, $3, $4, $4 / $3 }' "$ENGINES_ROOT/table")
    sed -i "s#^| $1 |.*#$row#" "$ENGINES_DIR/../../README.md"
}

# The results into the two pages that show them.
times_write() {
    local page=$ENGINES_DIR/../../docs/engines-times.md
    sed -i '/^|---/q' "$page"
    cat "$ENGINES_ROOT/table" >>"$page"
    readme_row '`docker run -d`' 'docker run -d'
    readme_row '`docker exec`' 'docker exec'
    readme_row '`docker build` with three RUN' 'docker build with three RUN'
    readme_row '`docker exec` with the shims' 'docker, shims: exec'
    readme_row '`ctr run --rm`' 'ctr run --rm'
    readme_row '`podman run -d`' 'podman run -d'
    readme_row '`buildah bud` with three RUN' 'buildah bud with three RUN'
    echo 'written: docs/engines-times.md, README.md'
}

# The same commands for Docker and podman.
e() { "$ENGINE" "$@"; }
times_run() { e run --rm $NETWORK $DOCKER_IMAGE true; }
times_limits() { e run --rm $NETWORK -m 64m --cpus 0.5 --pids-limit 50 --read-only --tmpfs /tmp --user 1000 --cap-drop all $DOCKER_IMAGE true; }
times_detached() { e run -d --name "$LABEL-t" $NETWORK $DOCKER_IMAGE sleep 1000; }
times_detached_after() { e $REMOVE "$LABEL-t"; }
times_exec() { e exec "$LABEL-keep" true; }
times_exec_before() { e inspect "$LABEL-keep" >/dev/null 2>&1 || e run -d --name "$LABEL-keep" $NETWORK $DOCKER_IMAGE sleep 100000; }
times_start() { e start -a "$LABEL-t"; }
times_start_before() { e create --name "$LABEL-t" $NETWORK $DOCKER_IMAGE true; }
times_start_after() { e $REMOVE "$LABEL-t"; }
times_stop() { e stop "$LABEL-t"; }
times_stop_before() {
    e run -d --name "$LABEL-t" $NETWORK $DOCKER_IMAGE sh -c 'trap exit TERM; echo ready; sleep 1000 & wait'
    until e logs "$LABEL-t" | grep -q ready; do sleep 0.05; done
}
times_stop_after() { e $REMOVE "$LABEL-t"; }
times_pause() { e pause "$LABEL-keep" && e unpause "$LABEL-keep"; }
times_rm() { e $REMOVE "$LABEL-t"; }
times_rm_before() { e run -d --name "$LABEL-t" $NETWORK $DOCKER_IMAGE sleep 1000; }
times_build() { DOCKER_BUILDKIT=0 e build --no-cache $NETWORK "$ENGINES_ROOT/times"; }

times_both() {
    measure "$1 run --rm" times_run
    measure "$1 run --rm -m --cpus --pids-limit --read-only --user --cap-drop" times_limits
    measure "$1 run -d" times_detached
    measure "$1 exec" times_exec
    measure "$1 start -a" times_start
    measure "$1 stop" times_stop
    measure "$1 pause and unpause" times_pause
    measure "$1 rm -f of a running container" times_rm
    measure "$1 build with three RUN" times_build
}
times_ctr() { c run --rm --runc-binary "$RUNTIME" $CTR_IMAGE "$LABEL-t" true; }
times_ctr_shims() {
    local runtime=(--runtime io.containerd.skeg.v2)
    [ "$LABEL" = skeg ] || runtime=(--runc-binary "$RUNTIME")
    c run --rm "${runtime[@]}" $CTR_IMAGE "$LABEL-t" true
}
times_bud() { b bud --no-cache --isolation oci --runtime "$RUNTIME" --network none "$ENGINES_ROOT/times"; }

times_steps() {
    NETWORK='' REMOVE='rm -f' ENGINE=d
    mkdir "$ENGINES_ROOT/times"
    printf '| command | skeg | runc | ratio |\n|---|---|---|---|\n'
    # shellcheck source=spec-tests/engines/docker.sh
    . "$ENGINES_DIR/docker.sh"
    printf 'FROM %s\nRUN true\nRUN ["/bin/true"]\nRUN echo made >/made\n' $DOCKER_IMAGE >"$ENGINES_ROOT/times/Dockerfile"
    docker_setup file
    times_both docker
    docker_stop_daemons
    # shellcheck source=spec-tests/engines/docker-shim.sh
    . "$ENGINES_DIR/docker-shim.sh"
    docker_shim_setup
    times_both 'docker, shims:'
    docker_stop_daemons
    # shellcheck source=spec-tests/engines/containerd.sh
    . "$ENGINES_DIR/containerd.sh"
    containerd_setup
    measure 'ctr run --rm' times_ctr
    measure 'ctr, shims: run --rm' times_ctr_shims
    # shellcheck source=spec-tests/engines/podman.sh
    . "$ENGINES_DIR/podman.sh"
    LABEL=runc podman_setup
    NETWORK='--network none' REMOVE='rm -f -t 0' ENGINE=p
    times_both podman
    umount /etc/containers
    # shellcheck source=spec-tests/engines/buildah.sh
    . "$ENGINES_DIR/buildah.sh"
    buildah_setup
    printf 'FROM %s\nRUN true\nRUN ["/bin/true"]\nRUN echo made >/made\n' "$BUILD_IMAGE" >"$ENGINES_ROOT/times/Dockerfile"
    measure 'buildah bud with three RUN' times_bud
    [ -n "${ENGINES_ONLY:-}" ] || times_write
}
