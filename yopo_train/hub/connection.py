"""Talking to the Hub: again where it helps, and every failure as one line without the token in it."""

import errno
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from yopo_train.errors import UserError, first_line

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before the second, third, ... try. The uploads inside have huggingface_hub's own tries besides."""
LONGEST_WAIT = 60.0
PASSING = (408, 425, 429)
NO_TOKEN = "no Hugging Face token found; set HF_TOKEN, or log in with: hf auth login"

Result = TypeVar("Result")


def check_repo_id(repo_id: str | None, key: str) -> str:
    """A repository's name, complete.

    Parameters
    ----------
    key
        Where it stands: an option, or a key of a configuration.

    Raises
    ------
    UserError
        Missing or misspelt.
    """
    valid = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9_])?"
    try:
        if repo_id is None or not re.fullmatch(f"{valid}/{valid}", repo_id, re.ASCII):
            raise UserError(f"{key} is {repo_id!r}, expected user/name")
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{key} is {repo_id!r:.120}, expected user/name: {_first_line(error)}") from None
    return repo_id


def is_lost(error: BaseException) -> bool:
    """Whether the connection failed, so that nobody knows what arrived."""
    return isinstance(error, HTTPError) and not isinstance(error, HfHubHTTPError)


def is_passing(error: BaseException) -> bool:
    """Whether another try may help: no connection, too many requests, or the server's own trouble."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in PASSING or error.response.status_code >= 500
    return is_lost(error)


def cause_of(error: BaseException) -> BaseException:
    """What huggingface_hub wrapped."""
    while isinstance(error, RuntimeError | LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def persistently(
    work: Callable[[], Result], repo_id: str, again: Callable[[BaseException], bool] = is_passing
) -> Result:
    """Call until it works, with growing pauses.

    Parameters
    ----------
    again
        Which failures are worth another try.

    Raises
    ------
    Exception
        The last try's failure.
    """
    for wait in (*WAITS, None):
        try:
            return work()
        except Exception as error:
            cause = cause_of(error)
            if wait is None or not again(cause):
                raise
            wait = _asked_for(cause) or wait
            print(f"{describe(error, repo_id)}; again in {wait:g} s", file=sys.stderr, flush=True)
        time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _asked_for(error: BaseException) -> float | None:
    """The pause that the server asks for, in seconds."""
    if isinstance(error, HfHubHTTPError):
        asked = error.response.headers.get("Retry-After", "")
        return min(float(asked), LONGEST_WAIT) if asked.isdigit() else None
    return None


@contextmanager
def one_line_errors(doing: str, repo_id: str) -> Iterator[None]:
    """Failures as `UserError`, and nothing else printed: huggingface_hub's own lines name signed addresses.

    Parameters
    ----------
    doing
        What failed then, such as "push".
    """
    logger, shows_bars = logging.getLogger("huggingface_hub"), not are_progress_bars_disabled()
    level = logger.level
    logger.setLevel(logging.ERROR)
    if shows_bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        known = isinstance(cause_of(error), HTTPError | OSError | HFValidationError | ValueError | RuntimeError)
        if not known:
            raise
        raise UserError(f"{doing} {repo_id}: {describe(error, repo_id)}") from None
    finally:
        logger.setLevel(level)
        if shows_bars:
            enable_progress_bars()


def describe(error: BaseException, repo_id: str) -> str:
    """A failure in one line for people."""
    error = cause_of(error)
    if isinstance(error, HfHubHTTPError):
        return _answer(error, repo_id)
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and _is_offline()):
        return "HF_HUB_OFFLINE is set, and the cache does not have it"
    if is_lost(error):
        return f"no connection to {constants.ENDPOINT} ({_first_line(error)})"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full{f' ({error.filename})' if error.filename else ''}"
    return _first_line(error)


def _answer(error: HfHubHTTPError, repo_id: str) -> str:
    status = error.response.status_code
    said = f": {_hidden(error.server_message)}" if error.server_message else ""
    if isinstance(error, GatedRepoError):
        return f"access has to be asked for at {constants.ENDPOINT}/{repo_id}"
    if isinstance(error, RevisionNotFoundError):
        return "there is no such revision"
    if status == 401 and get_token() is not None:
        return "the token is refused (401), is it wrong or expired? HF_TOKEN comes before: hf auth login"
    if isinstance(error, RepositoryNotFoundError) or status == 401:
        hint = "" if get_token() is not None else f"; {NO_TOKEN}"
        return f"there is no such repository, or it is private and not for this token ({status}){hint}"
    if status == 403:
        return f"the token has no right to do this (403){said}"
    return f"the server answers {status}{said or f' {error.response.reason_phrase}'}"


def _first_line(error: BaseException) -> str:
    return _hidden(first_line(error))


def _hidden(text: Any) -> str:
    """Somebody else's text in one line, without the token should it be in there."""
    line, token = " ".join(str(text).split())[:300], get_token()
    return line.replace(token, "hf_***") if token else line


def _is_offline() -> bool:
    return bool(constants.HF_HUB_OFFLINE)
