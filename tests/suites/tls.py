"""Shows arcssh certificates and TLS servers that it must reject or accept: `make suite-tls`.

OpenSSL makes the certificates and is the server, with the settings that make it weak. `arcssh proxy` connects to it as to the
relay, through a proxy of this program, so that each host name reaches loopback. A server whose TLS arcssh accepts responds
with a page, which arcssh reports as an unexpected response.

Each case says whether a client must reject the server. The column `as required` names the cases in which arcssh does otherwise.
"""

import concurrent.futures
import contextlib
import re
import socket
import subprocess
import sys
import threading

import suite

HOST = "azgn.relay.test"
SAN = f"subjectAltName=DNS:{HOST}"
CA = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign"
LEAF = "basicConstraints=CA:FALSE"
# `-crlf` ends each line with a carriage return too.
PAGE = b"HTTP/1.0 200 ok\n\n"
AT_ONCE = 4
# The limit of one program, in seconds. arcssh's own limits are shorter.
LIMIT = 90
WEAK = "-cipher ALL:COMPLEMENTOFALL:@SECLEVEL=0"
CONFIGURATION = """
[ca]
default_ca = a
[a]
database = index
new_certs_dir = .
serial = serial
rand_serial = yes
unique_subject = no
policy = p
default_md = sha256
default_days = 2
[p]
commonName = optional
[req]
distinguished_name = n
[n]
"""


class Pki:
    """Makes keys and certificates in a directory. A name stands for NAME.key and NAME.pem."""

    def __init__(self, home):
        self.home = home
        (home / "ca.cnf").write_text(CONFIGURATION, encoding="utf-8")
        (home / "index").touch()
        # Generating an RSA key takes long, so the certificates share a few.
        for name, words in (
            ("rsa", "genrsa -out rsa.key 2048"),
            ("rsa1024", "genrsa -out rsa1024.key 1024"),
            ("rsa4096", "genrsa -out rsa4096.key 4096"),
            ("p256", "ecparam -name prime256v1 -genkey -noout -out p256.key"),
            ("p384", "ecparam -name secp384r1 -genkey -noout -out p384.key"),
            ("p521", "ecparam -name secp521r1 -genkey -noout -out p521.key"),
            ("secp256k1", "ecparam -name secp256k1 -genkey -noout -out secp256k1.key"),
            ("ed25519", "genpkey -algorithm ed25519 -out ed25519.key"),
            ("ed448", "genpkey -algorithm ed448 -out ed448.key"),
        ):
            suite.openssl(words, home)
            suite.openssl(f"req -new -config ca.cnf -key {name}.key -subj / -out {name}.csr", home)
        self.root("root")
        self.root("other-root")

    def root(self, name):
        suite.openssl(f"ecparam -name prime256v1 -genkey -noout -out {name}.key", self.home)
        self.write(f"{name}.ext", CA)
        suite.openssl(f"req -new -config ca.cnf -key {name}.key -subj /CN={name} -out {name}.csr", self.home)
        sign = f"x509 -req -in {name}.csr -signkey {name}.key -days 2 -extfile {name}.ext"
        suite.openssl(f"{sign} -out {name}.pem", self.home)

    def write(self, name, text):
        (self.home / name).write_text(text + "\n", encoding="utf-8")

    def sign(self, name, extensions, issuer="root", key="p256", options="", subject=""):
        """Signs a certificate. `subject` is its common name."""
        self.write(f"{name}.ext", extensions)
        keys = f"-cert {issuer}.pem -keyfile {issuer}.key" if issuer else f"-selfsign -keyfile {key}.key"
        sign = f"ca -batch -config ca.cnf -notext -in {key}.csr {keys} -subj /CN={subject or name} -extfile {name}.ext"
        suite.openssl(f"{sign} -out {name}.pem {options}", self.home)
        (self.home / f"{name}.key").write_bytes((self.home / f"{key}.key").read_bytes())
        return name

    def authority(self, name, extensions=CA, **arguments):
        """Signs the certificate of an authority."""
        return self.sign(name, extensions, **arguments)


class Case:
    """A server and what arcssh must do: `reject`, `accept`, or `either`."""

    def __init__(self, name, required, leaf, chain=(), options="", host=HOST, answer=None, input=None):
        self.name, self.required, self.leaf, self.chain = name, required, leaf, chain
        self.options, self.host, self.answer, self.input = options, host, answer, input


def names(pki):
    """Cases about the host name."""

    def san(name, required, value, host=HOST, subject=""):
        return Case(name, required, pki.sign(name, f"{LEAF}\nsubjectAltName={value}", subject=subject), host=host)

    def der(name, required, value):
        """A name that OpenSSL's own notation cannot express."""
        inner = bytes([0x82, len(value)]) + value
        return san(name, required, "DER:" + (bytes([0x30, len(inner)]) + inner).hex())

    return [
        san("host", "accept", f"DNS:{HOST}"),
        san("host-in-capitals", "accept", f"DNS:{HOST.upper()}"),
        san("another-host", "reject", "DNS:relay.test.example"),
        san("parent-domain", "reject", "DNS:relay.test"),
        Case("common-name-only", "reject", pki.sign("common-name-only", LEAF, subject=HOST)),
        san("wildcard", "accept", "DNS:*.relay.test"),
        san("wildcard-for-two-labels", "reject", "DNS:*.test"),
        san("wildcard-alone", "reject", "DNS:*"),
        san("wildcard-with-prefix", "reject", "DNS:az*.relay.test"),
        san("wildcard-in-the-middle", "reject", "DNS:azgn.*.test"),
        san("wildcard-of-the-host", "reject", f"DNS:*.{HOST}"),
        san("punycode", "accept", "DNS:xn--bcher-kva.relay.test", host="xn--bcher-kva.relay.test"),
        san("wildcard-for-punycode", "accept", "DNS:*.relay.test", host="xn--bcher-kva.relay.test"),
        der("unicode", "reject", "azgn.rélay.test".encode()),
        der("null-byte", "reject", f"{HOST}\0.evil.example".encode()),
        der("final-dot", "reject", f"{HOST}.".encode()),
        der("leading-dot", "reject", b".relay.test"),
        der("empty-name", "reject", b""),
        der("white-space", "reject", f" {HOST}".encode()),
        san("address", "accept", "IP:127.0.0.1", host="127.0.0.1"),
        san("another-address", "reject", "IP:127.0.0.2", host="127.0.0.1"),
        san("address-as-name", "reject", "DNS:127.0.0.1", host="127.0.0.1"),
        san("address-as-common-name", "reject", f"DNS:{HOST}", host="127.0.0.1", subject="127.0.0.1"),
        san("url-instead-of-name", "reject", f"URI:https\\://{HOST}/"),
    ]


def chains(pki):
    """Cases about authorities."""
    leaf = f"{LEAF}\n{SAN}"

    def behind(name, required, extensions=CA, **arguments):
        """A leaf behind an intermediate authority with these properties."""
        authority = pki.authority(f"authority-{name}", extensions, **arguments)
        return Case(name, required, pki.sign(name, leaf, issuer=authority), [authority], options=WEAK)

    path = [pki.authority("path-0")]
    for depth in range(1, 9):
        path.append(pki.authority(f"path-{depth}", issuer=path[-1]))
    under = {depth: pki.sign(f"under-{depth}", leaf, issuer=path[depth]) for depth in (2, 8)}
    unrelated = [pki.authority(f"unrelated-{number}", issuer="other-root") for number in range(3)]
    no_path = pki.authority("path-length-zero", f"basicConstraints=critical,CA:TRUE,pathlen:0\n{CA.splitlines()[1]}")
    below = pki.authority("below-path-length-zero", issuer=no_path)
    permitted = "nameConstraints=critical,permitted;DNS:{}"
    excluded = "nameConstraints=critical,excluded;DNS:{}"
    intermediate = pki.authority("intermediate")
    not_sent = pki.sign("incomplete-chain", leaf, issuer=intermediate)
    client = "extendedKeyUsage=clientAuth"
    return [
        Case("intermediate-authority", "accept", pki.sign("intermediate-authority", leaf, issuer=intermediate), [intermediate]),
        Case("incomplete-chain", "reject", not_sent),
        Case("self-signed", "reject", pki.sign("self-signed", leaf, issuer=None)),
        Case("untrusted-root", "reject", pki.sign("untrusted-root", leaf, issuer="other-root"), ["other-root"]),
        Case("three-intermediates", "accept", under[2], path[2::-1]),
        Case("wrong-order-and-more", "accept", under[2], [*unrelated, *path[:3]]),
        Case("nine-intermediates", "reject", under[8], path[::-1]),
        Case("path-length", "reject", pki.sign("path-length", leaf, issuer=below), [below, no_path]),
        behind("issuer-is-no-authority", "reject", LEAF),
        behind("issuer-without-constraints", "reject", "subjectKeyIdentifier=hash"),
        behind("issuer-may-not-sign", "reject", "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,digitalSignature"),
        behind("issuer-for-clients", "reject", f"{CA}\n{client}"),
        behind("issuer-for-servers", "accept", f"{CA}\nextendedKeyUsage=serverAuth"),
        behind("issuer-expired", "reject", options="-startdate 20200101000000Z -enddate 20210101000000Z"),
        behind("issuer-with-sha1", "reject", options="-md sha1"),
        behind("issuer-with-1024-bits", "reject", key="rsa1024"),
        behind("issuer-with-critical-extension", "reject", f"{CA}\n1.2.3.4=critical,DER:0500"),
        behind("name-permitted", "accept", f"{CA}\n{permitted.format('relay.test')}"),
        behind("name-not-permitted", "reject", f"{CA}\n{permitted.format('other.test')}"),
        behind("name-excluded", "reject", f"{CA}\n{excluded.format('relay.test')}"),
        behind("another-name-excluded", "accept", f"{CA}\n{excluded.format('other.test')}"),
    ]


def certificates(pki):
    """Cases about the server's own certificate."""
    leaf = f"{LEAF}\n{SAN}"

    def one(name, required, extensions=leaf, **arguments):
        options = arguments.pop("server", WEAK)
        return Case(name, required, pki.sign(name, extensions, **arguments), options=options)

    many = ",".join([f"DNS:{HOST}", *(f"DNS:{'a' * 50}{number}.test" for number in range(500))])
    more = ",".join([f"DNS:{HOST}", *(f"DNS:{'a' * 60}{number}.test" for number in range(1200))])
    pki.sign("rsa-authority", CA, key="rsa")
    md5 = pki.sign("signed-with-md5", leaf, issuer="rsa-authority", options="-md md5")
    past = "-startdate 20200101000000Z -enddate 20210101000000Z"
    future = "-startdate 20980101000000Z -enddate 20990101000000Z"
    crl = "crlDistributionPoints=URI:http\\://127.0.0.1\\:9/crl"
    return [
        one("expired", "reject", options=past),
        one("not-yet-valid", "reject", options=future),
        one("rsa-2048", "accept", key="rsa"),
        one("rsa-4096", "accept", key="rsa4096"),
        one("rsa-1024", "reject", key="rsa1024"),
        one("ecdsa-p384", "accept", key="p384"),
        one("ecdsa-p521", "reject", key="p521"),
        one("ecdsa-secp256k1", "reject", key="secp256k1"),
        one("ed25519", "accept", key="ed25519"),
        one("ed448", "reject", key="ed448"),
        one("signed-with-sha1", "reject", options="-md sha1"),
        one("signed-with-sha224", "reject", options="-md sha224"),
        one("signed-with-sha384", "accept", options="-md sha384"),
        Case("signed-with-md5", "reject", md5, ["rsa-authority"], options=WEAK),
        one("for-clients", "reject", f"{leaf}\nextendedKeyUsage=clientAuth"),
        one("for-servers", "accept", f"{leaf}\nextendedKeyUsage=serverAuth"),
        one("for-code", "reject", f"{leaf}\nextendedKeyUsage=codeSigning"),
        one("for-any-purpose", "either", f"{leaf}\nextendedKeyUsage=anyExtendedKeyUsage"),
        one("an-authority", "reject", f"{CA}\n{SAN}"),
        one("unknown-extension", "accept", f"{leaf}\n1.2.3.4=DER:0500"),
        one("critical-extension", "reject", f"{leaf}\n1.2.3.4=critical,DER:0500"),
        one("must-staple", "reject", f"{leaf}\ntlsfeature=status_request"),
        one("revoked", "reject", f"{leaf}\n{crl}"),
        one("30-kilobytes", "accept", f"{LEAF}\nsubjectAltName={many}"),
        one("80-kilobytes", "reject", f"{LEAF}\nsubjectAltName={more}"),
    ]


def protocols(pki):
    """Cases about TLS itself."""
    leaf = f"{LEAF}\n{SAN}"
    ecdsa, rsa = pki.sign("ecdsa", leaf), pki.sign("rsa-leaf", leaf, key="rsa")
    suite.openssl("dhparam -dsaparam -out dh1024.pem 1024", pki.home)

    def server(name, required, options, certificate=rsa):
        return Case(name, required, certificate, options=options)

    def raw(name, *answer):
        return Case(name, "reject", None, answer=answer)

    return [
        server("tls-1.3", "accept", "-tls1_3", ecdsa),
        server("tls-1.2", "accept", "-tls1_2", ecdsa),
        server("tls-1.1", "reject", f"-tls1_1 {WEAK}"),
        server("tls-1.0", "reject", f"-tls1 {WEAK}"),
        server("aes-gcm", "accept", "-tls1_2 -cipher ECDHE-RSA-AES256-GCM-SHA384"),
        server("chacha20", "accept", "-tls1_2 -cipher ECDHE-RSA-CHACHA20-POLY1305"),
        server("aes-cbc", "reject", "-tls1_2 -cipher ECDHE-RSA-AES128-SHA"),
        server("aes-ccm", "reject", "-tls1_2 -cipher ECDHE-ECDSA-AES128-CCM", ecdsa),
        server("rsa-key-exchange", "reject", "-tls1_2 -cipher AES128-GCM-SHA256"),
        server("dhe-2048", "reject", "-tls1_2 -cipher DHE-RSA-AES128-GCM-SHA256"),
        server("dhe-1024", "reject", "-tls1_2 -dhparam dh1024.pem -cipher DHE-RSA-AES128-GCM-SHA256:@SECLEVEL=0"),
        server("no-encryption", "reject", "-tls1_2 -cipher ECDHE-RSA-NULL-SHA:@SECLEVEL=0"),
        server("no-authentication", "reject", "-tls1_2 -cipher AECDH-AES128-SHA:@SECLEVEL=0"),
        server("x25519", "accept", "-tls1_3 -groups X25519"),
        server("secp256r1", "accept", "-tls1_3 -groups P-256"),
        server("secp384r1", "accept", "-tls1_3 -groups P-384"),
        server("secp521r1", "reject", "-tls1_3 -groups P-521"),
        server("x448", "reject", "-tls1_3 -groups X448"),
        server("another-alpn", "accept", "-alpn spdy/1"),
        server("wants-a-client-certificate", "accept", "-verify 1"),
        server("requires-a-client-certificate", "reject", "-tls1_2 -Verify 1 -verify_return_error"),
        # OpenSSL's command for a new handshake. A client may refuse it (RFC 5246, section 7.4.1.1).
        Case("renegotiation", "either", rsa, options="-tls1_2 -crlf", input={b"CIPHER is": b"R\n"}),
        # OpenSSL's command for new keys, and then the page.
        Case("key-update", "accept", rsa, options="-tls1_3 -crlf", input={b"CIPHER is": b"K\n", b"SSL_do_hand": PAGE}),
        raw("closes-at-once", b""),
        raw("closes-in-a-record", b"\x16\x03\x03\x00\x7a\x02\x00"),
        raw("alert", b"\x15\x03\x03\x00\x02\x02\x28"),
        raw("record-too-long", b"\x16\x03\x03\xff\xff" + bytes(65535)),
        raw("http", b"HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n"),
        raw("ssh", b"SSH-2.0-x\r\n"),
        raw("empty-records", b"\x16\x03\x03\x00\x00" * 100),
    ]


@contextlib.contextmanager
def raw_server(answer):
    """A TCP server that sends these bytes after the first ones of the client, and closes. Yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), connection:
                    connection.recv(4096)
                    connection.sendall(b"".join(answer))

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield listener.getsockname()[1]


@contextlib.contextmanager
def openssl_server(home, case):
    """OpenSSL's server. Yields its port."""
    command = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", f"{case.leaf}.pem", "-key", f"{case.leaf}.key"]
    if case.chain:
        bundle = b"".join((home / f"{name}.pem").read_bytes() for name in case.chain)
        (home / f"{case.name}-chain.pem").write_bytes(bundle)
        command += ["-cert_chain", f"{case.name}-chain.pem"]
    command += case.options.split() + ([] if case.input else ["-www"])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, cwd=home, **pipes) as server:
        try:
            started = b""
            for line in server.stdout:
                started += line
                if accept := re.match(rb"ACCEPT .*:(\d+)", line):
                    break
            else:
                sys.exit(f"{case.name}: OpenSSL does not start: {started.decode(errors='replace')}")
            threading.Thread(target=converse, args=[server, dict(case.input or {})], daemon=True).start()
            yield int(accept[1])
        finally:
            server.kill()


def converse(server, inputs):
    """Reads the server's output, and writes each input after a line that starts with its key."""
    with contextlib.suppress(OSError, ValueError):
        for line in server.stdout:
            for start in [start for start in inputs if line.startswith(start)]:
                server.stdin.write(inputs.pop(start))
                server.stdin.flush()


class Proxy:
    """An HTTP proxy for which every host is loopback."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=[connection], daemon=True).start()

    def serve(self, client):
        with contextlib.suppress(OSError), client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            port = int(head.split(b" ")[1].rpartition(b":")[2])
            with socket.create_connection(("127.0.0.1", port)) as server:
                client.sendall(b"HTTP/1.1 200 ok\r\n\r\n")
                back = threading.Thread(target=self.copy, args=[server, client], daemon=True)
                back.start()
                self.copy(client, server)
                back.join()

    @staticmethod
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def normal(message, port):
    """A message without what differs between runs."""
    message = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME", message.replace(f":{port}", ""))
    return message.removeprefix("arcssh: cannot connect to the machine: ")


def run(home, proxy, case):
    """Runs arcssh once. Returns the row."""
    server = raw_server(case.answer) if case.answer else openssl_server(home, case)
    with server as port:
        name, _, domain = case.host.partition(".")
        variables = {
            "SSHPROXY_RELAY_INFO": suite.relay_info(name, f"{domain}:{port}", "x"),
            "ARCSSH_RELAY_SUFFIX": domain,
            "ARCSSH_STATE_DIR": str(home / f"state-{case.name}"),
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}",
            "SSL_CERT_FILE": str(home / "root.pem"),
        }
        # Without `--wait 0`, arcssh retries what may pass.
        command = [suite.ARCSSH, "proxy", "--wait", "0"]
        environment = suite.environment(home, **variables)
        options = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": LIMIT, "env": environment}
        ended = subprocess.run(command, check=False, **options)
        last = subprocess.run([suite.ARCSSH, "last"], check=False, **options)
    code = re.search(r"^code +(\S+)", last.stdout, re.M)
    code = code[1] if code else "-"
    lines = [line for line in ended.stderr.splitlines() if line.startswith("arcssh: ")]
    message = normal(lines[0], port) if lines else "-"
    result = "accept" if code == "unexpected-response" else "reject"
    return [case.name, case.required, "yes" if case.required in (result, "either") else "NO", code, message]


def main():
    with suite.directory() as home:
        pki = Pki(home)
        cases = [case for group in (names, chains, certificates, protocols) for case in group(pki)]
        if suite.ONLY:
            cases = [case for case in cases if case.name in suite.ONLY]
        proxy = Proxy()
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            rows = list(pool.map(lambda case: run(home, proxy, case), cases))
    suite.finish(["case", "required", "as required", "code", "message"], rows, "tls.tsv")


if __name__ == "__main__":
    main()
