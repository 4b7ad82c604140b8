# SPDX-License-Identifier: Apache-2.0
"""What a failed attempt means: what happened, what to do, and whether another attempt makes sense.

Not found, forbidden and unauthenticated are told apart and are final, as is every other answer that
says the request itself is wrong. What passes by itself is tried again: 408, 425, 429, 5xx, resets,
silence, bodies that end early. A 403 is never called "not found".
Source: RFC 9110, section 15 (status codes); the error codes of Amazon S3.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from http.client import HTTPException

from obstore import exceptions

from ..errors import StorageError
from .connections import StatusError


class MissingObjectError(StorageError):
    """There is no object of that name."""


class ForbiddenError(StorageError):
    """The endpoint knows who asks, or that nobody does, and refuses; `code` is its reason."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Fault:
    """The meaning of one failure.

    Attributes:
        what: In words, such as "503 SlowDown".
        advice: What to do about it.
        kind: One of missing, forbidden, final, passing, timeout, throttled; the last three are
            tried again.
        retry_after_s: How long the server asked to wait.
        code: The server's own word for it.
    """

    what: str
    advice: str
    kind: str
    retry_after_s: float = 0.0
    code: str = ""

    @property
    def is_final(self) -> bool:
        """Tell whether another attempt would end the same way."""
        return self.kind in ("missing", "forbidden", "final")


_ASK_NETWORK = "check the endpoint, the network and that the server answers"
_ASK_KEYS = "check that the keys are right, and that the bucket's policy allows them this"
_GIVE_KEYS = "give keys as options or in the environment (docs/storage.md names them)"
_ASK_CLOCK = "set this machine's clock (moot doctor shows how far it is off)"
_KEY_CODES = {
    "AccessDenied": f"{_ASK_KEYS} (S3 says so of missing objects too, to keys that may not list)",
    "InvalidAccessKeyId": "the endpoint does not know this access key id; check both",
    "SignatureDoesNotMatch": "the secret access key does not belong to this access key id",
    "RequestTimeTooSkewed": _ASK_CLOCK,
    "ExpiredToken": "the session token has expired; get new credentials",
}
_PASSING = (408, 425, 429)
_METADATA_SERVICE = "169.254.169.254"  # asked for keys by the client when it was given none
_STATUS = re.compile(r"\b([45]\d\d) [A-Z]")
_FINAL_ERRORS = (
    ValueError,
    exceptions.AlreadyExistsError,
    exceptions.PreconditionError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
)


# What the world does; everything else is a mistake of ours and is never tried again.
OF_THE_WORLD = (OSError, HTTPException, StatusError, exceptions.BaseError, ValueError)


def classify(error: Exception) -> Fault:
    """Return what an exception of a reader or a client means."""
    if isinstance(error, StatusError):
        return _of_status(error.status, error.code, error.headers, error.retry_after_s)
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"the certificate is not trusted: {error.verify_message}"
        return Fault(what, "name the authority's file in SSL_CERT_FILE", "final")
    if isinstance(error, exceptions.BaseError):
        return _of_client(error, str(error))
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return _of_status(404, _server_code(str(error)), {})
    if isinstance(error, PermissionError):
        return Fault("permission denied", "check the rights of file and folder", "forbidden")
    if isinstance(error, TimeoutError):
        what = str(error) if str(error) not in ("", "timed out") else "the server was silent"
        return Fault(what, _ASK_NETWORK, "timeout")
    if isinstance(error, _FINAL_ERRORS):
        return Fault(_first_line(error), "check the name and the URL", "final")
    return Fault(_first_line(error), _ASK_NETWORK, "passing")


def to_error(fault: Fault, message: str) -> StorageError:
    """Return the exception that users see."""
    if fault.kind == "missing":
        return MissingObjectError(message)
    if fault.kind == "forbidden":
        return ForbiddenError(message, fault.code)
    return StorageError(message)


def is_out_of_range(error: BaseException) -> bool:
    """Tell whether a client's range was refused because the object ends before it."""
    text = str(error)
    known = ("InvalidRange", "416 ", "Requested range was invalid", "Invalid range: Wanted range")
    return any(word in text for word in known)


def _of_status(status: int, code: str, headers: object, retry_after_s: float = 0.0) -> Fault:
    what = f"{status} {code}"
    region = headers.get("x-amz-bucket-region") if hasattr(headers, "get") else None
    if code in ("NoSuchBucket", "ContainerNotFound"):
        advice = "check its name and the endpoint"
        return Fault("the bucket does not exist", advice, "final", 0, code)
    if status == 404:
        advice = "check the URL and that the object was written"
        return Fault("not found", advice, "missing", 0, code)
    if code in _KEY_CODES or status in (401, 403):
        what = "not authenticated" if status == 401 else "forbidden"
        advice = _KEY_CODES.get(code, _GIVE_KEYS if status == 401 else _ASK_KEYS)
        return Fault(f"{what} ({code})", advice, "forbidden", 0, code)
    if status in (301, 307) or (region and status == 400):
        where = f"the option region={region}" if region else "the region and the endpoint"
        return Fault(f"{what}: the bucket lies elsewhere", f"set {where}", "final", 0, code)
    if status in (405, 501):
        return Fault(what, "the server offers no such request; is it a plain web server?", "final")
    if status in (429, 503):
        return Fault(what, _ASK_NETWORK, "throttled", retry_after_s, code)
    if status in _PASSING or status >= 500 or code == "RequestTimeout":
        return Fault(what, _ASK_NETWORK, "passing", retry_after_s, code)
    return Fault(what, "check the URL, the options and what the server expects", "final", 0, code)


def _of_client(error: Exception, text: str) -> Fault:
    """Read the meaning off the text: obstore passes neither status nor headers on."""
    if _METADATA_SERVICE in text or "metadata.google" in text:
        return Fault("not authenticated: no keys were found", _GIVE_KEYS, "forbidden")
    if isinstance(error, exceptions.UnauthenticatedError):
        return _of_status(401, _server_code(text), {})
    if isinstance(error, exceptions.PermissionDeniedError):
        return _of_status(403, _server_code(text), {})
    if isinstance(error, exceptions.NotFoundError):
        return _of_status(404, _server_code(text), {})
    found = _STATUS.search(text)
    if found is not None and not isinstance(error, _FINAL_ERRORS):
        return _of_status(int(found.group(1)), _server_code(text) or _reason(text, found), {})
    if "non-partial response" in text:
        return Fault("the server ignores ranges", "leave the option direct at true", "final")
    if "redirect without LOCATION" in text or "Received redirect" in text:
        return _of_status(301, "", {})
    if isinstance(error, _FINAL_ERRORS):
        return Fault(_first_line(error), "check the name and the URL", "final")
    kind = "timeout" if "timed out" in text else "passing"
    return Fault(_first_line(error), _ASK_NETWORK, kind)


def _server_code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found.group(1) if found else ""


def _reason(text: str, found: re.Match[str]) -> str:
    return re.split(r"[:\n]", text[found.end() - 1 :], maxsplit=1)[0][:60]


def _first_line(error: Exception) -> str:
    text = str(error).split("\n\nDebug source", 1)[0].strip() or type(error).__name__
    return " ".join(text.split())[:400]
