#!/bin/sh
# Checks Cargo.lock against RustSec's advisory database. Without network, a database from an earlier run is used.
# With neither, the check is skipped with a notice; ADVISORIES=required makes that an error.
# An advisory that applies always fails, wherever the database came from.
set -eu
cargo=${CARGO:-cargo}

if "$cargo" deny --locked fetch db >/dev/null 2>&1; then
    exec "$cargo" deny --locked check advisories
fi
# cargo-deny stores each database in a directory of its own; deny.toml does not move them.
for database in "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/; do
    [ -d "$database/crates" ] || continue
    echo "advisories: no network; using the database of $(date -r "$database/.git" +%F 2>/dev/null || echo 'unknown date')"
    exec "$cargo" deny --offline --locked check advisories
done
echo "advisories: NOT CHECKED: no advisory database here, and none can be fetched"
[ "${ADVISORIES:-}" != required ]
