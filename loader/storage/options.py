# SPDX-License-Identifier: Apache-2.0
"""The words by which users say how a URL is reached: text to text, checked when a store is opened.

Every scheme knows the same few words about time and retries, and its own about keys. A word that
it does not know is refused with the nearest one. What an option leaves out is taken from the
environment variables that every tool of that cloud knows.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ConfigError

COMMON = ("timeout_s", "range_timeout_s", "deadline_s", "attempts", "hedge", "max_concurrency")
_S3 = (
    "endpoint",
    "region",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "profile",
    "skip_signature",
    "allow_http",
    "virtual_hosted_style",
    "direct",
)
_GS = (
    "endpoint",
    "service_account",
    "service_account_key",
    "application_credentials",
    "bearer_token",
    "skip_signature",
    "allow_http",
)
_AZ = (
    "endpoint",
    "account_name",
    "account_key",
    "sas_token",
    "bearer_token",
    "client_id",
    "client_secret",
    "tenant_id",
    "use_azure_cli",
    "skip_signature",
    "allow_http",
)
_HTTP = ("authorization", "direct")
OF_SCHEME = {
    "s3": (*_S3, *COMMON),
    "gs": (*_GS, *COMMON),
    "az": (*_AZ, *COMMON),
    "http": (*_HTTP, *COMMON),
    "https": (*_HTTP, *COMMON),
}
# A folder and memory need none and pass over those of the others: one set serves a mixed list.
ANY_SCHEME = tuple(dict.fromkeys(name for names in OF_SCHEME.values() for name in names))


@dataclass(frozen=True)
class Limits:
    """Times and numbers that hold for all requests of a store.

    Attributes:
        timeout_s: How long a connection may be silent before the attempt counts as failed.
        range_timeout_s: For one range of up to 8 MiB, its retries and waits included.
        deadline_s: For one whole call, of however many ranges.
        attempts: Tries of one request.
        hedge: Whether a late read gets a second one.
        max_concurrency: Requests to one endpoint at a time, at most.
        direct: Whether ranges are received by ourselves where that is possible (s3, http).
    """

    timeout_s: float = 20.0
    range_timeout_s: float = 120.0
    deadline_s: float = 300.0
    attempts: int = 6
    hedge: bool = True
    max_concurrency: int = 64
    direct: bool = True


def check_options(url: str, scheme: str, options: Mapping[str, str]) -> None:
    """Refuse what is not understood.

    Raises:
        ConfigError: It names the nearest option there is.
    """
    known = OF_SCHEME.get(scheme, ANY_SCHEME)
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"{url}: unknown storage option {name!r}; {hint}")
        if not isinstance(value, str):
            raise ConfigError(f"{url}: storage option {name} is text; write '{value}'")


def read_limits(url: str, options: Mapping[str, str]) -> Limits:
    """Return the limits among the options, the others at their defaults."""
    return Limits(
        timeout_s=_number(url, options, "timeout_s", Limits.timeout_s),
        range_timeout_s=_number(url, options, "range_timeout_s", Limits.range_timeout_s),
        deadline_s=_number(url, options, "deadline_s", Limits.deadline_s),
        attempts=int(_number(url, options, "attempts", Limits.attempts, least=1)),
        hedge=flag(url, options, "hedge", Limits.hedge),
        max_concurrency=int(
            _number(url, options, "max_concurrency", Limits.max_concurrency, least=1)
        ),
        direct=flag(url, options, "direct", Limits.direct),
    )


def flag(url: str, options: Mapping[str, str], name: str, default: bool) -> bool:
    """Return an option that is on or off."""
    text = str(options.get(name, default)).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("0", "false", "no", "off"):
        return False
    raise ConfigError(f"{url}: storage option {name} is true or false, not {options[name]!r}")


def first_variable(names: tuple[str, ...]) -> str | None:
    """Return the name of the first environment variable that is set and not empty."""
    return next((name for name in names if os.environ.get(name)), None)


def _number(
    url: str, options: Mapping[str, str], name: str, default: float, least: float = 0.0
) -> float:
    text = options.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value < float("inf") or value == 0:
        raise ConfigError(f"{url}: storage option {name} is a number above 0, not {text!r}")
    return value
