# shellcheck shell=bash disable=SC2153,SC2086 # LABEL and DOCKER_IMAGE are made elsewhere
# A newer Docker Engine, that of Debian trixie with its own containerd (`make engines-trixie` fetches them): the core of docker.sh once more,
# with skeg below containerd's shim, and with skeg's shim, which this one takes by type, as the default runtime and by name.
#
#   ENGINES_DOCKER=DIR   where get-debian has put it

docker_trixie_version() { d version --format '{{.Server.Version}}' | grep -oE '^[0-9]+'; }
docker_trixie_by_type() {
    local runtime=io.containerd.skeg.v2
    [ "$LABEL" = skeg ] || runtime=io.containerd.runc.v2
    d run --rm --runtime $runtime $DOCKER_IMAGE echo by type
}

# What both ways are asked.
docker_trixie_core() {
    step "$1: run: output and exit status" 3 docker_run
    step "$1: run -i: standard input" 0 docker_stdin
    step "$1: run -it: terminal" 4 docker_tty
    step "$1: run -d, logs, exec, top, stop, start, restart, kill, wait, rm" 0 docker_detached
    step "$1: pause, unpause" 0 docker_pause
    step "$1: stats" 0 docker_stats
    step "$1: run: -m --cpus --pids-limit and others" 0 docker_limits
    step "$1: update" 0 docker_update
    step "$1: out of memory" 0 docker_oom
    step "$1: run --user" 0 docker_user
    step "$1: run --cap-add --cap-drop" 0 docker_caps
    step "$1: run --security-opt" 0 docker_security
    step "$1: run: volumes, tmpfs, --read-only, devices, ulimits, sysctls" 0 docker_files
    step "$1: run: namespaces of another container, of the host" 0 docker_namespaces
    step "$1: run --init" 0 docker_init
    step "$1: run --health-cmd" 0 docker_healthcheck
    step "$1: run --restart" 0 docker_restart_policy
    step "$1: build" 0 docker_build
    step "$1: run -p: a page over loopback" 0 docker_port
    step "$1: tag, push, rmi, pull, run of what was pulled" 0 docker_registry
    step "$1: logs -f, --tail, -t" 0 docker_logs
    step "$1: attach, start -ai" 0 docker_attach
    step "$1: cp, diff, commit" 0 docker_cp
    step "$1: a missing command is 127" 127 docker_missing
    step "$1: not executable is 126" 126 docker_not_executable
    step "$1: 22 other mistakes" 0 docker_mistakes
    step "$1: rm of a running container" 0 docker_rm_running
    docker_end "$1"
}

docker_trixie_steps() {
    : "${ENGINES_DOCKER:?make engines-trixie calls this}"
    export PATH=$ENGINES_DOCKER/bin:$PATH
    REFERENCE_SHIM=$ENGINES_DOCKER/bin/containerd-shim-runc-v2
    # shellcheck source=spec-tests/engines/docker.sh
    . "$ENGINES_DIR/docker.sh"
    # shellcheck source=spec-tests/engines/docker-shim.sh
    . "$ENGINES_DIR/docker-shim.sh"
    registry 5056
    docker_setup file
    step 'docker of trixie: it is the engine that runs' 0 docker_trixie_version
    docker_trixie_core 'docker of trixie'
    DOCKERDS=""
    export OWN_SHIM=1
    docker_start_daemon skeg io.containerd.skeg.v2 10.231.1 type
    docker_start_daemon runc "$REFERENCE" 10.231.2 file
    docker_ready
    step 'docker of trixie, shim by type: it is the one that runs' 0 docker_shim_is_used
    step 'docker of trixie, shim by type: run --runtime' 0 docker_trixie_by_type
    docker_trixie_core 'docker of trixie, shim by type'
}
