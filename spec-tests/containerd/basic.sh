#!/bin/bash
# shellcheck disable=SC1091,SC2016,SC2046,SC2086,SC2154,SC2034,SC2119,SC2015 # ids and options are words without blanks; lib.sh is next door
# What ctr can ask of a shim, one containerd and one pair of shim and runtime at a time. See lib.sh for its settings.
. "$(dirname "$0")/lib.sh"
# Containers at once, at the end.
MANY=${MANY:-100}
begin
id() { echo "$PREFIX-$1"; }
runs() { ctr tasks ls | grep -q "^$(id "$1") .*RUNNING"; }

out=$(run --rm $IMAGE $(id hello) echo hello 2>&1)
check "run prints" hello "$out"
[ "$out" = hello ] || finish || exit 1
check "standard error" oops "$(run --rm $IMAGE $(id err) sh -c 'echo oops >&2' 2>&1 >/dev/null)"
for code in 0 1 7 255; do
	run --rm $IMAGE $(id code$code) sh -c "exit $code" >/dev/null 2>&1
	check "exit code $code" $code $?
done
run --rm $IMAGE $(id sig9) sh -c 'kill -9 $$; sleep 5' >/dev/null 2>&1
# A signal that the init process of a PID namespace sends itself is ignored but for handlers: sleep must end.
check "a signal to itself is ignored by init" 0 $?
# An end of its input that ctr sees before it has the task is never told to the shim.
check "standard input" "input of 3 lines" "$({ printf 'a\nb\nc\n'; eventually 30 runs stdin; } | run --rm $IMAGE $(id stdin) sh -c 'echo input of $(wc -l) lines' 2>&1)"
run --rm $IMAGE $(id missing) /no/such/program >"$WORK/out" 2>&1
check "a program that is missing is an error" 1 $?
grep -q "no such file or directory" "$WORK/out" && ok "the error says so" || bad "the error says: $(cat "$WORK/out")"

must run -d $IMAGE $(id web) sleep 1000
check "detached: running" RUNNING "$(ctr tasks ls | awk -v c=$(id web) '$1==c {print $3}')"
check "exec prints" inside "$(ctr tasks exec --exec-id e1 $(id web) echo inside 2>&1)"
ctr tasks exec --exec-id e2 $(id web) sh -c 'exit 42' >/dev/null 2>&1
check "exec exit code" 42 $?
check "exec with standard input" "got hi" "$({ echo hi; sleep 0.5; } | ctr tasks exec --exec-id e3 $(id web) sh -c 'read x; echo got $x' 2>&1)"
ctr tasks exec --exec-id e4 $(id web) /no/such/program >"$WORK/out" 2>&1 && bad "exec of nothing succeeded" || ok "exec of nothing fails"
grep -q "no such file or directory" "$WORK/out" && ok "and says so" || bad "and says: $(cat "$WORK/out")"
check "exec with a terminal" "tty /dev/pts/0" "$("$here/in-terminal" $CTR tasks exec -t --exec-id e5 $(id web) sh -c 'echo tty $(tty)' </dev/null | grep ^tty)"
must ctr tasks exec -d --exec-id e6 $(id web) sleep 1001
ctr tasks ps $(id web) | grep -q "e6" && ok "ps shows the exec" || bad "ps: $(ctr tasks ps $(id web))"
check "ps shows two processes" 2 "$(ctr tasks ps $(id web) | grep -c '^[0-9]')"
must ctr tasks kill -s 15 --exec-id e6 $(id web)
eventually 20 sh -c "! $CTR tasks ps $(id web) | grep -q e6" && ok "an exec is killed" || bad "the exec lives"
must ctr tasks pause $(id web)
check "paused" PAUSED "$(ctr tasks ls | awk -v c=$(id web) '$1==c {print $3}')"
ctr tasks exec --exec-id e7 $(id web) true >/dev/null 2>&1 && bad "exec in a paused container" || ok "no exec while paused"
must ctr tasks resume $(id web)
check "resumed" RUNNING "$(ctr tasks ls | awk -v c=$(id web) '$1==c {print $3}')"
ctr tasks metrics $(id web) >"$WORK/metrics" 2>&1 && ok "metrics" || bad "metrics: $(cat "$WORK/metrics")"
grep -qi "memory" "$WORK/metrics" && ok "metrics have memory" || bad "metrics: $(cat "$WORK/metrics")"
ctr tasks rm $(id web) >/dev/null 2>&1 && bad "a running task was deleted" || ok "a running task is not deleted"
must ctr tasks kill -s 9 $(id web)
eventually 20 sh -c "$CTR tasks ls | grep $(id web) | grep -q STOPPED" && ok "killed" || bad "not stopped"
check "rm tells 137" "exit code 137" "$(ctr tasks rm $(id web) 2>&1 | grep -o 'exit code [0-9]*')"
must ctr containers rm $(id web)

must run -d --log-uri "file://$WORK/ready" $IMAGE $(id term) sh -c 'trap "exit 143" TERM; echo ready; while :; do sleep 0.1; done'
eventually 20 grep -q ready "$WORK/ready"
must ctr tasks kill -s 15 $(id term)
eventually 20 sh -c "$CTR tasks ls | grep $(id term) | grep -q STOPPED"
check "143 after SIGTERM" "exit code 143" "$(ctr tasks rm $(id term) 2>&1 | grep -o 'exit code [0-9]*')"
must ctr containers rm $(id term)

# Its size comes when it comes.
sized='n=0; until stty size | grep -q "24 80" || [ $n = 80 ]; do n=$((n + 1)); sleep 0.2; done; echo tty $(tty | sed s.pts/0.console.) $(stty size)'
check "a terminal" "tty /dev/console 24 80" "$("$here/in-terminal" $CTR run --rm -t "${RUNTIME_ARGS[@]}" $(scope $(id tty)) $IMAGE $(id tty) sh -c "$sized" </dev/null | tail -1)"

must run -d --log-uri "file://$WORK/log.txt" $IMAGE $(id log) sh -c 'echo to a file; echo and error >&2; exec sleep 1000'
eventually 20 grep -q error "$WORK/log.txt"
check "logs to a file" "to a file and error" "$(sort -r "$WORK/log.txt" | tr '\n' ' ' | sed 's/ $//')"
ctr tasks rm -f $(id log) >/dev/null 2>&1; ctr containers rm $(id log)
cat >"$WORK/logger" <<LOGGER
#!/bin/sh
# As containerd defines logging binaries: output on 3, error on 4, ready on 5.
{ echo "\$CONTAINER_NAMESPACE/\$CONTAINER_ID \$*"; } >$WORK/logged
exec 6>>$WORK/logged
cat <&3 >&6 5>&- &
cat <&4 >&6 5>&- &
exec 3<&- 4<&-
exec 5>&-
wait
echo end >&6
LOGGER
chmod 755 "$WORK/logger"
must run -d --log-uri "binary://$WORK/logger?tag=x" $IMAGE $(id bin) sh -c 'echo to a binary; echo error too >&2'
# Order between the two is the logger's own matter, and the Go shim does not let it come to its end.
eventually 20 sh -c "grep -q too $WORK/logged && grep -q 'a binary' $WORK/logged"
check "logs to a binary" "default/$(id bin) tag x,error too,to a binary" "$(grep -v ^end$ "$WORK/logged" | sort | tr '\n' ',' | sed 's/,$//')"
ctr tasks rm -f $(id bin) >/dev/null 2>&1; ctr containers rm $(id bin)

run --rm --memory-limit $((16 << 20)) $IMAGE $(id oom) sh -c 'tr "\0" x </dev/zero | head -c 100m | sort >/dev/null; echo rc $?' >"$WORK/out" 2>&1
watch_events
run --rm --memory-limit $((8 << 20)) $IMAGE $(id oom2) sh -c 'exec sort /dev/zero' >/dev/null 2>&1
check "137 when out of memory" 137 $?
eventually 20 grep -q "/tasks/delete.*$(id oom2)" "$WORK/events"
kill $events
# containerd 2 itself tells of deletions, and not always in time when the shim is the Go one, which may be too late to tell
# of OOM as well.
if [ "${COMBO%+*}" = skeg ]; then told='s/x/x/' wanted="create start oom exit delete"; else told='/oom/d' wanted="create start exit"; fi
check "events in their order" "$wanted" "$(grep -o "/tasks/[a-z]* .*$(id oom2)" "$WORK/events" | sed 's,/tasks/\([a-z]*\) .*,\1,' | sed "$told" | uniq | tr '\n' ' ' | cut -c1-${#wanted})"

# at_once COMMAND: COMMAND N for N from 1 to $MANY, ten at a time.
at_once() {
	local n pids=()
	for n in $(seq $MANY); do
		"$1" "$n" >>"$WORK/many.log" 2>&1 &
		pids+=($!)
		if [ ${#pids[@]} = 10 ]; then
			wait "${pids[@]}"
			pids=()
		fi
	done
	# Without a pid it would wait for containerd.
	[ ${#pids[@]} = 0 ] || wait "${pids[@]}"
}
start_one() { run -d --null-io $IMAGE "$(id many$1)" sleep 1000; }
is_stopped() { ctr tasks ls | grep -q "$1 .*STOPPED"; }
end_one() {
	local name
	name=$(id "many$1")
	ctr tasks kill -s 9 "$name"
	eventually 20 is_stopped "$name"
	ctr tasks rm "$name"
	ctr containers rm "$name"
}
: >"$WORK/many.log"
start=$(date +%s%N)
at_once start_one
check "$MANY containers at once" $MANY "$(ctr tasks ls | grep -c "$(id many).*RUNNING")"
say "     $((($(date +%s%N) - start) / 1000000)) ms to start them"
at_once end_one
check "and none any more" 0 "$(ctr tasks ls | grep -c "$(id many)")"
finish
