#!/bin/sh
# Runs `make demo` and `make test` on a minimal Debian 12 with make, git and Rust: in a chroot of debootstrap, as root and as
# an ordinary user with sudo. Runs all four without arguments, or else these:
#
#   tests/bare.sh [demo-root] [demo-user] [test-root] [test-user]
#
# The chroot uses this machine's Rust toolchain and this machine's settings for apt, cargo, pip, npm, proxies and
# certificates. Each run has its own namespaces. Its mounts and processes end with them.
set -eu

cd "$(dirname "$0")/.."
say() { echo "bare: $*"; }

if [ "$(id -u)" != 0 ]; then
    say "debootstrap and chroot need root: starting again by sudo"
    exec sudo --preserve-env env PATH="$PATH" HOME="$HOME" "$PWD/tests/bare.sh" "$@"
fi
[ $# -gt 0 ] || set -- demo-root demo-user test-root test-user
for run; do
    case $run in
    demo-root | demo-user | test-root | test-user) ;;
    *) say "unknown run: $run; choose from: demo-root demo-user test-root test-user" >&2 && exit 1 ;;
    esac
done

PATH="$PATH:/usr/sbin:/sbin"
toolchain=$(rustc --print sysroot)
cargo_home=${CARGO_HOME:-$HOME/.cargo}
room=$(mktemp -d "${TMPDIR:-/tmp}/arcssh-bare-XXXXXX")
trap 'rm -rf --one-file-system "$room"' EXIT
child=
# unshare ignores SIGINT and SIGTERM while its child runs; --kill-child ends the child with it.
trap '[ -z "$child" ] || { kill -KILL "$child"; wait "$child"; } || true; exit 130' INT TERM HUP

# Runs a command in the chroot as this user, with the user's environment and the settings of this machine.
in_debian() { # user command...
    user=$1
    shift
    home=$(sed -n "s/^$user:\([^:]*:\)\{4\}\([^:]*\):.*/\2/p" "$room/debian/etc/passwd")
    path=/opt/rust/bin:/usr/local/bin:/usr/bin:/bin
    [ "$user" != root ] || path=$path:/usr/local/sbin:/usr/sbin:/sbin
    set -- "HOME=$home" "USER=$user" "LOGNAME=$user" "PATH=$path" "TERM=${TERM:-dumb}" sh -euc 'cd; eval "$1"' sh "$*"
    while IFS= read -r setting; do
        [ -z "$setting" ] || set -- "$setting" "$@"
    done <<SETTINGS
$(settings_of_this_machine)
SETTINGS
    # A shell without job control starts background commands with SIGINT and SIGQUIT ignored.
    env --default-signal=INT,QUIT unshare --mount --pid --fork --kill-child sh -euc '
        mount --rbind /dev "$1/dev"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$1/dev/pts"
        mount --bind "$1/dev/pts/ptmx" "$1/dev/ptmx"
        mount -t proc proc "$1/proc"
        mount --bind "$2" "$1/opt/rust"
        mount -o remount,bind,ro "$1/opt/rust"
        directory=$1 user=$3
        shift 3
        exec chroot --userspec="$user:" "$directory" env -i "$@"
    ' sh "$room/debian" "$toolchain" "$user" "$@" &
    child=$!
    # A trap runs during wait, but not during a command in the foreground.
    wait "$child"
    child=
}

# The variables with registries, proxies and certificates.
settings_of_this_machine() {
    env | grep -iE '^([a-z_]*(proxy|_ca_bundle|_ca_certs|_cert|_cert_file|_cert_dir|cainfo)|(pip|npm_config|cargo_(net|http|registries|registry|source))_[a-z_]*)=' || true
}

# This machine's Debian sources as lines of sources.list. On other systems, Debian's default mirror.
apt_sources() {
    if [ "$(. /etc/os-release && echo "${VERSION_CODENAME:-}")" = bookworm ]; then
        apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' 'Origin: Debian'
    else
        echo 'deb http://deb.debian.org/debian bookworm main'
    fi
}

copy_if_there() {
    for file; do
        [ -e "$file" ] || continue
        mkdir -p "$room/debian$(dirname "$file")"
        cp -RL "$file" "$room/debian$(dirname "$file")/"
    done
}

# Debian with make, git, Rust, and a user who may use sudo.
make_base() {
    apt_sources >"$room/sources.list"
    mirror=$(awk '$3 == "bookworm" { print $2; exit }' "$room/sources.list")
    say "Debian 12 from $mirror"
    debootstrap --variant=minbase bookworm "$room/debian" "$mirror"
    cp "$room/sources.list" "$room/debian/etc/apt/sources.list"
    apt-config dump | grep -E '^Acquire::(https?|Check|Retries|ForceIPv)' >"$room/debian/etc/apt/apt.conf.d/90machine" || true
    copy_if_there /etc/apt/auth.conf /etc/apt/auth.conf.d /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/npmrc
    mkdir "$room/debian/opt/rust"
    in_debian root 'apt-get update && apt-get install -y --no-install-recommends make git sudo ca-certificates'
    copy_if_there /etc/ssl/certs/ca-certificates.crt /usr/local/share/ca-certificates
    in_debian root 'useradd --create-home --shell /bin/bash ordinary'
    echo 'ordinary ALL=(ALL) NOPASSWD: ALL' >"$room/debian/etc/sudoers.d/ordinary"
    for home in root home/ordinary; do furnish "$room/debian/$home"; done
    in_debian root 'chown -R ordinary: /home/ordinary'
    mv "$room/debian" "$room/base"
}

# Copies the sources and this user's registry settings into a home directory.
furnish() { # home
    mkdir -p "$1/arcssh" "$1/.cargo/registry" "$1/.config/pip"
    git ls-files -z --cached --others --exclude-standard | tar --null --files-from - --ignore-failed-read --create |
        tar --extract --no-same-owner --directory "$1/arcssh"
    for name in config config.toml registry/index registry/cache; do
        [ ! -e "$cargo_home/$name" ] || cp -R "$cargo_home/$name" "$1/.cargo/$name"
    done
    [ ! -e "$HOME/.npmrc" ] || cp "$HOME/.npmrc" "$1/"
    [ ! -e "$HOME/.config/pip/pip.conf" ] || cp "$HOME/.config/pip/pip.conf" "$1/.config/pip/"
}

make_base
for run; do
    target=${run%-*}
    user=root
    [ "${run#*-}" = root ] || user=ordinary
    cp -a "$room/base" "$room/debian"
    say "make $target as $user"
    in_debian "$user" "cd arcssh; if command -v cc; then exit 1; fi; make $target; echo 'bare: processor time, make itself and its children:'; times"
    rm -rf --one-file-system "$room/debian"
    say "make $target as $user: passed"
done
