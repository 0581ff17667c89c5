#!/bin/bash
# shellcheck disable=SC1091,SC2016,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
# What users of shims suffer from: processes killed at the worst moment, leaks, output that nobody reads or that never
# ends. See lib.sh for the settings.
. "$(dirname "$0")/lib.sh"
EXECS=${EXECS:-500}
# Of output, and of orphans.
MIB=${MIB:-1024}
ORPHANS=${ORPHANS:-1000}
# A child that outlives what is asked of it, in seconds.
CHILD=$((600 * PATIENCE))
begin
id() { echo "$PREFIX-$1"; }
status_of() { ctr tasks ls | awk -v c="$1" '$1==c {print $3}'; }
pid_of() { ctr tasks ls | awk -v c="$1" '$1==c {print $2}'; }
shim_of_id() { shims | while read -r p; do tr '\0' ' ' <"/proc/$p/cmdline" | grep -q -- "-id $1 " && echo "$p"; done; }
is() { [ "$(status_of "$1")" = "$2" ]; }
# sets_out ID WORDS...: runs a container in the background and says where its shim is, in $shim.
sets_out() {
	local name=$1
	shift
	must run -d "$@"
	shim=$(shim_of_id $name)
	[ -n "$shim" ] && [ -e "/proc/$shim/exe" ] || { bad "$name has no shim: [$shim]"; shim=none; return 1; }
}
memory() { awk -v what="$1:" '$1==what {print $2}' "/proc/$shim/status"; }
count_fds() { find "/proc/$shim/fd" -type l | wc -l; }
count_threads() { find "/proc/$shim/task" -mindepth 1 -maxdepth 1 | wc -l; }
zombies() { cat /proc/[0-9]*/stat 2>/dev/null | sed 's/^.*) //' | awk -v s="$shim" '$1=="Z" && $2==s' | wc -l; }
# grows NAME LIMIT BEFORE AFTER: by less than LIMIT KiB.
grows() {
	if [ "${3:-0}" -gt 0 ] && [ "${4:-0}" -gt 0 ] && [ $(($4 - $3)) -lt "$2" ]; then ok "$1 ($3 to $4 KiB)"; else bad "$1: $3 to $4 KiB"; fi
}
# Limits, not measurements: what they tell apart takes minutes.
begin_clock() { clock=$SECONDS; }
within() { [ $((SECONDS - clock)) -lt $(($1 * PATIENCE)) ] && echo yes || echo "no: $((SECONDS - clock)) s"; }
ZEROS=$((MIB << 20))
zeros_sum() { head -c $ZEROS /dev/zero | sha256sum | cut -d' ' -f1; }
remove() { ctr tasks rm -f "$1" >/dev/null 2>&1; must ctr containers rm "$1"; }

# security.md I8.
output() {
	local before_kib sum slow wanted
	wanted=$(zeros_sum)
	sets_out $(id open) $IMAGE $(id open) sleep 1000 || return
	begin_clock
	ctr tasks exec --exec-id bg $(id open) sh -c "sleep $CHILD & echo ended" >"$WORK/out" 2>&1
	check "an exec ends although its child keeps the output open" ended "$(cat "$WORK/out")"
	check "long before the child does" yes "$(within 60)"
	before_kib=$(memory VmHWM)
	sum=$(LIMIT=150 ctr tasks exec --exec-id big $(id open) head -c $ZEROS /dev/zero | sha256sum | cut -d' ' -f1)
	check "$MIB MiB through an exec's output, every byte" $wanted "$sum"
	grows "the shim's peak stays" 512 "$before_kib" "$(memory VmHWM)"
	check "what pipes hold is not lost to a reader that is late" 100000 "$(ctr tasks exec --exec-id late $(id open) head -c 100000 /dev/zero | { sleep 1; wc -c; })"
	sum=$(LIMIT=150 run --rm $IMAGE $(id bigrun) head -c $ZEROS /dev/zero | sha256sum | cut -d' ' -f1)
	check "$MIB MiB through a container's output, every byte" $wanted "$sum"
	before_kib=$(memory VmRSS)
	mkfifo "$WORK/slow" 2>/dev/null
	ctr tasks exec --exec-id slow $(id open) sh -c 'yes 2>/dev/null | head -c 100000000' >"$WORK/slow" &
	slow=$!
	exec 9<"$WORK/slow"
	sleep 2
	grows "a reader that does not read costs the shim nothing" 512 "$before_kib" "$(memory VmRSS)"
	check "and the shim still answers" RUNNING "$(status_of $(id open))"
	must ctr tasks kill -s 9 --exec-id slow $(id open)
	exec 9<&-
	wait $slow
	remove $(id open)
}

# In the host's PID namespace the child outlives the init process until the shim ends it.
child() {
	sets_out $(id child) --with-ns pid:/proc/$$/ns/pid $IMAGE $(id child) sh -c "sleep $CHILD & exit 4" || return
	begin_clock
	eventually 20 is $(id child) STOPPED && ok "a container ends although its child keeps the output open" || bad "it is $(status_of $(id child))"
	check "and is deleted at once" "exit code 4" "$(ctr tasks rm $(id child) 2>&1 | grep -o 'exit code [0-9]*')"
	check "both long before the child would end" yes "$(within 60)"
	remove $(id child)
}

# security.md I7.
one_exec() {
	case $(($1 % 5)) in
	0) ctr tasks exec --exec-id x$1 $(id leak) /no/such/program ;;
	1) ctr tasks exec --exec-id x$1 $(id leak) sh -c 'kill -9 $$' ;;
	2) "$here/in-terminal" "$CTR" tasks exec -t --exec-id x$1 $(id leak) echo tty </dev/null ;;
	*) ctr tasks exec --exec-id x$1 $(id leak) echo out ;;
	esac >/dev/null 2>&1
	codes="$codes $(($1 % 5)):$?"
	# What failed to start, ctr does not delete.
	[ $(($1 % 5)) != 0 ] || ctr tasks delete --exec-id x$1 $(id leak) >/dev/null 2>&1
}
no_zombies() { [ "$(zombies)" = 0 ]; }
has_fds() { [ "$(count_fds)" = "$1" ]; }
# Until the descriptors stay as many as they are for two seconds.
settle() {
	local last='' n
	for n in $(seq 15); do
		[ "$(count_fds)" != "$last" ] || return
		last=$(count_fds)
		sleep 2
	done
}
leaks() {
	local n fds rss threads codes=''
	sets_out $(id leak) $IMAGE $(id leak) sleep 1000 || return
	for n in $(seq 1 20); do one_exec $n; done
	# What is drained after the last of them is not counted.
	settle
	fds=$(count_fds) rss=$(memory VmRSS) threads=$(count_threads)
	for n in $(seq 21 $((20 + EXECS))); do one_exec $n; done
	check "each exec ended as it should" "0:1 1:137 2:0 3:0 4:0" "$(tr ' ' '\n' <<<"$codes" | grep . | sort -u | paste -sd' ')"
	eventually 20 has_fds $fds
	check "descriptors after $EXECS execs" $fds "$(count_fds)"
	check "threads after $EXECS execs" $threads "$(count_threads)"
	check "zombies of the shim" 0 "$(zombies)"
	grows "memory after $EXECS execs stays" 2048 "$rss" "$(memory VmRSS)"
	remove $(id leak)
}

# security.md I13: processes of a host PID namespace end as the shim's children.
orphans() {
	sets_out $(id orphans) --with-ns pid:/proc/$$/ns/pid $IMAGE $(id orphans) sh -c 'sleep 1000' || return
	ctr tasks exec --exec-id o $(id orphans) sh -c "for i in \$(seq $ORPHANS); do (true & ) ; done; exit 9" >/dev/null 2>&1
	check "the exit code in a storm of orphans" 9 $?
	eventually 20 no_zombies
	check "$ORPHANS orphans leave no zombie" 0 "$(zombies)"
	must ctr tasks exec -d --exec-id bg $(id orphans) sleep 3333
	must ctr tasks kill -s 9 $(id orphans)
	eventually 20 is $(id orphans) STOPPED
	eventually 20 sh -c '! grep -alZ "sleep.3333" /proc/[0-9]*/cmdline 2>/dev/null | grep -v self | grep -q .' && ok "nothing outlives the init process of a shared PID namespace" || bad "sleep 3333 lives"
	remove $(id orphans)
}

gone() { [ -z "$(shim_of_id "$1")" ]; }

# containerd is killed and comes back.
restart() {
	sets_out $(id stay) $IMAGE $(id stay) sh -c 'while :; do echo tick; sleep 0.1; done' || return
	sets_out $(id ends) $IMAGE $(id ends) sh -c 'sleep 1; exit 33' || return
	kill -9 $containerd_pid
	wait $containerd_pid 2>/dev/null
	sleep 1.5
	start_containerd
	check "a container lives on" RUNNING "$(status_of $(id stay))"
	check "exec after the restart" again "$(ctr tasks exec --exec-id again $(id stay) echo again 2>&1)"
	check "its output is read again" tick "$(timeout -k 1 $((10 * PATIENCE)) "$CTR" tasks attach $(id stay) 2>/dev/null | head -1)"
	check "its own input is as before" "over here" "$(echo over here | ctr tasks exec --exec-id input $(id stay) head -1 2>&1)"
	# containerd 1.6 keeps a task that ended meanwhile. containerd 2 deletes it and its shim before it takes events; the shim
	# stays until it has told the end (10 s at the most), and nobody can listen that early: that it goes soon is the sign.
	if [ -n "$(status_of $(id ends))" ]; then
		check "an end that came meanwhile is known" "exit code 33" "$(ctr tasks rm $(id ends) 2>&1 | grep -o 'exit code [0-9]*')"
	else
		eventually 20 gone $(id ends) && ok "an end that came meanwhile is told" || bad "the end was not told"
	fi
	remove $(id ends)
	must ctr tasks kill -s 9 $(id stay)
	eventually 20 is $(id stay) STOPPED && ok "and it can be killed" || bad "it cannot be killed"
	remove $(id stay)
}

# told ID: the status that the last event of its end or its deletion has.
told() { grep "/tasks/\(exit\|delete\).*$1" "$WORK/events" | tail -1 | grep -o 'exit_status":[0-9]*' | cut -d: -f2; }
killed_shim() {
	local lost over_shim
	watch_events
	sets_out $(id over) $IMAGE $(id over) sh -c 'sleep 0.2; exit 44' || return
	over_shim=$shim
	sets_out $(id lost) $IMAGE $(id lost) sleep 1000 || return
	lost=$(pid_of $(id lost))
	eventually 20 is $(id over) STOPPED
	kill -9 $shim $over_shim
	eventually 20 sh -c "! kill -0 $lost" && ok "its container is gone" || bad "its container lives"
	eventually 20 grep -q "/tasks/delete.*$(id over)" "$WORK/events"
	eventually 20 grep -q "/tasks/delete.*$(id lost)" "$WORK/events"
	check "the true exit code of what had ended" 44 "$(told $(id over))"
	check "137 for what was running" 137 "$(told $(id lost))"
	kill $events
	remove $(id lost)
	remove $(id over)
}

# killed COMMAND WORDS...: runs ctr WORDS, kills the runtime's COMMAND that it leads to; what was said is in out.
killed() {
	local pid code=0
	rm -f "$WORK/slow-pid"
	echo "$1" >"$WORK/be-slow"
	shift
	"$@" >"$WORK/out" 2>&1 &
	pid=$!
	eventually 20 test -s "$WORK/slow-pid" && kill -9 "$(cat "$WORK/slow-pid")"
	rm -f "$WORK/be-slow"
	wait $pid || code=$?
	[ $code != 0 ] && grep -q "killed by signal 9" "$WORK/out"
}
killed_call() {
	cat >"$WORK/slow-runtime" <<-SLOW
		#!/bin/sh
		case "\$*" in
		*" \$(cat $WORK/be-slow 2>/dev/null || echo nothing) "*) echo \$\$ >$WORK/slow-pid; exec sleep 600 ;;
		esac
		exec $RUNTIME_BIN "\$@"
	SLOW
	chmod 755 "$WORK/slow-runtime"
	echo "BinaryName = \"$WORK/slow-runtime\"" >"$WORK/runtime.toml"
	killed create run -d $IMAGE $(id slow) sleep 1000 && ok "a killed create fails and says so" || bad "killed create: $(cat "$WORK/out")"
	ctr containers rm $(id slow) >/dev/null 2>&1
	must run -d $IMAGE $(id slow) sleep 1000
	check "the next create works" RUNNING "$(status_of $(id slow))"
	killed exec ctr tasks exec --exec-id k1 $(id slow) true && ok "a killed exec fails and says so" || bad "killed exec: $(cat "$WORK/out")"
	ctr tasks delete --exec-id k1 $(id slow) >/dev/null 2>&1
	check "the next exec works" next "$(ctr tasks exec --exec-id k2 $(id slow) echo next 2>&1)"
	must ctr tasks kill -s 9 $(id slow)
	eventually 20 is $(id slow) STOPPED
	killed delete ctr tasks rm $(id slow) && ok "a killed delete fails and says so" || bad "killed delete: $(cat "$WORK/out")"
	check "the next delete works, with the true exit code" "exit code 137" "$(ctr tasks rm $(id slow) 2>&1 | grep -o 'exit code [0-9]*')"
	must ctr containers rm $(id slow)
	killed start run -d $IMAGE $(id slow) sleep 1000 && ok "a killed start fails and says so" || bad "killed start: $(cat "$WORK/out")"
	# ctr leaves the task that it has created, and cannot start it again.
	remove $(id slow)
	must run -d $IMAGE $(id slow) sleep 1000
	check "the next start works" RUNNING "$(status_of $(id slow))"
	remove $(id slow)
	echo "BinaryName = \"$RUNTIME_BIN\"" >"$WORK/runtime.toml"
}

for section in ${SECTIONS:-output child leaks orphans restart killed_shim killed_call}; do $section; done
finish
