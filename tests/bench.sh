#!/bin/sh
# Throughput and start of the release build, through the emulator on this machine's loopback. Figures compare only with
# each other and only on one machine: emulator, sshd and ssh take their share of it.
set -eu

emulator=${TARGET:-target}/release/arcssh-emulator
arcssh=$(realpath "${TARGET:-target}/release/arcssh")
directory=$(mktemp -d)
"$emulator" playground --arcssh "$arcssh" >"$directory/greeting" &
playground=$!
trap 'kill "$playground"; wait "$playground" 2>/dev/null || true; rm -r "$directory"' EXIT

until grep -q 'Ctrl-C' "$directory/greeting"; do
    kill -0 "$playground"
    sleep 0.1
done
eval "$(sed -n 's/^  \. /. /p' "$directory/greeting")"
config=$(sed -n 's/^  ssh -F \([^ ]*\) .*/\1/p' "$directory/greeting")

milliseconds() {
    start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 1000000))
}

median() { sort -n | sed -n "$(($1 / 2 + 1))p"; }

mib=1024
rate() { echo "$1: $((mib * 1000 / $(milliseconds sh -c "$2"))) MiB/s"; }
rate "up  " "head -c ${mib}M /dev/zero | ssh -F $config web01 'cat >/dev/null'"
rate "down" "ssh -F $config web01 'head -c ${mib}M /dev/zero'"

runs=11
i=0
while [ $i -lt $runs ]; do
    milliseconds ssh -F "$config" web01 true
    i=$((i + 1))
done | median $runs | sed 's/^/ssh web01 true, whole: /; s/$/ ms/'
i=0
while [ $i -lt $runs ]; do
    milliseconds "$arcssh" --version
    i=$((i + 1))
done | median $runs | sed 's/^/arcssh --version: /; s/$/ ms/'
