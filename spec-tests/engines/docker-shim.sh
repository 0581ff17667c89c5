# shellcheck shell=bash disable=SC2153,SC2086 # LABEL and DOCKER_IMAGE are made elsewhere
# Docker Engine with skeg's shim. Docker 20.10 asks containerd for "io.containerd.runc.v2" always: a program of that name in the PATH of
# the daemon is skeg's shim here. Newer ones take a shim by its own type, which scripts/test-deb tries.

docker_shim_is_used() {
    d run -d --name "$LABEL-shim" $DOCKER_IMAGE sleep 1000 >/dev/null
    local pid parent
    pid=$(d inspect --format '{{.State.Pid}}' "$LABEL-shim")
    parent=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
    if [ "$LABEL" = skeg ]; then
        [ "$(readlink "/proc/$parent/exe")" = "$SHIM" ] && echo its shim
    else
        [ "$(readlink "/proc/$parent/exe")" = "$REFERENCE_SHIM" ] && echo its shim
    fi
    d rm -f "$LABEL-shim"
}

docker_shim_setup() {
    DOCKERDS=""
    export OWN_SHIM=1
    clean_with docker_clean
    mkdir "$ENGINES_ROOT/shim-bin"
    ln -s "$SHIM" "$ENGINES_ROOT/shim-bin/containerd-shim-runc-v2"
    # BuildKit calls no configured runtime, but the "runc" that it finds.
    ln -s "$RUNTIME_UNDER_TEST" "$ENGINES_ROOT/shim-bin/runc"
    PATH=$ENGINES_ROOT/shim-bin:$PATH docker_start_daemon skeg "$RUNTIME_UNDER_TEST" 10.231.1 flags
    docker_start_daemon runc "$REFERENCE" 10.231.2 flags
    docker_ready
}

docker_shim_steps() {
    # shellcheck source=spec-tests/engines/docker.sh
    . "$ENGINES_DIR/docker.sh"
    docker_shim_setup
    step 'docker, shim: it is the one that runs' 0 docker_shim_is_used
    step 'docker, shim: run: output and exit status' 3 docker_run
    step 'docker, shim: run -i: standard input' 0 docker_stdin
    step 'docker, shim: run -it: terminal' 4 docker_tty
    step 'docker, shim: run -d, logs, exec, top, stop, start, restart, kill, wait, rm' 0 docker_detached
    step 'docker, shim: pause, unpause' 0 docker_pause
    step 'docker, shim: stats' 0 docker_stats
    step 'docker, shim: update' 0 docker_update
    step 'docker, shim: out of memory' 0 docker_oom
    step 'docker, shim: logs -f, --tail, -t' 0 docker_logs
    step 'docker, shim: megabytes of input and output' 0 docker_stream
    step 'docker, shim: attach, start -ai' 0 docker_attach
    step 'docker, shim: build with BuildKit, which calls the runtime itself' 0 docker_buildkit
    step 'docker, shim: --health-cmd' 0 docker_healthcheck
    step 'docker, shim: --restart' 0 docker_restart_policy
    step 'docker, shim: a missing command is 127' 127 docker_missing
    step 'docker, shim: not executable is 126' 126 docker_not_executable
    step 'docker, shim: rm of a running container' 0 docker_rm_running
    docker_end 'docker, shim'
}
