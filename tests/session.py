#!/usr/bin/env python3
"""Records the session that the README shows, in a pseudo-terminal.

`make session` runs this script in the playground. It types COMMANDS, and writes what the terminal shows into
docs/session.svg and into the quick start of README.md. `make session CHECK=--check` writes nothing: it compares both files
with a new recording, and fails if they differ in more than VARIES.
"""

import difflib
import fcntl
import html
import os
import pty
import re
import signal
import struct
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/session.svg"
README = ROOT / "README.md"

COMMANDS = [
    "arcssh login",
    "arcssh config -g rg-web --user azureuser",
    "ssh web01 uptime",
    "scp report.pdf web01:",
]
# The commands of the README's quick start: the first of COMMANDS.
QUICK_START = 3

ROWS, COLUMNS = 24, 96
LIMIT = 60  # seconds

# What differs from one playground to the next, and the text that the files have instead.
PLAYGROUND = [
    (re.escape(os.environ["HOME"]), "/home/me"),
    (re.escape(os.environ["AZURE_AUTHORITY_HOST"]), "https://login.microsoftonline.com/"),
    (r"(/authorize\?)\S+", r"\1…"),
]
# What differs from one recording to the next: the time, the load, and the speed of a copy.
VARIES = [
    r"\d\d:\d\d:\d\d up .*load average: [\d., ]*\d",
    r" +\d+KB +[\d.]+[KMG]B/s +\d\d:\d\d",
]


def shown(command):
    """Returns the lines that a terminal shows when `command` has ended."""
    process, terminal = pty.fork()
    if process == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.environ["TERM"] = "xterm"
        os.execvp("sh", ["sh", "-c", command])
    output = b""
    signal.alarm(LIMIT)
    while part := read(terminal):
        output += part
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    signal.alarm(0)
    lines = screen(output.decode())
    if status != 0:
        sys.exit("\n".join([f"session: {command}: exit status {status}", *lines]))
    for pattern, text in PLAYGROUND:
        lines = [re.sub(pattern, text, line) for line in lines]
    return lines


def read(terminal):
    """Returns the next output. Linux reports EIO when the last program has closed the terminal (pty(7))."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


def screen(output):
    """Returns the lines on the screen, after everything that was drawn over or erased."""
    rows, row, column = [[]], 0, 0
    for sequence, char in re.findall(r"\x1b\[([\d;?]*[A-Za-z])|(.)", output, re.DOTALL):
        if char == "\r":
            column = 0
        elif char == "\n":
            row += 1
            rows += [[]] * (row == len(rows))
        elif char:
            rows[row] += " " * (column - len(rows[row]))
            rows[row][column : column + 1] = char
            column += 1
        elif sequence in ("K", "0K"):
            del rows[row][column:]
        elif sequence == "2K":
            rows[row] = []
        elif sequence.endswith("A"):
            row -= int(sequence[:-1] or 1)
        elif not sequence.endswith(("m", "h", "l")):
            sys.exit(f"session: unknown control sequence: {sequence}")
    lines = ["".join(row).rstrip() for row in rows]
    return lines if lines[-1] else lines[:-1]


def picture(session):
    """Returns the session as SVG, in colours of its own for light and dark pages."""
    size, height, margin = 14, 20, 16
    text, y = [], margin
    for command, lines in session:
        y += height
        text.append(f'<text y="{y}"><tspan class="p">$</tspan> <tspan class="c">{html.escape(command)}</tspan></text>')
        for line in lines:
            y += height
            text.append(f'<text y="{y}">{html.escape(line, quote=False)}</text>')
        y += height // 2
    width, y = round(COLUMNS * size * 0.602) + 2 * margin, y + margin - height // 4
    box = f'width="{width}" height="{y}"'
    style = f"""\
text {{ font: {size}px ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #c9d1d9; }}
.p {{ fill: #3fb950; }}
.c {{ fill: #ffffff; font-weight: bold; }}"""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width} {y}" role="img">',
            "<title>A session: sign in, add a resource group, run a command and copy a file</title>",
            f"<style>\n{style}\n</style>",
            f'<rect {box} rx="8" fill="#0d1117" stroke="#30363d"/>',
            f'<g transform="translate({margin})" xml:space="preserve">',
            *text,
            "</g>\n</svg>\n",
        ]
    )


def readme(session):
    """Returns the README with a new quick start."""
    lines = [line for command, output in session for line in [f"$ {command}", *output]]
    block = re.compile(r"(?<=```console\n)\$ arcssh login\n.*?(?=```\n)", re.DOTALL)
    text, count = block.subn(lambda _: "\n".join(lines) + "\n", README.read_text())
    if count != 1:
        sys.exit(f"session: README.md has {count} blocks that begin with: {COMMANDS[0]}")
    return text


def difference(file, text):
    """Returns the lines in which the file differs from `text`, without VARIES."""

    def lines(text):
        return re.sub("|".join(VARIES), "…", text).splitlines()

    name = file.relative_to(ROOT).as_posix()
    return list(difflib.unified_diff(lines(file.read_text()), lines(text), name, "this recording", lineterm="", n=0))


def main():
    Path("report.pdf").write_bytes(os.urandom(1 << 20))
    session = [(command, shown(command)) for command in COMMANDS]
    files = [(PICTURE, picture(session)), (README, readme(session[:QUICK_START]))]
    if sys.argv[1:] != ["--check"]:
        for file, text in files:
            file.write_text(text)
        return
    differences = [line for file, text in files for line in difference(file, text)]
    if differences:
        sys.exit("\n".join(["session: not as recorded; to record it again: make session", *differences]))


if __name__ == "__main__":
    main()
