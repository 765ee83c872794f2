#!/bin/sh
# Installs the OpenSSH server of Debian 13 (10.0) with its libraries into a directory, without a change of this system:
#
#   tests/newer-openssh.sh DIRECTORY
#
# DIRECTORY/sshd is the server. Exits with 3 on a system without apt-get and dpkg-deb.
set -eu

directory=$1
[ ! -x "$directory/sshd" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 3

mkdir -p "$(dirname "$directory")"
room=$(mktemp -d "$directory-XXXXXX")
trap 'rm -rf "$room"' EXIT
mkdir -p "$room/lists/partial" "$room/cache/archives/partial" "$room/etc"
# An empty status makes apt-get download all libraries, also those that this system has in another version.
: >"$room/status"

# This machine's mirror of Debian, or else Debian's own.
mirror=$(apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' 'Origin: Debian' 2>/dev/null |
    awk '$2 !~ /-/ { print $1; exit }')
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ ! -e "$keyring" ] || signed="[signed-by=$keyring]"
echo "deb ${signed:-} ${mirror:-http://deb.debian.org/debian} trixie main" >"$room/sources.list"

newer_apt() {
    apt-get -qq -o "Dir::Etc::SourceList=$room/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o "Dir::Etc::Preferences=/dev/null" -o Dir::Etc::PreferencesParts=/dev/null \
        -o "Dir::State::Lists=$room/lists" -o "Dir::State::Status=$room/status" -o "Dir::Cache=$room/cache" \
        -o APT::Sandbox::User= -o Debug::NoLocking=1 -o Acquire::Retries=3 "$@"
}
newer_apt update
newer_apt install -y --download-only --no-install-recommends openssh-server

for package in "$room"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$room/etc" --wildcards --no-same-owner \
        --exclude='./usr/share/*' './usr/lib*' './usr/sbin/sshd' './lib*' 2>/dev/null || true
done
rm -rf "$room/lists" "$room/cache"
mv "$room/etc" "$room/root"

# Programs that run with these libraries and not with the system's, at the path where the directory will be.
root=$directory/root
loader=$(cd "$room/root" && find . -name 'ld-linux*.so.*' | head -n 1 | cut -c 2-)
libraries=$(cd "$room/root" && find . -name 'libc.so.6' -exec dirname {} \; | head -n 1 | cut -c 2-)
wrapper() { # name path
    printf '#!/bin/sh\nexec "%s" --argv0 "%s" --library-path "%s" "%s" "$@"\n' \
        "$root$loader" "$root$2" "$root$libraries" "$root$2" >"$room/$1"
    chmod 755 "$room/$1"
}
wrapper sshd-session /usr/lib/openssh/sshd-session
wrapper sshd-auth /usr/lib/openssh/sshd-auth
wrapper sshd /usr/sbin/sshd
chmod 755 "$room"
mv -T "$room" "$directory" 2>/dev/null || [ -x "$directory/sshd" ]
