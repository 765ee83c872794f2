#!/bin/sh
# Runs cargo. The PATH of root and of sudo lacks the user's ~/.cargo/bin, so this script looks there too. Under sudo, cargo
# runs as the user who called sudo, if that user owns the sources: files of root in the target directory would break the
# user's next build.
set -eu

home_of() {
    if command -v getent >/dev/null; then getent passwd "$1" | cut -d: -f6; else eval echo "~$1"; fi
}

user=$(id -un)
if [ "$user" = root ]; then
    user=${SUDO_USER:-root}
fi
home=$(home_of "$user")
if [ -d "$home/.cargo/bin" ]; then
    PATH="$home/.cargo/bin:$PATH"
    [ ! -d "$home/.rustup" ] || export RUSTUP_HOME="${RUSTUP_HOME:-$home/.rustup}"
fi
if ! command -v cargo >/dev/null; then
    echo "make: cannot build arcssh: cargo is neither on PATH nor in $home/.cargo/bin" >&2
    echo "make: hint: install Rust, from https://rustup.rs, or add cargo's folder to PATH" >&2
    exit 1
fi
if [ "$(id -un)" = root ] && [ "$user" != root ] && [ -n "$(find . -prune -user "$user")" ]; then
    # sudo clears the environment, so this passes cargo's variables.
    exec sudo -u "$user" -H env PATH="$PATH" ${RUSTUP_HOME:+"RUSTUP_HOME=$RUSTUP_HOME"} \
        ${CARGO_TARGET_DIR:+"CARGO_TARGET_DIR=$CARGO_TARGET_DIR"} ${CARGO_HOME:+"CARGO_HOME=$CARGO_HOME"} \
        ${CARGO_TERM_COLOR:+"CARGO_TERM_COLOR=$CARGO_TERM_COLOR"} ${SSL_CERT_FILE:+"SSL_CERT_FILE=$SSL_CERT_FILE"} \
        ${https_proxy:+"https_proxy=$https_proxy"} ${no_proxy:+"no_proxy=$no_proxy"} ${SKIPPED:+"SKIPPED=$SKIPPED"} cargo "$@"
fi
exec cargo "$@"
