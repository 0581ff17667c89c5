#!/bin/bash
# shellcheck disable=SC1091,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
# What users of shims suffer from: processes killed at the worst moment, leaks, output that nobody reads or that never
# ends. See lib.sh for the settings.
. "$(dirname "$0")/lib.sh"
EXECS=${EXECS:-500}
begin
id() { echo "$PREFIX-$1"; }
shim_of() { ctr tasks ls | awk -v c="$1" '$1==c {print $2}' | xargs -I{} sed -n 's/^PPid:\t//p' /proc/{}/status; }
status_of() { ctr tasks ls | awk -v c="$1" '$1==c {print $3}'; }
is() { [ "$(status_of "$1")" = "$2" ]; }
remove() { ctr tasks rm -f "$1" >/dev/null 2>&1; ctr containers rm "$1" >/dev/null 2>&1; }

# --- Output (security.md I8) ---
run -d $IMAGE $(id open) sleep 1000
start=$(date +%s%N)
ctr tasks exec --exec-id bg $(id open) sh -c 'sleep 600 & echo done' >"$WORK/out" 2>&1
took=$((($(date +%s%N) - start) / 1000000))
check "an exec ends although its child keeps the output open" done "$(cat "$WORK/out")"
[ $took -lt 2000 ] && ok "within $took ms" || bad "it took $took ms"
start=$(date +%s%N)
sum=$(LIMIT=150 ctr tasks exec --exec-id big $(id open) sh -c 'head -c 1073741824 /dev/zero' | sha256sum | cut -d' ' -f1)
check "1 GiB through an exec's output, every byte" 49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14 "$sum"
shim=$(shim_of $(id open))
say "     $((($(date +%s%N) - start) / 1000000)) ms; shim peak $(grep VmHWM /proc/$shim/status | tr -s '\t ' ' ')"
sum=$(LIMIT=150 run --rm $IMAGE $(id bigrun) sh -c 'head -c 1073741824 /dev/zero' | sha256sum | cut -d' ' -f1)
check "1 GiB through a container's output, every byte" 49bc20df15e412a64472421e13fe86ff1c5165e18b2afccf160d4dc19fe68a14 "$sum"
before_kib=$(awk '/VmRSS/ {print $2}' /proc/$shim/status)
mkfifo "$WORK/slow" 2>/dev/null
ctr tasks exec --exec-id slow $(id open) sh -c 'yes 2>/dev/null | head -c 100000000' >"$WORK/slow" &
slow=$!
exec 9<"$WORK/slow"
sleep 2
after_kib=$(awk '/VmRSS/ {print $2}' /proc/$shim/status)
[ $((after_kib - before_kib)) -lt 512 ] && ok "a reader that does not read costs the shim nothing ($before_kib to $after_kib KiB)" ||
	bad "memory grew from $before_kib to $after_kib KiB"
check "and the shim still answers" RUNNING "$(status_of $(id open))"
ctr tasks kill -s 9 --exec-id slow $(id open)
exec 9<&-
wait $slow
remove $(id open)

# --- Leaks (security.md I7) ---
run -d $IMAGE $(id leak) sleep 1000
shim=$(shim_of $(id leak))
count_fds() { ls /proc/$shim/fd | wc -l; }
one_exec() {
	case $(($1 % 5)) in
	0) ctr tasks exec --exec-id x$1 $(id leak) /no/such/program ;;
	1) ctr tasks exec --exec-id x$1 $(id leak) sh -c 'kill -9 $$' ;;
	2) script -qec "timeout 20 $CTR tasks exec -t --exec-id x$1 $(id leak) echo tty" /dev/null </dev/null ;;
	*) ctr tasks exec --exec-id x$1 $(id leak) echo out ;;
	esac >/dev/null 2>&1
	# What failed to start, ctr does not delete.
	ctr tasks delete --exec-id x$1 $(id leak) >/dev/null 2>&1
}
for n in $(seq 1 20); do one_exec $n; done
sleep 0.7
fds=$(count_fds) rss=$(awk '/VmRSS/ {print $2}' /proc/$shim/status) threads=$(ls /proc/$shim/task | wc -l)
for n in $(seq 21 $((20 + EXECS))); do one_exec $n; done
sleep 0.7
check "descriptors after $EXECS execs" $fds "$(count_fds)"
check "threads after $EXECS execs" $threads "$(ls /proc/$shim/task | wc -l)"
check "zombies of the shim" 0 "$(cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^.*) //' | awk -v s=$shim '$1=="Z" && $2==s' | wc -l)"
now=$(awk '/VmRSS/ {print $2}' /proc/$shim/status)
[ $((now - rss)) -lt 2048 ] && ok "memory after $EXECS execs: $rss to $now KiB" || bad "memory: $rss to $now KiB"
remove $(id leak)

# --- Orphans (security.md I13): processes of a host PID namespace end as the shim's children ---
run -d --with-ns pid:/proc/$$/ns/pid $IMAGE $(id orphans) sh -c 'sleep 1000'
shim=$(shim_of $(id orphans))
ctr tasks exec --exec-id o $(id orphans) sh -c 'for i in $(seq 1000); do (true & ) ; done; exit 9' >/dev/null 2>&1
check "the exit code in a storm of orphans" 9 $?
sleep 0.5
check "1000 orphans leave no zombie" 0 "$(cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^.*) //' | awk -v s=$shim '$1=="Z" && $2==s' | wc -l)"
ctr tasks exec -d --exec-id bg $(id orphans) sleep 3333
sleep 0.2
ctr tasks kill -s 9 $(id orphans)
eventually 5 is $(id orphans) STOPPED
eventually 5 sh -c '! grep -alZ "sleep.3333" /proc/[0-9]*/cmdline 2>/dev/null | grep -v self | grep -q .' && ok "nothing outlives the init process of a shared PID namespace" || bad "sleep 3333 lives"
remove $(id orphans)

# --- containerd is killed and comes back ---
mkfifo "$WORK/in" 2>/dev/null
run -d $IMAGE $(id stay) sh -c 'while :; do echo tick; sleep 0.1; done'
run -d $IMAGE $(id ends) sh -c 'sleep 1; exit 33'
kill -9 $containerd_pid
wait $containerd_pid 2>/dev/null
sleep 1.5
start_containerd
check "a container lives on" RUNNING "$(status_of $(id stay))"
check "exec after the restart" again "$(ctr tasks exec --exec-id again $(id stay) echo again 2>&1)"
# containerd 1.6 keeps a task that ended meanwhile. containerd 2 deletes it and its shim before it takes events; the shim
# stays until it has told the end (10 s at the most), and nobody can listen that early: that it goes soon is the sign.
gone() { [ -z "$(shim_of_id "$1")" ]; }
shim_of_id() { shims | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q -- "-id $1 " && echo "$p"; done; }
if [ -n "$(status_of $(id ends))" ]; then
	check "an end that came meanwhile is known" "exit code 33" "$(ctr tasks rm $(id ends) 2>&1 | grep -o 'exit code [0-9]*')"
else
	eventually 5 gone $(id ends) && ok "an end that came meanwhile is told" || bad "the end was not told"
fi
remove $(id ends)
ctr tasks kill -s 9 $(id stay)
eventually 5 is $(id stay) STOPPED && ok "and it can be killed" || bad "it cannot be killed"
remove $(id stay)

# --- The shim is killed ---
ctr events >"$WORK/events" 2>&1 &
events=$!
run -d $IMAGE $(id lost) sleep 1000
run -d $IMAGE $(id over) sh -c 'sleep 0.2; exit 44'
lost=$(ctr tasks ls | awk -v c=$(id lost) '$1==c {print $2}')
eventually 5 is $(id over) STOPPED
over_shim=$(shim_of_id $(id over))
kill -9 $(shim_of $(id lost)) $over_shim
eventually 10 sh -c "! kill -0 $lost" && ok "its container is gone" || bad "its container lives"
eventually 10 grep -q "/tasks/delete.*$(id over)" "$WORK/events"
eventually 10 grep -q "/tasks/delete.*$(id lost)" "$WORK/events"
check "the true exit code of what had ended" 44 "$(grep "/tasks/\(exit\|delete\).*$(id over)" "$WORK/events" | tail -1 | grep -o 'exit_status":[0-9]*' | cut -d: -f2)"
check "137 for what was running" 137 "$(grep "/tasks/\(exit\|delete\).*$(id lost)" "$WORK/events" | tail -1 | grep -o 'exit_status":[0-9]*' | cut -d: -f2)"
kill $events
remove $(id lost)
remove $(id over)

# --- A runtime call is killed ---
if [ "${COMBO%+*}" = skeg ]; then
	cat >"$WORK/slow-runtime" <<-SLOW
		#!/bin/sh
		case "\$*" in *" create "*$(id slow)*|*" exec "*slowexec*) [ -e $WORK/be-slow ] && { echo \$\$ >$WORK/slow-pid; exec sleep 600; } ;; esac
		exec $RUNTIME_BIN "\$@"
	SLOW
	chmod 755 "$WORK/slow-runtime"
	echo "BinaryName = \"$WORK/slow-runtime\"" >"$WORK/runtime.toml"
	rm -f "$WORK/slow-pid"
	touch "$WORK/be-slow"
	run -d $IMAGE $(id slow) sleep 1000 >"$WORK/out" 2>&1 &
	creating=$!
	eventually 5 test -s "$WORK/slow-pid"
	kill -9 "$(cat "$WORK/slow-pid")"
	wait $creating && bad "a killed create succeeded" || ok "a killed create fails"
	grep -q "killed by signal 9" "$WORK/out" && ok "and says so" || bad "and says: $(cat "$WORK/out")"
	ctr containers rm $(id slow) >/dev/null 2>&1
	rm -f "$WORK/be-slow"
	run -d $IMAGE $(id slow) sleep 1000
	check "the next one works" RUNNING "$(status_of $(id slow))"
	remove $(id slow)
	echo "BinaryName = \"$RUNTIME_BIN\"" >"$WORK/runtime.toml"
fi
finish
