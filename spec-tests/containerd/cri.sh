#!/bin/bash
# shellcheck disable=SC1091,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
# A pod through containerd's CRI server, with real CNI plugins. See lib.sh for the settings; needs Debian's
# containernetworking-plugins, python3-grpcio, python3-grpc-tools, python3-websocket.
. "$(dirname "$0")/lib.sh"
begin
python=${PYTHON:-/usr/bin/python3}
ours=$([ "${COMBO%+*}" = skeg ] && echo yes || echo no)
# client PROGRAM WORDS...: its checks are ours, and its output is in cri.out.
client() {
	local program=$1 code=0
	shift
	timeout -k 1 $((200 * PATIENCE)) "$python" "$here/$program" "$WORK/c.sock" "$IMAGE" "$WORK" "$top/proto/cri" "$ours" "$@" >"$WORK/cri.out" 2>&1 || code=$?
	grep '^ok\|^FAIL' "$WORK/cri.out" | tee -a "$WORK/checks"
	checks=$((checks + $(grep -c '^ok' "$WORK/cri.out")))
	check "$program${1:+ $1} ran to its end" 0 $code
	[ $code = 0 ] || tail -5 "$WORK/cri.out"
}
client cri.py
client killed.py make
read -r _ pod container shim <<<"$(grep ^pod "$WORK/cri.out")"
kill -9 $containerd_pid
wait $containerd_pid 2>/dev/null
start_containerd
client killed.py restarted "$pod" "$container" "$shim"
# The Go shim leaves its socket then.
if [ $ours = yes ]; then
	kill -9 "$shim"
	client killed.py lost "$pod" "$container" "$shim"
else
	client killed.py remove "$pod" "$container" "$shim"
fi
find /sys/fs/cgroup -maxdepth 3 -depth -type d -path '*/skeg-cri*' -exec rmdir {} + 2>/dev/null
finish
