# SPDX-License-Identifier: Apache-2.0
"""Which client serves a URL: a folder on this machine or an S3 bucket.

Options are our own few words; what they leave out is taken from the AWS environment variables, as
every S3 tool does. An endpoint of one's own is addressed by path, and over plain HTTP when it says
so. Nothing falls back to unsigned requests unless `skip_signature` asks for them.
"""

from __future__ import annotations

import difflib
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, S3Store

from ..errors import ConfigError, StorageError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

S3_OPTIONS = (
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "skip_signature",
    "allow_http",
    "virtual_hosted_style",
    "timeout_s",
)
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")
_REGION_VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION")
_KEY_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)

# The process that first used the client: its threads do not survive a fork, and calls then hang.
_owner_pid: int | None = None


@dataclass
class Backend:
    """One bucket or folder. Thread-safe; made of a client that is opened at first use."""

    url: str
    folder: Path | None
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    _client: ObjectStore | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def client(self, *, create: bool = False) -> ObjectStore:
        """Return the client, the folder made first if `create`.

        Raises:
            StorageError: The folder does not exist, or this process was forked from one that had
                used the client.
        """
        _check_process(self.url)
        with self._lock:
            if self._client is None:
                self._client = self._open(create)
            return self._client

    def _open(self, create: bool) -> ObjectStore:
        if self.folder is None:
            return _open_s3(self.url, self.options)
        if not create and not self.folder.is_dir():
            what = "is a file, not a folder" if self.folder.exists() else "does not exist"
            raise StorageError(f"folder {self.folder} {what}; check the path or write to it first")
        try:
            return LocalStore(self.folder, mkdir=create)
        except Exception as error:
            raise StorageError(f"cannot open folder {self.folder}: {error}") from error


def find_backend(url: str, options: Mapping[str, str] | None) -> Backend:
    """Return the backend of a URL: a plain path, `file://` or `s3://bucket/prefix`."""
    scheme = urlsplit(url).scheme if "://" in url else ""
    if scheme == "s3":
        if not urlsplit(url).netloc:
            raise ConfigError(f"{url} names no bucket; write s3://bucket/prefix")
        _check_options(url, options or {})
        return Backend(url, None, dict(options or {}))
    if scheme not in ("", "file"):
        raise ConfigError(f"{url}: unknown scheme {scheme!r}; use a path, file:// or s3://")
    if not url:
        raise ConfigError("an empty path is no place for a corpus; give a folder or s3://bucket")
    path = unquote(urlsplit(url).path) if scheme else url
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    return Backend(folder.as_uri(), folder)


def bucket_prefix(url: str) -> str:
    """Return the part of an S3 URL after the bucket, without slashes at its ends."""
    return urlsplit(url).path.strip("/")


def _check_process(url: str) -> None:
    global _owner_pid
    if _owner_pid is None:
        _owner_pid = os.getpid()
    if _owner_pid != os.getpid():
        raise StorageError(
            f"{url}: this process was forked from one that had used storage, and the client does "
            "not survive that; start workers with 'spawn' or 'forkserver' (or num_workers=0)"
        )


def _check_options(url: str, options: Mapping[str, str]) -> None:
    for name in options:
        if name in S3_OPTIONS:
            continue
        near = difflib.get_close_matches(name, S3_OPTIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(S3_OPTIONS)}"
        raise ConfigError(f"{url}: unknown storage option {name!r}{hint}")


def _check_endpoint(url: str, endpoint: str, options: Mapping[str, str]) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url}: endpoint {endpoint!r} is no URL; write http(s)://host:port")
    has_keys = options.get("access_key_id") or _first_variable(_KEY_VARIABLES)
    if not has_keys and not _is_true(options.get("skip_signature", False)):
        # The client would ask the cloud's metadata service, whose keys are not for this endpoint.
        raise ConfigError(
            f"{url}: no keys for endpoint {endpoint}; give access_key_id and secret_access_key as "
            "options or AWS_* variables, or skip_signature for a public bucket"
        )


def _first_variable(names: tuple[str, ...]) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _is_true(value: object) -> bool:
    return str(value).strip().lower() in ("1", "true", "yes", "on")


def _open_s3(url: str, options: Mapping[str, str]) -> ObjectStore:
    endpoint = options.get("endpoint") or _first_variable(_ENDPOINT_VARIABLES)
    is_plain = bool(endpoint) and str(endpoint).lower().startswith("http://")
    config: Any = {
        "region": options.get("region") or _first_variable(_REGION_VARIABLES) or "us-east-1",
        "virtual_hosted_style_request": _is_true(options.get("virtual_hosted_style", not endpoint)),
    }
    if endpoint:
        _check_endpoint(url, endpoint, options)
        config["endpoint"] = endpoint
    renamed = {"session_token": "token"}
    for name in ("access_key_id", "secret_access_key", "session_token"):
        if options.get(name):
            config[renamed.get(name, name)] = options[name]
    if _is_true(options.get("skip_signature", False)):
        config["skip_signature"] = True
    client_options: Any = {
        "allow_http": _is_true(options.get("allow_http", is_plain)),
        "timeout": timedelta(seconds=float(options.get("timeout_s", 200))),
        "connect_timeout": timedelta(seconds=10),
    }
    # One layer of retries, ours: it also knows 408 and 429, and short bodies.
    no_retries: Any = {"max_retries": 0}
    bucket = urlsplit(url).netloc
    try:
        return S3Store(
            bucket, config=config, client_options=client_options, retry_config=no_retries
        )
    except Exception as error:
        raise StorageError(f"cannot open {url}: {error}") from error
