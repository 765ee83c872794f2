"""Uses programs and libraries that speak SSH through arcssh: `make suite-clients`.

It runs in the emulator's playground, where `arcssh config` writes the host entry of web01, as the README says. Each client runs
a command that exits with 7, and copies 10 MB to the machine and back, as far as it can. The copies are compared by checksum.
The first table is in Markdown, with the versions. The second one is compared with the record, and has no versions.
"""

import concurrent.futures
import hashlib
import os
import pathlib
import re
import subprocess
import sys

import suite

SIZE = 10 * 1024 * 1024
# The limit of one step, in seconds.
LIMIT = 180
AT_ONCE = 2
PYTHON = sys.executable
LIBRARIES = pathlib.Path(__file__).parent / "clients"
NODE = "NODE_PATH=$NODE_FOLDER/node_modules node"
GIT = "GIT_CONFIG_NOSYSTEM=1 git -c user.name=a -c user.email=a@example.com"
HG = "HGRCPATH= hg --config ui.username=a"
PLINK = '-batch -i key.ppk -l azureuser -hostkey "$(cat fingerprint)" -proxycmd "arcssh proxy $(cat id) --port %port"'
BORG = "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK=yes BORG_RELOCATED_REPO_ACCESS_IS_OK=yes borg"
RESTIC = "RESTIC_PASSWORD=x restic --no-cache -r sftp:web01:restic"
ANSIBLE = f"{PYTHON} -m ansible adhoc -i web01, all"
FREE_PORT = f"{PYTHON} -c 'import socket; print(socket.create_server((\"127.0.0.1\", 0)).getsockname()[1])'"
VS_CODE = f"ssh -T -D $({FREE_PORT}) web01 bash --login"


def library(name):
    words = f"{PYTHON} {LIBRARIES}/library.py {name}"
    return f"{words} run", f"{words} up", f"{words} down"


def script(program, file):
    words = f"{program} {LIBRARIES}/{file}"
    return f"{words} run", f"{words} up", f"{words} down"


def version_of(package):
    return f"{PYTHON} -c 'import importlib.metadata as m; print(m.version(\"{package}\"))'"


# Name: the version, and shell commands that run `exit 7`, upload `data` as FAR, and download FAR as NEAR.
CLIENTS = {
    "ssh": ("ssh -V", "ssh web01 exit 7", "ssh web01 'cat >FAR' <data", "ssh web01 cat FAR >NEAR"),
    "ssh with ControlMaster": (
        "ssh -V",
        "ssh -o ControlMaster=auto -o ControlPath=%d/master -o ControlPersist=yes web01 exit 7",
        "ssh -o ControlPath=%d/master web01 'cat >FAR' <data",
        "ssh -o ControlPath=%d/master web01 cat FAR >NEAR && ssh -o ControlPath=%d/master -O exit web01",
    ),
    "ssh as VS Code starts it": ("ssh -V", f"echo exit 7 | {VS_CODE}", None, None),
    "scp": ("ssh -V", None, "scp -q data web01:FAR", "scp -q web01:FAR NEAR"),
    "scp -O": ("ssh -V", None, "scp -O -q data web01:FAR", "scp -O -q web01:FAR NEAR"),
    "sftp": ("ssh -V", None, "echo put data FAR | sftp -q -b - web01", "echo get FAR NEAR | sftp -q -b - web01"),
    "rsync": ("rsync --version", None, "rsync data web01:FAR", "rsync web01:FAR NEAR"),
    "git": (
        "git --version",
        None,
        f"ssh web01 git init -q --bare repository.git && {GIT} init -q r && cp data r/FAR && cd r && {GIT} add . && "
        f"{GIT} commit -q -m a && {GIT} push -q web01:repository.git HEAD:main && "
        "ssh web01 'git -C repository.git show main:FAR >FAR'",
        f"{GIT} clone -q -b main web01:repository.git r2 && cp r2/FAR NEAR",
    ),
    "Mercurial": (
        "hg --version -q",
        None,
        f"{HG} init h && cp data h/FAR && {HG} -R h add -q h/FAR && {HG} -R h commit -m a && {HG} init ssh://web01/hg && "
        f"{HG} -R h push -q ssh://web01/hg && ssh web01 'HGRCPATH= hg -R hg cat hg/FAR -r tip >FAR'",
        f"{HG} clone -q ssh://web01/hg h2 && cp h2/FAR NEAR",
    ),
    "Ansible": (
        version_of("ansible-core"),
        f"{ANSIBLE} -m raw -a 'exit 7' | grep -q 'rc=7' && exit 7",
        f"{ANSIBLE} -m copy -a 'src=data dest=FAR'",
        f"{ANSIBLE} -m fetch -a 'src=FAR dest=NEAR flat=yes'",
    ),
    "PuTTY (plink, pscp)": (
        "plink -V",
        f"plink {PLINK} web01 exit 7",
        f"pscp -q {PLINK} data web01:FAR",
        f"pscp -q {PLINK} web01:FAR NEAR",
    ),
    "psftp": (
        "plink -V",
        None,
        f"echo put data FAR >b1; psftp -b b1 {PLINK} web01",
        f"echo get FAR NEAR >b2; psftp -b b2 {PLINK} web01",
    ),
    "paramiko": (version_of("paramiko"), *library("paramiko")),
    "Fabric": (version_of("fabric"), *library("fabric")),
    "asyncssh": (version_of("asyncssh"), *library("asyncssh")),
    "libssh": (version_of("ssh-python"), *library("libssh")),
    "libssh2": (version_of("ssh2-python"), *library("libssh2")),
    "Node's ssh2": ('node -p "require(\'$NODE_FOLDER/node_modules/ssh2/package.json\').version"', *script(NODE, "ssh2.js")),
    "Ruby's net-ssh": ("ruby -rnet/ssh -e 'puts Net::SSH::Version::CURRENT'", *script("ruby", "net-ssh.rb")),
    "Perl's Net::OpenSSH": ("perl -MNet::OpenSSH -e 'print $Net::OpenSSH::VERSION'", *script("perl", "net-openssh.pl")),
    "parallel-ssh": (
        "parallel-ssh --version",
        "parallel-ssh -H web01 -i exit 7 | grep -q 'error code 7' && exit 7",
        "parallel-scp -H web01 $PWD/data FAR",
        "parallel-slurp -H web01 -L slurped FAR fetched && cp slurped/*/fetched NEAR",
    ),
    "lftp": (
        "lftp --version",
        None,
        "lftp -e 'put data -o FAR; bye' sftp://web01",
        "lftp -e 'get FAR -o NEAR; bye' sftp://web01",
    ),
    "sshfs": (
        "sshfs --version",
        None,
        "mkdir m && sshfs web01: m && cp data m/FAR; fusermount3 -u m",
        "sshfs web01: m && cp m/FAR NEAR; fusermount3 -u m",
    ),
    "BorgBackup": (
        "borg --version",
        None,
        f"{BORG} init -e none web01:borg && cp data FAR && {BORG} create web01:borg::a FAR && "
        f"{BORG} extract --stdout web01:borg::a | ssh web01 'cat >FAR'",
        f"{BORG} extract --stdout web01:borg::a >NEAR",
    ),
    "restic": (
        "restic version",
        None,
        f"{RESTIC} init -q && {RESTIC} backup -q --stdin <data && {RESTIC} dump -q latest stdin | ssh web01 'cat >FAR'",
        f"{RESTIC} dump -q latest stdin >NEAR",
    ),
}
# What the script of a client calls its files, if not by the client's name.
FILES = {"Node's ssh2": "ssh2", "Ruby's net-ssh": "net-ssh", "Perl's Net::OpenSSH": "net-openssh"}


def file_of(name):
    """The name of a client in file names, and in ONLY."""
    return FILES.get(name, re.sub(r"\W+", "-", name.lower()).strip("-"))


def shell(command, folder):
    """Runs a shell command. Returns its exit status, or None after the limit, and its output."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, **streams)
    try:
        output, _ = process.communicate(timeout=LIMIT)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        process.kill()
        return None, f"no end within {LIMIT} s"


def attempt(name, checksum):
    """Uses a client. Returns its version, what was done, and the result."""
    show_version, run, up, down = CLIENTS[name]
    folder = pathlib.Path.home() / "work" / file_of(name)
    folder.mkdir(parents=True)
    for file in ("data", "key.ppk", "fingerprint", "id"):
        (folder / file).hardlink_to(pathlib.Path.home() / file)
    version = re.search(r"\d+(\.\d+)+(p\d+)?", shell(show_version, folder)[1])
    file = file_of(name)
    far, near = f"up-{file}", f"down-{file}"
    done, problems = ["login"], []

    def step(label, command, check):
        if command:
            status, output = shell(command.replace("FAR", far).replace("NEAR", near), folder)
            done.append(label)
            if problem := check(status):
                problems.append(f"{label}: {problem}\n{output}")

    def uploaded(status):
        there = subprocess.run(["ssh", "web01", "sha256sum", far], capture_output=True, text=True, check=False)
        same = there.stdout.startswith(checksum)
        return None if status == 0 and same else f"exit status {status}, {there.stdout}{there.stderr}"

    def downloaded(status):
        copy = folder / near
        same = copy.exists() and hashlib.sha256(copy.read_bytes()).hexdigest() == checksum
        return None if status == 0 and same else f"exit status {status}, the copy {'is the same' if same else 'differs'}"

    step("exit status 7", run, lambda status: None if status == 7 else f"exit status {status}")
    step("10 MB up", up, uploaded)
    step("10 MB down", down, downloaded)
    for problem in problems:
        print(f"{name}: {problem}", file=sys.stderr)
    return version[0] if version else "?", ", ".join(done), "works" if not problems else "FAILS"


def prepare():
    """Signs in, writes the host entry, and the files that PuTTY needs. Returns the checksum of the data."""
    data = os.urandom(SIZE)
    pathlib.Path("data").write_bytes(data)
    commands = (
        "arcssh login && arcssh config web01 --user azureuser && puttygen .ssh/id_ed25519 -O private -o key.ppk && "
        "arcssh list -o json web01 | grep -o '/subscriptions/[^\"]*' >id && "
        "arcssh known-hosts web01 | ssh-keygen -lf - | cut -d' ' -f2 >fingerprint"
    )
    status, output = shell(commands, ".")
    if status:
        sys.exit(f"suite: the playground could not be prepared: {output}")
    return hashlib.sha256(data).hexdigest()


def denied():
    """The clients that this machine does not permit. Prints why."""
    # In some containers, only root may use file systems in user space, and only an sshd of root can allocate a terminal.
    reasons = {}
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        reasons["sshfs"] = "this machine denies /dev/fuse"
    if shell("ssh -tt web01 true", ".")[0]:
        reasons["Ansible"] = "sshd cannot allocate a terminal here"
    for name, reason in reasons.items():
        print(f"suite: skipped: {name}: {reason}")
    return list(reasons)


def main():
    checksum = prepare()
    left_out = denied()
    names = [name for name in CLIENTS if name not in left_out and (not suite.ONLY or file_of(name) in suite.ONLY)]
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda name: attempt(name, checksum), names))
    print("| client | version | what was done | result |", "|---|---|---|---|", sep="\n")
    for name, (version, done, result) in zip(names, results):
        print(f"| {name} | {version} | {done} | {result} |")
    print()
    rows = [[name, done, result] for name, (_, done, result) in zip(names, results)]
    suite.finish(["client", "what was done", "result"], rows, "clients.tsv", left_out)


if __name__ == "__main__":
    if "IN_PLAYGROUND" in os.environ:
        main()
    inside = ["IN_PLAYGROUND=1"]
    for name in ("ARCSSH", "ONLY", "SUITE_RECORD", "NODE_FOLDER", "PYTHONDONTWRITEBYTECODE"):
        inside += [f"{name}={os.environ[name]}"] if name in os.environ else []
    emulator = suite.ARCSSH.with_name("arcssh-emulator")
    os.execv(emulator, [emulator, "playground", "--", "env", *inside, PYTHON, __file__])
