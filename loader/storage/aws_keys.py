# SPDX-License-Identifier: Apache-2.0
"""Whose keys sign S3 requests: the usual chain, first found first taken, and which one it was.

Options; AWS_* variables; the profile of the shared files (by itself for static keys, through boto3
for SSO, roles and processes); then, asked by the client, web identity, container and instance
metadata. Unsigned requests only when asked for.
Source: AWS SDKs and Tools Reference Guide, "Standardized credential providers".
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from .options import first_variable, flag

_NAMES = ("access_key_id", "secret_access_key", "session_token")
_BY_CLIENT = {
    "AWS_WEB_IDENTITY_TOKEN_FILE": "web identity token",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "container credentials",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "container credentials",
}
_REREAD = timedelta(minutes=5)
_NEEDS_BOTO3 = ("sso_session", "sso_start_url", "role_arn", "credential_process", "login_session")


@dataclass(frozen=True)
class AwsKeys:
    """Where keys come from.

    Attributes:
        identity: For people; never a secret.
        provider: Called by the client for keys; None leaves them to the client. Also for keys that
            stay as they are: given as they are, the client adds a session token it finds in the
            environment, which belongs to other keys.
        region: Of the profile, if it names one.
        is_anonymous: Whether requests are not signed.
        is_found: Whether a source of keys is known before the first request.
    """

    identity: str
    provider: Any = field(default=None, repr=False)
    region: str | None = None
    is_anonymous: bool = False
    is_found: bool = True


def find_keys(url: str, options: Mapping[str, str]) -> AwsKeys:
    """Return the first keys of the chain.

    Raises:
        ConfigError: Half a pair of keys, or a profile that is not there or cannot be used.
    """
    given = {name: options[name] for name in _NAMES if options.get(name)}
    is_unsigned = _is_set("AWS_SKIP_SIGNATURE") and not given
    if flag(url, options, "skip_signature", is_unsigned):
        return AwsKeys("anonymous (skip_signature)", is_anonymous=True)
    if given:
        return _static(url, given, "the options")
    if options.get("profile"):
        return _of_profile(url, options["profile"])
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        found = {name: os.environ.get(f"AWS_{name.upper()}", "") for name in _NAMES}
        return _static(url, found, "AWS_* variables")
    profile = first_variable(("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))
    if profile or "default" in _read_profiles():
        return _of_profile(url, os.environ[profile] if profile else "default")
    source = first_variable(tuple(_BY_CLIENT))
    if source:
        return AwsKeys(f"{_BY_CLIENT[source]} ({source})")
    return AwsKeys("instance metadata service (no keys given)", is_found=False)


def mask(key: str) -> str:
    """Return enough of a key's id to know it by."""
    return f"{key[:4]}...{key[-4:]}" if len(key) >= 12 else f"{key[:2]}..."


def _static(url: str, keys: Mapping[str, str], source: str) -> AwsKeys:
    for name in ("access_key_id", "secret_access_key"):
        if not keys.get(name):
            raise ConfigError(
                f"{url}: no {name} in {source}; access_key_id and secret_access_key belong together"
            )
    answer = {
        "access_key_id": keys["access_key_id"],
        "secret_access_key": keys["secret_access_key"],
        "token": keys.get("session_token") or None,
        "expires_at": None,
    }
    return AwsKeys(f"access key {mask(keys['access_key_id'])} from {source}", lambda: answer)


def _of_profile(url: str, name: str) -> AwsKeys:
    found = _read_profiles().get(name)
    if found is None:
        places = " and ".join(str(path) for path in _files())
        raise ConfigError(f"{url}: no profile {name!r} in {places}; check its name (AWS_PROFILE)")
    region = found.get("region")
    if found.get("aws_access_key_id"):
        keys = _static(url, _profile_keys(found), f"profile {name!r}")
        return AwsKeys(keys.identity, lambda: _reread(name), region)
    if any(found.get(word) for word in _NEEDS_BOTO3):
        return AwsKeys(f"profile {name!r} through boto3", _boto3_provider(url, name), region)
    return AwsKeys(f"instance metadata service (no keys in profile {name!r})", region=region,
                   is_found=False)  # fmt: skip


def _profile_keys(found: Mapping[str, str]) -> dict[str, str]:
    return {name: found.get(f"aws_{name}", "") for name in _NAMES}


def _reread(name: str) -> dict[str, Any]:
    """Keys of a profile, again and again: other tools write fresh ones into the file."""
    keys = _profile_keys(_read_profiles().get(name, {}))
    return {
        "access_key_id": keys["access_key_id"],
        "secret_access_key": keys["secret_access_key"],
        "token": keys["session_token"] or None,
        "expires_at": datetime.now(timezone.utc) + _REREAD,
    }


def _boto3_provider(url: str, name: str) -> Any:
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            f"{url}: profile {name!r} needs SSO, a role or a process, which boto3 knows; "
            "pip install boto3, or give keys as AWS_* variables"
        ) from error
    credentials = boto3.Session(profile_name=name).get_credentials()
    if credentials is None:
        raise ConfigError(f"{url}: boto3 finds no keys for profile {name!r}; log in first")

    def provide() -> dict[str, Any]:
        frozen = credentials.get_frozen_credentials()
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(timezone.utc) + _REREAD,
        }

    return provide


def _files() -> tuple[Path, Path]:
    home = Path.home() / ".aws"
    return (
        Path(os.environ.get("AWS_CONFIG_FILE") or home / "config").expanduser(),
        Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or home / "credentials").expanduser(),
    )


def _read_profiles() -> dict[str, dict[str, str]]:
    """Return the profiles of both files; credentials win over config."""
    profiles: dict[str, dict[str, str]] = {}
    for path in _files():
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not understood: {error}; correct it") from error
        for section in parser.sections():
            name = section[len("profile ") :] if section.startswith("profile ") else section
            profiles.setdefault(name.strip(), {}).update(parser.items(section))
    return profiles


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")
