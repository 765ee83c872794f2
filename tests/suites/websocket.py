"""Runs the cases of the Autobahn test suite against arcssh: `make suite-websocket`.

kosoku carries Autobahn's cases. It is the relay: a WebSocket server that sends what a case consists of, and judges the
reply. Each case is one `arcssh proxy` whose output is connected to its own input, which makes it an echo client. kosoku
speaks plain WebSocket, and expects the number of the case in the request. A small adapter between the two ends TLS, and
replaces the target of the request. It changes nothing behind the request.

arcssh carries a stream of bytes, and not messages. Next to Autobahn's verdict, a column therefore compares the bytes: those of
the echoed messages, joined, with those that the case expects.
"""

import asyncio
import contextlib
import fnmatch
import os
import ssl
import sys

import kosoku
from kosoku.cases import CASES

import suite

# Cases at a time. Autobahn gives a client one second for some steps.
AT_ONCE = 4
# The limit of one case. The longest ones carry 16 MB in frames of 64 bytes.
SECONDS = 120


async def copy(reader, writer):
    """Copies until the end, which it passes on, or until a side is gone."""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        # TLS has no half-close here: kosoku closes after the closing handshake (RFC 6455, section 7.1.1).
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()


class Adapter:
    """Takes arcssh's connections, and carries them to kosoku."""

    def __init__(self, server):
        self.server = server
        self.connections = set()

    async def serve(self, reader, writer):
        self.connections.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        number = line.split(b" ")[1].removeprefix(b"/$hc/case/").partition(b"?")[0].decode()
        onward, back = await asyncio.open_connection(self.server.address, self.server.port)
        back.write(f"GET /runCase?case={number}&agent=arcssh HTTP/1.1\r\n".encode() + rest)
        # If arcssh closes while kosoku still sends, what arcssh has sent before must arrive.
        await asyncio.gather(copy(reader, back), copy(onward, writer))
        back.close()
        writer.close()


async def finish_run(server):
    """Makes kosoku end the run."""
    reader, writer = await asyncio.open_connection(server.address, server.port)
    writer.write(
        b"GET /updateReports?agent=arcssh HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def case(number, port, home):
    """Runs arcssh as an echo client for one case. Returns the exit status."""
    info = suite.relay_info("127", f"0.0.1:{port}", f"case/{number}")
    variables = {"SSHPROXY_RELAY_INFO": info, "ARCSSH_RELAY_SUFFIX": "0.0.1"}
    environment = suite.environment(home, SSL_CERT_FILE=str(home / "ca.pem"), **variables)
    behind, front = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            suite.ARCSSH, "proxy", stdin=behind, stdout=front, stderr=asyncio.subprocess.DEVNULL, env=environment
        )
    finally:
        os.close(behind)
        os.close(front)
    return await suite.ended(process, SECONDS)


def content(events):
    """The bytes of the messages among a case's events, joined. kosoku shows a byte of a binary message as a character."""
    messages = [event[1:] for event in events if event[0] == "message"]
    return b"".join(data.encode("latin-1" if binary else "utf-8", "replace") for data, binary in messages)


def stream(result):
    """Whether the echoed bytes are those of one of the expected outcomes."""
    expected = [content(events) for events in result.expected.values()]
    if not any(expected) or result.behavior.value == "INFORMATIONAL":
        return "-"
    return "same" if content(result.received) in expected else "differ"


def by_number(row):
    return [int(part) for part in row[0].split(".")]


async def main():
    with suite.directory() as home:
        suite.openssl("req -x509 -newkey rsa:2048 -nodes -subj /CN=ca -days 2 -keyout ca.key -out ca.pem", home)
        suite.openssl("req -new -newkey rsa:2048 -nodes -subj /CN=relay -keyout leaf.key -out leaf.csr", home)
        (home / "extensions").write_text("subjectAltName=IP:127.0.0.1\n", encoding="utf-8")
        sign = "x509 -req -in leaf.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions"
        suite.openssl(f"{sign} -out leaf.pem", home)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "leaf.pem", home / "leaf.key")

        chosen = suite.ONLY or ["*"]
        count = sum(any(fnmatch.fnmatch(name, glob) for glob in chosen) for name in CASES)
        async with kosoku.run_fuzzingserver(chosen, host="127.0.0.1", port=0) as server:
            adapter = Adapter(server)
            listener = await asyncio.start_server(adapter.serve, "127.0.0.1", 0, ssl=context)
            port = listener.sockets[0].getsockname()[1]
            places = asyncio.Semaphore(AT_ONCE)

            async def limited(number):
                async with places:
                    status = await case(number, port, home)
                    if status is None:
                        print(f"case number {number} did not end within {SECONDS} s", file=sys.stderr)

            await asyncio.gather(*(limited(number) for number in range(1, count + 1)))
            await asyncio.wait(adapter.connections, timeout=SECONDS)
            await finish_run(server)
            listener.close()
            try:
                results = await server.get_result()
            except kosoku.FailureError as failure:
                results = failure.results
    return results


def row(result):
    code = "-" if result.remote_close_code is None else str(result.remote_close_code)
    verdict, close = result.behavior.value, result.behavior_close.value
    if "NON-STRICT" in result.expected and code == "1002":
        # arcssh has failed the connection, as the case requires. How much of the messages before the violation comes back first
        # depends on the load of the machine, and Autobahn accepts every amount.
        return [result.case_id, "NON-STRICT", close, code, "-"]
    if verdict == "FAILED":
        # Autobahn cuts a failed case short, at a moment that depends on the load.
        close, code = "-", "-"
    return [result.case_id, verdict, close, code, stream(result)]


if __name__ == "__main__":
    found = asyncio.run(main())
    rows = sorted(map(row, found), key=by_number)
    suite.finish(["case", "messages", "close", "code", "bytes"], rows, "websocket.tsv")
