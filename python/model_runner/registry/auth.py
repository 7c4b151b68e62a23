"""Answers a registry's 401: reads the challenge, gets a token or makes a header, remembers it.

The wire format is that of RFC 9110 (challenges) and of the Docker Registry token protocol: a GET of
the realm with Basic, or anonymous; for identity tokens, and for realms that know no GET, an OAuth 2
form.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

from yarl import URL

from model_runner.errors import RegistryError, RegistryUnauthorized
from model_runner.registry.credentials import DOCKER_HUB_HOSTS, Credential, find_credential

if TYPE_CHECKING:
    from model_runner.registry.mirrors import Mirror

_CLIENT_ID = "model-runner"

# The token protocol's default when a realm does not say for how long its token is good.
_DEFAULT_LIFETIME = 60.0

# A year.
_LONGEST_LIFETIME = 365 * 24 * 3600

# A login that needs no token is looked up again after this time, so that a `docker logout` counts.
_LOGIN_LIFETIME = 300.0

# Renew a little early: a request that leaves with a valid token must not arrive with a stale one.
_EARLY = 0.9

# Answers to a GET that mean "ask in another way", not "no".
_ASK_OTHERWISE = frozenset({404, 405})

# Answers to an OAuth form that mean "this is no refresh token".
_NOT_A_REFRESH_TOKEN = frozenset({400, 401, 404, 405})

_PARAMETER = re.compile(
    r'\s*,?\s*(?P<name>[!#$%&\'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<bare>[^\s,"]*))'
)
_SCHEME = re.compile(r"\s*,?\s*(?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?=\s|,|$)")


@dataclass(frozen=True, slots=True)
class Access:
    """One caller's way into one repository; also the key under which its authorisation is kept.

    Attributes:
        registry: `host` or `host:port`.
        repository: Path below the registry.
        token: A token that came with the request, in place of any login on this machine.
        writes: Whether the repository is written, too.
        other: Another repository of the registry that blobs are mounted from, or "".
        mirror: The mirror that this is, in place of the registry that names speak of.
        insecure: Whether plain http will do where nothing speaks https.
    """

    registry: str
    repository: str
    token: str | None = field(default=None, repr=False)
    writes: bool = False
    other: str = ""
    mirror: Mirror | None = None
    insecure: bool = False

    @property
    def scopes(self) -> dict[str, set[str]]:
        """What is asked of a token server: actions by resource."""
        wanted = {f"repository:{self.repository}": {"pull", "push"} if self.writes else {"pull"}}
        if self.other:
            wanted[f"repository:{self.other}"] = {"pull"}
        return wanted


@dataclass(frozen=True, slots=True)
class Challenge:
    """One way to log in that a registry offers: `basic` or `bearer`, and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a token server said."""

    status: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A question to a token server: a POST when there is a form, else a GET."""

    url: URL
    authorization: str | None = field(default=None, repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    registry: URL | None = None
    """Who sends us there."""


Exchange: TypeAlias = Callable[[TokenRequest], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class _Remembered:
    authorization: str = field(repr=False)
    until: float


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """Read `WWW-Authenticate`; it may come several times and hold several challenges each time."""
    challenges = []
    for header in headers:
        position = 0
        while scheme := _SCHEME.match(header, position):
            position = scheme.end()
            parameters = {}
            while parameter := _PARAMETER.match(header, position):
                position = parameter.end()
                quoted = parameter["quoted"]
                value = parameter["bare"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                parameters[parameter["name"].lower()] = value
            challenges.append(Challenge(scheme["scheme"].lower(), parameters))
    return challenges


def basic(credential: Credential) -> str:
    """The value of `Authorization` for a user and a password."""
    pair = f"{credential.username}:{credential.secret}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def login_hint(registry: str) -> str:
    """What a user does about a refused login."""
    host = "" if registry in DOCKER_HUB_HOSTS else f" {registry}"
    return f"log in with `docker login{host}`, or pass a token with the request"


class Authorizer:
    """Logins and tokens of one process.

    Args:
        exchange: Sends a question to a token server.
        find: Finds the login of this machine for a registry; may block.
    """

    def __init__(
        self,
        exchange: Exchange,
        find: Callable[[str], Credential | None] = find_credential,
    ) -> None:
        self._exchange = exchange
        self._find = find
        self._remembered: dict[Access, _Remembered] = {}
        self._locks: defaultdict[Access, asyncio.Lock] = defaultdict(asyncio.Lock)

    def remembered(self, access: Access) -> str | None:
        """The `Authorization` that last worked there, unless it has run out."""
        found = self._remembered.get(access)
        return found.authorization if found and found.until > time.monotonic() else None

    async def answer(
        self, access: Access, challenges: Sequence[Challenge], *, refused: str | None, asked: URL
    ) -> str:
        """The `Authorization` that answers a 401.

        Callers that are challenged at the same time share one login.

        Args:
            access: Where the answer is for.
            challenges: What the registry offers.
            refused: The `Authorization` that the 401 refused, if there was one.
            asked: Where the registry was asked.

        Raises:
            RegistryUnauthorized: There is no login, or the token server refuses it.
            RegistryError: The registry or its token server speak another protocol.
        """
        async with self._locks[access]:
            known = self.remembered(access)
            if known is not None and known != refused:
                return known
            fresh = await self._log_in(access, challenges, asked)
            self._forget_stale()
            self._remembered[access] = fresh
            return fresh.authorization

    async def user(self, access: Access) -> str | None:
        """Whose login is used there, for messages; None when the visit is anonymous."""
        credential = await self._credential(access)
        return (credential.username or "the given token") if credential else None

    async def _credential(self, access: Access) -> Credential | None:
        if access.token:
            return Credential("", access.token)
        return await asyncio.to_thread(self._find, access.registry)

    def _forget_stale(self) -> None:
        now = time.monotonic()
        for access in [key for key, value in self._remembered.items() if value.until <= now]:
            del self._remembered[access]
        for access in [key for key, lock in self._locks.items() if not lock.locked()]:
            if access not in self._remembered:
                del self._locks[access]

    async def _log_in(
        self, access: Access, challenges: Sequence[Challenge], asked: URL
    ) -> _Remembered:
        by_scheme = {challenge.scheme: challenge for challenge in reversed(challenges)}
        credential = await self._credential(access)
        if bearer := by_scheme.get("bearer"):
            return await _Realm(access, bearer, self._exchange, asked).token(credential)
        if "basic" not in by_scheme:
            offered = ", ".join(sorted(by_scheme)) or "nothing"
            message = f"registry `{access.registry}` wants a login and offers {offered}"
            raise RegistryUnauthorized(message, hint=login_hint(access.registry))
        if credential is None or not credential.username:
            message = f"registry `{access.registry}` wants a user and a password"
            raise RegistryUnauthorized(message, hint=login_hint(access.registry))
        return _Remembered(basic(credential), time.monotonic() + _LOGIN_LIFETIME)


class _Realm:
    """The token server that a Bearer challenge names."""

    def __init__(
        self,
        access: Access,
        challenge: Challenge,
        exchange: Exchange,
        asked: URL,
    ) -> None:
        self._access = access
        self._exchange = exchange
        self._asked = asked
        self._parameters = challenge.parameters
        self._url = self._checked_url(challenge.parameters.get("realm", ""))
        # A password that would travel encrypted to the registry must not leave it in the clear.
        loopback = self._url.host in {"localhost", "127.0.0.1", "::1"}
        self._confidential = self._url.scheme == "https" or asked.scheme != "https" or loopback

    async def token(self, credential: Credential | None) -> _Remembered:
        if credential is None:
            return self._read(await self._ask(TokenRequest(self._query())))
        if not self._confidential:
            server = self._url.origin()
            message = f"`{self._access.registry}` wants the login sent unencrypted to {server}"
            raise RegistryUnauthorized(message, hint="that is refused; tell the registry's owner")
        if credential.username:
            return await self._with_password(credential)
        return await self._with_token(credential.secret)

    async def _with_password(self, credential: Credential) -> _Remembered:
        url = self._query().extend_query(account=credential.username)
        answer = await self._ask(TokenRequest(url, authorization=basic(credential)))
        if answer.status in _ASK_OTHERWISE:
            form = {"username": credential.username, "password": credential.secret}
            answer = await self._post({"grant_type": "password", **form})
        return self._read(answer)

    async def _with_token(self, token: str) -> _Remembered:
        """An identity token is traded for a token; one that cannot be traded is used as it is."""
        answer = await self._post({"grant_type": "refresh_token", "refresh_token": token})
        if answer.status in _NOT_A_REFRESH_TOKEN and self._access.token:
            return _Remembered(f"Bearer {token}", time.monotonic() + _LOGIN_LIFETIME)
        return self._read(answer)

    async def _ask(self, question: TokenRequest) -> Answer:
        return await self._exchange(replace(question, registry=self._asked))

    def _query(self) -> URL:
        url = self._url
        if service := self._parameters.get("service"):
            url = url.update_query(service=service)
        for scope in self._scopes:
            url = url.extend_query(scope=scope)
        return url

    @property
    def _scopes(self) -> list[str]:
        """What the registry asks for and what we shall need; it names only what it just refused."""
        wanted = self._access.scopes
        foreign = []
        for scope in self._parameters.get("scope", "").split():
            resource, _, actions = scope.rpartition(":")
            if resource.startswith("repository:"):
                wanted.setdefault(resource, set()).update(actions.split(","))
            else:
                foreign.append(scope)
        own = [f"{resource}:{','.join(sorted(wanted[resource]))}" for resource in wanted]
        return [*own, *foreign]

    async def _post(self, form: Mapping[str, str]) -> Answer:
        service = self._parameters.get("service", "")
        common = {"service": service, "scope": " ".join(self._scopes), "client_id": _CLIENT_ID}
        return await self._ask(TokenRequest(self._url, form={**common, **form}))

    def _checked_url(self, realm: str) -> URL:
        try:
            url = URL(realm)
        except ValueError:
            url = URL()
        if url.scheme not in {"http", "https"} or not url.host:
            message = (
                f"registry `{self._access.registry}` names no usable token server: `{realm[:200]}`"
            )
            raise RegistryError(message)
        return url

    def _read(self, answer: Answer) -> _Remembered:
        if answer.status in {400, 401, 403}:
            message = (
                f"the token server of `{self._access.registry}` refused the login ({answer.status})"
            )
            raise RegistryUnauthorized(message, hint=login_hint(self._access.registry))
        try:
            fields = json.loads(answer.body) if answer.status == 200 else None
        except (ValueError, RecursionError):
            fields = None
        fields = fields if isinstance(fields, dict) else {}
        token = fields.get("token") or fields.get("access_token")
        # A line break in a header would start another header.
        if not isinstance(token, str) or not token.isascii() or not token.isprintable():
            message = (
                f"the token server of `{self._access.registry}` gave no token ({answer.status})"
            )
            raise RegistryError(message)
        lifetime = fields.get("expires_in")
        seconds = _DEFAULT_LIFETIME
        if isinstance(lifetime, int | float):
            # Above the limit are numbers that no float can be.
            seconds = float(min(lifetime, _LONGEST_LIFETIME))
        return _Remembered(f"Bearer {token}", time.monotonic() + seconds * _EARLY)
