# SPDX-License-Identifier: Apache-2.0
"""Which place a URL names, and the client that serves it.

Files, S3 and compatible endpoints, Google Cloud Storage, Azure Blob Storage, web servers, memory.
An endpoint of one's own is addressed by path, and over plain HTTP when it says so. Nothing falls
back to unsigned requests unless `skip_signature` asks for them.
"""

from __future__ import annotations

import difflib
import os
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ..errors import ConfigError, StorageError
from .clients import Client, open_azure, open_folder, open_google, open_memory, open_s3, open_web
from .options import Limits, check_options, read_limits

_SCHEMES = ("file", "s3", "gs", "az", "http", "https", "memory")
_NEAR = {"gcs": "gs", "azure": "az", "abfs": "az", "abfss": "az", "s3a": "s3", "s3n": "s3"}
_OPEN = {"s3": open_s3, "gs": open_google, "az": open_azure}

# The process that first used a client: its threads do not survive a fork, and calls then hang.
_owner_pid: int | None = None


@dataclass(frozen=True)
class Place:
    """What a URL stands for, in words for people; no secrets.

    Attributes:
        url: As it was understood.
        endpoint: Where requests go: a URL, or a folder.
        bucket: Bucket or container; empty for files and web servers.
        prefix: What lies before the names of objects.
        style: How objects are addressed.
        identity: Who asks.
        reading: How ranges are read.
    """

    url: str
    endpoint: str
    bucket: str
    prefix: str
    style: str
    identity: str
    reading: str


@dataclass
class Backend:
    """One bucket, folder or server. Thread-safe; its client is made at first use."""

    url: str
    scheme: str
    bucket: str
    prefix: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Limits = field(default_factory=Limits)
    folder: Path | None = None
    _opened: Client | None = field(default=None, repr=False)

    def opened(self, *, create: bool = False) -> Client:
        """Return the client and what is known of it, the folder made first if `create`.

        Raises:
            StorageError: The folder does not exist, or this process was forked from one that had
                used a client.
        """
        if self.scheme not in ("http", "https"):
            check_process(self.url)
        # No lock, which a fork could copy while it is held: of two clients the later one stays.
        opened = self._opened or self._open(create)
        self._opened = opened
        return opened

    def client(self, *, create: bool = False) -> Any:
        """Return the obstore client."""
        opened = self.opened(create=create)
        check_process(self.url)
        return opened.store

    @property
    def reads_directly(self) -> bool:
        """Tell whether ranges are received by ourselves and not by the client."""
        if self.scheme not in ("s3", "http", "https") or not self.limits.direct:
            return False
        return not has_proxy(self.opened().endpoint)

    def _open(self, create: bool) -> Client:
        if self.folder is not None:
            return open_folder(self.folder, create)
        if self.scheme == "memory":
            return open_memory(self.bucket)
        if self.scheme in _OPEN:
            return _OPEN[self.scheme](self.url, self.bucket, self.options, self.limits)
        return open_web(self.url, self.bucket, self.options, self.limits)


def find_backend(url: str, options: Mapping[str, str] | None) -> Backend:
    """Return the backend of a URL.

    Raises:
        ConfigError: The URL or an option is not understood.
    """
    if not url:
        raise ConfigError("an empty path is no place for a corpus; give a folder or s3://bucket")
    given, parts = dict(options or {}), urlsplit(url)
    scheme = parts.scheme.lower() if "://" in url else "file"
    if scheme not in _SCHEMES:
        near = _NEAR.get(scheme) or next(iter(difflib.get_close_matches(scheme, _SCHEMES, 1)), None)
        hint = f"did you mean {near}://?" if near else f"use a path, {'://, '.join(_SCHEMES)}://"
        raise ConfigError(f"{url}: unknown scheme {scheme!r}; {hint}")
    check_options(url, scheme, given)
    limits = read_limits(url, given)
    if scheme == "file":
        path = unquote(parts.path) if "://" in url else url
        folder = Path(os.path.abspath(os.path.expanduser(path)))
        return Backend(folder.as_uri(), scheme, "", "", given, limits, folder)
    if scheme in ("http", "https"):
        return _find_web(url, parts, given, limits)
    if not parts.netloc:
        raise ConfigError(f"{url} names no bucket; write {scheme}://bucket/prefix")
    prefix = parts.path.strip("/")
    return Backend(url.rstrip("/"), scheme, parts.netloc, prefix, given, limits)


def has_proxy(url: str) -> bool:
    """Tell whether the *_PROXY variables send requests for this URL to a proxy."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if not (proxies.get(parts.scheme) or proxies.get("all")):
        return False
    return not urllib.request.proxy_bypass(parts.netloc)


def check_process(url: str) -> None:
    """Refuse to go on with a client in a forked process.

    Raises:
        StorageError: It says how to start processes instead.
    """
    global _owner_pid
    if _owner_pid is None:
        _owner_pid = os.getpid()
    if _owner_pid != os.getpid():
        raise StorageError(
            f"{url}: this process was forked from one that had used storage, and the client does "
            "not survive that; start workers with 'spawn' or 'forkserver' (or num_workers=0)"
        )


def _find_web(url: str, parts: SplitResult, options: Mapping[str, str], limits: Limits) -> Backend:
    if not parts.hostname:
        raise ConfigError(f"{url} names no host; write {parts.scheme}://host/path")
    if parts.query or parts.fragment or parts.username is not None:
        raise ConfigError(
            f"{parts.scheme}://{parts.hostname}{parts.path}: names are added to this URL, so it "
            "takes no query, fragment or user; give keys as the option authorization"
        )
    prefix = unquote(parts.path).strip("/")
    origin = f"{parts.scheme}://{parts.netloc}"
    return Backend(url.rstrip("/"), parts.scheme.lower(), origin, prefix, options, limits)
