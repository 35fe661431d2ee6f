#!/bin/sh
# Reads one node's cocoon store and prints what it finds. It runs as
#   timeout -s USR1 -k LIMIT PATIENCE sh -c SCRIPT sh NONCE BINARY ROOT BYTES PATH...
# with a word PATH for everything outside ROOT that its snapshots need: `DIR/.` for a directory of a snapshot, else a
# file. What that is, the reader learns from a first answer.
#
# Nothing under cocoon's directories changes: JSON indexes are read without their lock (they are replaced by rename),
# and a SQLite store is read by cocoon itself on a private copy, because cocoon creates directories, locks and -wal
# files wherever it looks.
#
# Nothing of it outlives its connection: standard input is open as long as the reader is there, and what it brings means
# nothing. When it ends, the whole process group is ended, and so it is LIMIT seconds after USR1, which comes after
# PATIENCE seconds and ends a `cocoon version` that has not ended by itself.
#
# The answer is lines of words between two marks that hold the nonce (`answer/lines.ts` says what each means); a path without a leading slash is one below ROOT.
# The text of a file follows a line `file` and one with its name, each of its lines marked by `|`, so that nothing in a
# file can pass for a line of the answer; a file with a control character in its name is none of cocoon's and left out.
# After a line `heads` come the first BYTES of every blob and overlay as they are, each behind the line that `head -v`
# writes. Needs dash, coreutils, findutils and sed, and starts few of them: starting a process is what costs a node most.
set -u
LC_ALL=C
export LC_ALL
umask 077

LIMIT=4000000    # bytes of an index; the reader has the same number
MEMBERS=262144   # bytes of a snapshot's small JSON files
STORE=268435456  # bytes of a SQLite store: more is not copied
unclean='*[[:cntrl:]]*'
newline='
'

# More of the answer, which goes out all at once: each write is a packet to decrypt.
say() {
  said="$said$1$newline"
}

tell() {
  printf %s "$said"
  said=''
}

# Succeeds where the directory is there and open; says so where it is there and closed.
open_dir() {
  [ -d "$1" ] || return 1
  if [ -r "$1" ] && [ -x "$1" ]; then return 0; fi
  say "denied $1"
  return 1
}

# watch: ends everything once standard input has ended. Who has scratch files gets the time to remove them.
watch() {
  trap '' HUP USR1
  while read -r _; do :; done
  kill -s HUP 0
  sleep 2
  kill -s KILL 0
}

# Neither many lines nor one without end fill more than this memory.
find_version() {
  # shellcheck disable=SC3045 # a shell that has no such limit goes without
  ulimit -v 65536 2>/dev/null
  lines=0
  while [ "$lines" -lt 100 ] && read -r key value; do
    lines=$((lines + 1))
    if [ "$key" = Version: ] && [ "${#value}" -le 100 ]; then printf '%s\n' "$value"; fi
  done
}

# Read to its end, so that it is known whether something was left behind that goes on: then it is overdue.
version() {
  answer=$("$bin" version 2>/dev/null | find_version)
  if [ -n "$answer" ]; then say "version ${answer%%"$newline"*}"; fi
}

stamp() {
  stat -c '%i %s %y' -- "$root/meta/meta.db" "$root/meta/meta.db-wal" 2>/dev/null
}

# Fails in the words of the command that failed; with 2 where the store changed all the time.
copy_store() {
  mkdir -- "$copy" && mkdir -- "$copy/meta" || return 1
  for _ in 1 2 3 4 5; do
    before=$(stamp)
    set -- "$root/meta/meta.db"
    if [ -e "$copy/meta/meta.db-wal" ]; then rm -f -- "$copy/meta/meta.db-wal"; fi
    if [ -s "$1-wal" ]; then set -- "$@" "$1-wal"; fi
    cp -- "$@" "$copy/meta/" || return 1
    [ "$before" = "$(stamp)" ] && return 0
  done
  return 2
}

# What a probe left that was killed goes: its process, which the name tells, is gone, and the directory is ours and old.
tidy_copies() {
  for old in "$tmp"/cocoon-reconcile-probe.*; do
    pid=${old##*/cocoon-reconcile-probe.}
    pid=${pid%%.*}
    if [ -d "$old" ] && [ ! -L "$old" ] && [ -O "$old" ] && [ ! -d "/proc/$pid" ]; then
      find "$old" -maxdepth 0 -mmin +10 -exec rm -rf -- {} +
    fi 2>/dev/null
  done
}

discard() {
  [ -z "$copy" ] || rm -rf -- "$copy"
  copy=''
}

# run_list KIND: prints cocoon's list, and as the last line of standard error its exit code. It runs in a process group of
# its own; nothing of that is left when this ends.
run_list() {
  job=''
  trap '[ -z "$job" ] || kill -s KILL -- "-$job"; exit 1' HUP TERM
  NO_COLOR=1 timeout -k 2 30 "$bin" --root-dir "$copy" --run-dir "$copy/run" --log-dir "$copy/log" \
    "$1" list -o json </dev/null 3>&- 4>&- &
  job=$!
  wait "$job"
  code=$?
  kill -s KILL -- "-$job" 2>/dev/null
  printf '\n%s' "$code" >&2
}

# tell_list KIND: the list comes to lie neither in a variable nor on a disk, and of the errors only the last.
tell_list() {
  printf 'file\n%s-list\n' "$1"
  # one byte more than is accepted, so that the reader sees it
  errors=$({ run_list "$1" 2>&3 | head -c "$((LIMIT + 1))" | sed 's/^/|/' >&4; } 3>&1 | tail -c 4096)
  code=${errors##*"$newline"}
  printf '\nlisted %s %s\n' "$1" "$code"
  if [ "$code" != 0 ]; then
    printf 'file\n%s-errors\n' "$1"
    printf '%s\n' "${errors%"$newline"*}" | sed 's/^/|/'
  fi
}

sqlite_store() {
  if [ ! -r "$root/meta/meta.db" ]; then
    say "denied $root/meta/meta.db"
    return
  fi
  tmp=${TMPDIR:-/tmp}
  say "scratch $tmp"
  tidy_copies
  # nobody else knows the nonce beforehand; and whenever this ends from here on, nothing is left
  copy=$tmp/cocoon-reconcile-probe.$$.$nonce
  trap discard EXIT
  # what is written there is bounded, and who writes more is told so
  trap '' XFSZ
  ulimit -f "$((STORE / 512))" 2>/dev/null
  why=$(copy_store 2>&1)
  case $? in
    0)
      tell
      exec 4>&1
      for kind in image snapshot vm; do tell_list "$kind"; done
      exec 4>&-
      ;;
    2) say unsettled ;;
    *) say "unmade ${why##*"$newline"}" ;;
  esac
  discard
}

# list DIR...: indexes, blobs, boot files, what snapshots consist of, and what was left behind: by interrupted pulls and
# imports more than an hour ago (garbage collection takes it some day), and by a change of ours (it is in progress, or its
# run died). An answer that says `walk` and not `walked` comes from a find that cannot do this: nothing that it lacks is
# known to lack. `$G` ends the last line of a file that does not.
list() {
  say walk
  tell
  # shellcheck disable=SC2016 # sed's own
  find -L . cloudimg/db/images.json oci/db/images.json snapshot/db/snapshots.json \
    cloudhypervisor/db/vms.json firecracker/db/vms.json \
    cloudimg/blobs oci/blobs oci/boot firmware cloudimg/temp oci/temp "$@" -maxdepth 2 \
    -path . -prune -printf 'walked\n' \
    -o -name "$unclean" -prune \
    -o \( -path '*/./*' -prune -type f -printf 'has %s %p\n' \
    \( -name cocoon.json -o -name config.json \) -size "-$((MEMBERS + 1))c" \
    -o -path '*/db/*.json' -prune -readable -printf 'index %s %p\n' -type f -size "-$((LIMIT + 1))c" \
    \) -exec sed -s -e '1i file' -e 1F -e 's/^/|/' -e '$G' -- {} + \
    -o \( -type d ! -path 'firmware/*' -o -path '*/db/*.json' \) ! \( -readable -a \( ! -type d -o -executable \) \) -prune -printf 'denied %p\n' \
    -o -name . -printf 'snapshot %p\n' \
    -o -path 'cloudimg/blobs/*' -prune \( \
    -name '*.qcow2' -printf 'blob %y %s %i %T@ %f\n' \
    -o -name '*.qcow2.bad-reconcile' -type f -printf 'ours %p\n' \) \
    -o -path 'oci/blobs/*' -prune -name '*.erofs' -type f -size +0 -printf 'path file %p\n' \
    -o \( -path 'oci/boot/*/*' -o -path 'firmware/*' -prune \) -type f -size +0 -printf 'path file %p\n' \
    -o -path 'cloudimg/temp/reconcile-import.*' -prune -type d -printf 'ours %p\n' \
    -o -path '*/temp/*' -type f ! -name '*.lock' -mmin +60 -printf 'left %s\n' 2>/dev/null
}

# The store, but for meta.db. The directory of a snapshot has `/.` at its end: what lies in one is then told from all else
# by its path.
store() {
  cd -- "$root" || return
  for path; do
    shift
    case $path in
      */.) if open_dir "${path%/.}"; then set -- "$@" "$path"; fi ;;
      *) if [ -f "$path" ] && [ -s "$path" ]; then say "path file $path"; else say "path none $path"; fi ;;
    esac
  done
  for dir in snapshot/localfile/*/; do
    # shellcheck disable=SC2254 # a pattern
    case $dir in $unclean) continue ;; esac
    if open_dir "${dir%/}"; then set -- "$@" "$dir."; fi
  done
  list "$@"
  heads "$@"
}

# heads DIR...
heads() {
  for dir; do
    shift
    begins "$dir/overlay.qcow2" && set -- "$@" "$dir/overlay.qcow2"
  done
  for blob in cloudimg/blobs/*.qcow2; do
    # shellcheck disable=SC2254 # a pattern
    case $blob in $unclean) continue ;; esac
    begins "$blob" && set -- "$@" "$blob"
  done
  [ "$#" -gt 0 ] || return
  say heads
  tell
  head -v -c "$bytes" -- "$@" 2>/dev/null
}

# Succeeds where a file is there with bytes to read; says so where it is there and closed.
begins() {
  [ -f "$1" ] && [ -s "$1" ] || return 1
  [ -r "$1" ] || say "denied $1"
}

# Free bytes where a pull would write, or where it would create its directories.
free() {
  dir=$root/cloudimg/temp
  while [ ! -d "$dir/" ]; do dir=${dir%/*}; done
  avail=$(df --output=avail -B1 -- "$dir/")
  say "free ${avail##*[!0-9]}"
}

# Succeeds where cocoon keeps its store, or is set up to: any of its commands makes some of these directories.
has_store() {
  for part in cloudimg/db oci/db snapshot/db cloudhypervisor/db firecracker/db cloudimg/blobs meta/meta.db firmware/CLOUDHV.fd; do
    [ -e "$1/$part" ] && return
  done
  return 1
}

# kept BY DIR: who says that cocoon keeps its store there.
kept() {
  # shellcheck disable=SC2254 # a pattern
  case $2 in '' | $unclean) ;; *) say "kept $1 $2" ;; esac
}

no_store() {
  say 'store missing'
  kept login "${COCOON_ROOT_DIR-}"
  kept vk-cocoon "$(head -c 65536 /etc/cocoon/vk-cocoon.env 2>/dev/null | sed -n '/^COCOON_ROOT_DIR=/{s///p;q;}')"
  if has_store /var/lib/cocoon; then kept default /var/lib/cocoon; fi
}

probe() {
  nonce=$1 bin=$2 root=$3 bytes=$4
  shift 4
  said='' copy='' overdue=''
  # the second signal, which `timeout` hands on, must not reach what removes the scratch files
  trap 'trap "" HUP INT PIPE TERM; exit 1' HUP INT PIPE TERM
  trap 'overdue=yes' USR1
  exec 3<&0 </dev/null
  watch <&3 >/dev/null 2>&1 &
  watcher=$!
  exec 3<&-
  say "cocoon-probe 1 $nonce"
  say "machine $(uname -m)"
  if ! command -v "$bin" >/dev/null; then
    say 'missing cocoon'
  else
    version
    trap '' USR1
    free
    if [ ! -d "$root" ]; then
      case $(ls -d -- "$root/." 2>&1 >/dev/null) in
        *'ermission denied'*) say "denied $root" ;;
      esac
    fi
    has_store "$root" || no_store
    if open_dir "$root"; then
      for dir in cloudimg cloudimg/db oci oci/db snapshot snapshot/db snapshot/localfile meta; do
        open_dir "$root/$dir"
      done
      if [ -e "$root/meta/meta-convert.manifest" ]; then
        say 'store converting'
      else
        if [ -e "$root/meta/meta.db" ]; then
          say 'store sqlite'
          sqlite_store
        fi
        store "$@"
      fi
    fi
  fi
  tell
  printf '\ncocoon-probe end %s\n' "$nonce"
  # what did not end in time may be there yet, deaf to all else
  if [ -n "$overdue" ]; then kill -s KILL 0; fi
  kill -s KILL "$watcher"
}

probe "$@"
