#!/bin/sh
# Hashes blobs of one node at idle priority and changes nothing. Run as: sh -s -- NONCE ROOT DEADLINE ITEM…
# An ITEM is the hex of a blob, or HEX:LENGTH:LENGTH… to hash it in ranges of these lengths as well.
# Answers with lines between two marks: `range HEX SHA256` in order, `whole HEX SHA256 SIZE INODE MTIME`, `gone HEX`,
# `changed HEX` where the file was not the same before and after.
set -u
LC_ALL=C
export LC_ALL

stamp() {
  find -L "$blob" -maxdepth 0 -type f -printf '%s %i %T@'
}

# None goes on for ever once nobody waits for it.
sha256() {
  timeout "$deadline" sha256sum | head -c 64
}

hash_blob() {
  hex=${1%%:*}
  blob=$root/cloudimg/blobs/$hex.qcow2
  before=$(stamp 2>/dev/null)
  if [ -z "$before" ]; then
    printf 'gone %s\n' "$hex"
    return
  fi
  lengths=
  case $1 in *:*) lengths=${1#*:} ;; esac
  exec 4<"$blob"
  IFS=:
  for length in $lengths; do
    printf 'range %s %s\n' "$hex" "$(head -c "$length" <&4 | sha256)"
  done
  unset IFS
  exec 4<&-
  whole=$(sha256 <"$blob")
  if [ "$before" = "$(stamp)" ]; then
    printf 'whole %s %s %s\n' "$hex" "$whole" "$before"
  else
    printf 'changed %s\n' "$hex"
  fi
}

main() {
  nonce=$1 root=$2 deadline=$3
  shift 3
  renice -n 19 -p $$ >/dev/null 2>&1
  ionice -c 3 -p $$ >/dev/null 2>&1
  printf 'cocoon-hash 1 %s\n' "$nonce"
  for item in "$@"; do hash_blob "$item"; done
  printf 'cocoon-hash end %s\n' "$nonce"
}

main "$@"
