#!/bin/sh
# Builds arcssh and packages it for this system, below target/package.
#
#   packaging/package.sh            all that this system supports
#   packaging/package.sh archive    the archive only
#
# The result depends on the source, the compiler and the C library only: not on the directory, the user or the time.
set -eu
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C TZ=UTC

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
target=${TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
out=${CARGO_TARGET_DIR:-target}/package
case $out in /*) ;; *) out=$PWD/$out ;; esac
name=arcssh-$target
# GNU tar: Homebrew calls it gtar.
tar=$(command -v gtar || echo tar)

# The time of all files: that of the commit, else that of the change log (reproducible-builds.org, SOURCE_DATE_EPOCH).
if [ -z "${SOURCE_DATE_EPOCH:-}" ]; then
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date -r CHANGELOG.md +%s)
fi
export SOURCE_DATE_EPOCH

# Builds the program with a list of its crates, which `cargo audit` reads from the program.
build() {
    cargo_home=${CARGO_HOME:-$HOME/.cargo}
    flags="--remap-path-prefix=$cargo_home=/cargo --remap-path-prefix=$PWD=/arcssh"
    case $target in *-linux-gnu) flags="$flags -Ctarget-feature=+crt-static" ;; esac
    ARCSSH_COMMIT=${ARCSSH_COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}
    export ARCSSH_COMMIT
    CARGO_ENCODED_RUSTFLAGS=$(printf %s "$flags" | tr ' ' '\037') CARGO_TARGET_DIR=$out/build \
        CFLAGS="-ffile-prefix-map=$cargo_home=/cargo" \
        cargo auditable build --locked --release --target "$target" -p arcssh --bin arcssh
    program=$out/build/$target/release/arcssh
}

# Collects the files of the archive, which the packages contain too.
collect() {
    files=$out/$name
    rm -rf "$files"
    mkdir -p "$files/man" "$files/completions"
    install -m 755 "$program" "$files/arcssh"
    "$program" man "$files/man"
    "$program" completions bash >"$files/completions/arcssh.bash"
    "$program" completions zsh >"$files/completions/_arcssh"
    "$program" completions fish >"$files/completions/arcssh.fish"
    "$program" completions powershell >"$files/completions/_arcssh.ps1"
    install -m 644 README.md CHANGELOG.md LICENSE "$files"
}

# Writes a tar archive without names of users, in the order of names: pack FOLDER [FILE...]
pack() {
    $tar -C "$@" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=ustar -cf -
}

archive() {
    pack "$out" "$name" | gzip -9n >"$out/$name.tar.gz"
}

# Lays the files out below a root: root FOLDER ZSH-FOLDER
root() {
    mkdir -p "$1/usr/bin" "$1/usr/share/man/man1" "$1/usr/share/bash-completion/completions" "$1/usr/share/$2" \
        "$1/usr/share/fish/vendor_completions.d"
    install -m 755 "$files/arcssh" "$1/usr/bin/arcssh"
    install -m 644 "$files"/man/*.1 "$1/usr/share/man/man1"
    gzip -9n "$1"/usr/share/man/man1/*.1
    install -m 644 "$files/completions/arcssh.bash" "$1/usr/share/bash-completion/completions/arcssh"
    install -m 644 "$files/completions/_arcssh" "$1/usr/share/$2/_arcssh"
    install -m 644 "$files/completions/arcssh.fish" "$1/usr/share/fish/vendor_completions.d/arcssh.fish"
}

# Debian Policy, chapters 4 and 12; deb(5), deb-control(5).
deb() {
    case $target in x86_64-*) architecture=amd64 ;; aarch64-*) architecture=arm64 ;; esac
    tree=$out/deb documents=usr/share/doc/arcssh
    rm -rf "$tree"
    root "$tree" zsh/vendor-completions
    mkdir -p "$tree/DEBIAN" "$tree/$documents" "$tree/usr/share/lintian/overrides"
    date=$(date -u -R -d "@$SOURCE_DATE_EPOCH")
    {
        printf 'arcssh (%s) unstable; urgency=medium\n\n  * Release %s; see NEWS.gz.\n\n' "$version" "$version"
        printf ' -- %s  %s\n' "$maintainer" "$date"
    } | gzip -9n >"$tree/$documents/changelog.gz"
    gzip -9nc CHANGELOG.md >"$tree/$documents/NEWS.gz"
    {
        printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: arcssh\n'
        printf 'Source: %s\n\nFiles: *\n%s\nLicense: Expat\n' "$repository" \
            "$(sed -n 's/^Copyright (c)/Copyright:/p' LICENSE)"
        sed -n '/^Permission/,$ { s/^$/./; s/^/ /; p }' LICENSE
    } >"$tree/$documents/copyright"
    # A static program starts sooner, and runs on systems with an older C library.
    echo 'arcssh: statically-linked-binary [usr/bin/arcssh]' >"$tree/usr/share/lintian/overrides/arcssh"
    size=$(cd "$tree" && find usr -type f -exec cat {} + | wc -c)
    cat >"$tree/DEBIAN/control" <<END
Package: arcssh
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $((size / 1024 + 1))
Depends: openssh-client (>= 1:8.0)
Recommends: ca-certificates
Section: net
Priority: optional
Homepage: $repository
Description: plain ssh to Azure Arc-enabled servers
 arcssh lets ssh reach servers that have no public IP address and no open
 port, through Azure Relay. It writes host entries that do not expire, so
 ssh, scp, sftp, rsync, git, Ansible and editors work with plain names.
END
    (cd "$tree" && find usr -type f | sort | xargs md5sum >DEBIAN/md5sums)
    find "$tree" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    dpkg-deb --root-owner-group --uniform-compression -Zxz -b "$tree" "$out/arcssh_${version}_$architecture.deb"
    rm -r "$tree"
}

# rpm's manual, "Spec file format"; rpm-macros(8).
rpm() {
    tree=$out/rpm architecture=${target%%-*}
    rm -rf "$tree"
    root "$tree/root" zsh/site-functions
    install -D -m 644 LICENSE "$tree/root/usr/share/licenses/arcssh/LICENSE"
    cat >"$tree/arcssh.spec" <<END
Name: arcssh
Version: $version
Release: 1
Summary: Plain ssh to Azure Arc-enabled servers
License: MIT
URL: $repository
Requires: openssh-clients
AutoReqProv: no

%description
arcssh lets ssh reach servers that have no public IP address and no open
port, through Azure Relay. It writes host entries that do not expire, so
ssh, scp, sftp, rsync, git, Ansible and editors work with plain names.

%files
$(cd "$tree/root" && find usr -type f | sort | sed 's|^|/|')
END
    find "$tree/root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    # rpm deletes the build root at the end.
    rpmbuild --quiet -bb --target "$architecture" --buildroot "$tree/root" -D "_topdir $tree" -D "_rpmdir $tree" \
        -D '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' -D '_buildhost arcssh' \
        -D 'use_source_date_epoch_as_buildtime 1' -D 'clamp_mtime_to_source_date_epoch 1' \
        -D 'debug_package %{nil}' -D '__os_install_post %{nil}' -D '_build_id_links none' \
        -D '_binary_payload w9.xzdio' "$tree/arcssh.spec"
    mv "$tree/arcssh-$version-1.$architecture.rpm" "$out"
    rm -r "$tree"
}

# Adds a file to the image by its digest and prints its descriptor: blob FILE MEDIA-TYPE
blob() {
    digest=$(sha256sum "$1" | cut -d ' ' -f 1)
    size=$(wc -c <"$1")
    mv "$1" "$tree/blobs/sha256/$digest"
    printf '{"mediaType":"%s","digest":"sha256:%s","size":%d}' "$2" "$digest" "$size"
}

# OCI Image Format Specification 1.0, image-layout.md, config.md and manifest.md. The image contains the program, the root
# certificates of the build system and an account, and no ssh: it is a ProxyCommand for an ssh elsewhere.
image() {
    case $target in x86_64-*) architecture=amd64 ;; aarch64-*) architecture=arm64 ;; esac
    tree=$out/image type=application/vnd.oci.image
    rm -rf "$tree"
    mkdir -p "$tree/blobs/sha256" "$tree/root/usr/bin" "$tree/root/etc/ssl/certs" "$tree/root/home/arcssh" "$tree/root/tmp"
    install -m 755 "$files/arcssh" "$tree/root/usr/bin/arcssh"
    install -m 644 /etc/ssl/certs/ca-certificates.crt "$tree/root/etc/ssl/certs/"
    echo 'arcssh:x:65532:65532::/home/arcssh:/sbin/nologin' >"$tree/root/etc/passwd"
    # tar adds the folder of the account with its owner and permissions.
    {
        pack "$tree/root" --exclude=./home/arcssh --exclude=./tmp . >"$tree/layer.tar"
        $tar -C "$tree/root" --mtime="@$SOURCE_DATE_EPOCH" --owner=65532 --group=65532 --numeric-owner --format=ustar \
            --mode=700 -rf "$tree/layer.tar" ./home/arcssh
        $tar -C "$tree/root" --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=ustar \
            --mode=1777 -rf "$tree/layer.tar" ./tmp
    }
    content=$(sha256sum "$tree/layer.tar" | cut -d ' ' -f 1)
    gzip -9n "$tree/layer.tar"
    layer=$(blob "$tree/layer.tar.gz" $type.layer.v1.tar+gzip)
    created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
    printf '{"created":"%s","architecture":"%s","os":"linux","config":{"User":"65532:65532","Env":["HOME=/home/arcssh","PATH=/usr/bin"],"Entrypoint":["/usr/bin/arcssh"],"WorkingDir":"/home/arcssh","Labels":{"org.opencontainers.image.source":"%s","org.opencontainers.image.version":"%s","org.opencontainers.image.licenses":"MIT"}},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"%s","created_by":"arcssh %s"}]}' \
        "$created" "$architecture" "$repository" "$version" "$content" "$created" "$version" >"$tree/config"
    config=$(blob "$tree/config" $type.config.v1+json)
    printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":%s,"layers":[%s]}' $type "$config" "$layer" \
        >"$tree/manifest"
    manifest=$(blob "$tree/manifest" $type.manifest.v1+json)
    printf '{"schemaVersion":2,"manifests":[%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"%s"}}]}' \
        "${manifest%\}}" "$architecture" "$version" >"$tree/index.json"
    printf '{"imageLayoutVersion":"1.0.0"}' >"$tree/oci-layout"
    rm -r "$tree/root"
    pack "$tree" blobs index.json oci-layout >"$out/$name.oci.tar"
    rm -r "$tree"
}

# CycloneDX 1.5: the crates that are compiled for this target. The tool writes beside each Cargo.toml, so it gets a copy.
sbom() {
    copy=$(mktemp -d)
    tar -cf - Cargo.toml Cargo.lock build.rs src tests/bench tests/emulator | tar -C "$copy" -xf -
    (cd "$copy" && cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" \
        --override-filename arcssh.cdx)
    # The tool names the folder.
    sed "s|path+file://$copy|path+file:///arcssh|g; s|$copy|/arcssh|g" "$copy/arcssh.cdx.json" >"$out/$name.cdx.json"
    rm -r "$copy"
}

repository=$(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)
maintainer='The arcssh developers <arcssh@users.noreply.github.com>'
mkdir -p "$out"
rm -f "$out"/*.tar.gz "$out"/*.deb "$out"/*.rpm "$out"/*.oci.tar "$out"/*.cdx.json "$out/SHA256SUMS"
build
collect
archive
sbom
if [ "${1:-}" != archive ]; then
    case $target in *-linux-*) deb && rpm && image ;; esac
fi
rm -r "$files"
cd "$out"
sha256sum $(find . -maxdepth 1 -type f | sed 's|^\./||' | sort) >SHA256SUMS
echo
cat SHA256SUMS
