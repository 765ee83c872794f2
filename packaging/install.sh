#!/bin/sh
# Installs arcssh from a release, for Linux and macOS:
#
#   curl --proto '=https' --tlsv1.2 -fsSL https://github.com/arcssh/arcssh/releases/latest/download/install.sh | sh
#
# Variables:
#   PREFIX             folder that gets bin, share/man and the completions [default: /usr/local for root, else ~/.local]
#   ARCSSH_VERSION     version to install, such as 0.1.0 [default: the latest]
#   ARCSSH_RELEASES    address of the releases, for a mirror [default: https://github.com/arcssh/arcssh/releases]
set -eu
umask 022

fail() {
    echo "install: $1" >&2
    [ -z "${2:-}" ] || echo "install: hint: $2" >&2
    exit 1
}

# The whole script is one function, so that a download that breaks off runs nothing.
main() {
    releases=${ARCSSH_RELEASES:-https://github.com/arcssh/arcssh/releases}
    case $releases in https://*) ;; *) fail "the address of the releases must begin with https://: $releases" ;; esac
    if [ -n "${ARCSSH_VERSION:-}" ]; then
        case $ARCSSH_VERSION in *[!0-9A-Za-z.+-]*) fail "not a version: $ARCSSH_VERSION" ;; esac
        source=$releases/download/v${ARCSSH_VERSION#v}
    else
        source=$releases/latest/download
    fi
    if [ -n "${PREFIX:-}" ]; then
        prefix=$PREFIX
    elif [ "$(id -u)" = 0 ]; then
        prefix=/usr/local
    else
        prefix=${HOME:?}/.local
    fi
    target=$(target)
    { mkdir -p "$prefix/bin" && [ -w "$prefix/bin" ]; } 2>/dev/null ||
        fail "cannot write below $prefix" "choose another folder: PREFIX=\$HOME/.local"

    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    archive=arcssh-$target.tar.gz
    echo "install: downloading $source/$archive"
    download "$source/$archive" "$scratch/$archive"
    download "$source/SHA256SUMS" "$scratch/SHA256SUMS"
    verify "$scratch" "$archive"

    tar -C "$scratch" -xzf "$scratch/$archive"
    files=$scratch/arcssh-$target
    "$files/arcssh" --version >/dev/null || fail "the program does not run on this system" \
        "build it: cargo install --locked --git https://github.com/arcssh/arcssh arcssh"
    place 755 "$files/arcssh" bin/arcssh
    for page in "$files"/man/*.1; do place 644 "$page" "share/man/man1/$(basename "$page")"; done
    place 644 "$files/completions/arcssh.bash" share/bash-completion/completions/arcssh
    place 644 "$files/completions/_arcssh" share/zsh/site-functions/_arcssh
    place 644 "$files/completions/arcssh.fish" share/fish/vendor_completions.d/arcssh.fish

    echo "install: installed $prefix/bin/arcssh, $("$prefix/bin/arcssh" --version)"
    case ":$PATH:" in *":$prefix/bin:"*) ;; *) echo "install: hint: add $prefix/bin to PATH" ;; esac
    command -v ssh >/dev/null || echo 'install: hint: install an OpenSSH client'
    echo 'install: next: arcssh login'
}

# Prints the name of this system as in the names of the archives.
target() {
    system=$(uname -s) machine=$(uname -m)
    case $machine in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) machine= ;;
    esac
    # A shell in Rosetta reports x86_64 (Apple, "About the Rosetta translation environment").
    [ "$system" != Darwin ] || [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" != 1 ] || machine=aarch64
    case $system:$machine in
    Linux:?*) echo "$machine-unknown-linux-gnu" ;;
    Darwin:?*) echo "$machine-apple-darwin" ;;
    *) fail "there is no program for $(uname -sm)" \
        "build it: cargo install --locked --git https://github.com/arcssh/arcssh arcssh" ;;
    esac
}

# download URL FILE
download() {
    if command -v curl >/dev/null; then
        curl --proto '=https' --tlsv1.2 -fsSL --retry 3 -o "$2" "$1" || fail "cannot download $1"
    elif command -v wget >/dev/null; then
        wget -q --https-only -O "$2" "$1" || fail "cannot download $1"
    else
        fail 'neither curl nor wget is installed' 'install one of them'
    fi
}

# verify FOLDER FILE
verify() {
    expected=$(sed -n "s/^\([0-9a-f]\{64\}\) [ *]$2\$/\1/p" "$1/SHA256SUMS")
    [ -n "$expected" ] || fail "SHA256SUMS of the release does not name $2"
    if command -v sha256sum >/dev/null; then
        actual=$(sha256sum "$1/$2")
    elif command -v shasum >/dev/null; then
        actual=$(shasum -a 256 "$1/$2")
    else
        fail 'neither sha256sum nor shasum is installed' 'install one of them'
    fi
    [ "${actual%% *}" = "$expected" ] || fail "$2 is not the file of the release: its SHA-256 hash is ${actual%% *}, not $expected" \
        'download it again; if the hash differs again, report it'
}

# Copies a file and renames it, so that a running program stays whole: place MODE FILE NAME
place() {
    mkdir -p "$(dirname "$prefix/$3")"
    cp "$2" "$prefix/$3.new"
    chmod "$1" "$prefix/$3.new"
    mv -f "$prefix/$3.new" "$prefix/$3"
}

main "$@"
