#!/bin/sh
# Everything that changes a node. Run as:
#   sh -c SCRIPT change VERB ROOT SUDO SILENCE DEADLINE BINARY RUN LOG WORDS…
# with a heartbeat on standard input: at least one byte in every SILENCE seconds. End of input, silence or the DEADLINE
# (seconds) send TERM to the command in progress, on which cocoon cleans up after itself; so nothing outlives the
# connection unnoticed, and our lock is never freed before the command has ended. SUDO is `yes` or `no`.
#
#   pull REFERENCE              cocoon image pull --force
#   canary NAME SNAPSHOT ARGS…  clone a VM, look at it, remove it whatever happened
#   remove NAME                 remove a VM that an earlier connection may have left
#
# Answers with lines: `locked`, `busy PID`, `ended CODE [silence|deadline]`, `state WORD`, `removed NAME`, `left NAME`.
# What cocoon said on its stderr comes on stderr.
set -u
LC_ALL=C NO_COLOR=1
export LC_ALL NO_COLOR
umask 022

verb=$1 root=$2 sudo=$3 silence=$4 deadline=$5 binary=$6 run=$7 log=$8
shift 8

# The rest of this script holds no file open but: 3 the heartbeat, 9 the lock.
exec 3<&0 </dev/null
trap : PIPE

as_root() {
  if [ "$sudo" = yes ]; then sudo -n "$@"; else "$@"; fi
}

# A lock of ours for this root directory; cocoon's own locks are never touched, its pull would wait on them for ever.
# The directory belongs to root, so that whoever comes from whichever bastion meets the same lock.
take_lock() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  lock=$(as_root sh -c '
    for dir in /run/cocoon-reconcile "/tmp/cocoon-reconcile-$(id -u)"; do
      mkdir -p "$dir" 2>/dev/null && : 2>/dev/null >>"$dir/$1" && printf "%s\n" "$dir/$1" && exit 0
    done
    exit 1' sh "$(printf '%s' "$root" | tr '/' '_').lock") || exit 1
  exec 9<"$lock"
  # A canary's removal waits for the guard that may be removing it already.
  wait=-n
  if [ "$verb" = remove ]; then wait='-w 90'; fi
  # shellcheck disable=SC2086 # one option, or an option and its value
  if ! flock $wait 9; then
    printf 'locked\n'
    exit 75
  fi
}

# Prints the process of a pull of the same reference under the same root that holds no lock of ours: one typed by
# hand, or left behind when its sudo was killed.
running_pull() {
  grep -azlFx -e "$1" /proc/[0-9]*/cmdline 2>/dev/null | while IFS= read -r file; do
    grep -azqFx image "$file" || continue
    grep -azqFx pull "$file" || continue
    if grep -azqFx -e --root-dir "$file"; then
      grep -azqFx -e "$root" "$file" || continue
    else
      [ "$root" = /var/lib/cocoon ] || continue
    fi
    file=${file#/proc/}
    printf '%s\n' "${file%/cmdline}"
    break
  done
}

# end SIGNAL: from a session of its own, because sudo does not relay a signal that comes from its own process group.
end() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid sh -c 'kill -s "$1" "$2"' sh "$1" "$p"
}

# guarded OUT COMMAND…: runs it under the dead man's switch; leaves its exit code in rc. The command, or its sudo, keeps
# the lock as long as it lives, but a VM that it leaves running must not.
guarded() {
  out=$1
  shift
  if [ "$sudo" = yes ]; then
    # shellcheck disable=SC2024 # the files are ours, not root's
    sudo -n "$@" 3<&- >"$out" 2>"$scratch/err" &
  elif [ "$verb" = pull ]; then
    "$@" 3<&- >"$out" 2>"$scratch/err" &
  else
    "$@" 3<&- 9<&- >"$out" 2>"$scratch/err" &
  fi
  p=$!
  {
    until=$(($(date +%s) + deadline))
    reason=silence
    exec 9<&- >/dev/null 2>&1
    while [ -n "$(timeout "$silence" head -c 1 <&3)" ]; do
      if [ "$(date +%s)" -ge "$until" ]; then
        reason=deadline
        break
      fi
    done
    printf '%s' "$reason" >"$scratch/why"
    end TERM
    sleep 10
    end HUP
  } &
  w=$!
  trap 'end TERM' HUP INT TERM
  while :; do
    wait "$p"
    rc=$?
    kill -0 "$p" 2>/dev/null || break
  done
  trap : HUP INT TERM
  kill "$w" 2>/dev/null
  printf 'ended %s %s\n' "$rc" "$(cat "$scratch/why" 2>/dev/null)"
  tail -c 4096 "$scratch/err" >&2
}

cocoon() {
  set -- "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} "$@"
  if [ "$sudo" = yes ]; then set -- sudo -n "$@"; fi
  timeout 60 "$@"
}

# Stopping first spares the wait for a guest that does not listen; a VM that is not there is removed already.
remove() {
  cocoon vm stop --force "$1" >/dev/null 2>&1
  cocoon vm rm --force "$1" >/dev/null 2>"$scratch/err"
  if cocoon vm inspect "$1" 2>&1 >/dev/null | grep -qi 'vm not found'; then
    printf 'removed %s\n' "$1"
  else
    printf 'left %s\n' "$1"
    tail -c 1024 "$scratch/err" >&2
  fi
}

# Under the lock, a VM that bears a canary's name belongs to a run that is dead.
remove_old_canaries() {
  cocoon vm list -o json 2>/dev/null | sed -n 's/.*"name": "\(reconcile-canary-[A-Za-z0-9._-]*\)".*/\1/p' |
    while IFS= read -r name; do remove "$name"; done
}

scratch=$(mktemp -d) || exit 1
trap 'rm -rf -- "$scratch"' EXIT
take_lock
case $verb in
  pull)
    pid=$(running_pull "$1")
    if [ -n "$pid" ]; then
      printf 'busy %s\n' "$pid"
      exit 75
    fi
    guarded /dev/null "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} image pull --force "$1"
    ;;
  canary)
    name=$1 snapshot=$2
    shift 2
    remove_old_canaries
    guarded "$scratch/out" "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} \
      vm clone --output json --name "$name" "$@" "$snapshot"
    if [ "$rc" -eq 0 ]; then
      cocoon vm inspect "$name" 2>/dev/null | sed -n 's/.*"state": "\([a-z ()]*\)".*/state \1/p' | head -n 1
    fi
    remove "$name"
    ;;
  remove)
    remove "$1"
    ;;
esac
