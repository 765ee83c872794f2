#!/bin/sh
# Builds arcssh for use. On Linux with glibc the program is static if the system has a static C library: it then starts
# sooner, and runs on systems with another C library.
set -eu
cd "$(dirname "$0")/.."

# Not /dev/null: a linker that runs as root can replace it.
links_statically() {
    directory=$(mktemp -d)
    printf '#include <stdio.h>\nint main(void) { return puts("") < 0; }\n' >"$directory/a.c"
    if cc -static -o "$directory/a" "$directory/a.c" 2>/dev/null; then linked=0; else linked=1; fi
    rm -r "$directory"
    return $linked
}

if [ "$(uname)" = Linux ] && links_statically; then
    set -- -C target-feature=+crt-static
else
    set --
fi
ARCSSH_COMMIT=${ARCSSH_COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}
export ARCSSH_COMMIT
exec ${CARGO:-tests/cargo.sh} rustc --locked --release -p arcssh --bin arcssh -- "$@"
