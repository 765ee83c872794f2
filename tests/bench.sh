#!/bin/sh
# Measures throughput and start-up time of the release build, through the emulator on the loopback. Compare the figures only
# with figures of the same machine: they include the emulator, sshd and ssh. Runs in the playground. With the argument
# "fleet", measures arcssh config for all machines of a large playground instead.
set -eu

arcssh login 2>/dev/null

milliseconds() {
    start=$(date +%s%N)
    "$@" >/dev/null
    echo $((($(date +%s%N) - start) / 1000000))
}

# The time of one run.
once() {
    title=$1
    shift
    echo "$title: $(milliseconds "$@" 2>/dev/null) ms"
}

if [ "${1:-}" = fleet ]; then
    once 'config --all' arcssh config --all --user azureuser
    once 'config --verify' arcssh config --verify
    once 'config, no change' arcssh config
    once 'config, all entries change' arcssh config --user root
    once 'list' arcssh list
    once 'config --remove fleet7' arcssh config --remove fleet7
    once 'config --remove' arcssh config --remove
    exit
fi

arcssh config web01 --user azureuser 2>/dev/null
mib=1024
rate() { echo "$1: $((mib * 1000 / $(milliseconds sh -c "$2"))) MiB/s"; }
rate "up  " "head -c ${mib}M /dev/zero | ssh web01 'cat >/dev/null'"
rate "down" "ssh web01 'head -c ${mib}M /dev/zero'"

# The median time of 11 runs.
report() {
    title=$1
    shift
    i=0
    while [ $i -lt 11 ]; do
        milliseconds "$@"
        i=$((i + 1))
    done | sort -n | sed -n "6s/.*/$title: & ms/p"
}

report 'ssh web01 true, whole' ssh web01 true
# The same sshd at the other end of a pipe: what ssh and sshd take of that time.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
report 'the same without arcssh' ssh -o "ProxyCommand=$(command -v sshd) -i -f $HOME/server/sshd_config" web01 true
report 'arcssh --version' arcssh --version
