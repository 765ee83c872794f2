#!/bin/sh
# Prints the table of `make faults`: one line for each phase and fault.
set -eu
{
    printf 'phase\tfault\tverdict\tstatus\ttime\tmemory\tmessage\n'
    sort -s -t "$(printf '\t')" -k1,1 "$1"
} | awk -F '\t' '{ printf "%-28s %-48s %-9s %-6s %7s %9s  %s\n", $1, $2, $3, $4, $5, $6, $7 }'
awk -F '\t' '$3 != "ok" { wrong++ } END { printf "%d cells, %d deviate\n", NR, wrong }' "$1"
