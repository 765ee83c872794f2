"""Runs OpenSSH's own regression tests without arcssh and through arcssh: `make suite-openssh`.

The tests are those of Debian's package openssh-tests. Most of them connect with a configuration whose ProxyCommand starts
`sshd -i`, with the script sshd-log-wrapper.sh. Only these tests are chosen: the others start a listening sshd and connect to it
without a ProxyCommand, or need no connection. For the second run, another script replaces sshd-log-wrapper.sh: it starts
`arcssh proxy`. The emulator's relay and agent carry each connection to a port of this program, which starts the original
script. sshd has pipes as standard streams in both runs, so that it does not know an address of the client.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import queue
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import suite

REGRESS = pathlib.Path("/usr/lib/openssh/regress")
WRAPPER = "sshd-log-wrapper.sh"
# The configurations of sshd with which the tests call the script. agent-restrict has one for each host.
CONFIGURATIONS = ["sshd_proxy", *(f"sshd_proxy_host_{host}" for host in "abcde")]
# Tests at a time. They wait more than they compute.
AT_ONCE = 3
# The limit of one test, in seconds.
LIMIT = 1200
# The ones that take longest begin first.
LONGEST = ["rekey", "integrity", "agent-restrict", "try-ciphers", "cert-userkey", "cert-hostkey", "cfgmatchlisten"]
# These two use the same fixed port.
SAME_PORT = {"cfgmatch": threading.Lock()}
SAME_PORT["cfgmatchlisten"] = SAME_PORT["cfgmatch"]


def chosen():
    """The tests that use the ProxyCommand, among those that OpenSSH runs by default."""
    makefile = (REGRESS / "Makefile").read_text(encoding="utf-8")
    default = re.search(r"^LTESTS=((?:.*\\\n)*.*)", makefile, re.M)[1].replace("\\", "").split()
    tests = [name for name in default if "ssh_proxy" in (REGRESS / f"{name}.sh").read_text(encoding="utf-8")]
    if suite.ONLY:
        tests = [name for name in tests if name in suite.ONLY]
    return sorted(tests, key=lambda name: (name not in LONGEST, name))


def pump(source, sink, close):
    """Copies until the end, which it passes on."""
    with contextlib.suppress(OSError):
        while data := source(1 << 16):
            view = memoryview(data)
            while view:
                view = view[sink(view) :]
    with contextlib.suppress(OSError):
        close()


class Sshd:
    """A port of loopback that starts an `sshd -i` with pipes for each connection."""

    def __init__(self, folder, configuration, environment):
        script = folder / "original-wrapper.sh"
        self.command = ["sh", script, folder / "sshd.log", "/usr/sbin/sshd", "-i", "-f", folder / configuration]
        self.folder, self.environment = folder, environment
        self.connections = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.connections += 1
                threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, connection):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "bufsize": 0}
        with subprocess.Popen(self.command, cwd=self.folder, env=self.environment, **pipes) as sshd:
            arguments = [connection.recv, sshd.stdin.write, sshd.stdin.close]
            threading.Thread(target=pump, args=arguments, daemon=True).start()
            pump(sshd.stdout.read, connection.send, lambda: connection.shutdown(socket.SHUT_WR))
        connection.close()


class Place:
    """Two copies of the tests, for one worker: without arcssh and through arcssh."""

    def __init__(self, home, number):
        self.number, self.home = number, home
        self.folders = {}
        for run in ("bare", "through"):
            self.folders[run] = home / f"{run}{number}"
            shutil.copytree(REGRESS, self.folders[run], ignore=shutil.ignore_patterns("unittests"))
        folder = self.folders["through"]
        (folder / WRAPPER).rename(folder / "original-wrapper.sh")
        environment = self.environment()
        self.sshds = {name: Sshd(folder, name, environment) for name in CONFIGURATIONS}

    def machine(self, configuration):
        return f"{configuration.replace('_', '-')}-{self.number}"

    def machines(self):
        """The machines, as options of the emulator."""
        ports = ((self.machine(name), sshd.port) for name, sshd in self.sshds.items())
        return [word for machine, port in ports for word in ("--machine", f"{machine}={port}")]

    def write_wrapper(self, environment_file, ids):
        """Writes the script that starts arcssh. It gets the original script's arguments: log, sshd -i -f configuration."""
        cases = "".join(
            f'{name}) set -- {ids[self.machine(name)]} --port {sshd.port} ;;\n' for name, sshd in self.sshds.items()
        )
        script = (
            f'. {environment_file}\nARCSSH_STATE_DIR={self.home}/state\nexport ARCSSH_STATE_DIR\ncase ${{5##*/}} in\n'
            f'{cases}*) echo "unknown configuration: $*" >&2; exit 1 ;;\nesac\nexec {suite.ARCSSH} proxy "$@"\n'
        )
        (self.folders["through"] / WRAPPER).write_text(script, encoding="utf-8")

    def environment(self):
        """The variables of run-tests in the package. Without SUDO, the tests that need it are skipped in both runs."""
        return suite.environment(
            self.home,
            PATH="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            TEST_SHELL="sh",
            TEST_SSH_SSH="ssh",
            TEST_SSH_SSHD="/usr/sbin/sshd",
            TEST_SSH_SFTPSERVER="/usr/lib/openssh/sftp-server",
            TEST_SSH_IPV6="yes",
            TEST_SSH_ECC="yes",
            TEST_SSH_UNSAFE_PERMISSIONS="1",
            TEST_SSH_PORT=str(4242 + 100 * self.number),
        )

    def run(self, run, test):
        """Runs a test. Returns its result, its output, and the number of connections through arcssh."""
        folder = self.folders[run]
        before = sum(sshd.connections for sshd in self.sshds.values())
        command = ["sh", folder / "test-exec.sh", folder, folder / f"{test}.sh"]
        output = folder / "output"
        with open(output, "wb") as out, open("/dev/zero", "rb") as zero:
            process = subprocess.Popen(
                command, cwd=folder, env=self.environment(), stdin=zero, stdout=out, stderr=out, start_new_session=True
            )
            try:
                process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = output.read_text(encoding="utf-8", errors="replace")
        if process.returncode:
            result = "fail" if process.returncode > 0 else "timeout"
        else:
            result = "skip" if "SKIPPED" in text else "pass"
        return result, text, sum(sshd.connections for sshd in self.sshds.values()) - before


@contextlib.contextmanager
def emulator(home, places):
    """Runs the emulator. Yields the file of its environment, and the resource ID of each machine."""
    environment_file = home / "env"
    words = [word for place in places for word in place.machines()]
    program = suite.ARCSSH.with_name("arcssh-emulator")
    command = [program, "serve", "--env-file", environment_file, *words]
    with subprocess.Popen(command, env=suite.environment(home), stdout=subprocess.PIPE, text=True) as process:
        ids = {}
        for line in process.stdout:
            if shown := re.match(r"# (\S+), sshd on port \d+: (\S+)", line):
                ids[shown[1]] = shown[2]
            if "Stop the emulator" in line:
                break
        try:
            yield environment_file, ids
        finally:
            process.terminate()


def compare(places, test):
    """Runs a test in both ways. Returns its row."""
    place = places.get()
    try:
        with SAME_PORT.get(test, contextlib.nullcontext()):
            start = time.monotonic()
            bare, bare_output, _ = place.run("bare", test)
            through, output, connections = place.run("through", test)
            seconds = time.monotonic() - start
    finally:
        places.put(place)
    print(f"{test}: {bare}, through arcssh: {through}, {connections} connections, {seconds:.0f} s", flush=True)
    if through == "pass" and not connections:
        through = "pass without a connection"
    for result, text in ((bare, bare_output), (through, output)):
        if result not in ("pass", "skip"):
            print(*(f"    {line}" for line in text.splitlines()[-10:]), sep="\n", flush=True)
    return [test, bare, through], connections


def main():
    with suite.directory() as home:
        places = [Place(home, number) for number in range(AT_ONCE)]
        with emulator(home, places) as (environment_file, ids):
            free = queue.Queue()
            for place in places:
                place.write_wrapper(environment_file, ids)
                free.put(place)
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                found = list(pool.map(lambda test: compare(free, test), chosen()))
    print(f"{len(found)} tests, {sum(connections for _, connections in found)} connections through arcssh")
    rows = sorted(row for row, _ in found)
    if different := [row[0] for row in rows if row[1] != row[2]]:
        sys.exit(f"suite: these tests differ through arcssh: {' '.join(different)}")
    suite.finish(["test", "bare", "through"], rows, "openssh.tsv")


if __name__ == "__main__":
    main()
