#!/bin/sh
# Installs the programs that demo and tests run, where they are missing: OpenSSH's server, rsync, an HTTP proxy, …
# Debian and Ubuntu by apt-get, macOS by Homebrew. With the argument cargo-deny it installs just that, by cargo.
set -eu

say() { echo "tools: $*"; }

# The directory in which sshd, run by root, gives up its rights; Debian's service makes it at boot.
privilege_separation_directory() {
    if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ] && [ "$(uname)" = Linux ]; then
        mkdir -p -m 755 /run/sshd
    fi
}

# A program's package is installed if any of its programs is missing.
missing_packages() {
    while read -r program package; do
        PATH="$PATH:/usr/sbin:/usr/local/sbin:/opt/homebrew/sbin" command -v "$program" >/dev/null || echo "$package"
    done <<LIST
$1
LIST
}

install_on_debian() {
    packages=$(missing_packages 'cc gcc
make make
ssh openssh-client
sshd openssh-server
rsync rsync
tinyproxy tinyproxy-bin
curl curl
openssl openssl
git git
python3 python3
node nodejs
npm npm
script bsdutils
setpriv util-linux
mount mount
ip iproute2
zsh zsh
fish fish
groff groff-base
dbus-run-session dbus
dbus-send dbus
gnome-keyring-daemon gnome-keyring
secret-tool libsecret-tools' | sort -u | tr '\n' ' ')
    # Debian's python3 makes no environments for pip without it.
    python3 -c 'import ensurepip' 2>/dev/null || packages="$packages python3-venv"
    [ -n "$packages" ] || return 0
    say "installing $packages"
    root=
    if [ "$(id -u)" != 0 ]; then root=sudo; fi
    $root apt-get update -qq
    # A service of its own is not wanted: the tests start what they need, on ports that are free.
    $root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $packages >/dev/null
}

install_with_homebrew() {
    packages=$(missing_packages 'rsync rsync
tinyproxy tinyproxy
curl curl
openssl openssl
python3 python3
fish fish
groff groff
npm node' | sort -u | tr '\n' ' ')
    [ -n "$packages" ] || return 0
    say "installing $packages"
    brew install --quiet $packages
}

if [ "${1:-}" = cargo-deny ]; then
    cargo deny --version >/dev/null 2>&1 && exit 0
    say "installing cargo-deny (some minutes, once)"
    exec cargo install --quiet --locked --no-default-features --version 0.20.2 cargo-deny
fi

if command -v apt-get >/dev/null; then
    install_on_debian
elif command -v brew >/dev/null; then
    install_with_homebrew
else
    say "neither apt-get nor brew is here; needed: OpenSSH client and server, rsync, tinyproxy, curl, openssl, git, python3, npm"
fi
privilege_separation_directory
