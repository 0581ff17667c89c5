#!/bin/bash
# shellcheck disable=SC1091,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
# A pod through containerd's CRI server, with real CNI plugins. See lib.sh for the settings; needs Debian's
# containernetworking-plugins, python3-grpcio, python3-grpc-tools, python3-websocket.
. "$(dirname "$0")/lib.sh"
begin
python=${PYTHON:-/usr/bin/python3}
ours=$([ "${COMBO%+*}" = skeg ] && echo yes || echo no)
timeout -k 1 200 "$python" "$here/cri.py" "$WORK/c.sock" "$IMAGE" "$WORK" "$top/proto/cri" "$ours" >"$WORK/cri.out" 2>&1
code=$?
grep '^ok\|^FAIL' "$WORK/cri.out"
checks=$((checks + $(grep -c '^ok' "$WORK/cri.out")))
check "the CRI client ran to its end" 0 $code
[ $code = 0 ] || tail -5 "$WORK/cri.out"
find /sys/fs/cgroup -maxdepth 3 -depth -type d -path '*/skeg-cri*' -exec rmdir {} + 2>/dev/null
finish
