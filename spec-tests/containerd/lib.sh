# shellcheck shell=bash disable=SC2034,SC2009,SC2012,SC2010,SC2086
# Shared by the scripts here: a containerd of its own (root, state, sockets below $WORK), an image of busybox, checks.
#
# WORK        scratch directory (default /tmp/skeg-containerd)
# CONTAINERD  containerd binary (default: the one in PATH); CTR likewise
# SHIM_BIN    our shim (default: bin/containerd-shim-skeg-v2 of this repository)
# COMBO       skeg+skeg, skeg+runc or runc+skeg: shim + runtime (default skeg+runc)
# SKEG        our runtime (default: bin/skeg of this repository); RUNC likewise (default: the one in PATH)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
WORK=${WORK:-/tmp/skeg-containerd}
CONTAINERD=${CONTAINERD:-$(command -v containerd)}
CTR=${CTR:-$(command -v ctr)}
SHIM_BIN=${SHIM_BIN:-$top/bin/containerd-shim-skeg-v2}
SKEG=${SKEG:-$top/bin/skeg}
RUNC=${RUNC:-$(command -v runc)}
COMBO=${COMBO:-skeg+runc}
IMAGE=localhost/skeg-busybox:latest
PAUSE=localhost/skeg-pause:latest
PREFIX=${PREFIX:-ct}
failures=0
checks=0

case ${COMBO#*+} in
skeg) RUNTIME_BIN=$SKEG ;;
runc) RUNTIME_BIN=$RUNC ;;
*) echo "COMBO: $COMBO" >&2; exit 2 ;;
esac
case ${COMBO%+*} in
skeg) RUNTIME_ARGS=(--runtime io.containerd.skeg.v2 --runtime-config-path "$WORK/runtime.toml") ;;
runc) RUNTIME_ARGS=(--runtime io.containerd.runc.v2 --runc-binary "$RUNTIME_BIN") ;;
esac
export CONTAINERD_ADDRESS=$WORK/c.sock

say() { printf '%s\n' "$*"; }
ok() { checks=$((checks + 1)); say "ok   $*"; }
bad() { checks=$((checks + 1)); failures=$((failures + 1)); say "FAIL $*"; }
# check NAME WANTED GOT
check() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1: wanted [$2], got [$3]"; fi; }
# eventually SECONDS COMMAND...
eventually() {
	local end=$(($(date +%s%N) + $1 * 1000000000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt $end ] || return 1
		sleep 0.05
	done
}
# Nothing here takes long; -k because ctr hands signals on to the container.
ctr() { timeout -k 1 "${LIMIT:-30}" "$CTR" "$@"; }
run() { ctr run "${RUNTIME_ARGS[@]}" "$@"; }

make_image() {
	[ -e "$WORK/pause.tar" ] && return
	rm -rf "$WORK/image"
	local tree=$WORK/image/rootfs applet
	mkdir -p "$tree"/{bin,proc,sys,dev,tmp,etc,root}
	cp "$(command -v busybox)" "$tree/bin/busybox"
	for applet in $("$tree/bin/busybox" --list); do
		[ "$applet" = busybox ] || ln -sf busybox "$tree/bin/$applet"
	done
	printf 'root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n' >"$tree/etc/passwd"
	(
		cd "$WORK/image" && umoci init --layout oci && umoci new --image oci:latest &&
			umoci insert --image oci:latest rootfs / &&
			umoci config --image oci:latest --config.cmd /bin/sh --config.env PATH=/bin &&
			tar -C oci -cf ../busybox.tar . &&
			umoci config --image oci:latest --config.cmd /bin/sleep --config.cmd 1000000 &&
			tar -C oci -cf ../pause.tar .
	) >/dev/null
}

write_config() {
	cat >"$WORK/config.toml" <<-CONFIG
		version = 2
		root = "$WORK/root"
		state = "$WORK/state"
		[grpc]
		  address = "$WORK/c.sock"
		[plugins."io.containerd.internal.v1.opt"]
		  path = "$WORK/opt"
		[plugins."io.containerd.grpc.v1.cri"]
		  sandbox_image = "$PAUSE"
		  stream_server_address = "127.0.0.1"
		  stream_server_port = "0"
		  # Machines without CAP_SYS_RESOURCE cannot lower scores.
		  restrict_oom_score_adj = true
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "$WORK/cni"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    default_runtime_name = "tested"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested]
		      runtime_type = "io.containerd.${COMBO%+*}.v2"
		      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.tested.options]
		        $([ "${COMBO%+*}" = skeg ] && echo "ConfigPath = \"$WORK/runtime.toml\"" || echo "BinaryName = \"$RUNTIME_BIN\"")
	CONFIG
	echo "BinaryName = \"$RUNTIME_BIN\"" >"$WORK/runtime.toml"
	mkdir -p "$WORK/cni"
	cat >"$WORK/cni/10-skeg.conflist" <<-CNI
		{ "cniVersion": "0.4.0", "name": "skegtest", "plugins": [
		  { "type": "bridge", "bridge": "skegct0", "isGateway": true, "ipMasq": false,
		    "ipam": { "type": "host-local", "ranges": [[{ "subnet": "10.88.77.0/24" }]], "dataDir": "$WORK/ipam" } },
		  { "type": "loopback" } ] }
	CNI
}

start_containerd() {
	mkdir -p "$WORK/bin"
	ln -sf "$SHIM_BIN" "$WORK/bin/containerd-shim-skeg-v2"
	PATH=$WORK/bin:$PATH setsid "$CONTAINERD" -c "$WORK/config.toml" >>"$WORK/containerd.log" 2>&1 &
	containerd_pid=$!
	eventually 15 ctr version || { say "containerd does not answer"; tail -20 "$WORK/containerd.log"; exit 1; }
}

# Ends containerd, and the shims and containers of this $WORK that a failed test may have left.
stop_containerd() {
	local ns c
	for ns in default k8s.io; do
		for c in $(ctr -n $ns tasks ls -q 2>/dev/null); do ctr -n $ns tasks rm -f "$c" >/dev/null 2>&1; done
		for c in $(ctr -n $ns containers ls -q 2>/dev/null); do ctr -n $ns containers rm "$c" >/dev/null 2>&1; done
	done
	kill "$containerd_pid" 2>/dev/null
	wait "$containerd_pid" 2>/dev/null
	ip link del skegct0 2>/dev/null
	rm -rf "$WORK/state" "$WORK/opt" "$WORK/ipam"
}

begin() {
	mkdir -p "$WORK"
	: >"$WORK/containerd.log"
	rm -f "$WORK"/log.txt "$WORK"/logged
	make_image
	write_config
	start_containerd
	ctr images import --base-name "${IMAGE%:*}" "$WORK/busybox.tar" >/dev/null 2>&1 || { say "no image"; exit 1; }
	ctr -n k8s.io images import --base-name "${IMAGE%:*}" "$WORK/busybox.tar" >/dev/null 2>&1
	ctr -n k8s.io images import --base-name "${PAUSE%:*}" "$WORK/pause.tar" >/dev/null 2>&1
	before=$(snapshot)
}

# The pids of the shims that this containerd has started.
shims() {
	local p
	for p in /proc/[0-9]*; do
		{ tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null | grep -q -- "containerd-shim-.*-address $WORK/c.sock" && echo "${p#/proc/}"
	done
}

# What a container may leave on the host: shims, mounts, cgroups, sockets, network namespaces.
snapshot() {
	shims | sed 's/^.*/shim/'
	grep -o " $WORK/[^ ]*rootfs [^ ]*" /proc/self/mountinfo | sort
	find /sys/fs/cgroup -maxdepth 4 -type d \( -name "$PREFIX-*" -o -path '*/default/*' -o -path '*/k8s.io/*' \) 2>/dev/null | grep -v "^$" | sort
	ls /run/containerd/s 2>/dev/null | sort
	find "$WORK/state" -mindepth 3 -maxdepth 3 2>/dev/null | sort
	ip netns list 2>/dev/null | grep -c cni-
}

finish() {
	sleep 0.3
	eventually 10 same_as_before
	check "nothing is left behind" "$before" "$(snapshot)"
	stop_containerd
	say "$checks checks, $failures failed ($COMBO, $("$CONTAINERD" --version | cut -d' ' -f3))"
	[ $failures = 0 ]
}
same_as_before() { [ "$before" = "$(snapshot)" ]; }
