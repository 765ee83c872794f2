#!/bin/sh
# Builds arcssh for other systems on this Debian 12, and runs the demo where this machine can run the program:
# `make portability`. Each part can be chosen:
#
#   tests/portability.sh [windows] [static] [arm] [mac] [packages]
#
# Everything is below target/portability, and remains there for the next run. Mounts, and the processes that use them, are
# in namespaces of their own and end with them.
set -eu
cd "$(dirname "$0")/.."
umask 022

say() { echo "portability: $*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}

[ $# -gt 0 ] || set -- windows static arm mac packages
for part; do
    case $part in
    windows | static | arm | mac | packages) ;;
    *) fail "unknown part: $part; choose from: windows static arm mac packages" ;;
    esac
done

PATH="$PATH:/usr/sbin:/sbin"
target=${CARGO_TARGET_DIR:-target}
case $target in /*) ;; *) target=$PWD/$target ;; esac
room=$target/portability
mkdir -p "$room"
# Programs to try, not to ship: with fewer optimisations, they compile sooner.
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=0
build_std='--release -Z build-std=std,panic_abort'

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo --preserve-env=PATH,HOME,CARGO_TARGET_DIR "$@"; fi
}

# Runs a command as root, with mounts and processes that end with it. unshare ignores SIGINT and SIGTERM while its child
# runs; --kill-child ends the child with it.
child=
trap '[ -z "$child" ] || { as_root kill -KILL "$child"; wait "$child"; } || true; exit 130' INT TERM HUP
in_namespaces() {
    # A trap runs during wait, but not during a command in the foreground. A shell without job control starts background
    # commands with SIGINT and SIGQUIT ignored.
    as_root env --default-signal=INT,QUIT unshare --mount --pid --fork --kill-child --mount-proc "$@" &
    child=$!
    status=0
    wait "$child" || status=$?
    child=
    return $status
}

# Runs the demo with another arcssh: demo PROGRAM
demo() {
    say "demo with $1"
    "$target/debug/arcssh-emulator" demo --arcssh "$1"
}

build_emulator() {
    tests/cargo.sh build --locked -p arcssh-emulator --bin arcssh-emulator
}

# A Rust that has the source of its library, so that it builds the library for any target: the one with which Debian builds
# browsers. It runs where it is unpacked.
rust_with_source() {
    [ -x "$room/with-source" ] && return 0
    say 'unpacking a Rust that has the source of its library'
    rm -rf "$room/deb" "$room/rust"
    mkdir "$room/deb" "$room/rust"
    (cd "$room/deb" && apt-get download -qq -o APT::Sandbox::User=root libllvm22 libgit2-1.5 libhttp-parser2.9 libmbedcrypto7 \
        libmbedtls14 libmbedx509-1 libstd-rust-web-1.96 libstd-rust-web-dev rustc-web cargo-web rust-web-src rust-web-clippy) ||
        fail 'no Rust with source: it is in the security updates of Debian 12'
    for deb in "$room"/deb/*.deb; do dpkg -x "$deb" "$room/rust"; done
    cat >"$room/with-source" <<'SCRIPT'
#!/bin/sh
room=$(cd "$(dirname "$0")" && pwd)
rust=$room/rust/usr
# RUSTC_BOOTSTRAP permits -Z build-std.
export PATH="$rust/bin:$PATH" LD_LIBRARY_PATH="$rust/lib/x86_64-linux-gnu" RUSTC="$rust/bin/rustc" RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="$room/build"
unset RUSTUP_TOOLCHAIN
exec "$@"
SCRIPT
    chmod +x "$room/with-source"
}

# The lints of the program as it is shipped, and the demo under Wine. Only this machine's Linux runs ssh.
windows() {
    rust_with_source
    triple=x86_64-pc-windows-gnu
    "$room/with-source" cargo clippy --locked $build_std --target "$triple" -p arcssh --bins -- -D warnings
    make_tree_for_wine
    (cd "$room/tree" && "$room/with-source" cargo build --locked $build_std --target "$triple" -p arcssh --bin arcssh)
    build_emulator
    make_wine
    as_root cp "$room/build/$triple/release/arcssh.exe" "$room/wine/opt/arcssh.exe"
    cat >"$room/arcssh-in-wine" <<SCRIPT
#!/bin/sh
unset TMPDIR # Wine 10 aborts if it is set
export HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin XDG_RUNTIME_DIR=/tmp WINEPREFIX=/root/wine WINEDEBUG="\${WINEDEBUG:--all}"
exec chroot '$room/wine' sh -c 'cd /opt && exec wine ./arcssh.exe "\$@"' sh "\$@"
SCRIPT
    chmod +x "$room/arcssh-in-wine"
    say 'demo under Wine'
    in_wine "'$room/arcssh-in-wine' version --verbose && '$target/debug/arcssh-emulator' demo --arcssh '$room/arcssh-in-wine'"
}

# Wine 10 lacks three features of Windows that rustls-platform-verifier uses: exclusive flags of a chain engine, ignoring
# an unknown revocation status, and addresses as names. The program for Wine therefore has a changed copy of that crate. Wine
# thus proves nothing about certificates.
make_tree_for_wine() {
    "$room/with-source" cargo fetch --locked
    version=$(sed -n '/^name = "rustls-platform-verifier"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    rm -rf "$room/verifier" "$room/tree"
    cp -R "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/rustls-platform-verifier-"$version" "$room/verifier"
    file=$room/verifier/src/verification/windows.rs
    cp "$file" "$room/windows.rs"
    sed -i -e '/cfg(not(target_vendor = "win7"))/{N;/dwExclusiveFlags/s/not(\(.*\))\]/\1]/}' \
        -e 's/ CERT_CHAIN_REVOCATION_CHECK_END_CERT,//' \
        -e '/const FLAGS: u32 = CERT_CHAIN_REVOCATION_CHECK_END_CERT$/{N;s/CERT_CHAIN_REVOCATION_CHECK_END_CERT\n *| //}' \
        -e "/let name = name.strip_suffix('.')/a\\        let name = if matches!(server_name, pki_types::ServerName::IpAddress(_)) { \"localhost\" } else { name };" \
        "$file"
    ! cmp -s "$file" "$room/windows.rs" || fail 'the change for Wine does not fit this rustls-platform-verifier'
    mkdir "$room/tree"
    git ls-files -z | tar --null --files-from - --ignore-failed-read --create | tar --extract --directory "$room/tree"
    printf '\n[patch.crates-io]\nrustls-platform-verifier = { path = "../verifier" }\n' >>"$room/tree/Cargo.toml"
    # The entry of a folder has no source and no checksum.
    sed -i '/^name = "rustls-platform-verifier"$/,/^$/{/^source/d;/^checksum/d}' "$room/tree/Cargo.lock"
}

# A Debian 13 with Wine 10. Wine 8 of Debian 12 has no bcryptprimitives.dll, which Rust's library requires.
make_wine() {
    [ ! -d "$room/wine" ] || return 0
    say 'installing Wine in a minimal Debian 13'
    as_root rm -rf --one-file-system "$room/wine.new"
    as_root debootstrap --variant=minbase trixie "$room/wine.new" "$(mirror)"
    apt-config dump | grep -E '^Acquire::(https?|Check|Retries|ForceIPv)' |
        as_root tee "$room/wine.new/etc/apt/apt.conf.d/90machine" >/dev/null || true
    in_namespaces sh -euc '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        chroot "$1" apt-get update -qq
        chroot "$1" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends wine wine64
        echo 127.0.0.1 localhost >"$1/etc/hosts"
    ' sh "$room/wine.new"
    as_root mv "$room/wine.new" "$room/wine"
}

# Runs a command line that can use arcssh-in-wine. The emulator's files are in /tmp.
in_wine() {
    in_namespaces sh -euc '
        mount -t proc proc "$1/proc"
        mount --rbind /dev "$1/dev"
        mount --bind /tmp "$1/tmp"
        export TMPDIR=/tmp
        eval "$2"
    ' sh "$room/wine" "$1"
}

# The mirror of this machine, else Debian's.
mirror() {
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -n 1)
    echo "${uri:-http://deb.debian.org/debian}"
}

# `make install` builds the same program with all optimisations.
static() {
    CARGO_TARGET_DIR=$room/static tests/release.sh
    build_emulator
    program=$room/static/release/arcssh
    empty=$room/empty
    mkdir -p "$empty"
    cp "$program" "$empty/arcssh"
    as_root chroot "$empty" /arcssh version --verbose
    demo "$program"
}

arm() {
    rust_with_source
    triple=aarch64-unknown-linux-gnu
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        "$room/with-source" cargo build --locked $build_std --target "$triple" -p arcssh --bin arcssh
    build_emulator
    printf '#!/bin/sh\nexec qemu-aarch64-static -L /usr/aarch64-linux-gnu %s "$@"\n' \
        "'$room/build/$triple/release/arcssh'" >"$room/arcssh-in-qemu"
    chmod +x "$room/arcssh-in-qemu"
    "$room/arcssh-in-qemu" version --verbose
    demo "$room/arcssh-in-qemu"
}

# A check requires no SDK of Apple, linking does. zig compiles the C of ring.
mac() {
    rust_with_source
    if [ ! -x "$room/zig/bin/cargo-zigbuild" ]; then
        python3 -m venv "$room/zig"
        "$room/zig/bin/pip" install -q ziglang==0.17.1 cargo-zigbuild==0.24.1
    fi
    PATH="$room/zig/bin:$PATH" "$room/with-source" \
        cargo-zigbuild check --locked $build_std --target aarch64-apple-darwin -p arcssh --bins
}

# The packages are those to ship.
packages() {
    unset CARGO_PROFILE_RELEASE_LTO CARGO_PROFILE_RELEASE_CODEGEN_UNITS CARGO_PROFILE_RELEASE_OPT_LEVEL
    "${MAKE:-make}" --no-print-directory package package-check
}

for part; do
    say "$part"
    "$part"
done
say 'all passed'
