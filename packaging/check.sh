#!/bin/sh
# Tries the packages that `make package` built: `make package-check`. Each part can be chosen:
#
#   packaging/check.sh [archive] [deb] [rpm] [image] [manifests] [reproducible]
#
# The packages are installed in minimal Debian systems below a temporary folder, which is deleted at the end.
set -eu
cd "$(dirname "$0")/.."
export LC_ALL=C
umask 022

say() { echo "check: $*"; }
fail() {
    say "FAILED: $*" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || exec sudo --preserve-env env PATH="$PATH" HOME="$HOME" "$PWD/packaging/check.sh" "$@"
[ $# -gt 0 ] || set -- archive deb rpm image manifests reproducible
PATH=$PATH:/usr/sbin:/sbin
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
packages=${CARGO_TARGET_DIR:-target}/package
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
room=$(mktemp -d)
trap 'rm -rf --one-file-system "$room"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
(cd "$packages" && sha256sum --quiet --strict -c SHA256SUMS) || fail 'SHA256SUMS'

# Fails unless the program in this root says its version: runs ROOT PROGRAM
runs() {
    printed=$(chroot "$1" "$2" version) || fail "$2 does not run"
    case $printed in "arcssh $version ("*", $target, static)") ;; *) fail "$2 prints: $printed" ;; esac
}

# The static program needs no file of the system, and carries ssh in the demo.
archive() {
    tar -C "$room" -xzf "$packages/arcssh-$target.tar.gz"
    files=$room/arcssh-$target
    for file in arcssh man/arcssh.1 completions/arcssh.bash completions/_arcssh completions/arcssh.fish LICENSE README.md; do
        [ -s "$files/$file" ] || fail "the archive has no $file"
    done
    mkdir "$room/empty"
    cp "$files/arcssh" "$room/empty"
    runs "$room/empty" /arcssh
    ! grep -aF -e "$HOME/" -e "$PWD/" "$files/arcssh" >/dev/null || fail 'the program names a folder of this computer'
    readelf -SW "$files/arcssh" | grep -q ' \.dep-v0 ' || fail 'the program does not list its crates'
    tests/cargo.sh build --locked -p arcssh-emulator --bin arcssh-emulator
    "${CARGO_TARGET_DIR:-target}/debug/arcssh-emulator" demo --arcssh "$files/arcssh"
}

# Fails unless the program reports that a host does not exist. The system's modules for names have another version of glibc than
# the program: resolves ROOT
resolves() {
    in_root apt-get install -qq -y --no-install-recommends libnss-myhostname libnss-sss >>"$room/log" 2>&1
    sed -i -e 's/^hosts:.*/hosts: sss myhostname files dns/' -e 's/^passwd:.*/passwd: sss files/' "$1/etc/nsswitch.conf"
    printed=$(in_root env -u HOME AZURE_AUTHORITY_HOST=https://login.invalid AZURE_CLIENT_SECRET=none \
        AZURE_TENANT_ID=7e4a4700-0000-4000-8000-000000000001 AZURE_CLIENT_ID=7e4a4700-0000-4000-8000-000000000002 \
        arcssh account 2>&1 </dev/null) || true
    case $printed in *'cannot reach login.invalid: '*) ;; *) echo "arcssh account prints: $printed" >>"$room/log"; return 1 ;; esac
}

deb() {
    file=$(ls "$packages"/arcssh_"$version"_*.deb)
    lintian --fail-on error "$file" || fail 'lintian'
    for release in bookworm trixie; do
        say "installing in a minimal Debian $release"
        root=$room/$release
        debootstrap --variant=minbase "$release" "$root" "$(mirror)" >"$room/log" || { cat "$room/log"; fail debootstrap; }
        cp "$file" "$root/arcssh.deb"
        mount -t proc proc "$root/proc"
        in_root() { chroot "$root" env DEBIAN_FRONTEND=noninteractive PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"; }
        result=0
        {
            in_root apt-get install -qq -y --no-install-recommends /arcssh.deb >"$room/log" 2>&1 &&
                in_root sh -c 'command -v ssh' >/dev/null && runs "$root" /usr/bin/arcssh && resolves "$root" &&
                [ -s "$root/usr/share/man/man1/arcssh.1.gz" ] &&
                in_root apt-get purge -qq -y arcssh >>"$room/log" 2>&1 &&
                [ -z "$(find "$root/usr" "$root/etc" -name '*arcssh*')" ]
        } || result=1
        umount "$root/proc"
        [ "$result" = 0 ] || { cat "$room/log"; fail "Debian $release"; }
        rm -rf --one-file-system "$root"
    done
}

# The mirror of this machine, else Debian's.
mirror() {
    uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null | head -n 1)
    echo "${uri:-http://deb.debian.org/debian}"
}

rpm() {
    file=$(ls "$packages"/arcssh-"$version"-1.*.rpm)
    command rpm -qp --requires "$file" | grep -qx openssh-clients || fail 'the rpm does not require openssh-clients'
    command rpm -K --nosignature "$file" >/dev/null || fail 'the digests of the rpm'
    root=$room/rpm
    mkdir "$root"
    command rpm --root "$root" --nodeps -i "$file"
    runs "$root" /usr/bin/arcssh
    command rpm --root "$root" -V --nodeps arcssh || fail 'rpm -V'
    command rpm --root "$root" -e arcssh
    [ -z "$(find "$root/usr" -type f)" ] || fail 'the rpm leaves files behind'
}

image() {
    file=$packages/arcssh-$target.oci.tar
    skopeo inspect "oci-archive:$file:$version" >/dev/null || fail 'skopeo does not read the image'
    mkdir "$room/oci"
    tar -C "$room/oci" -xf "$file"
    umoci unpack --image "$room/oci:$version" "$room/bundle" >/dev/null 2>&1 || fail 'umoci does not unpack the image'
    runs "$room/bundle/rootfs" /usr/bin/arcssh
    # The account of the image can write its state.
    chroot --userspec=65532:65532 "$room/bundle/rootfs" /usr/bin/arcssh cache show >/dev/null || fail 'the account of the image'
}

manifests() {
    # Hashes of the other systems' archives are those of this one here.
    hash=$(sed -n "s/ .arcssh-$target.tar.gz\$//p" "$packages/SHA256SUMS")
    for other in aarch64-apple-darwin.tar.gz x86_64-apple-darwin.tar.gz aarch64-unknown-linux-gnu.tar.gz \
        x86_64-unknown-linux-gnu.tar.gz aarch64-pc-windows-msvc.zip x86_64-pc-windows-msvc.zip; do
        echo "$hash  arcssh-$other"
    done >"$room/SHA256SUMS"
    packaging/manifests.sh "$room/SHA256SUMS" "$room/manifests"
    ruby -c "$room/manifests/homebrew/arcssh.rb" >/dev/null || fail 'the formula of Homebrew'
    python3 -m json.tool "$room/manifests/scoop/arcssh.json" >/dev/null || fail 'the manifest of scoop'
    nix-instantiate --parse "$room/manifests/nix/flake.nix" >/dev/null || fail 'the flake of Nix'
    # makepkg refuses root.
    chmod 755 "$room"
    chown -R nobody "$room/manifests/aur"
    (cd "$room/manifests/aur" && setpriv --reuid nobody --clear-groups env HOME=/tmp makepkg --printsrcinfo) \
        >"$room/srcinfo" || fail 'the PKGBUILD'
    grep -q "sha256sums_x86_64 = $hash" "$room/srcinfo" || fail 'the hash in the PKGBUILD'
}

# A second build in another folder, of another user's cargo directory.
reproducible() {
    git clone -q . "$room/other"
    [ -z "$(git status --porcelain)" ] || fail 'the working tree has changes that a clone lacks'
    mkdir "$room/cargo"
    for part in registry config.toml; do
        [ ! -e "${CARGO_HOME:-$HOME/.cargo}/$part" ] || ln -s "${CARGO_HOME:-$HOME/.cargo}/$part" "$room/cargo/"
    done
    (cd "$room/other" && CARGO_HOME=$room/cargo CARGO_TARGET_DIR=$room/built packaging/package.sh >"$room/log" 2>&1) ||
        { cat "$room/log"; fail 'the second build'; }
    diff "$packages/SHA256SUMS" "$room/built/package/SHA256SUMS" || fail 'the builds differ'
}

for part; do
    case $part in
    archive | deb | rpm | image | manifests | reproducible) ;;
    *) fail "unknown part: $part" ;;
    esac
    say "$part"
    "$part"
done
say 'all passed'
