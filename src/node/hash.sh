#!/bin/sh
# Hashes blobs of one node at idle priority and changes nothing. It is run by a command that stays short,
#   sh -c 'script=$(head -c BYTES); eval "$script"' hash NONCE ROOT SECONDS SILENCE ITEM...
# and gets on its standard input this text and then a heartbeat: at least one byte in every SILENCE seconds. End of input
# or silence ends it and all that it started, and so does its time: nothing outlives the connection, or SECONDS by much.
#
# An ITEM is the hex of a blob, or HEX:LENGTH:LENGTH... to hash it in ranges of these lengths as well. Answers in their
# order, with lines between two marks: `range HEX SHA256` for each length and `whole HEX SHA256 SIZE INODE MTIME`; or
# `gone HEX`, `changed HEX` where the file was not the same before and after, `failed HEX`, `late HEX` where the time was
# over. Needs dash, coreutils, findutils and util-linux.
set -u
LC_ALL=C
export LC_ALL

# Whole seconds of a clock that nobody sets.
clock() {
  cut -d . -f 1 /proc/uptime
}

stamp() {
  find -L "$blob" -maxdepth 0 -type f -printf '%s %i %T@' 2>/dev/null
}

# In the process group of the work, so that what ends the work ends it too.
sha256() {
  timeout --foreground -s KILL "$left" sha256sum 2>/dev/null | head -c 64
}

# Succeeds where this is a digest; else says why there is none.
is_digest() {
  if [ "${#1}" -eq 64 ]; then return 0; fi
  if [ "$(clock)" -ge "$until" ]; then printf 'late %s\n' "$hex"; else printf 'failed %s\n' "$hex"; fi
  return 1
}

hash_ranges() {
  IFS=:
  # shellcheck disable=SC2086 # split at the colons
  set -- $lengths
  unset IFS
  for length; do
    part=$(head -c "$length" <&4 | sha256)
    is_digest "$part" || return 1
    printf 'range %s %s\n' "$hex" "$part"
  done
}

hash_item() {
  hex=${1%%:*}
  lengths=${1#"$hex"}
  lengths=${lengths#:}
  blob=$root/cloudimg/blobs/$hex.qcow2
  left=$((until - $(clock)))
  if [ "$left" -le 0 ]; then
    printf 'late %s\n' "$hex"
    return
  fi
  before=$(stamp)
  if [ -z "$before" ]; then
    printf 'gone %s\n' "$hex"
    return
  fi
  if [ ! -r "$blob" ]; then
    printf 'failed %s\n' "$hex"
    return
  fi
  if [ -n "$lengths" ]; then
    hash_ranges 4<"$blob" || return
    left=$((until - $(clock)))
    if [ "$left" -le 0 ]; then
      printf 'late %s\n' "$hex"
      return
    fi
  fi
  whole=$(sha256 <"$blob")
  is_digest "$whole" || return
  if [ "$before" = "$(stamp)" ]; then
    printf 'whole %s %s %s\n' "$hex" "$whole" "$before"
  else
    printf 'changed %s\n' "$hex"
  fi
}

# The switch that ends the work when nobody waits for it any more. TERM ends the switch.
watch() {
  exec >/dev/null 2>&1
  trap 'kill "$!"; exit' TERM
  while :; do
    # shellcheck disable=SC2016 # expanded by the inner shell
    timeout -s KILL "$silence" sh -c '[ -n "$(head -c 1)" ]' <&3 &
    wait "$!" || break
  done
  kill -s KILL -- "-$work"
}

main() {
  nonce=$1 root=$2 seconds=$3 silence=$4
  shift 4
  exec 3<&0 </dev/null
  printf 'cocoon-hash 1 %s\n' "$nonce"
  # `timeout` is the leader of a process group, which is the work and nothing else.
  # shellcheck disable=SC2154 # the command that runs this has read it
  timeout -s KILL "$((seconds + 2))" sh -c "$script" hash-work "$root" "$seconds" "$@" 3<&- &
  work=$!
  watch &
  switch=$!
  wait "$work"
  kill "$switch" 2>/dev/null
  printf '\ncocoon-hash end %s\n' "$nonce"
}

# Where this is the work itself, it is named so.
if [ "$0" = hash-work ]; then
  root=$1 until=$(($(clock) + $2))
  shift 2
  renice -n 19 -p $$ >/dev/null 2>&1
  ionice -c 3 -p $$ >/dev/null 2>&1
  for item; do hash_item "$item"; done
  exit
fi
main "$@"
exit
