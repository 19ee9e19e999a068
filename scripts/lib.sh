# Shared by the scripts beside it; not for use alone.
# shellcheck shell=bash

# Tools that only the scripts use live here, out of the way of the system.
TOOLS="$ROOT/.tools"

heading() { printf '\n=== %s\n' "$*"; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# needs COMMAND-OR-TEST PACKAGE...: adds the packages to MISSING unless the test succeeds.
MISSING=()
needs() {
    local test=$1
    shift
    bash -c "$test" >/dev/null 2>&1 || MISSING+=("$@")
}

# Installs what `needs` found missing, with apt, after saying so.
install_missing() {
    if [ "${#MISSING[@]}" -eq 0 ]; then
        return
    fi
    heading "install what is missing: ${MISSING[*]}"
    if ! command -v apt-get >/dev/null; then
        fail "There is no apt-get here. Please install by hand what Debian calls: ${MISSING[*]}"
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "Not root and no sudo. As root: apt-get install ${MISSING[*]}"
        as_root=(sudo)
    fi
    echo "by: ${as_root[*]:+sudo }apt-get install ${MISSING[*]}"
    "${as_root[@]}" apt-get -o DPkg::Lock::Timeout=300 update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends "${MISSING[@]}"
    MISSING=()
}

needs_rust() {
    if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
        # shellcheck disable=SC1091
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || fail "Rust is not installed: see https://rustup.rs"
}

# needs_component COMMAND COMPONENT: a part of Rust that a minimal installation leaves out.
needs_component() {
    cargo "$1" --version >/dev/null 2>&1 || rustup component add "$2"
}

# What building the token inside takes: OpenSSL is built from source, its bindings by libclang.
needs_build_tools() {
    needs 'command -v cc' gcc libc6-dev
    needs 'command -v make' make
    # perl-base, which every Debian has, lacks modules that OpenSSL's Configure uses.
    needs 'perl -MFindBin -MIPC::Cmd -MFile::Compare -MFile::Copy -MTime::Piece -e 1' perl
    needs 'find /usr/lib /usr/lib64 /usr/local /opt/homebrew /Library/Developer "${LIBCLANG_PATH:-/usr/lib}" \
        -maxdepth 4 -name "libclang[.-]*" 2>/dev/null | grep -q .' libclang-dev
    # The library alone does not do: it reads headers of its own.
    needs '! command -v apt-get || ls /usr/lib/llvm-*/lib/clang/*/include/stddef.h' libclang-dev
}
