#!/bin/bash
# What idle shims cost: proportional memory over 50 of them, and wake-ups. See lib.sh for the settings.
# shellcheck disable=SC1091,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
. "$(dirname "$0")/lib.sh"
PODS=${PODS:-50}
[ "${COMBO%+*}" = skeg ] || SECONDS_IDLE=${SECONDS_IDLE:-10}
SECONDS_IDLE=${SECONDS_IDLE:-60}
LIMIT_KIB=${LIMIT_KIB:-1536}
begin
id() { echo "$PREFIX-$1"; }
for n in $(seq $PODS); do must run -d --null-io $IMAGE $(id idle$n) sleep 100000; done
sleep 1
pss=0 private=0 count=0
for p in $(shims); do
	pss=$((pss + $(awk '/^Pss:/ {print $2}' /proc/$p/smaps_rollup)))
	private=$((private + $(awk '/^Private_(Clean|Dirty):/ {s += $2} END {print s}' /proc/$p/smaps_rollup)))
	count=$((count + 1))
done
check "shims" $PODS $count
say "     $count shims: $((pss / count)) KiB PSS each, $((private / count)) KiB private, $(awk '/VmRSS/ {print $2}' /proc/$p/status) KiB resident"
[ "${COMBO%+*}" = runc ] || { [ $((pss / count)) -lt $LIMIT_KIB ] && ok "under $LIMIT_KIB KiB" || bad "not under $LIMIT_KIB KiB"; }
LIMIT=$((SECONDS_IDLE + 5)) timeout -s INT $SECONDS_IDLE strace -f -p $p -o "$WORK/strace" >/dev/null 2>&1
calls=$(grep -vc "detached\|epoll_wait([0-9]*, *$\|resumed\|SIGSTOP" "$WORK/strace")
say "     $calls system calls in $SECONDS_IDLE s of idleness"
if [ "${COMBO%+*}" = skeg ]; then
	grep -q epoll_wait "$WORK/strace" && ok "it waits" || bad "strace saw nothing"
	check "no wake-up while idle" 0 "$calls"
fi
for n in $(seq $PODS); do
	ctr tasks rm -f $(id idle$n) >/dev/null 2>&1
	ctr containers rm $(id idle$n)
done
finish
