# shellcheck shell=bash
# Sourced by the other scripts: makes the checkout ready to run. Everything it says goes to stderr.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

check_node() {
  command -v node >/dev/null || fail 'Node.js 20.19 or newer is needed, and there is none in PATH'
  node -e 'const [a, b] = process.versions.node.split("."); process.exit(a > 20 || (a == 20 && b >= 19) ? 0 : 1)' ||
    fail "Node.js 20.19 or newer is needed; this is $(node --version)"
}

# Installs where nothing is installed, or something else than package-lock.json says.
install_packages() {
  local stamp=$root/node_modules/.package-lock.json
  if [ ! -e "$stamp" ] || [ "$root/package-lock.json" -nt "$stamp" ]; then
    (cd "$root" && npm ci --no-audit --no-fund) >&2 || fail 'npm ci failed'
  fi
}

# Builds where nothing is built, or from older sources.
build() {
  local built=$root/test/dist/fleet.js
  if [ ! -e "$built" ] || [ ! -e "$root/dist/main.js" ] || [ -n "$(newer_sources "$built")" ]; then
    (cd "$root" && node scripts/build.js) >&2 || fail 'the build failed'
  fi
}

newer_sources() {
  find "$root/src" "$root/test/doubles" "$root/test/fleet" "$root/test/bench" "$root/scripts/build.js" -type f -not -path '*/dist/*' -newer "$1" -print -quit
}

# install_debian PACKAGE:COMMAND…: installs what is missing, without starting a service.
install_debian() {
  local missing=()
  for pair in "$@"; do
    command -v "${pair#*:}" >/dev/null || [ -x "/usr/sbin/${pair#*:}" ] || missing+=("${pair%:*}")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  command -v apt-get >/dev/null || fail "needed and not installed: ${missing[*]}"
  [ "$(id -u)" -eq 0 ] || fail "needed and not installed, and only root can install it: ${missing[*]}"
  {
    apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } >&2 || fail "cannot install ${missing[*]}"
}

# fetch_node VERSION: prints the path of that Node.js, from npm and kept under node_modules.
fetch_node() {
  local dir=$root/node_modules/.node/$1 arch
  arch=$(node -p process.arch)
  local binary=$dir/node_modules/node-linux-$arch/bin/node
  if [ ! -x "$binary" ]; then
    mkdir -p "$dir"
    npm install --prefix "$dir" --ignore-scripts --no-audit --no-fund "node-linux-$arch@$1" >&2 || fail "cannot install Node.js $1"
  fi
  echo "$binary"
}

setup() {
  check_node
  install_packages
  build
}
