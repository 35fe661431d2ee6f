#!/bin/sh
# Reads one node's cocoon store and prints what it finds. Run as: sh -s -- NONCE BINARY ROOT
#
# Nothing under cocoon's directories changes: JSON indexes are read without their lock (they are replaced by rename),
# and a SQLite store is read by cocoon itself on a private copy, because cocoon creates directories, locks and -wal
# files wherever it looks.
#
# The answer is lines of words between two marks that hold the nonce. The text of a file follows its `file` line, each
# of its lines marked by `|`, so that nothing in a file can pass for a line of the answer; a file with a line end in its
# name is none of cocoon's and left out. Needs dash, coreutils, findutils, grep and sed.
set -u
LC_ALL=C
export LC_ALL
umask 077

LIMIT=8388609    # bytes of an index; one more than is accepted, so that the reader sees that there was more
MEMBERS=262144   # bytes of a snapshot's small JSON files
unclean='*[[:cntrl:]]*'

# content NAME FILE BYTES
content() {
  printf 'file %s\n' "$1"
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

# index NAME FILE
index() {
  [ -e "$2" ] || return 0
  if [ -r "$2" ]; then content "$1" "$2" "$LIMIT"; else printf 'denied %s\n' "$2"; fi
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
    content "$kind-list" "$copy/out" "$LIMIT"
    content "$kind-errors" "$copy/err" 4096
  done
}

blobs() {
  if open_dir "$root/cloudimg/blobs"; then
    find -L "$root/cloudimg/blobs" -maxdepth 1 -name '*.qcow2' ! -name "$unclean" -printf 'blob %y %s %i %T@ %f\n'
    for blob in "$root"/cloudimg/blobs/*.qcow2; do
      # shellcheck disable=SC2254 # a pattern
      case ${blob##*/} in $unclean) continue ;; esac
      if [ ! -f "$blob" ] || [ ! -s "$blob" ]; then continue; fi
      if [ ! -r "$blob" ]; then
        printf 'denied %s\n' "$blob"
        continue
      fi
      printf 'head %s %s\n' "${blob##*/}" "$(od -An -v -tx1 -w20 -N20 -- "$blob")"
    done
  fi
  if open_dir "$root/oci/blobs"; then
    find -L "$root/oci/blobs" -maxdepth 1 -type f -size +0 -name '*.erofs' ! -name "$unclean" -printf 'path file %p\n'
  fi
  if open_dir "$root/oci/boot"; then
    find -L "$root/oci/boot" -mindepth 2 -maxdepth 2 -type f -size +0 ! -path "$unclean" -printf 'path file %p\n'
  fi
}

# state PATH
state() {
  if [ ! -f "$1" ]; then
    printf 'path absent %s\n' "$1"
  elif [ -s "$1" ]; then
    printf 'path file %s\n' "$1"
  else
    printf 'path empty %s\n' "$1"
  fi
}

# The backing file in a qcow2 header: offset in bytes 8 to 15, length in 16 to 19, big-endian.
backing() {
  overlay=$1
  # shellcheck disable=SC2046 # twenty numbers, to be split
  set -- $(od -An -v -tu1 -N20 -- "$overlay")
  [ "$#" -eq 20 ] && [ "$1 $2 $3 $4" = '81 70 73 251' ] || return 0
  [ "$9 ${10} ${11} ${12}" = '0 0 0 0' ] || return 0
  offset=$((${13} << 24 | ${14} << 16 | ${15} << 8 | ${16}))
  length=$((${17} << 24 | ${18} << 16 | ${19} << 8 | ${20}))
  [ "$offset" -gt 0 ] && [ "$length" -gt 0 ] && [ "$length" -le 4096 ] || return 0
  printf 'backing %s\n' "$(od -An -v -tx1 -w4096 -j "$offset" -N "$length" -- "$overlay")"
  path=$(tail -c "+$((offset + 1))" -- "$overlay" | head -c "$length" | tr -d '\000\n')
  case $path in /*) state "$path" ;; esac
}

# snapshot DIR
snapshot() {
  open_dir "$1" || return 0
  printf 'snapshot %s\n' "$1"
  find -L "$1" -maxdepth 1 -type f ! -name "$unclean" -printf 'has %s %f\n'
  for member in cocoon.json config.json; do
    [ -f "$1/$member" ] && content "$member" "$1/$member" "$MEMBERS"
  done
  cat -- "$1/cocoon.json" "$1/config.json" 2>/dev/null | grep -o '"/[^"\\]*"' | sort -u | while IFS= read -r path; do
    path=${path#\"}
    state "${path%\"}"
  done
  [ -s "$1/overlay.qcow2" ] && backing "$1/overlay.qcow2"
}

snapshots() {
  {
    open_dir "$root/snapshot/localfile" >/dev/null &&
      find "$root/snapshot/localfile" -mindepth 1 -maxdepth 1 -type d ! -name "$unclean"
    [ -r "$root/snapshot/db/snapshots.json" ] &&
      sed 's/"data_dir"/\n&/g' "$root/snapshot/db/snapshots.json" | sed -n 's/^"data_dir": *"\(\/[^"\\]*\)".*/\1/p'
  } | sort -u | while IFS= read -r dir; do
    snapshot "$dir"
  done
}

# What interrupted pulls and imports left behind more than an hour ago: garbage collection takes it some day.
leftovers() {
  for backend in cloudimg oci; do
    [ -d "$root/$backend/temp" ] && find "$root/$backend/temp" -mindepth 1 -name 'reconcile-import.*' -prune -o \
      -type f ! -name '*.lock' -mmin +60 -printf 'left %s\n'
  done
}

# The files that a change of ours makes and removes: here now, they are in use, or a run died (`change.sh`).
ours() {
  find "$root/cloudimg/blobs" -maxdepth 1 -type f -name '*.qcow2.bad-reconcile' ! -name "$unclean" -printf 'ours cloudimg/blobs/%f\n'
  find "$root/cloudimg/temp" -maxdepth 1 -type d -name 'reconcile-import.*' ! -name "$unclean" -printf 'ours cloudimg/temp/%f\n'
} 2>/dev/null

# Free bytes where a pull would write, or where it would create its directories.
free() {
  dir=$root/cloudimg/temp
  while [ ! -d "$dir" ]; do dir=$(dirname -- "$dir"); done
  printf 'free %s\n' "$(df --output=avail -B1 -- "$dir" | tail -n 1)"
}

probe() {
  nonce=$1 bin=$2 root=$3
  printf 'cocoon-probe 1 %s\n' "$nonce"
  printf 'machine %s\n' "$(uname -m)"
  if ! command -v "$bin" >/dev/null; then
    printf 'missing cocoon\n'
  else
    timeout 10 "$bin" version </dev/null 2>/dev/null | sed -n 's/^Version:[[:space:]]*/version /p' | head -n 1
    case $(ls -d -- "$root/." 2>&1 >/dev/null) in
      *'ermission denied'*) printf 'denied %s\n' "$root" ;;
    esac
    if open_dir "$root"; then
      for dir in cloudimg cloudimg/db oci oci/db snapshot snapshot/db snapshot/localfile meta; do
        open_dir "$root/$dir"
      done
      if [ -e "$root/meta/meta-convert.manifest" ]; then
        printf 'store converting\n'
      else
        index cloudimg "$root/cloudimg/db/images.json"
        index oci "$root/oci/db/images.json"
        index snapshots "$root/snapshot/db/snapshots.json"
        index cloudhypervisor "$root/cloudhypervisor/db/vms.json"
        index firecracker "$root/firecracker/db/vms.json"
        if [ -e "$root/meta/meta.db" ]; then
          printf 'store sqlite\n'
          sqlite_store
        fi
        blobs
        snapshots
        leftovers
        ours
      fi
    fi
    free
  fi
  printf 'cocoon-probe end %s\n' "$nonce"
}

probe "$@"
