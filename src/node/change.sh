#!/bin/sh
# Everything that changes a node. The SSH user runs it by a command that stays short,
#   sh -c 'eval "$(head -c BYTES)"' change NONCE VERB ROOT SUDO SILENCE DEADLINE BINARY RUN LOG WORDS...
# and sends on its standard input this text and then a heartbeat: at least one byte in every SILENCE seconds. End of
# input, silence or the DEADLINE (seconds) send TERM to the command in progress, on which cocoon cleans up after itself;
# so nothing outlives the connection unnoticed, and our lock is never freed before the command has ended. SUDO is `yes`
# or `no`.
#
#   pull REFERENCE                cocoon image pull --force
#   replace REFERENCE HEX [BYTES] set a bad blob aside, pull (with BYTES import as below), verify, and remove it; on any
#                                 failure put it back
#   import NAME HEX BYTES         cocoon image import of so many bytes that come on standard input before the heartbeat
#   canary NAME SNAPSHOT ARGS...  clone a VM, look at it, remove it whatever happened
#   remove NAME                   remove a VM that an earlier connection may have left
#   tidy NAME...                  remove or put back what a run that is dead left, under the names that the probe gives
#
# Answers with lines that begin with the nonce, so that what shell start-up files print is not taken for an answer:
# `locked`, `busy PID`, `in-use`, `received HEX`, `begun`, `ended CODE [silence|deadline]`, `state WORDS`, `removed NAME`,
# `left NAME`, and before `ended` and `left` what cocoon said on its stderr, `said TEXT`. Needs dash, coreutils,
# findutils, util-linux, grep and sed.
set -u
LC_ALL=C NO_COLOR=1
export LC_ALL NO_COLOR
umask 022

say() {
  printf '%s %s\n' "$nonce" "$*"
}

# What the last command said on its stderr.
say_errors() {
  tail -c 4096 "$scratch/err" | sed "s/^/$nonce said /"
  printf '\n'
}

as_root() {
  if [ "$sudo" = yes ]; then sudo -n "$@"; else "$@"; fi
}

# take_lock SECONDS: a lock of ours for this root directory, free within so many seconds; cocoon's own locks are never
# touched, its pull would wait on them for ever. The directory belongs to root, so that whoever comes from whichever
# bastion meets the same lock; a name in /tmp that somebody else took first is not believed. It is closed to all others:
# who may open the file may hold the lock. A user who is root by sudo alone gets at it by a second name in a directory of
# theirs, which goes at once. The file is never removed: a second holder would get in.
take_lock() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  lock=$(as_root sh -c '
    umask 022
    name=$(printf %s "$(readlink -m -- "$1")" | tr "/\n" __ | tail -c 200).lock
    for dir in /run/cocoon-reconcile "/tmp/cocoon-reconcile-$(id -u)"; do
      mkdir -p -m 700 -- "$dir" 2>/dev/null
      [ ! -L "$dir" ] && [ "$(stat -c %u -- "$dir")" = "$(id -u)" ] && chmod 700 -- "$dir" || continue
      (: >>"$dir/$name") 2>/dev/null || continue
      if [ "$2" = "$(id -u)" ]; then
        printf "%s\n" "$dir/$name"
        exit 0
      fi
      find "${dir%/*}" -maxdepth 1 -name "${dir##*/}.????????" \( -user 0 -o -user "$2" \) -mmin +10 \
        -exec rm -rf -- {} + 2>/dev/null
      door=$(mktemp -d -- "$dir.XXXXXXXX") || exit 1
      ln -- "$dir/$name" "$door/lock" && chown -- "$2" "$door" || exit 1
      printf "%s\n" "$door/lock"
      exit 0
    done
    echo "no directory for a lock: neither /run nor /tmp can be written" >&2
    exit 1' sh "$root" "$(id -u)") || exit 1
  exec 9<"$lock"
  # shellcheck disable=SC2016 # expanded by the inner shell
  case $lock in */lock) as_root sh -c 'rm -rf -- "$1"' sh "${lock%/lock}" ;; esac
  flock -E 75 -w "$1" 9
  case $? in
    0) return 0 ;;
    75) return 1 ;;
    *) exit 1 ;;
  esac
}

# Prints the process of a pull of the same reference under the same root that holds no lock of ours: one typed by
# hand, or left behind when its sudo was killed. One that names no root is taken to mean this one. Anybody can look like
# that, so it must be root's or ours, by the user who is behind it, and run this cocoon; of one that is a script, whose
# process may be anything, that is not asked.
running_pull() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c '
    cocoon=$(command -v -- "$3")
    if [ "$(head -c 2 -- "$cocoon")" = "#!" ]; then cocoon=; else cocoon=$(stat -L -c %d:%i -- "$cocoon"); fi
    is_cocoon() { [ -z "$cocoon" ] || [ "$(stat -L -c %d:%i -- "$1")" = "$cocoon" ]; }
    grep -azlFx -e "$1" /proc/[0-9]*/cmdline | while IFS= read -r file; do
      grep -Eq "^Uid:[[:space:]](0|$(id -u))[[:space:]]" "${file%cmdline}status" && is_cocoon "${file%cmdline}exe" || continue
      grep -azqFx image "$file" && grep -azqFx pull "$file" || continue
      if grep -azq "^--root-dir" "$file"; then
        grep -azqFx -e "$2" -e "--root-dir=$2" "$file" || continue
      fi
      file=${file#/proc/}
      printf "%s\n" "${file%/cmdline}"
      break
    done' sh "$1" "$root" "$binary" 2>/dev/null
}

# end SIGNAL: the command is the leader of its process group. A sudo that does not let its user signal it is reached by
# another one.
end() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  kill -s "$1" -- "-$p" || kill -s "$1" "$p" || as_root sh -c 'kill -s "$1" "$2"' sh "$1" "$p"
} 2>/dev/null

# A process of another user may not be signalled, or may not be seen, but not both.
is_alive() {
  kill -0 "$p" 2>/dev/null || [ -d "/proc/$p" ]
}

# Whole seconds of a clock that nobody sets.
clock() {
  cut -d . -f 1 /proc/uptime
}

# The dead man's switch. TERM ends it, with all that it waits for. Once the scratch directory is gone, so is the
# command, and its number may be another's.
watch() {
  exec 9<&- >/dev/null 2>&1
  trap 'kill "$!"; exit' TERM
  until=$(($(clock) + deadline))
  while left=$((until - $(clock))) && [ "$left" -gt 0 ]; do
    if [ "$left" -gt "$silence" ]; then left=$silence; fi
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout -s KILL "$left" sh -c '[ -n "$(head -c 1)" ]' <&3 &
    wait "$!" || break
  done
  why=silence
  [ "$(clock)" -lt "$until" ] || why=deadline
  printf '%s' "$why" >"$scratch/why" || exit
  end TERM
  for _ in 1 2 3 4 5 6 7 8 9 10; do
    sleep 1 &
    wait "$!"
    [ -e "$scratch/why" ] || exit
    is_alive || break
  done
  if is_alive; then end HUP; fi
  kill -0 "$$" || rm -rf -- "$scratch"
}

# guarded COMMAND...: runs it under the switch; leaves its exit code in rc. It is in a session of its own, because sudo
# does not relay a signal that comes from its own process group. The command, or its sudo, keeps the lock as long as it
# lives, but a VM that it leaves running must not.
guarded() {
  if [ "$sudo" = yes ]; then set -- sudo -n "$@"; fi
  if [ "$verb" = canary ] && [ "$sudo" = no ]; then
    setsid "$@" 3<&- 9<&- >/dev/null 2>"$scratch/err" &
  else
    setsid "$@" 3<&- >/dev/null 2>"$scratch/err" &
  fi
  p=$!
  say begun
  watch &
  w=$!
  trap 'again=yes; end TERM' HUP INT TERM
  rc=127 again=yes
  while [ -n "$again" ]; do
    again=
    wait "$p"
    code=$?
    # 127: it was waited for already, before a signal came
    if [ "$code" -ne 127 ]; then rc=$code; fi
  done
  trap : HUP INT TERM
  kill "$w" 2>/dev/null
  say_errors
  say ended "$rc" "$(cat "$scratch/why" 2>/dev/null)"
}

# A short command; in a session of its own, as above, so that sudo relays what `timeout` sends.
cocoon() {
  set -- "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} "$@"
  if [ "$sudo" = yes ]; then set -- sudo -n "$@"; fi
  timeout 60 setsid "$@" </dev/null 3<&- 9<&-
}

is_gone() {
  cocoon vm inspect "$1" 2>&1 >/dev/null | grep -qi 'vm not found'
}

# Stopping first spares the wait for a guest that does not listen; a VM that is not there is removed already.
remove() {
  cocoon vm stop --force "$1" >/dev/null 2>&1
  cocoon vm rm --force "$1" >/dev/null 2>"$scratch/err"
  if is_gone "$1"; then
    say removed "$1"
  else
    say_errors
    say left "$1"
  fi
}

# True while a process has the file open: a VM runs on it, whatever any record says.
in_use() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  [ -n "$(as_root sh -c 'find -L /proc/[0-9]*/fd -maxdepth 1 -samefile "$1" -print -quit 2>/dev/null' sh "$1")" ]
}

# A bad blob is set aside under a name that garbage collection does not take for a blob. Where the blob is missing in
# the end, or a run that is dead has left it so, the file goes back; where a new one has come, it goes.
ASIDE=.bad-reconcile

# tend_asides [HEX]
tend_asides() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c '
    for aside in "$1"/cloudimg/blobs/$3.qcow2"$2"; do
      [ -e "$aside" ] || continue
      if [ -s "${aside%"$2"}" ]; then rm -f -- "$aside"; else mv -f -- "$aside" "${aside%"$2"}"; fi
    done' sh "$root" "$ASIDE" "${1:-*}"
}

# set_aside BLOB
set_aside() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c 'mv -- "$1" "$1$2"' sh "$1" "$ASIDE"
}

# Only bytes that are what their name says may stand in for the file that was set aside.
judge_replacement() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c '
    hex=$(sha256sum <"$1" | head -c 64)
    [ "$hex" = "$2" ] || mv -f -- "$1$3" "$1"' sh "$1" "$2" "$ASIDE"
}

# receive HEX BYTES: the content into a private file beside cocoon's own downloads, where garbage collection would find it.
# Each eight mebibytes must come within the silence, and all of them within the deadline. A directory that is there
# already, under our lock, belongs to a run that is dead.
receive() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  as_root sh -c 'rm -rf -- "$1"/cloudimg/temp/reconcile-import.*' sh "$root"
  # shellcheck disable=SC2016 # expanded by the inner shell
  inbox=$(as_root sh -c 'umask 077; mkdir -p -- "$1" && mktemp -d -- "$1/reconcile-import.XXXXXXXX"' sh "$root/cloudimg/temp") || exit 1
  # shellcheck disable=SC2016 # expanded by the inner shell
  received=$(as_root sh -c '
    clock() { cut -d . -f 1 /proc/uptime; }
    until=$(($(clock) + $3))
    had=0
    while [ "$had" -lt "$1" ] && [ "$(clock)" -lt "$until" ]; do
      due=$(($1 - had))
      if [ "$due" -gt 8388608 ]; then due=8388608; fi
      timeout "$2" head -c "$due" >>"$4/content" || break
      had=$((had + due))
      [ "$(stat -c %s -- "$4/content")" = "$had" ] || break
    done
    sha256sum <"$4/content" | head -c 64' sh "$2" "$silence" "$deadline" "$inbox" <&3)
  say received "$received"
  [ "$received" = "$1" ]
}

# What a guard left that was killed goes: its process, which the name tells, is gone, and the directory is ours and old.
tidy_scratch() {
  for old in "${TMPDIR:-/tmp}"/cocoon-reconcile-change.*; do
    pid=${old##*/cocoon-reconcile-change.}
    if [ -d "$old" ] && [ ! -L "$old" ] && [ -O "$old" ] && [ ! -d "/proc/${pid%%.*}" ]; then
      find "$old" -maxdepth 0 -mmin +10 -exec rm -rf -- {} +
    fi 2>/dev/null
  done
}

# What must not stay behind, whatever happened: the content of an import, files set aside, scratch files.
clean_up() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  [ -z "$inbox" ] || as_root sh -c 'rm -rf -- "$1"' sh "$inbox"
  [ "$tends" = no ] || tend_asides
  rm -rf -- "$scratch"
}

# Under the lock, a VM that bears a canary's name belongs to a run that is dead.
remove_old_canaries() {
  cocoon vm list -o json 2>/dev/null | sed -n 's/.*"name": "\(reconcile-canary-[A-Za-z0-9._-]*\)".*/\1/p' |
    while IFS= read -r name; do remove "$name"; done
}

# tidy NAME: a VM by its name, all else by its path below the root directory. Under the lock its owner is dead.
tidy() {
  case $1 in
    cloudimg/blobs/*)
      hex=${1#cloudimg/blobs/}
      tend_asides "${hex%.qcow2"$ASIDE"}"
      ;;
    cloudimg/temp/*)
      # shellcheck disable=SC2016 # expanded by the inner shell
      as_root sh -c 'rm -rf -- "$1"' sh "$root/$1"
      ;;
    *)
      remove "$1"
      return
      ;;
  esac 2>"$scratch/err"
  # shellcheck disable=SC2016 # expanded by the inner shell
  if as_root sh -c '[ ! -e "$1" ]' sh "$root/$1"; then
    say removed "$1"
  else
    say_errors
    say left "$1"
  fi
}

# A word that cocoon would take for an option is never handed to it.
refuse_option() {
  case $1 in
    -*)
      printf 'refused: %s\n' "$1" >&2
      exit 2
      ;;
  esac
}

# pull REFERENCE
pull() {
  guarded "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} image pull --force "$1"
}

# import_content NAME
import_content() {
  guarded "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} \
    image import "$1" "$inbox/content"
}

refuse_in_use() {
  if in_use "$1"; then
    say in-use
    exit 75
  fi
}

# begin_alone REFERENCE: nobody else changes this node now, nor pulls the same by hand.
begin_alone() {
  if ! take_lock 0; then
    say locked
    exit 75
  fi
  pid=$(running_pull "$1")
  if [ -n "$pid" ]; then
    say busy "$pid"
    exit 75
  fi
  remove_old_canaries
}

main() {
  nonce=$1 verb=$2 root=$3 sudo=$4 silence=$5 deadline=$6 binary=$7 run=$8 log=$9
  shift 9

  # Held open from here on: 3 the heartbeat, 9 the lock. What is said to a connection that is gone is lost, no more.
  exec 3<&0 </dev/null
  trap '' PIPE
  inbox='' tends=no
  tidy_scratch
  scratch=$(mktemp -d -- "${TMPDIR:-/tmp}/cocoon-reconcile-change.$$.XXXXXXXX") || exit 1
  trap clean_up EXIT
  trap 'exit 1' HUP INT TERM

  printf '\n'
  case $verb in
    pull)
      refuse_option "$1"
      begin_alone "$1"
      tends=yes
      pull "$1"
      ;;
    replace)
      refuse_option "$1"
      blob=$root/cloudimg/blobs/$2.qcow2
      begin_alone "$1"
      tend_asides
      refuse_in_use "$blob"
      tends=yes
      if [ "$#" -eq 2 ]; then
        set_aside "$blob" || exit 1
        pull "$1"
      else
        receive "$2" "$3" || exit 1
        refuse_in_use "$blob"
        set_aside "$blob" || exit 1
        import_content "$1"
      fi
      judge_replacement "$blob" "$2" 2>/dev/null
      ;;
    import)
      refuse_option "$1"
      begin_alone "$1"
      tends=yes
      receive "$2" "$3" || exit 1
      import_content "$1"
      ;;
    canary)
      name=$1 snapshot=$2
      shift 2
      refuse_option "$snapshot"
      if ! take_lock 30; then
        say locked
        exit 75
      fi
      remove_old_canaries
      guarded "$binary" --root-dir "$root" ${run:+--run-dir "$run"} ${log:+--log-dir "$log"} \
        vm clone --output json --name "$name" "$@" "$snapshot"
      if [ "$rc" -eq 0 ]; then
        state=$(cocoon vm inspect "$name" 2>/dev/null | sed -n '/"state": /{s/.*"state": "\([a-z ()]*\)".*/\1/p;q;}')
        if [ -z "$state" ] && is_gone "$name"; then state=vanished; fi
        say state "$state"
      fi
      remove "$name"
      ;;
    remove)
      # The guard that lost its connection may be removing it already, and another run may have followed.
      if take_lock 90; then
        remove "$1"
      elif is_gone "$1"; then
        say removed "$1"
      else
        say left "$1"
      fi
      ;;
    tidy)
      if ! take_lock 0; then
        say locked
        exit 75
      fi
      for name; do tidy "$name"; done
      ;;
  esac
}

main "$@"
