# shellcheck shell=bash disable=SC2034,SC2009,SC2012,SC2010,SC2086,SC2207
# Shared by the scripts here: a containerd of its own (root, state, sockets below $WORK), an image of busybox, checks.
#
# WORK        scratch directory (default /tmp/skeg-containerd)
# CONTAINERD  containerd binary (default: the one in PATH); CTR likewise
# SHIM_BIN    our shim (default: bin/containerd-shim-skeg-v2 of this repository)
# COMBO       skeg or runc, + and skeg, runc or crun: shim + runtime (default skeg+runc)
# SKEG        our runtime (default: bin/skeg of this repository); RUNC and CRUN likewise (default: those in PATH)
# PREFIX      what the ids of its containers begin with (default ct)
# IMAGES      where make-images has put its two (default: made below WORK)
# SYSTEMD     yes: each container of ctr is a scope of systemd's
# PATIENCE    limits in time are so many times as long (default 1), for an emulated machine

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
WORK=${WORK:-/tmp/skeg-containerd}
CONTAINERD=${CONTAINERD:-$(command -v containerd)}
CTR=${CTR:-$(command -v ctr)}
SHIM_BIN=${SHIM_BIN:-$top/bin/containerd-shim-skeg-v2}
SKEG=${SKEG:-$top/bin/skeg}
RUNC=${RUNC:-$(command -v runc)}
CRUN=${CRUN:-$(command -v crun)}
COMBO=${COMBO:-skeg+runc}
IMAGE=localhost/skeg-busybox:latest
PAUSE=localhost/skeg-pause:latest
PREFIX=${PREFIX:-ct}
IMAGES=${IMAGES:-$WORK/images}
SYSTEMD=${SYSTEMD:-}
PATIENCE=${PATIENCE:-1}
failures=0
checks=0

case ${COMBO#*+} in
skeg) RUNTIME_BIN=$SKEG ;;
runc) RUNTIME_BIN=$RUNC ;;
crun) RUNTIME_BIN=$CRUN ;;
*) echo "COMBO: $COMBO" >&2; exit 2 ;;
esac
case ${COMBO%+*} in
skeg) RUNTIME_ARGS=(--runtime io.containerd.skeg.v2 --runtime-config-path "$WORK/runtime.toml") ;;
runc) RUNTIME_ARGS=(--runtime io.containerd.runc.v2 --runc-binary "$RUNTIME_BIN" ${SYSTEMD:+--runc-systemd-cgroup}) ;;
esac
export CONTAINERD_ADDRESS=$WORK/c.sock

say() { printf '%s\n' "$*"; }
note() { checks=$((checks + 1)); say "$*" | tee -a "$WORK/checks"; }
ok() { note "ok   $*"; }
bad() { failures=$((failures + 1)); note "FAIL $*"; }
# check NAME WANTED GOT
check() { if [ "$2" = "$3" ]; then ok "$1"; else bad "$1: wanted [$2], got [$3]"; fi; }
# must COMMAND...: what later checks build on.
must() { "$@" >"$WORK/must" 2>&1 || bad "$*: exit status $?: $(tail -1 "$WORK/must")"; }
# eventually SECONDS COMMAND...
eventually() {
	local end=$(($(date +%s%N) + $1 * PATIENCE * 1000000000))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$(date +%s%N)" -lt $end ] || return 1
		sleep 0.05
	done
}
# Nothing here takes long, and what does is told at the end; -k because ctr hands signals on to the container.
ctr() {
	local code=0 began=$SECONDS limit=$((${LIMIT:-30} * PATIENCE))
	timeout -k 1 $limit "$CTR" "$@" || code=$?
	# A container that is killed ends with 137 too.
	[ $code != 124 ] && { [ $code != 137 ] || [ $((SECONDS - began)) -lt $limit ]; } || echo "ctr $*" >>"$WORK/hung"
	return $code
}
# scope ID: the options that make it a scope of the same name, where it is to be one.
scope() { [ "$SYSTEMD" != yes ] || echo --cgroup "system.slice:$PREFIX:${1#"$PREFIX-"}"; }
run() {
	local words=("${RUNTIME_ARGS[@]}") word before=
	for word in "$@"; do
		# The id comes after the image.
		[ "$before" != "$IMAGE" ] || words+=($(scope "$word"))
		before=$word
	done
	ctr run "${words[@]}" "$@"
}
# Writes containerd's events to $WORK/events from now on, until $events is killed.
watch_events() {
	timeout -k 1 $((500 * PATIENCE)) "$CTR" events >"$WORK/events" 2>&1 &
	events=$!
	eventually 20 is_watching
}
is_watching() { ctr namespaces label default "probe=$RANDOM" && grep -q /namespaces/update "$WORK/events"; }

write_config() {
	local options="BinaryName = \"$RUNTIME_BIN\""
	[ "${COMBO%+*}" = runc ] || options="ConfigPath = \"$WORK/runtime.toml\""
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
		        $options
	CONFIG
	# A pod that the shim makes (containerd 2). containerd takes options of runc alone then, and gives none to this type of
	# runtime: the runtime is what the shim finds in its PATH.
	if [ "${SANDBOXER:-podsandbox}" != podsandbox ]; then
		sed -i -e "/runtimes.tested.options/,\$d" -e "/^ *runtime_type = /a sandboxer = \"$SANDBOXER\"" "$WORK/config.toml"
	fi
	echo "BinaryName = \"$RUNTIME_BIN\"" >"$WORK/runtime.toml"
	[ "$SYSTEMD" != yes ] || echo "SystemdCgroup = true" >>"$WORK/runtime.toml"
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
	ln -sf "$RUNTIME_BIN" "$WORK/bin/skeg"
	PATH=$WORK/bin:$PATH setsid "$CONTAINERD" -c "$WORK/config.toml" >>"$WORK/containerd.log" 2>&1 &
	containerd_pid=$!
	eventually 30 ctr version || { say "containerd does not answer"; tail -20 "$WORK/containerd.log"; exit 1; }
}

# Ends containerd, and what a failed test may have left of this $WORK.
stop_containerd() {
	local ns c dir
	for ns in default k8s.io; do
		for c in $(ctr -n $ns tasks ls -q 2>/dev/null); do ctr -n $ns tasks rm -f "$c" >/dev/null 2>&1; done
		for c in $(ctr -n $ns containers ls -q 2>/dev/null); do ctr -n $ns containers rm "$c" >/dev/null 2>&1; done
	done
	kill "$containerd_pid" 2>/dev/null
	eventually 20 sh -c "! kill -0 $containerd_pid" || { bad "containerd does not end"; kill -9 "$containerd_pid"; }
	wait "$containerd_pid" 2>/dev/null
	shims | xargs -r kill -9
	for dir in $(cgroups); do
		xargs -r kill -9 <"$dir/cgroup.procs"
		eventually 5 rmdir "$dir"
	done 2>/dev/null
	ip link del skegct0 2>/dev/null
	rm -rf "$WORK/state" "$WORK/opt" "$WORK/ipam"
}

begin() {
	mkdir -p "$WORK"
	: >"$WORK/containerd.log"
	rm -f "$WORK"/log.txt "$WORK"/logged "$WORK"/ready "$WORK"/checks "$WORK"/hung
	trap 'bad "the script ended before its end"; stop_containerd; exit 1' EXIT
	[ -e "$IMAGES/pause.tar" ] || "$here/make-images" "$IMAGES"
	write_config
	start_containerd
	must ctr images import --base-name "${IMAGE%:*}" "$IMAGES/busybox.tar"
	must ctr -n k8s.io images import --base-name "${IMAGE%:*}" "$IMAGES/busybox.tar"
	must ctr -n k8s.io images import --base-name "${PAUSE%:*}" "$IMAGES/pause.tar"
	before=$(snapshot)
	[ $failures = 0 ] || exit 1
}

# The pids of the shims that this containerd has started.
shims() {
	local p
	for p in /proc/[0-9]*; do
		{ tr '\0' ' ' <"$p/cmdline"; } 2>/dev/null | grep -q -- "containerd-shim-.*-address $WORK/c.sock" && echo "${p#/proc/}"
	done
}

# The cgroups of containers, innermost first.
cgroups() {
	find /sys/fs/cgroup -maxdepth 5 -depth -type d \( -name "$PREFIX-*" -o -path '*/default/*' -o -path '*/k8s.io/*' -o -path '*/skeg-cri/*' -o -path '*/skegcri.slice/*' \) 2>/dev/null
}

# What a container may leave on the host: shims, mounts, cgroups, sockets, network namespaces.
snapshot() {
	shims | sed 's/^.*/shim/'
	grep -o " $WORK/[^ ]*rootfs [^ ]*" /proc/self/mountinfo | sort
	cgroups | sort
	ls /run/containerd/s 2>/dev/null | sort
	find "$WORK/state" -mindepth 3 -maxdepth 3 2>/dev/null | sort
	ip netns list 2>/dev/null | grep -c cni-
}
same_as_before() { [ "$before" = "$(snapshot)" ]; }

finish() {
	eventually 20 same_as_before
	check "nothing is left behind" "$before" "$(snapshot)"
	check "no call hangs" "" "$(cat "$WORK/hung" 2>/dev/null)"
	stop_containerd
	trap - EXIT
	say "$checks checks, $failures failed ($COMBO, $("$CONTAINERD" --version | cut -d' ' -f3))"
	[ $failures = 0 ]
}
