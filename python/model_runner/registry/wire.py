"""HTTP as registries need it: the right scheme, logins, redirects that leak nothing, retries.

Which scheme a registry is asked over: http for every registry when `INSECURE_REGISTRY=true`, and
for `localhost`, `*.localhost` and `*.local`; for loopback addresses https, and http when nothing
there speaks https; https for all others.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

import model_runner
from model_runner.errors import (
    RegistryError,
    RegistryUnauthorized,
    RegistryUnreachable,
    ShuttingDown,
)
from model_runner.registry.auth import (
    Access,
    Answer,
    Authorizer,
    TokenRequest,
    login_hint,
    parse_challenges,
)
from model_runner.registry.credentials import DOCKER_HUB_HOSTS

if TYPE_CHECKING:
    from collections.abc import Mapping

_DOCKER_HUB_API = "registry-1.docker.io"

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10

# The registry is there but cannot answer now; the same question may be answered later.
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})

# Largest answer of a token server; real ones are a few KiB.
_MAX_ANSWER = 1024 * 1024

# A body is handed over in pieces of up to twice this size. Each costs a thread hop, so larger is
# cheaper; what is in there when a connection breaks is lost, so smaller is better.
_READ_BUFFER = 256 * 1024

TRANSPORT_ERRORS = (aiohttp.ClientError, asyncio.TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a registry may take and how often it is asked again.

    Attributes:
        connect: Seconds for a connection, TLS included.
        stall: Seconds without a byte after which a connection counts as broken.
        tries: How often one request is sent in all; for a body, how often in a row it may break
            without progress.
        pause: Seconds before the second try, give or take half; doubled before each further one.
    """

    connect: float = 15.0
    stall: float = 30.0
    tries: int = 3
    pause: float = 0.3

    async def wait(self, failures: int) -> None:
        """Pause after that many failures in a row."""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads clients, hides nothing
        await asyncio.sleep(self.pause * 2 ** (failures - 1) * jitter)


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)

    def redirected(self, target: URL) -> _Call:
        """The same call elsewhere. Another origin is not shown the login; `Range` goes along."""
        headers = dict(self.headers)
        if target.origin() != self.url.origin():
            headers.pop("Authorization", None)
        return replace(self, url=target, headers=headers)


class Wire:
    """The connections of one process to all its registries.

    Args:
        insecure: Whether every registry is asked over plain http.
        patience: How long to wait and how often to try.
    """

    def __init__(self, *, insecure: bool, patience: Patience) -> None:
        self.patience = patience
        self._insecure = insecure
        self._authorizer = Authorizer(self._exchange)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        self._loopback_schemes: dict[str, str] = {}

    async def request(
        self, method: str, access: Access, path: str, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Ask a registry, logging in when it says 401.

        Args:
            method: `GET` or `HEAD`.
            access: The registry, the repository and who asks.
            path: Below the repository: `manifests/latest`.
            headers: Further headers.

        Returns:
            The response, its body not yet read, whatever its status (never 401). The caller
            releases it.

        Raises:
            RegistryUnauthorized: No login, or a refused one.
            RegistryUnreachable: No connection, after all tries.
        """
        base = await self._base(access.registry)
        url = base.join(URL(f"/v2/{access.repository}/{path}"))
        authorization = self._authorizer.remembered(access)
        for _ in range(2):
            sent = {**headers, "Authorization": authorization} if authorization else headers
            response = await self._send(_Call(method, url, sent), access.registry)
            if response.status != 401:
                return response
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            response.release()
            if response.url.origin() != url.origin():
                # A redirect's target has no claim on the login of the registry that sent us there.
                break
            authorization = await self._authorizer.answer(
                access, challenges, refused=authorization, secure=url.scheme == "https"
            )
        raise await self._refused(access)

    async def close(self) -> None:
        """Close all connections, and open no more."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _refused(self, access: Access) -> RegistryUnauthorized:
        user = await self._authorizer.user(access)
        who = f"refused the login of `{user}`" if user else "wants a login"
        message = f"registry `{access.registry}` {who} for `{access.repository}`"
        hint = login_hint(access.registry)
        if not user:
            hint += "; a repository that does not exist may look the same"
        return RegistryUnauthorized(message, hint=hint)

    async def _exchange(self, question: TokenRequest) -> Answer:
        headers = {"Accept": "application/json"}
        if question.authorization:
            headers["Authorization"] = question.authorization
        method = "GET" if question.form is None else "POST"
        call = _Call(method, question.url, headers, question.form)
        host = question.url.authority
        response = await self._send(call, host)
        try:
            body = await response.content.read(_MAX_ANSWER)
            while not response.content.at_eof() and len(body) < _MAX_ANSWER:
                body += await response.content.read(_MAX_ANSWER)
        except TRANSPORT_ERRORS as error:
            raise unreachable(host, error) from error
        finally:
            response.release()
        if response.status in _TRY_AGAIN:
            raise unavailable(host, response.status)
        return Answer(response.status, body)

    async def _send(self, call: _Call, host: str) -> aiohttp.ClientResponse:
        """Send a call as often as patience allows."""
        failures = 0
        while True:
            try:
                response = await self._follow(call)
            except aiohttp.ClientConnectorCertificateError as error:
                raise _untrusted(host, error) from error
            except TRANSPORT_ERRORS as error:
                failures += 1
                if failures >= self.patience.tries:
                    raise unreachable(host, error) from error
            else:
                failures += 1
                if response.status not in _TRY_AGAIN or failures >= self.patience.tries:
                    return response
                response.release()
            await self.patience.wait(failures)

    async def _follow(self, call: _Call) -> aiohttp.ClientResponse:
        """Send a call once, through redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._open().request(
                call.method,
                call.url,
                headers=call.headers,
                data=call.form,
                allow_redirects=False,
                proxy=_proxy(call.url),
            )
            location = response.headers.get("Location")
            # A form holds a password, so it is not sent on.
            if response.status not in _REDIRECTS or not location or call.form is not None:
                return response
            response.release()
            call = call.redirected(_target(call.url, location))
        raise RegistryError(f"`{call.url.host}` redirects more than {_MAX_REDIRECTS} times")

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ShuttingDown("the server is stopping, registries are not asked any more")
        if self._session is None:
            patience = self.patience
            # Here and not at import time, so that SSL_CERT_FILE of the moment counts.
            connector = aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context())
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=patience.connect, sock_read=patience.stall
                ),
                headers={
                    "User-Agent": f"model-runner/{model_runner.__version__}",
                    # Digests are of the bytes as stored.
                    "Accept-Encoding": "identity",
                },
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_BUFFER,
            )
        return self._session

    async def _base(self, registry: str) -> URL:
        host = _DOCKER_HUB_API if registry in DOCKER_HUB_HOSTS else registry
        try:
            return URL(f"{await self._scheme(host)}://{host}/")
        except ValueError as error:
            raise RegistryUnreachable(
                f"registry `{registry}` cannot be reached: {error}"
            ) from error

    async def _scheme(self, host: str) -> str:
        name = URL(f"//{host}").host or ""
        if self._insecure or name == "localhost" or name.endswith((".localhost", ".local")):
            return "http"
        if not _is_loopback(name):
            return "https"
        if host not in self._loopback_schemes:
            scheme = await self._probe(host)
            if scheme is None:
                return "https"
            self._loopback_schemes[host] = scheme
        return self._loopback_schemes[host]

    async def _probe(self, host: str) -> str | None:
        """Which scheme a loopback address speaks, or None when nothing answers there."""
        for scheme in ("https", "http"):
            try:
                response = await self._follow(_Call("GET", URL(f"{scheme}://{host}/v2/"), {}))
            except aiohttp.ClientConnectorCertificateError:
                return "https"
            except TRANSPORT_ERRORS:
                continue
            response.release()
            return scheme
        return None


def unreachable(host: str, error: BaseException) -> RegistryUnreachable:
    """The error for a connection that failed or broke."""
    # aiohttp's own words show Python objects.
    number = getattr(error, "errno", None)
    known = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None)
    reason = known or str(error) or type(error).__name__
    return RegistryUnreachable(
        f"registry `{host}` cannot be reached: {reason}",
        hint="check the name and the network, then try again; what has arrived is kept",
    )


def unavailable(host: str, status: int) -> RegistryUnreachable:
    """The error for a registry that cannot answer at the moment."""
    return RegistryUnreachable(
        f"registry `{host}` answers {status}", hint="try again later; what has arrived is kept"
    )


def _untrusted(host: str, error: BaseException) -> RegistryUnreachable:
    return RegistryUnreachable(
        f"registry `{host}` cannot be trusted: {error}",
        hint="name the certificate of its authority in SSL_CERT_FILE, or for a registry without "
        "https set INSECURE_REGISTRY=true",
    )


def _target(source: URL, location: str) -> URL:
    """Where a redirect leads. Signed addresses must arrive as they were written: no re-quoting."""
    try:
        target = source.join(URL(location, encoded=True))
    except ValueError:
        target = URL()
    if target.scheme not in {"http", "https"} or not target.host:
        raise RegistryError(f"`{source.host}` redirects to `{location[:200]}`")
    return target


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _proxy(url: URL) -> str | None:
    """The proxy that HTTP(S)_PROXY and NO_PROXY name; this machine is always asked directly.

    aiohttp's own `trust_env` would also send logins out of ~/.netrc.
    """
    host = url.host or ""
    if host == "localhost" or _is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return None
    return getproxies().get(url.scheme)
