#!/bin/sh
# Installs the missing packages of one Makefile target, on Debian and Ubuntu with apt-get, on macOS with Homebrew.
#
#   tests/tools.sh SET             installs the set
#   tests/tools.sh --missing SET   prints the packages that it would install
#
# SET is build, demo, playground, session, test, check, bench, bare, package, package-check, the name of a suite
# (suite-websocket, suite-openssh, suite-tls, suite-clients), or portability-PART with a part of tests/portability.sh.
set -eu

say() { echo "tools: $*"; }
fail() {
    echo "tools: $1" >&2
    echo "tools: hint: $2" >&2
    exit 1
}

# Lines of the form `check package`: a package is missing if the check fails.
# cc cannot link without the C library's headers and start files, which gcc only recommends.
build='links gcc
links libc6-dev
authorities ca-certificates'
demo="$build
ssh openssh-client
sshd openssh-server
rsync rsync
library:libnss_wrapper.so libnss-wrapper"
playground="$demo
curl curl"
session="$playground
uptime procps
python3 python3"
test="$session
make make
git git
ps procps
tinyproxy tinyproxy-bin
plink putty-tools
squid squid
openssl openssl
python:ensurepip python3-venv
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
secret-tool libsecret-tools
Xvfb xvfb
either:xfreerdp freerdp2-x11
either:freerdp-shadow-cli freerdp2-shadow-x11"
bench="$playground
valgrind valgrind"
suite="$build
openssl openssl
python3 python3
python:ensurepip python3-venv"
suite_openssh="$suite
sshd openssh-server
file:/usr/lib/openssh/regress/test-exec.sh openssh-tests"
suite_clients="$suite
$playground
git git
npm npm
node nodejs
hg mercurial
plink putty-tools
parallel-ssh pssh
lftp lftp
sshfs sshfs
borg borgbackup
restic restic
ruby:net/sftp ruby-net-sftp
ruby:ed25519 ruby-ed25519
ruby:bcrypt_pbkdf ruby-bcrypt-pbkdf
perl:Net::OpenSSH libnet-openssh-perl"
bare='debootstrap debootstrap
unshare util-linux'
package="$build
git git
tar tar
gzip gzip"
if [ "$(uname)" = Linux ]; then
    package="$package
dpkg-deb dpkg
rpmbuild rpm"
fi
package_check="$demo
debootstrap debootstrap
lintian lintian
rpm rpm
readelf binutils
skopeo skopeo
umoci umoci
ruby ruby
python3 python3
nix-instantiate nix-bin
makepkg makepkg
setpriv util-linux"
portability_windows="$demo
git git
x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64
file:/usr/x86_64-w64-mingw32/include/windows.h mingw-w64-x86-64-dev
debootstrap debootstrap
unshare util-linux"
portability_arm="$demo
aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu
file:/usr/aarch64-linux-gnu/include/stdio.h libc6-dev-arm64-cross
qemu-aarch64-static qemu-user-static"
portability_mac="$build
python3 python3
python:ensurepip python3-venv"

# The packages of a set, by Debian's names.
packages_of() {
    case $1 in
    build | check) echo "$build" ;;
    demo) echo "$demo" ;;
    playground) echo "$playground" ;;
    session) echo "$session" ;;
    test) echo "$test" ;;
    bench) echo "$bench" ;;
    bare) echo "$bare" ;;
    package) echo "$package" ;;
    package-check) echo "$package_check" ;;
    portability-windows) echo "$portability_windows" ;;
    portability-static) echo "$demo" ;;
    portability-arm) echo "$portability_arm" ;;
    portability-mac) echo "$portability_mac" ;;
    portability-packages) echo "$package" ;;
    suite-websocket | suite-tls) echo "$suite" ;;
    suite-openssh) echo "$suite_openssh" ;;
    suite-clients) echo "$suite_clients" ;;
    *) fail "unknown set: $1" "see the beginning of tests/tools.sh" ;;
    esac
}

# sshd and chroot are not on an ordinary user's PATH.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/opt/homebrew/sbin"

links() {
    directory=$(mktemp -d)
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' >"$directory/a.c"
    if cc -o "$directory/a" "$directory/a.c" 2>/dev/null; then linked=0; else linked=1; fi
    rm -r "$directory"
    return $linked
}

# The paths at which curl, which cargo contains, expects certificate authorities (Debian, Fedora, Alpine and macOS, openSUSE).
authorities() {
    for place in certs/ca-certificates.crt certs/ca-bundle.crt cert.pem ca-bundle.pem; do
        [ ! -e "/etc/ssl/$place" ] || return 0
    done
    return 1
}

is_there() {
    case $1 in
    links) [ "${links:=$(links && echo yes || echo no)}" = yes ] ;;
    authorities) authorities ;;
    # env, because true as a shell builtin loads no library.
    library:*) [ -z "$(LD_PRELOAD="${1#library:}" env true 2>&1)" ] ;;
    file:*) [ -e "${1#file:}" ] ;;
    ruby:*) ruby -r "${1#ruby:}" -e 0 2>/dev/null ;;
    perl:*) perl "-M${1#perl:}" -e 0 2>/dev/null ;;
    # Programs of FreeRDP 3 can have a name that ends in 3.
    either:*) command -v "${1#either:}" >/dev/null || command -v "${1#either:}3" >/dev/null ;;
    python:*) python3 -c "import ${1#python:}" 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
    esac
}

# The missing packages of a list, on one line.
missing() {
    echo "$1" | while read -r check package; do
        is_there "$check" || echo "$package"
    done | sort -u | tr '\n' ' ' | sed 's/ $//'
}

# Runs a command as root. The installation takes minutes, so this checks the permission first.
become_root() {
    if [ "$(id -u)" = 0 ]; then
        root=
    elif ! command -v sudo >/dev/null; then
        fail "cannot install $packages: you are not root, and sudo is not installed" "run as root: apt-get install $packages"
    elif ! sudo -v; then
        fail "cannot install $packages: sudo denies it" "ask an administrator to run: apt-get install $packages"
    else
        root=sudo
    fi
}

install_on_debian() {
    say "installing: $packages"
    become_root
    $root apt-get update
    # Debian 13 has only FreeRDP 3.
    apt-cache show freerdp2-x11 >/dev/null 2>&1 || packages=$(echo "$packages" | sed 's/freerdp2-/freerdp3-/g')
    # Without a policy the package of sshd starts a server that is open to the network (invoke-rc.d(8)).
    $root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y --no-install-recommends $packages
    case " $packages " in *" openssh-server "*) disable ssh ssh.service ssh.socket ;; esac
    case " $packages " in *" squid "*) disable squid squid.service ;; esac
}

# Disables the service NAME with its UNITS: disable NAME UNITS
disable() {
    [ -d /run/systemd/system ] || return 0
    say "disabling the $1 service, which its package enables; to enable it: sudo systemctl enable --now $1"
    shift
    $root systemctl disable --now "$@" || true
}

# Homebrew's names, if they differ. macOS includes the other programs.
install_with_homebrew() {
    names=
    for package in $packages; do
        case $package in
        gcc) fail "no C compiler is installed" "xcode-select --install" ;;
        rsync | curl | openssl | python3 | fish | tinyproxy | git) names="$names $package" ;;
        tar) names="$names gnu-tar" ;;
        tinyproxy-bin) names="$names tinyproxy" ;;
        groff-base) names="$names groff" ;;
        nodejs | npm) names="$names node" ;;
        esac
    done
    [ -n "$names" ] || return 0
    say "installing:$names"
    brew install $names
}

# A minimal toolchain lacks the components clippy and rustfmt. cargo-deny is a separate program.
install_cargo_tools() {
    for component in rustfmt clippy; do
        cargo "${component#rust}" --version >/dev/null 2>&1 || rustup component add "$component"
    done
    install_cargo_program cargo-deny 0.20.2 --no-default-features
}

# Installs a program of crates.io, unless there is one: install_cargo_program NAME VERSION [OPTION]
install_cargo_program() {
    tests/cargo.sh "${1#cargo-}" --version >/dev/null 2>&1 && return 0
    say "installing $1, once, which takes some minutes"
    tests/cargo.sh install --locked --version "$2" ${3:-} "$1"
}

# sshd of root requires this directory, sshd of an ordinary user does not (OpenSSH, sshd.c: privsep_chroot). On Debian the
# ssh service creates it at boot.
make_privilege_separation_directory() {
    if [ "$(id -u)" = 0 ] && [ "$(uname)" = Linux ] && [ ! -d /run/sshd ]; then
        mkdir -p -m 755 /run/sshd
    fi
}

if [ "${1:-}" = --missing ]; then
    list=$(packages_of "${2:-}")
    missing "$list"
    exit 0
fi

list=$(packages_of "${1:-}")
packages=$(missing "$list")
if [ -z "$packages" ]; then
    :
elif command -v apt-get >/dev/null; then
    install_on_debian
elif command -v brew >/dev/null; then
    install_with_homebrew
else
    fail "missing: $packages (Debian's names of the packages)" "install these packages with your system's package manager"
fi
case $1 in
demo | playground | session | test | bench | suite-openssh | suite-clients | portability-windows | portability-static | \
    portability-arm) make_privilege_separation_directory ;;
esac
case $1 in
check) install_cargo_tools ;;
test) install_cargo_program cargo-nextest 0.9.143 ;;
package)
    install_cargo_program cargo-auditable 0.7.7
    install_cargo_program cargo-cyclonedx 0.5.9
    ;;
esac
