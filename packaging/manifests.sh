#!/bin/sh
# Writes the manifests of package managers from packaging/manifests.template: Homebrew, scoop, winget, AUR and Nix.
#
#   packaging/manifests.sh SHA256SUMS FOLDER
#
# SHA256SUMS has the hashes of all archives of a release.
set -eu
export LC_ALL=C
here=$(dirname "$0")
[ $# = 2 ] || { echo 'usage: packaging/manifests.sh SHA256SUMS FOLDER' >&2; exit 2; }
sums=$1 folder=$2

field() { sed -n "s/^$1 = \"\\(.*\\)\"/\\1/p" "$here/../Cargo.toml" | head -n 1; }
version=$(field version)
repository=$(field repository)
maintainer=$(sed -n "s/^maintainer='\(.*\)'/\1/p" "$here/package.sh")

for file in $(sed -n 's/^%%% //p' "$here/manifests.template"); do mkdir -p "$folder/$(dirname "$file")"; done
awk -v sums="$sums" -v folder="$folder" -v version="$version" -v repository="$repository" -v maintainer="$maintainer" '
    function fail(message) { print "manifests: " message > "/dev/stderr"; failed = 1; exit 1 }
    function put(name, value) { gsub("@" name "@", value) }
    BEGIN {
        while ((getline line < sums) > 0) { split(line, words, / [ *]/); hash[words[2]] = words[1] }
        release = repository "/releases/download/v" version
    }
    /^%%% / { file = folder "/" $2; printf "" > file; next }
    {
        put("version", version); put("repository", repository); put("release", release); put("maintainer", maintainer)
        while (match($0, /@(sha256|SHA256) [^@]*@/)) {
            key = substr($0, RSTART + 1, RLENGTH - 2); name = substr(key, 8)
            if (length(hash[name]) != 64) fail(sums " has no SHA-256 hash of " name)
            value = key ~ /^SHA/ ? toupper(hash[name]) : hash[name]
            $0 = substr($0, 1, RSTART - 1) value substr($0, RSTART + RLENGTH)
        }
        print > file
    }
    END { exit failed }' "$here/manifests.template"
