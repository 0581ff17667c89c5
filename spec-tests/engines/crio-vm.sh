# shellcheck shell=bash disable=SC2016 # what stands in single quotes is for the shell in the container
# CRI-O's runtime type "vm": a shim instead of conmon. Debian has no package of CRI-O; crio_vm.py makes its calls, of skeg's shim and
# of containerd's shim for runc.

# crio_vm STEP TERMINAL PROGRAM...: a container with its own shim.
crio_vm() {
    local step=$1 terminal=$2 id=$LABEL-vm-$1 program=$SHIM
    shift 2
    [ "$LABEL" = skeg ] || program=$REFERENCE_SHIM
    crio_bundle "$id" "$terminal" "$@"
    python3 "$ENGINES_DIR/crio_vm.py" "$program" "$ENGINES_ROOT/conmon/$id" "$id" "$step"
}

crio_vm_life() { crio_vm life none sh -c 'trap "echo term; exit 7" TERM; echo err >&2; read x; echo "got $x"; while :; do sleep 0.1; done'; }
crio_vm_terminal() { crio_vm terminal tty sh -c 'read x; tty; until stty size 2>/dev/null; do sleep 0.1; done; echo "got $x"; exit 4'; }
crio_vm_exec() { crio_vm exec none sleep 1000; }
crio_vm_restart() { crio_vm restart none sleep 1000; }
crio_vm_fail() { crio_vm fail none nosuch; }
crio_vm_left() {
    find /sys/fs/cgroup -path '*kubepods*' -name "crio-$LABEL-vm-*" | grep -c . | sed 's/^/cgroups: /'
    eventually gone "containerd-shim-.* $LABEL-vm-"
}

crio_vm_clean() {
    pkill -KILL -f "containerd-shim-.* $LABEL-vm-"
    rm -rf "$ENGINES_ROOT"/conmon/"$LABEL"-vm-*
}

crio_vm_steps() {
    clean_with crio_vm_clean
    # shellcheck source=spec-tests/engines/conmon.sh
    . "$ENGINES_DIR/conmon.sh"
    step 'CRI-O vm: create, start, state, pause, update, stats, kill, wait, delete' 0 crio_vm_life
    step 'CRI-O vm: terminal' 0 crio_vm_terminal
    step 'CRI-O vm: exec, exec that times out, exec of a missing program, exec on a terminal' 0 crio_vm_exec
    step 'CRI-O vm: CRI-O is started anew' 0 crio_vm_restart
    step 'CRI-O vm: a container that cannot be created' 0 crio_vm_fail
    step 'CRI-O vm: nothing is left' 0 crio_vm_left
    wall_time 'CRI-O vm'
}
