"""Asks a hub by way of huggingface_hub. Blocks; imported when a hub is first asked (0.25 s).

The library knows the API, the tokens of this machine and the protocol of uploads. It would wait
without end, sleep where nobody can wake it, and read answers of any size: hooks in its client see
to that.
"""

from __future__ import annotations

import re
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import quote

import httpx2
import huggingface_hub
from huggingface_hub import HfApi, RepoFile, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (
    build_hf_headers,
    disable_progress_bars,
    paginate,
    parse_datetime,
    parse_ratelimit_headers,
)

import model_runner
from model_runner.errors import (
    InvalidReference,
    ModelRunnerError,
    RegistryError,
    RegistryUnauthorized,
    UnsupportedModel,
)
from model_runner.packaging import moment
from model_runner.registry.huggingface.files import HubFile, Revision
from model_runner.registry.huggingface.refusals import refusal, unreachable

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from datetime import datetime

    from model_runner.registry.huggingface.files import HubAccess

# Real models have some hundred files, data sets more.
_MAX_FILES = 20_000
# A page has 50 of them.
_MAX_COMMITS = 1000
# A page of a listing has 1000 files in some 300 kB.
_MAX_ANSWER = 32 << 20

# The hub thinks about a commit for a while.
_CONNECT_SECONDS, _STALL_SECONDS, _ANSWER_SECONDS = 15.0, 30.0, 60.0
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})
_COMMIT = re.compile("[0-9a-f]{40,64}")
_SHA256 = re.compile("[0-9a-f]{64}")


class ComeAgain(Exception):
    """The hub cannot answer now.

    Args:
        status: Its answer.
        seconds: After which it wants to be asked again; 0 if it does not say.
    """

    def __init__(self, status: int, seconds: float) -> None:
        super().__init__(f"{status}, again in {seconds} s")
        self.status = status
        self.seconds = seconds


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


# Who asks in this thread, and whether somebody waits.
_ASKING: ContextVar[tuple[HubAccess, threading.Event, bool]] = ContextVar("asking")


# What the library fails with. RuntimeError and ValueError: an upload that the hub did not take.
_FAILURES = (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RuntimeError,
    ValueError,
    httpx2.HTTPError,
)


@contextmanager
def asking(access: HubAccess, abandoned: threading.Event, *, patient: bool) -> Iterator[HfApi]:
    """The library's client for one caller, and its errors as ours.

    Args:
        access: Who asks.
        abandoned: Set when nobody waits any more; then nothing further is asked.
        patient: Whether the library itself waits and asks again.

    Raises:
        ComeAgain: The hub cannot answer now; not if the library is patient.
        RegistryError: The hub refuses, cannot be reached, or says what makes no sense.
        RemoteModelNotFound: It does not have that.
    """
    token = _ASKING.set((access, abandoned, patient))
    try:
        yield HfApi(
            endpoint=access.endpoint,
            token=access.token or False,
            library_name="model-runner",
            library_version=model_runner.__version__,
        )
    except _FAILURES as error:
        raise _translated(access, error) from error
    finally:
        _ASKING.reset(token)


def _translated(access: HubAccess, error: BaseException) -> ModelRunnerError:
    if isinstance(error, RuntimeError) and isinstance(error.__cause__, _FAILURES):
        error = error.__cause__  # of an upload, which names the file
    if isinstance(error, HfHubHTTPError):
        response, said = error.response, error.server_message or ""
        name = access.repository
        return refusal(access, response.status_code, response.headers, name, said)
    if isinstance(error, HFValidationError):
        return InvalidReference(access.repository, str(error))
    if isinstance(error, httpx2.HTTPError | OfflineModeIsEnabled):
        return unreachable(access, str(error) or type(error).__name__)
    return RegistryError(f"`{access.host}` did not take it: {error}"[:500])


def find_token() -> str | None:
    """The token of this machine: HF_TOKEN, else what `hf auth login` left."""
    return huggingface_hub.get_token()


def find_revision(api: HfApi, access: HubAccess, revision: str | None) -> Revision:
    """What a branch, a tag or a commit stands for now; None is the main branch."""
    wanted = revision or constants.DEFAULT_REVISION
    with _sense(access):
        info = api.model_info(access.repository, revision=wanted)
        if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
            raise ValueError("no commit")
        # Another one than was asked for if it was renamed.
        repository = str(info.id)
        modified = info.last_modified
        # A mirror may not have this; of the main branch the other date is the same.
        with suppress(HfHubHTTPError):
            modified = _date_of(replace(access, repository=repository), info.sha) or modified
        if modified is None:
            raise ValueError("no date")
    return Revision(repository, info.sha, modified)


def list_files(api: HfApi, access: HubAccess, commit: str) -> list[HubFile]:
    """All files of a revision."""
    files: list[HubFile] = []
    with _sense(access):
        for entry in api.list_repo_tree(access.repository, recursive=True, revision=commit):
            if isinstance(entry, RepoFile):
                files.append(_checked(entry))
            if len(files) > _MAX_FILES:
                raise UnsupportedModel(
                    f"`{access.repository}` has more than {_MAX_FILES} files",
                    hint="is it a model? Data sets cannot be pulled",
                )
    return files


def make_repository(api: HfApi, access: HubAccess) -> bool:
    """Make the repository if it is not there; whether it was made.

    A private one: what was shown to everybody by mistake cannot be taken back.
    """
    try:
        api.model_info(access.repository)
    except GatedRepoError:
        return False
    except RepositoryNotFoundError:
        api.create_repo(access.repository, private=True)
        return True
    return False


def find_commit(api: HfApi, access: HubAccess, wanted: str) -> str | None:
    """The commit of the main branch that was made at a time, which packages have of it."""
    newest = find_revision(api, access, None)
    if moment(newest.modified) == wanted:
        return newest.commit
    renamed = replace(access, repository=newest.repository)
    # A mirror may know of no others.
    with _sense(access), suppress(HfHubHTTPError):
        for commit, date in islice(_history(renamed, newest.commit), _MAX_COMMITS):
            if moment(date) == wanted and _COMMIT.fullmatch(commit):
                return commit
    return None


def _date_of(access: HubAccess, commit: str) -> datetime | None:
    """When a commit was made. What the hub says of the repository moves with other branches."""
    found, date = next(_history(access, commit), ("", None))
    return date if found == commit else None


def _history(access: HubAccess, commit: str) -> Iterator[tuple[str, datetime]]:
    """A commit and those before it, newest first, and when they were made."""
    url = f"{access.endpoint}/api/models/{access.repository}/commits/{quote(commit, safe='')}"
    headers = build_hf_headers(token=access.token or False, library_name="model-runner")
    for entry in paginate(url, params={}, headers=headers):
        yield entry["id"], parse_datetime(entry["date"])


def _checked(entry: RepoFile) -> HubFile:
    size, digest = entry.size, None
    if entry.lfs is not None:
        size = entry.lfs.size
        if not isinstance(entry.lfs.sha256, str) or not _SHA256.fullmatch(entry.lfs.sha256):
            raise ValueError(f"`{entry.path[:200]}` has no digest")
        digest = f"sha256:{entry.lfs.sha256}"
    if type(size) is not int or size < 0 or not isinstance(entry.path, str):
        raise ValueError(f"`{str(entry.path)[:200]}` has no size")
    return HubFile(entry.path, size, str(entry.blob_id), digest)


@contextmanager
def _sense(access: HubAccess) -> Iterator[None]:
    """Turn what the library makes of nonsense into an error in words."""
    try:
        yield
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        if isinstance(error, HFValidationError):
            raise
        raise RegistryError(
            f"`{access.host}` does not answer as a Hugging Face hub does: {error}"[:500],
            hint="is HF_ENDPOINT right?",
        ) from error


class _Bounded(httpx2.SyncByteStream):
    """The body of an answer, up to a limit."""

    def __init__(self, stream: httpx2.SyncByteStream, host: str) -> None:
        self._stream = stream
        self._host = host

    def __iter__(self) -> Iterator[bytes]:
        taken = 0
        for piece in self._stream:
            taken += len(piece)
            if taken > _MAX_ANSWER:
                raise RegistryError(f"`{self._host}` answers with more than {_MAX_ANSWER} bytes")
            yield piece

    def close(self) -> None:
        self._stream.close()


def _before(request: httpx2.Request) -> None:
    asker = _ASKING.get(None)
    if asker is None:
        return  # it is no hub that is asked: a token that runs out is made anew
    access, abandoned, _ = asker
    if abandoned.is_set():
        raise Abandoned
    if "Authorization" in request.headers and _origin(request.url) != _origin(
        httpx2.URL(access.endpoint)
    ):
        raise RegistryUnauthorized(
            f"`{access.host}` leads to `{request.url.host}`, which is not shown the token"
        )


def _after(response: httpx2.Response) -> None:
    asker = _ASKING.get(None)
    if asker is None:
        return
    access, _, patient = asker
    if response.status_code in _TRY_AGAIN and not patient:
        raise ComeAgain(response.status_code, _asked(response))
    if isinstance(response.stream, httpx2.SyncByteStream):
        response.stream = _Bounded(response.stream, access.host)


def _asked(response: httpx2.Response) -> float:
    """The seconds after which a hub wants to be asked again; it says so in one of two ways."""
    limit = parse_ratelimit_headers(response.headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    value = response.headers.get("Retry-After", "")
    return float(value[:9]) if value.isascii() and value.isdecimal() else 0.0


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _client() -> httpx2.Client:
    return httpx2.Client(
        event_hooks={"request": [_before], "response": [_after]},
        follow_redirects=True,
        timeout=httpx2.Timeout(_STALL_SECONDS, connect=_CONNECT_SECONDS, read=_ANSWER_SECONDS),
    )


huggingface_hub.set_client_factory(_client)
disable_progress_bars()
# Xet uploads tell nobody how far they are, and cannot be stopped. The hub takes both.
constants.HF_HUB_DISABLE_XET = True
