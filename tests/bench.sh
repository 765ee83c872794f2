#!/bin/sh
# Measures throughput and start-up time of the release build, through the emulator on the loopback. Compare the figures only
# with figures of the same machine: they include the emulator, sshd and ssh. Runs in the playground.
set -eu

arcssh login 2>/dev/null
arcssh config web01 --user azureuser 2>/dev/null

milliseconds() {
    start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 1000000))
}

median() { sort -n | sed -n "$(($1 / 2 + 1))p"; }

mib=1024
rate() { echo "$1: $((mib * 1000 / $(milliseconds sh -c "$2"))) MiB/s"; }
rate "up  " "head -c ${mib}M /dev/zero | ssh web01 'cat >/dev/null'"
rate "down" "ssh web01 'head -c ${mib}M /dev/zero'"

runs=11
i=0
while [ $i -lt $runs ]; do
    milliseconds ssh web01 true
    i=$((i + 1))
done | median $runs | sed 's/^/ssh web01 true, whole: /; s/$/ ms/'
i=0
while [ $i -lt $runs ]; do
    milliseconds arcssh --version
    i=$((i + 1))
done | median $runs | sed 's/^/arcssh --version: /; s/$/ ms/'
