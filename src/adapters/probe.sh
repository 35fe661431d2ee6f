#!/bin/sh
# Reads one node's cocoon store and prints what it finds. Run as: sh -s -- NONCE BINARY ROOT
#
# Nothing under cocoon's directories changes: JSON indexes are read without their lock (they are replaced by rename),
# and a SQLite store is read by cocoon itself on a private copy, because cocoon creates directories, locks and -wal
# files wherever it looks.
#
# The answer is lines of words between two marks that hold the nonce; a path without a leading slash is one below ROOT.
# The text of a file follows a line `file` and one with its name, each of its lines marked by `|`, so that nothing in a
# file can pass for a line of the answer; a file with a control character in its name is none of cocoon's and left out.
# Needs dash, coreutils, findutils, grep and sed, and starts few of them: on a machine with a thousand neighbours to be
# read, starting a process is what costs.
set -u
LC_ALL=C
export LC_ALL
umask 077

LIMIT=8388608    # bytes of an index
MEMBERS=262144   # bytes of a snapshot's small JSON files
unclean='*[[:cntrl:]]*'
newline='
'

# content NAME FILE BYTES
content() {
  printf 'file\n%s\n' "$1"
  head -c "$3" <"$2" | sed 's/^/|/'
  printf '\n'
}

# Succeeds where the directory is there and open; says so where it is there and closed.
open_dir() {
  [ -d "$1" ] || return 1
  if [ -r "$1" ] && [ -x "$1" ]; then return 0; fi
  printf 'denied %s\n' "$1"
  return 1
}

stamp() {
  stat -c '%i %s %y' -- "$root/meta/meta.db" "$root/meta/meta.db-wal" 2>/dev/null
}

copy_store() {
  mkdir "$copy/meta" || return 1
  for _ in 1 2 3 4 5; do
    before=$(stamp)
    rm -f "$copy/meta/meta.db-wal"
    cp -- "$root/meta/meta.db" "$copy/meta/meta.db" || return 1
    if [ -s "$root/meta/meta.db-wal" ]; then
      cp -- "$root/meta/meta.db-wal" "$copy/meta/meta.db-wal" || return 1
    fi
    [ "$before" = "$(stamp)" ] && return 0
  done
  return 1
}

sqlite_store() {
  if [ ! -r "$root/meta/meta.db" ]; then
    printf 'denied %s\n' "$root/meta/meta.db"
    return
  fi
  copy=$(mktemp -d) || return
  trap 'rm -rf -- "$copy"' EXIT
  trap 'exit 1' HUP INT PIPE TERM
  if ! copy_store; then
    printf 'failed no unchanging copy of meta.db could be made\n'
    return
  fi
  for kind in image snapshot vm; do
    NO_COLOR=1 timeout 30 "$bin" --root-dir "$copy" --run-dir "$copy/run" --log-dir "$copy/log" \
      "$kind" list -o json </dev/null >"$copy/out" 2>"$copy/err"
    printf 'listed %s %s\n' "$kind" "$?"
    content "$kind-list" "$copy/out" "$((LIMIT + 1))" # one more than is accepted, so that the reader sees it
    content "$kind-errors" "$copy/err" 4096
  done
}

# list DIR...: indexes, blobs, what snapshots consist of, and what was left behind: by interrupted pulls and imports more
# than an hour ago (garbage collection takes it some day), and by a change of ours (it is in progress, or its run died). An
# answer that says `walk` and not `walked` comes from a find that cannot do this: nothing that it lacks is known to lack.
list() {
  printf 'walk\n'
  find -L . cloudimg/db/images.json oci/db/images.json snapshot/db/snapshots.json \
    cloudhypervisor/db/vms.json firecracker/db/vms.json \
    cloudimg/blobs oci/blobs oci/boot cloudimg/temp oci/temp "$@" -maxdepth 2 \
    -path . -prune -printf 'walked\n' \
    -o -name "$unclean" -prune \
    -o \( -path '*/./*' -prune -type f -printf 'has %s %p\n' \
    \( -name cocoon.json -o -name config.json \) -size "-$((MEMBERS + 1))c" \
    -o -path '*/db/*.json' -prune -readable -printf 'index %s %p\n' -type f -size "-$((LIMIT + 1))c" \
    \) -exec sed -s -e '1i file' -e 1F -e 's/^/|/' -- {} + \
    -o \( -type d -o -path '*/db/*.json' \) ! \( -readable -a \( ! -type d -o -executable \) \) -prune -printf 'denied %p\n' \
    -o -name . -printf 'snapshot %p\n' \
    -o -path 'cloudimg/blobs/*' -prune \( \
    -name '*.qcow2' -printf 'blob %y %s %i %T@ %f\n' \
    -o -name '*.qcow2.bad-reconcile' -type f -printf 'ours %p\n' \) \
    -o -path 'oci/blobs/*' -prune -name '*.erofs' -type f -size +0 -printf 'path file %p\n' \
    -o -path 'oci/boot/*/*' -type f -size +0 -printf 'path file %p\n' \
    -o -path 'cloudimg/temp/reconcile-import.*' -prune -type d -printf 'ours %p\n' \
    -o -path '*/temp/*' -type f ! -name '*.lock' -mmin +60 -printf 'left %s\n' 2>/dev/null
}

# state PATH
state() {
  if [ ! -f "$1" ]; then
    said="${said}path absent $1$newline"
  elif [ -s "$1" ]; then
    said="${said}path file $1$newline"
  else
    said="${said}path empty $1$newline"
  fi
}

# needs DIR...: the files elsewhere that the configuration of these snapshots names. A record may also name a directory
# elsewhere: those are left in `elsewhere`, a line for each.
needs() {
  for dir; do
    shift
    set -- "$@" "$dir/cocoon.json" "$dir/config.json"
  done
  while IFS= read -r path; do
    key=${path%%'"/'*}
    path=/${path#*'"/'}
    path=${path%'"'}
    case $path in
      "$root"/snapshot/localfile/*/*) ;;
      "$root"/snapshot/localfile/*) [ -z "$key" ] || continue ;;
      /) continue ;;
    esac
    if [ -n "$key" ]; then elsewhere=$elsewhere$path$newline; else state "$path"; fi
  done <<EOT
$(grep -oh '\("data_dir": *\)\{0,1\}"/[^"\\]*"' -- snapshot/db/snapshots.json "$@" 2>/dev/null)
EOT
}

# backing OVERLAY BYTES...: the backing file in a qcow2 header, whose offset is in bytes 8 to 15 and whose length in 16
# to 19, big-endian.
backing() {
  overlay=$1
  shift
  [ "$#" -eq 20 ] && [ "$1 $2 $3 $4 $9 ${10} ${11} ${12}" = '51 46 49 fb 00 00 00 00' ] || return 0
  offset=$((0x${13}${14}${15}${16}))
  length=$((0x${17}${18}${19}${20}))
  [ "$offset" -gt 0 ] && [ "$length" -gt 0 ] && [ "$length" -le 4096 ] || return 0
  path=$(dd if="$overlay" bs=4096 iflag=skip_bytes,count_bytes skip="$offset" count="$length" 2>/dev/null)
  # shellcheck disable=SC2254 # a pattern
  case $path in
    $unclean) path=$(printf %s "$path" | tr '[:cntrl:]' '?') ;; # none of cocoon's
    /*) state "$path" ;;
  esac
  said="${said}backing ${#overlay} $overlay $path$newline"
}

# headers DIR...: the first twenty bytes of every blob, and what the overlays of snapshots open. One dump holds all, a line
# for each file, unless a file is shorter than that.
headers() {
  for dir; do
    shift
    if [ -s "$dir/overlay.qcow2" ]; then set -- "$@" "$dir/overlay.qcow2"; fi
  done
  for blob in cloudimg/blobs/*.qcow2; do
    # shellcheck disable=SC2254 # a pattern
    case $blob in $unclean) continue ;; esac
    if [ ! -f "$blob" ] || [ ! -s "$blob" ]; then continue; fi
    if [ -r "$blob" ]; then set -- "$@" "$blob"; else said="${said}denied $blob$newline"; fi
  done
  [ "$#" -gt 0 ] || return 0
  dump=$(head -q -c 20 -- "$@" | od -An -v -tx1 -w20)
  [ "${#dump}" -eq "$((61 * $# - 1))" ] || dump=
  for file; do
    if [ -n "$dump" ]; then bytes=${dump%%"$newline"*}; else bytes=$(od -An -v -tx1 -w20 -N20 -- "$file"); fi
    dump=${dump#*"$newline"}
    # shellcheck disable=SC2086 # twenty words
    case $file in
      */overlay.qcow2) backing "$file" $bytes ;;
      *) said="${said}head ${file##*/} $bytes$newline" ;;
    esac
  done
}

# The store, but for meta.db. The directory of a snapshot has `/.` at its end: what lies in one is then told from all else
# by its path.
store() {
  cd -- "$root" || return
  elsewhere=''
  set --
  for dir in snapshot/localfile/*/; do
    # shellcheck disable=SC2254 # a pattern
    case $dir in $unclean) continue ;; esac
    if open_dir "${dir%/}"; then set -- "$@" "$dir."; fi
  done
  needs "$@"
  if [ -n "$elsewhere" ]; then
    while IFS= read -r dir; do
      if open_dir "$dir"; then set -- "$@" "$dir/."; fi
    done <<EOT
$elsewhere
EOT
    needs "$@"
  fi
  list "$@"
  headers "$@"
}

# Free bytes where a pull would write, or where it would create its directories.
free() {
  dir=$root/cloudimg/temp
  while [ ! -d "$dir/" ]; do dir=${dir%/*}; done
  bytes=$(df --output=avail -B1 -- "$dir/")
  said="${said}free ${bytes##*[!0-9]}$newline"
}

version() {
  while read -r key value; do
    [ "$key" = Version: ] || continue
    said="${said}version $value$newline"
    return
  done <<EOT
$(timeout 10 "$bin" version </dev/null 2>/dev/null)
EOT
}

probe() {
  nonce=$1 bin=$2 root=$3
  said='' # most of it at the end, all at once: each write is a packet to decrypt
  printf 'cocoon-probe 1 %s\nmachine %s\n' "$nonce" "$(uname -m)"
  if ! command -v "$bin" >/dev/null; then
    printf 'missing cocoon\n'
  else
    version
    if [ ! -d "$root" ]; then
      case $(ls -d -- "$root/." 2>&1 >/dev/null) in
        *'ermission denied'*) printf 'denied %s\n' "$root" ;;
      esac
    fi
    if open_dir "$root"; then
      for dir in cloudimg cloudimg/db oci oci/db snapshot snapshot/db snapshot/localfile meta; do
        open_dir "$root/$dir"
      done
      if [ -e "$root/meta/meta-convert.manifest" ]; then
        printf 'store converting\n'
      else
        if [ -e "$root/meta/meta.db" ]; then
          printf 'store sqlite\n'
          sqlite_store
        fi
        store
      fi
    fi
    free
  fi
  printf '\n%scocoon-probe end %s\n' "$said" "$nonce"
}

probe "$@"
