"""Uses an SSH library of Python with web01: library.py LIBRARY run|up|down. `run` exits with the status of the command."""

import asyncio
import os
import pathlib
import socket
import subprocess
import sys

library, task = sys.argv[1:]
KEY = os.path.expanduser("~/.ssh/id_ed25519")
CONFIGURATION = os.path.expanduser("~/.ssh/config")
COMMAND = "exit 7"
FAR, NEAR = f"up-{library}", f"down-{library}"


def with_paramiko():
    import paramiko

    values = paramiko.SSHConfig.from_path(CONFIGURATION).lookup("web01")
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    proxy = paramiko.ProxyCommand(values["proxycommand"])
    client.connect(values["hostname"], username=values["user"], sock=proxy, key_filename=KEY)
    if task == "run":
        sys.exit(client.exec_command(COMMAND)[1].channel.recv_exit_status())
    with client.open_sftp() as sftp:
        sftp.put("data", FAR) if task == "up" else sftp.get(FAR, NEAR)
    client.close()


def with_fabric():
    import fabric

    with fabric.Connection("web01") as connection:
        if task == "run":
            sys.exit(connection.run(COMMAND, warn=True).exited)
        connection.put("data", FAR) if task == "up" else connection.get(FAR, NEAR)


def with_asyncssh():
    import asyncssh

    async def main():
        async with asyncssh.connect("web01", client_keys=[KEY]) as connection:
            if task == "run":
                return (await connection.run(COMMAND)).exit_status
            async with connection.start_sftp_client() as sftp:
                await (sftp.put("data", FAR) if task == "up" else sftp.get(FAR, NEAR))

    sys.exit(asyncio.run(main()))


def with_libssh():
    from ssh import options, session

    connection = session.Session()
    connection.options_set(options.HOST, "web01")
    connection.options_parse_config(CONFIGURATION)
    connection.connect()
    connection.userauth_publickey_auto("")
    channel = connection.channel_new()
    channel.open_session()
    channel.request_exec({"run": COMMAND, "up": f"cat >{FAR}", "down": f"cat {FAR}"}[task])
    if task == "up":
        channel.write(pathlib.Path("data").read_bytes())
        channel.send_eof()
    with open(NEAR, "wb") as near:
        while (received := channel.read(1 << 16))[0] > 0:
            near.write(received[1])
    sys.exit(channel.get_exit_status())


def with_libssh2():
    from ssh2.session import Session
    from ssh2.sftp import LIBSSH2_FXF_CREAT, LIBSSH2_FXF_READ, LIBSSH2_FXF_WRITE

    effective = subprocess.run(["ssh", "-G", "web01"], capture_output=True, text=True, check=True).stdout
    values = dict(line.split(" ", 1) for line in effective.splitlines())
    # libssh2 knows no ProxyCommand: it gets a socket.
    command = values["proxycommand"].replace("%p", values["port"]).replace("%%", "%")
    ours, theirs = socket.socketpair()
    with subprocess.Popen(command, shell=True, stdin=theirs, stdout=theirs) as proxy:
        theirs.close()
        connection = Session()
        connection.handshake(ours)
        connection.userauth_publickey_fromfile(values["user"], KEY)
        status = 0
        if task == "run":
            channel = connection.open_session()
            channel.execute(COMMAND)
            channel.wait_eof()
            channel.close()
            channel.wait_closed()
            status = channel.get_exit_status()
        elif task == "up":
            with connection.sftp_init().open(FAR, LIBSSH2_FXF_CREAT | LIBSSH2_FXF_WRITE, 0o600) as far:
                far.write(pathlib.Path("data").read_bytes())
        else:
            with connection.sftp_init().open(FAR, LIBSSH2_FXF_READ, 0) as far, open(NEAR, "wb") as near:
                for _, data in far:
                    near.write(data)
        connection.disconnect()
        ours.close()
        proxy.wait(30)
    sys.exit(status)


globals()[f"with_{library}"]()
