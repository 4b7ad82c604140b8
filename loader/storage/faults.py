# SPDX-License-Identifier: Apache-2.0
"""What a failed request means, and whether to try it again.

A client's exception becomes a StorageError that tells not found, forbidden, unauthenticated and
everything else apart, and says what to do. Only "everything else" is tried again: 3 attempts,
waiting a random time up to a bound that doubles (full jitter).
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from obstore import exceptions

from ..errors import StorageError

Result = TypeVar("Result")

NUM_ATTEMPTS = 3
_FIRST_WAIT_S = 0.2
_FINAL = (
    FileNotFoundError,
    ValueError,
    exceptions.PermissionDeniedError,
    exceptions.UnauthenticatedError,
    exceptions.AlreadyExistsError,
    exceptions.PreconditionError,
    exceptions.InvalidPathError,
    exceptions.NotSupportedError,
    exceptions.UnknownConfigurationKeyError,
)
# A client error other than "later" (408 timeout, 425 too early, 429 too many requests).
_METADATA_SERVICE = "169.254.169.254"  # asked for keys by the client when it was given none
_FINAL_STATUS = re.compile(r"\b4(?!08|25|29)\d\d [A-Z]")


def attempt(url: str, action: str, request: Callable[[], Result]) -> Result:
    """Return `request()`, tried up to 3 times.

    Raises:
        StorageError: It failed; the message tells what, where, and what to do.
    """
    for num_failed in range(1, NUM_ATTEMPTS + 1):
        try:
            return request()
        except StorageError:
            raise
        except Exception as error:
            if _is_final(error) or num_failed == NUM_ATTEMPTS:
                raise StorageError(explain(url, action, error, num_failed)) from error
            time.sleep(random.uniform(0.0, _FIRST_WAIT_S * 2**num_failed))
    raise AssertionError("unreachable")


def is_out_of_range(error: BaseException) -> bool:
    """Tell whether a range was refused because the object ends before it."""
    text = str(error)
    return "InvalidRange" in text or "416 Range" in text or "Requested range was invalid" in text


def explain(url: str, action: str, error: Exception, num_attempts: int) -> str:
    """Return what is wrong, where, and what to do."""
    text = str(error)
    if "NoSuchBucket" in text:
        what, advice = "the bucket does not exist", "check its name and the endpoint"
    elif isinstance(error, FileNotFoundError):
        what, advice = "not found", "check the URL and that the object was written"
    elif _METADATA_SERVICE in text or isinstance(error, exceptions.UnauthenticatedError):
        what = "not authenticated"
        advice = "give access_key_id and secret_access_key, as options or as AWS_* variables"
    elif isinstance(error, exceptions.PermissionDeniedError) or "403 Forbidden" in text:
        what = f"forbidden ({_server_code(text)})"
        advice = "check that the keys are right, and that the bucket's policy allows them this"
    else:
        what = f"{_first_line(error)} (tried {num_attempts} times)"
        advice = "check the endpoint, the network and that the server answers"
    return f"cannot {action} {url}: {what}; {advice}"


def _is_final(error: Exception) -> bool:
    if isinstance(error, _FINAL) or is_out_of_range(error):
        return True
    return bool(_FINAL_STATUS.search(str(error)))


def _server_code(text: str) -> str:
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found.group(1) if found else "403"


def _first_line(error: Exception) -> str:
    text = str(error).split("\n\nDebug source", 1)[0].strip() or type(error).__name__
    return " ".join(text.split())[:400]
