#!/bin/sh
# Runs a suite with Python, in a virtual environment with these packages:
#
#   ARCSSH=PROGRAM tests/suites/run.sh DIRECTORY SUITE [PACKAGE==VERSION…]
#
# DIRECTORY is for what the suite installs. With SUITE_RECORD=1 the result becomes the recorded expectation.
set -eu

directory=$1 suite=$2
shift 2
python="$directory/$suite/bin/python3"
installed="$directory/$suite/installed"
if [ "$(cat "$installed" 2>/dev/null)" != "packages: $*" ]; then
    rm -rf "${directory:?}/$suite"
    mkdir -p "$directory"
    python3 -m venv "$directory/$suite"
    [ $# -eq 0 ] || "$python" -m pip install --quiet --disable-pip-version-check "$@"
    echo "packages: $*" >"$installed"
fi
PYTHONDONTWRITEBYTECODE=1 exec "$python" "$(dirname "$0")/$suite.py"
