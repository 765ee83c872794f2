"""What the suites share: the program, relay information for it, certificates, a table, and the recorded expectation."""

import asyncio
import base64
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent
ARCSSH = pathlib.Path(os.environ["ARCSSH"])
# The rows to run, if not all.
ONLY = os.environ.get("ONLY", "").split()


@contextlib.contextmanager
def directory():
    """A temporary directory, which is also the home directory of the programs that a suite runs."""
    with tempfile.TemporaryDirectory(prefix="arcssh-suite-") as path:
        yield pathlib.Path(path)


def openssl(words, cwd):
    """Runs openssl with these words, separated by blanks."""
    run = subprocess.run(["openssl", *words.split()], cwd=cwd, capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"openssl {words}: {run.stderr}")


def environment(home, **variables):
    """The environment of a program: nothing of the user's that changes what arcssh does."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "HOME": str(home), "LANG": "C.UTF-8", "ARCSSH_NO_KEYRING": "1", **variables}


def relay_info(name, suffix, hybrid_connection):
    """Relay information as `az ssh` writes it (azure-cli-extensions, src/ssh/azext_ssh/connectivity_utils.py)."""
    relay = {
        "namespaceName": name,
        "namespaceNameSuffix": suffix,
        "hybridConnectionName": hybrid_connection,
        "accessKey": "SharedAccessSignature sr=x&sig=x&se=4070908800&skn=x",
        "expiresOn": 4070908800,
    }
    return base64.b64encode(json.dumps({"relay": relay}).encode()).decode()


async def ended(process, limit):
    """Waits for a process, and kills it after `limit` seconds. Returns its exit status, or None if it was killed."""
    try:
        return await asyncio.wait_for(process.wait(), limit)
    except asyncio.TimeoutError:
        process.kill()
        await process.wait()
        return None


def read(record):
    """The rows of a recorded expectation: lists of fields."""
    path = FOLDER / record
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line.split("\t") for line in lines]


def finish(columns, rows, record, left_out=()):
    """Prints the table, and compares it with the recorded one, or records it if SUITE_RECORD is set. Exits.

    `left_out` names the rows that this machine does not permit.
    """
    table = [columns, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(columns))]
    for row in table:
        print("  ".join(field.ljust(width) for field, width in zip(row, widths)).rstrip())
    if os.environ.get("SUITE_RECORD"):
        text = "".join("\t".join(row) + "\n" for row in table)
        (FOLDER / record).write_text(text, encoding="utf-8")
        print(f"suite: recorded {len(rows)} rows in tests/suites/{record}")
        sys.exit(0)
    recorded = [row for row in read(record) if row[0] not in left_out]
    if ONLY:
        names = [row[0] for row in table]
        recorded = [row for row in recorded if row[0] in names]
    differences = [f"- {' | '.join(row)}" for row in recorded if row not in table]
    differences += [f"+ {' | '.join(row)}" for row in table if row not in recorded]
    if differences:
        print(f"suite: these rows differ from tests/suites/{record} (- recorded, + now):", *differences, sep="\n")
        sys.exit(1)
    print(f"suite: {len(rows)} rows, as recorded in tests/suites/{record}")
    sys.exit(0)
