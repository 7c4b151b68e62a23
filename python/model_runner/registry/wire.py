"""HTTP as registries need it: logins, redirects that leak nothing, retries, bodies both ways."""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import socket
import ssl
import time
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

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
from model_runner.registry.places import Places, proxy_of
from model_runner.registry.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from model_runner.config import Settings

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_REDIRECTS = 10

# The registry is there but cannot answer now; the same question may be answered later.
_TRY_AGAIN = frozenset({408, 429, 500, 502, 503, 504})

# What a proxy says that wants a login.
_PROXY_LOGIN = 407

# Largest answer of a token server; real ones are a few KiB.
_MAX_ANSWER = 1024 * 1024

# A body is handed over in pieces of up to twice this size. Each costs a thread hop, so larger is
# cheaper; what is in there when a connection breaks is lost, so smaller is better.
_READ_BUFFER = 256 * 1024

# Takes the connection of the request that this task makes.
_LENT: ContextVar[list[asyncio.Transport]] = ContextVar("lent")

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
        longest_pause: Seconds that a registry may ask for with `Retry-After`.
        small: Seconds for all of a manifest or a configuration.
        settle: Seconds that a registry may think about what it was sent.
    """

    connect: float = 15.0
    stall: float = 30.0
    tries: int = 5
    pause: float = 0.3
    longest_pause: float = 60.0
    small: float = 300.0
    settle: float = 300.0

    async def wait(self, failures: int, *, asked: float = 0.0) -> None:
        """Pause after that many failures in a row, as long as was asked for if that is longer."""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads clients, hides nothing
        pause = self.pause * 2 ** (failures - 1) * jitter
        await asyncio.sleep(max(pause, min(asked, self.longest_pause)))


class Body(Protocol):
    """What is sent. It may be sent several times, each time from its beginning."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    @property
    def sent(self) -> int:
        """Bytes that the connection has taken so far."""

    @property
    def tries(self) -> int | None:
        """How often it is sent in all; None: as often as patience allows."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The bytes."""


class Document:
    """A small body, in memory."""

    sent = 0
    tries: int | None = None

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    async def pieces(self) -> AsyncIterator[bytes]:
        """All at once."""
        yield self._data


@dataclass(frozen=True, slots=True)
class _Call:
    method: str
    url: URL
    headers: Mapping[str, str] = field(repr=False)
    form: Mapping[str, str] | None = field(default=None, repr=False)
    body: Body | None = None
    tries: int | None = None
    passing: Callable[[aiohttp.ClientResponse], None] | None = None

    def redirected(self, target: URL) -> _Call:
        """The same call elsewhere. Another origin is not shown the login; `Range` goes along."""
        headers = dict(self.headers)
        if target.origin() != self.url.origin():
            headers.pop("Authorization", None)
        return replace(self, url=target, headers=headers)


class _Connector(aiohttp.TCPConnector):
    """Tells who sends a body which connection it got."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        lent = _LENT.get(None)
        if lent is not None and connection.transport is not None:
            lent.append(connection.transport)
        return connection


class Wire:
    """The connections of one process to all its registries.

    Args:
        settings: Which registries are asked over plain http.
        patience: How long to wait and how often to try.
    """

    def __init__(self, settings: Settings, patience: Patience) -> None:
        self.patience = patience
        self._resolver = Resolver()
        self._places = Places(
            insecure=settings.insecure_registry,
            insecure_hosts=settings.insecure_registry_list,
            resolver=self._resolver,
            probe=self._probe,
        )
        self._authorizer = Authorizer(self._exchange)
        self._session: aiohttp.ClientSession | None = None
        self._closed = False
        # The connections of answers to requests with a body.
        self._busy: WeakKeyDictionary[aiohttp.ClientResponse, asyncio.Transport] = (
            WeakKeyDictionary()
        )

    async def request(
        self,
        method: str,
        access: Access,
        path: str | URL,
        headers: Mapping[str, str],
        body: Body | None = None,
    ) -> aiohttp.ClientResponse:
        """Ask a registry, logging in when it says 401.

        Args:
            method: `GET`, `HEAD`, `POST`, `PUT` or `PATCH`.
            access: The registry, the repository and who asks.
            path: Below the repository: `manifests/latest`; or an address that the registry gave.
            headers: Further headers.
            body: What is sent.

        Returns:
            The response, its body not yet read, whatever its status (never 401). The caller
            releases it.

        Raises:
            RegistryUnauthorized: No login, or a refused one.
            RegistryUnreachable: No connection, after all tries.
            RegistryError: It redirects in a circle, or to where it has no business.
        """
        base = await self._base(access)
        url = base.join(path) if isinstance(path, URL) else _below(base, access, path)
        # An address that the registry gave may be elsewhere; its login is not for there.
        at_home = url.origin() == base.origin()
        authorization = self._authorizer.remembered(access) if at_home else None
        for _ in range(2):
            sent = {**headers, "Authorization": authorization} if authorization else headers
            call = _Call(method, url, sent, body=body, tries=1 if access.mirror else None)
            response = await self._send(call, access.registry)
            if response.status != 401:
                return response
            challenges = parse_challenges(response.headers.getall("WWW-Authenticate", []))
            self.release(response)
            if not at_home or response.url.origin() != url.origin():
                # A redirect's target has no claim on the login of the registry that sent us there.
                break
            authorization = await self._authorizer.answer(
                access, challenges, refused=authorization, asked=url
            )
        raise await self._refused(access)

    def release(self, response: aiohttp.ClientResponse) -> None:
        """Let go of the answer to a request with a body, of which not all may have been sent."""
        response.release()
        transport = self._busy.pop(response, None)
        if transport is not None and transport.get_write_buffer_size():
            # Closing alone would first deliver what was refused already.
            transport.abort()

    async def get(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        passing: Callable[[aiohttp.ClientResponse], None],
    ) -> aiohttp.ClientResponse:
        """Fetch from a server that is no registry; it alone is shown an `Authorization`.

        Args:
            url: Where.
            headers: What is sent.
            passing: Sees each redirect before it is followed, and the response; it may raise.

        Returns:
            The response, its body not yet read, whatever its status. The caller releases it.

        Raises:
            RegistryUnreachable: No connection, after all tries.
            RegistryError: It redirects in a circle, or to where it has no business.
        """
        return await self._send(_Call("GET", url, headers, passing=passing), url.authority)

    async def target(self, access: Access, response: aiohttp.ClientResponse) -> URL:
        """Where an answer's `Location` leads, as an address to send something to.

        Raises:
            RegistryError: Nowhere, or to a host that the registry has no business naming.
        """
        base = await self._base(access)
        target = _target(response.url, response.headers.get("Location", ""))
        if target.host == base.host and (base.scheme, target.scheme) == ("https", "http"):
            # A registry that does not know of the TLS in front of it.
            return target.with_scheme("https").with_port(base.explicit_port)
        await self._places.check_way(base, target, login=True)
        return target

    async def _base(self, access: Access) -> URL:
        mirror = access.mirror
        if mirror is not None and mirror.scheme:
            return URL(f"{mirror.scheme}://{mirror.host}/")
        return await self._places.base(access.registry, insecure=access.insecure)

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
        if question.registry is not None:
            secret = question.authorization is not None or question.form is not None
            await self._places.check_way(question.registry, question.url, login=secret)
        try:
            return await asyncio.wait_for(self._answer(call, host), self.patience.small)
        except TRANSPORT_ERRORS as error:
            raise unreachable(host, error) from error

    async def _answer(self, call: _Call, host: str) -> Answer:
        response = await self._send(call, host)
        try:
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > _MAX_ANSWER:
                    raise RegistryError(f"`{host}` answers with more than {_MAX_ANSWER} bytes")
        finally:
            response.release()
        if response.status in _TRY_AGAIN:
            raise unavailable(host, response)
        return Answer(response.status, bytes(body))

    async def _send(self, call: _Call, host: str) -> aiohttp.ClientResponse:
        """Send a call as often as patience allows."""
        tries = (call.body.tries if call.body else None) or call.tries or self.patience.tries
        failures = 0
        while True:
            asked = 0.0
            try:
                response = await self._follow(call)
            except aiohttp.ClientConnectorCertificateError as error:
                raise _untrusted(host, error) from error
            except aiohttp.ClientHttpProxyError as error:
                raise _refused_by_proxy(host, error.status) from error
            except TRANSPORT_ERRORS as error:
                failures += 1
                if failures >= tries or _is_unknown(error):
                    raise unreachable(host, error) from error
            else:
                failures += 1
                if response.status == _PROXY_LOGIN:
                    self.release(response)
                    raise _refused_by_proxy(host, response.status)
                if response.status not in _TRY_AGAIN or failures >= tries:
                    return response
                asked = retry_after(response)
                self.release(response)
            await self.patience.wait(failures, asked=asked)

    async def _follow(self, call: _Call) -> aiohttp.ClientResponse:
        """Send a call once, through redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            response = await self._once(call)
            if call.passing is not None:
                try:
                    call.passing(response)
                except RegistryError:
                    response.close()
                    raise
            location = response.headers.get("Location")
            # A form holds a password, so it is not sent on.
            if response.status not in _REDIRECTS or not location or call.form is not None:
                return response
            self.release(response)
            target = _target(call.url, location)
            await self._places.check_way(call.url, target, login=call.body is not None)
            call = call.redirected(target)
        raise RegistryError(f"`{call.url.host}` redirects more than {_MAX_REDIRECTS} times")

    async def _once(self, call: _Call) -> aiohttp.ClientResponse:
        session = self._open()
        proxy = proxy_of(call.url)
        if call.body is None:
            return await session.request(
                call.method,
                call.url,
                headers=call.headers,
                data=call.form,
                allow_redirects=False,
                proxy=proxy,
            )
        lent: list[asyncio.Transport] = []
        token = _LENT.set(lent)
        sending = asyncio.ensure_future(
            session.request(
                call.method,
                call.url,
                headers={**call.headers, "Content-Length": str(call.body.size)},
                data=call.body.pieces() if call.body.size else b"",
                allow_redirects=False,
                proxy=proxy,
                timeout=aiohttp.ClientTimeout(
                    total=None, connect=self.patience.connect, sock_read=self.patience.settle
                ),
            )
        )
        _LENT.reset(token)
        try:
            response = await self._watched(sending, call.body)
        except BaseException:
            # Closing alone would first deliver what is on its way.
            for transport in lent:
                transport.abort()
            raise
        for transport in lent:
            self._busy[response] = transport
        return response

    async def _watched(
        self, sending: asyncio.Future[aiohttp.ClientResponse], body: Body
    ) -> aiohttp.ClientResponse:
        """The response, unless the connection takes nothing any more: aiohttp would just wait."""
        taken = -1
        try:
            while not (await asyncio.wait({sending}, timeout=self.patience.stall))[0]:
                if taken == body.sent < body.size:
                    raise asyncio.TimeoutError("the connection takes no more bytes")
                taken = body.sent
            return sending.result()
        finally:
            if not sending.done():
                sending.cancel()
                await asyncio.wait({sending})

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ShuttingDown("the server is stopping, registries are not asked any more")
        if self._session is None:
            patience = self.patience
            # Here and not at import time, so that SSL_CERT_FILE of the moment counts.
            connector = _Connector(
                limit=0,
                ssl=ssl.create_default_context(),
                resolver=self._resolver,
                use_dns_cache=False,
            )
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


def _below(base: URL, access: Access, path: str) -> URL:
    if access.mirror is None:
        return base.join(URL(f"/v2/{access.repository}/{path}"))
    # The mirror may stand for several registries: `ns` says which of them is meant.
    place = base.join(URL(f"{access.mirror.path}/{access.repository}/{path}"))
    return place.with_query(ns="docker.io")


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


def unavailable(host: str, response: aiohttp.ClientResponse) -> RegistryUnreachable:
    """The error for a registry that cannot answer at the moment."""
    asked = retry_after(response)
    when = f"in {asked:.0f} seconds, as it asks" if asked else "later"
    return RegistryUnreachable(
        f"registry `{host}` answers {response.status}",
        hint=f"try again {when}; what has arrived is kept",
    )


def retry_after(response: aiohttp.ClientResponse) -> float:
    """Seconds that a server asks for with `Retry-After`, a number or a date; else 0."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _is_unknown(error: BaseException) -> bool:
    """Whether there is no such host, which asking again does not change."""
    return (
        isinstance(error, aiohttp.ClientConnectorDNSError)
        and error.os_error.errno == socket.EAI_NONAME
    )


def _untrusted(host: str, error: aiohttp.ClientConnectorCertificateError) -> RegistryUnreachable:
    problem = error.certificate_error
    reason = getattr(problem, "verify_message", "") or str(problem)
    return RegistryUnreachable(
        f"registry `{host}` cannot be trusted: {reason}",
        hint="name the certificate of its authority in SSL_CERT_FILE, or for a registry without "
        f"https add it to MODEL_RUNNER_INSECURE_REGISTRIES: `{host}`",
    )


def _refused_by_proxy(host: str, status: int) -> RegistryUnreachable:
    # aiohttp's own words may show the proxy's address with its password.
    return RegistryUnreachable(
        f"the proxy on the way to `{host}` answers {status}",
        hint="its login belongs into the address: HTTPS_PROXY=http://user:password@host:port"
        if status == _PROXY_LOGIN
        else "check the name of the registry, HTTPS_PROXY and NO_PROXY",
    )


def _target(source: URL, location: str) -> URL:
    """Where a redirect leads. Signed addresses must arrive as they were written: no re-quoting."""
    try:
        target = source.join(URL(location, encoded=True))
    except ValueError:
        target = URL()
    if target.scheme not in {"http", "https"} or not target.host or target.user is not None:
        # It may hold a login, which is nobody's business.
        shown = location.rpartition("@")[2][:200]
        raise RegistryError(f"`{source.host}` redirects to `{shown}`")
    return target
