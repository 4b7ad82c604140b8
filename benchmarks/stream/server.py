# SPDX-License-Identifier: Apache-2.0
"""The store of the benchmark: one nginx worker on loopback that serves a folder three ways.

Plain HTTP; HTTP where every request is held for 20 ms first (a Lua sleep: no worker is blocked);
TLS under a certificate of our own. S3 clients are served too: a bucket is a folder, signatures are
not looked at, there is no listing. The server shares the machine's cores with the reader; its own
CPU seconds are not counted as the reader's.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LATENCY_S = 0.02
_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
_MODULE_FOLDERS = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_NEEDED = "on Debian or Ubuntu: apt install nginx-light libnginx-mod-http-lua openssl"

# /bench/many/N/FORMAT/shard... is one real shard under N names, for indexes of 100,000 and more.
_CONFIG = """
{modules}
daemon off;
{user}worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  lua_package_path "/usr/share/lua/5.1/?.lua;;";
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_timeout 300;
  keepalive_requests 1000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  root {root};
  server {{
    listen 127.0.0.1:{plain};
    rewrite ^/bench/many/[0-9]+/([a-z-]+)/(?:shard|chunk)[^/]*$ /bench/many/one.$1;
  }}
  server {{
    listen 127.0.0.1:{slow};
    access_by_lua_block {{ ngx.sleep({latency}) }}
  }}
  server {{
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {folder}/leaf.pem;
    ssl_certificate_key {folder}/leaf.key;
  }}
}}
"""


@dataclass(frozen=True)
class Server:
    """Where the folder is served; `urls` by condition, without a slash at the end."""

    urls: dict[str, str]
    authority: Path
    version: str


@contextmanager
def serve(root: Path, folder: Path):
    """Serve `root` while the block runs; `folder` takes the server's own files and is removed."""
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise SystemExit(f"bench: nginx is needed; {_NEEDED}")
    folder.mkdir(parents=True)
    ports = _free_ports()
    _make_certificate(folder)
    config = _CONFIG.format(
        modules="\n".join(f"load_module {_module(name)};" for name in _MODULES),
        user="user root;\n" if os.getuid() == 0 else "",
        folder=folder,
        root=root,
        latency=LATENCY_S,
        **ports,
    )
    (folder / "nginx.conf").write_text(config)
    log = (folder / "start.log").open("w")
    process = subprocess.Popen(
        [nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"],
        stdout=log,
        stderr=subprocess.STDOUT,
        preexec_fn=end_with_parent,
    )
    try:
        _await(process, ports["plain"], folder)
        version = subprocess.run([nginx, "-v"], capture_output=True, text=True).stderr.strip()
        urls = {name: f"http://127.0.0.1:{ports[name]}" for name in ("plain", "slow")}
        urls["tls"] = f"https://127.0.0.1:{ports['tls']}"
        yield Server(urls, folder / "ca.pem", version.partition("nginx/")[2])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        log.close()
        shutil.rmtree(folder)


def end_with_parent() -> None:
    """In a child before exec: the kernel ends it when this process ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _module(name):
    for folder in _MODULE_FOLDERS:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise SystemExit(f"bench: nginx has no Lua ({name} not in {_MODULE_FOLDERS}); {_NEEDED}")


def _free_ports():
    """Return three ports that were free just now."""
    sockets = {name: socket.socket() for name in ("plain", "slow", "tls")}
    for each in sockets.values():
        each.bind(("127.0.0.1", 0))
    ports = {name: each.getsockname()[1] for name, each in sockets.items()}
    for each in sockets.values():
        each.close()
    return ports


def _await(process, port, folder):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    said = "".join((folder / name).read_text() for name in ("start.log", "error.log"))
    raise SystemExit(f"bench: nginx does not answer: {said}")


def _make_certificate(folder):
    """An authority and a certificate signed by it: some clients refuse one that is both."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=bench authority"]
    openssl("req", "-x509", *key, *authority, "-days", "30")
    openssl("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", "/CN=127.0.0.1")
    (folder / "leaf.ext").write_text("subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n")
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "leaf.ext"]
    openssl("x509", "-req", "-in", "leaf.csr", *signer, "-out", "leaf.pem", "-days", "30")
