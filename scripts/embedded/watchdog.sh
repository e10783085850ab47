# Stops what its parent started once the parent is gone, also when the parent was killed with -9 and could stop
# nothing itself. The parent holds the other end of our standard input; the kernel closes it whatever happens to
# the parent. A shell and not Node, because this waits for days and a shell does so in one megabyte.
#
# Lines read:  add PID SIGNAL SECONDS    stop PID with SIGNAL, and with KILL after SECONDS
#              remove PID                it has ended, its number may belong to somebody else soon
#
# Newest first, one after the other: what was started last needs what was started before it.
trap '' HUP INT

# Where process 1 is slow to reap orphans, or never does, the dead keep answering `kill -0` as zombies.
is_running() {
  kill -0 "$1" 2>/dev/null || return 1
  [ -e "/proc/$1/stat" ] || return 0
  read -r stat 2>/dev/null <"/proc/$1/stat" || return 1
  case $stat in *") Z "*) return 1 ;; esac
}

list=
while read -r op pid signal seconds; do
  if [ "$op" = add ]; then
    list="$pid:$signal:$seconds $list"
  else
    kept=
    for entry in $list; do [ "${entry%%:*}" = "$pid" ] || kept="$kept $entry"; done
    list=$kept
  fi
done
for entry in $list; do
  pid=${entry%%:*} rest=${entry#*:}
  signal=${rest%%:*} ticks=$((${rest#*:} * 10))
  is_running "$pid" && kill -s "$signal" "$pid" 2>/dev/null
  # The lower bound: what even KILL does not end hangs in the kernel.
  while is_running "$pid" && [ "$ticks" -gt -50 ]; do
    [ "$ticks" -gt 0 ] || kill -s KILL "$pid" 2>/dev/null
    ticks=$((ticks - 1))
    sleep 0.1
  done
done
