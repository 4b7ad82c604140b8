# SPDX-License-Identifier: Apache-2.0
"""The obstore clients, made of our options and of what the environment says.

A client makes one attempt (retries are ours, in attempts.py) and ends it by its own timeout, so
that a thread that waits on it comes back.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from obstore.store import AzureStore, GCSStore, HTTPStore, LocalStore, MemoryStore, S3Store

from ..errors import ConfigError, MootError, StorageError
from .aws_keys import AwsKeys, find_keys, mask
from .connections import CONNECT_TIMEOUT_S
from .options import Limits, first_variable, flag

_S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "S3_ENDPOINT_URL")
_S3_REGIONS = ("AWS_REGION", "AWS_DEFAULT_REGION")
_GOOGLE_KEYS = (
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "GOOGLE_SERVICE_ACCOUNT_KEY",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_BEARER_TOKEN",
)
_AZURE_ACCOUNTS = ("AZURE_STORAGE_ACCOUNT_NAME",)
_AZURE_ENDPOINTS = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
_AZURE_KEYS = (
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_STORAGE_SAS_TOKEN",
    "AZURE_STORAGE_TOKEN",
    "AZURE_STORAGE_CLIENT_SECRET",
    "AZURE_CLIENT_SECRET",
    "AZURE_FEDERATED_TOKEN_FILE",
)
# Names of memory:// last as long as the process: whoever opens one again finds what was put.
_MEMORY: dict[str, Any] = {}


@dataclass(frozen=True)
class Client:
    """A client and what people may know of it.

    Attributes:
        store: The obstore client.
        endpoint: Where its requests go.
        style: How objects are addressed.
        identity: Who asks; no secrets.
        base: The URL below which objects lie when they are asked for without a signature; None if
            requests are signed.
        headers: Sent with every request of our own.
    """

    store: Any
    endpoint: str
    style: str
    identity: str
    base: str | None = None
    headers: Mapping[str, str] | None = None


def open_folder(folder: Path, create: bool) -> Client:
    """Open a folder, made first if `create`."""
    if not create and not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise StorageError(f"folder {folder} {what}; check the path or write to it first")
    try:
        store = LocalStore(folder, mkdir=create)
    except Exception as error:
        raise StorageError(f"cannot open folder {folder}: {error}") from error
    return Client(store, str(folder), "files", f"user {os.getuid()} of this machine")


def open_memory(name: str) -> Client:
    """Open what this process keeps in memory under a name."""
    return Client(
        _MEMORY.setdefault(name, MemoryStore()), f"memory {name}", "memory", "this process"
    )


def open_s3(url: str, bucket: str, options: Mapping[str, str], limits: Limits) -> Client:
    """Open a bucket of S3 or of an endpoint that speaks like it."""
    keys = find_keys(url, options)
    endpoint = options.get("endpoint") or _variable(_S3_ENDPOINTS)
    region = options.get("region") or _variable(_S3_REGIONS) or keys.region or "us-east-1"
    # A dot in a bucket's name breaks the certificate of bucket.s3.amazonaws.com.
    is_virtual = flag(url, options, "virtual_hosted_style", not endpoint and "." not in bucket)
    config: Any = {"region": region, "virtual_hosted_style_request": is_virtual}
    if endpoint:
        _check_s3_endpoint(url, endpoint, keys)
        config["endpoint"] = endpoint
    if keys.is_anonymous:
        config["skip_signature"] = True
    extra: Any = {"credential_provider": keys.provider} if keys.provider else {}
    store = _made(url, lambda: S3Store(
        bucket, config=config, client_options=_client_options(url, options, endpoint, limits),
        retry_config=_no_retries(), **extra,
    ))  # fmt: skip
    shown = (endpoint or f"https://s3.{region}.amazonaws.com").rstrip("/")
    base = f"{shown}/{bucket}"
    if is_virtual:
        base = shown if endpoint else shown.replace("://", f"://{bucket}.")
    style = "virtual-hosted (bucket.host)" if is_virtual else "path (host/bucket)"
    return Client(store, shown, style, keys.identity, base if keys.is_anonymous else None)


def open_google(url: str, bucket: str, options: Mapping[str, str], limits: Limits) -> Client:
    """Open a bucket of Google Cloud Storage."""
    names = ("service_account", "service_account_key", "application_credentials", "bearer_token")
    config: Any = {name: options[name] for name in names if options.get(name)}
    source = next(iter(config), None) or first_variable(_GOOGLE_KEYS)
    identity = f"keys from {source}" if source else "gcloud's defaults or the metadata service"
    if flag(url, options, "skip_signature", False):
        config, identity = {"skip_signature": True}, "anonymous (skip_signature)"
    endpoint = options.get("endpoint") or os.environ.get("GOOGLE_BASE_URL")
    if endpoint:
        _check_url(url, endpoint)
        config["base_url"] = endpoint
    store = _made(url, lambda: GCSStore(
        bucket, config=config, client_options=_client_options(url, options, endpoint, limits),
        retry_config=_no_retries(),
    ))  # fmt: skip
    shown = endpoint or "https://storage.googleapis.com"
    return Client(store, shown, "path (host/bucket)", identity)


def open_azure(url: str, bucket: str, options: Mapping[str, str], limits: Limits) -> Client:
    """Open a container of Azure Blob Storage."""
    account = options.get("account_name") or _variable(_AZURE_ACCOUNTS)
    if not account:
        raise ConfigError(
            f"{url} names a container, but no account; give the option account_name or "
            "AZURE_STORAGE_ACCOUNT_NAME"
        )
    renamed = {"sas_token": "sas_key", "bearer_token": "token"}
    names = ("account_key", "sas_token", "bearer_token", "client_id", "client_secret", "tenant_id")
    given = [name for name in names if options.get(name)]
    config: Any = {renamed.get(name, name): options[name] for name in given}
    if flag(url, options, "use_azure_cli", False):
        config["use_azure_cli"] = True
    source = next(iter(given), None) or first_variable(_AZURE_KEYS)
    who = f"keys from {source}" if source else "Azure CLI or managed identity"
    if flag(url, options, "skip_signature", False):
        config, who = {"skip_signature": True}, "anonymous (skip_signature)"
    endpoint = options.get("endpoint") or _variable(_AZURE_ENDPOINTS)
    if endpoint:
        _check_url(url, endpoint)
        config["endpoint"] = endpoint
    store = _made(url, lambda: AzureStore(
        bucket, config={"account_name": account, **config},
        client_options=_client_options(url, options, endpoint, limits), retry_config=_no_retries(),
    ))  # fmt: skip
    shown = endpoint or f"https://{account}.blob.core.windows.net"
    return Client(store, shown, "path (host/container)", f"account {mask(account)}, {who}")


def open_web(url: str, origin: str, options: Mapping[str, str], limits: Limits) -> Client:
    """Open a web server; objects are what lies below the URL."""
    client_options = _client_options(url, options, origin, limits)
    headers = {}
    if options.get("authorization"):
        headers["Authorization"] = options["authorization"]
        client_options["default_headers"] = {"authorization": options["authorization"]}
    store = _made(url, lambda: HTTPStore(
        origin, client_options=client_options, retry_config=_no_retries()
    ))  # fmt: skip
    who = "as the option authorization says" if headers else "anonymous"
    return Client(store, origin, "path", who, origin, headers)


def _made(url: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except MootError:
        raise
    except Exception as error:
        raise StorageError(f"cannot open {url}: {error}") from error


def _check_url(url: str, endpoint: str) -> None:
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"{url}: endpoint {endpoint!r} is no URL; write http(s)://host:port")


def _check_s3_endpoint(url: str, endpoint: str, keys: AwsKeys) -> None:
    _check_url(url, endpoint)
    if not keys.is_found:
        # The client would ask the cloud's metadata service, whose keys are not for this endpoint.
        raise ConfigError(
            f"{url}: no keys for endpoint {endpoint}; give access_key_id and secret_access_key as "
            "options or AWS_* variables, or skip_signature for a public bucket"
        )


def _client_options(
    url: str, options: Mapping[str, str], endpoint: str | None, limits: Limits
) -> Any:
    is_plain = bool(endpoint) and str(endpoint).lower().startswith("http://")
    is_allowed = flag(url, options, "allow_http", is_plain)
    if is_plain and not is_allowed:
        raise ConfigError(f"{url}: endpoint {endpoint} is plain HTTP, and allow_http is false")
    # For a whole request, since older clients know no timeout for silence.
    timeout_s = min(max(limits.timeout_s, limits.range_timeout_s / 3), limits.deadline_s)
    return {
        "allow_http": is_allowed,
        "timeout": timedelta(seconds=timeout_s),
        "connect_timeout": timedelta(seconds=CONNECT_TIMEOUT_S),
    }


def _no_retries() -> Any:
    return {"max_retries": 0}


def _variable(names: tuple[str, ...]) -> str | None:
    name = first_variable(names)
    return os.environ[name] if name else None
