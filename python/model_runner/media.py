"""Images that a request names by their address, fetched for the engine from where it is safe to.

An engine that fetched them itself would ask whatever answers on this machine and in its network on
behalf of anybody. So only public addresses are asked, the address that was looked at is the one
that is connected to, and only images come back.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

import model_runner
from model_runner.errors import InvalidRequest, MediaNotFetched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from model_runner.config import Settings

_MAX_IMAGES = 16
_MAX_BYTES = 10 * 1024 * 1024
_MAX_REDIRECTS = 3
_SECONDS = 10.0
# Requests whose images are held in memory at the same time; the others wait.
_AT_ONCE = 4

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 64 * 1024

# 2000::/3 is all of IPv6 that is routed; inside it, two ranges stand for IPv4 addresses.
_ROUTED = ipaddress.IPv6Network("2000::/3")
_WRAPPING = (ipaddress.IPv6Network("2002::/16"), ipaddress.IPv6Network("2001::/32"))

# What aiohttp takes for an address and does not resolve. `2130706433` and `127.1` are among it,
# and mean 127.0.0.1 to the system.
_NUMERIC = re.compile(r"[\d.]+|.*:.*")

_HOST = re.compile(r"(?!-)[a-z\d_-]{1,63}(\.[a-z\d_-]{1,63})*\.?", re.IGNORECASE)

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
)

_INLINE = "send the image itself, as a `data:image/png;base64,…` URL"


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be asked besides public addresses.

    Attributes:
        names: Hosts, wherever they are.
        networks: Addresses, whatever leads there.
    """

    names: frozenset[str]
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]

    @classmethod
    def parse(cls, text: str) -> Allowed:
        """Read a list of hosts, addresses and networks, separated by commas.

        Raises:
            InvalidRequest: Something in it is none of those.
        """
        entries = [entry for part in text.split(",") if (entry := part.strip())]
        networks = {entry: _network(entry) for entry in entries}
        for entry, network in networks.items():
            if network is None and (_NUMERIC.fullmatch(entry) or not _HOST.fullmatch(entry)):
                raise InvalidRequest(
                    f"`{entry}` in MODEL_RUNNER_MEDIA_HOSTS is no host and no network",
                    hint="it looks like `images.example.com, 10.1.0.0/16`",
                )
        return cls(
            frozenset(_folded(entry) for entry, network in networks.items() if network is None),
            tuple(network for network in networks.values() if network is not None),
        )

    def name(self, host: str) -> bool:
        """Whether a host may be asked wherever it is."""
        return _folded(host) in self.names

    def address(self, text: str) -> bool:
        """Whether an address may be asked."""
        address = ipaddress.ip_address(text.partition("%")[0])
        return is_public(address) or any(address in network for network in self.networks)


class Media:
    """Fetches the images of requests.

    Args:
        settings: Whether it does, and where from besides public addresses.
        resolver: Finds the addresses of hosts; by default the system does.
        seconds: How long one image may take, redirects included.

    Raises:
        InvalidRequest: The settings name something that is no host.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: AbstractResolver | None = None,
        seconds: float = _SECONDS,
    ) -> None:
        self._enabled = settings.fetch_media
        self._limit = settings.body_limit
        self._allowed = Allowed.parse(settings.media_hosts)
        self._resolver = resolver
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None
        self._turn = asyncio.Semaphore(_AT_ONCE)

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()

    async def fetch(self, urls: Sequence[str]) -> list[str]:
        """What is at each address, as `data:` URLs in the same order.

        Cancelling it ends all connections.

        Raises:
            MediaNotFetched: One of them is not fetched, and why.
        """
        if not self._enabled:
            raise MediaNotFetched("images are not fetched from addresses here", hint=_INLINE)
        if len(urls) > _MAX_IMAGES:
            raise MediaNotFetched(
                f"the request names {len(urls)} images by address, of at most {_MAX_IMAGES}",
                hint="send fewer images, or some of them as `data:` URLs",
            )
        async with self._turn:
            budget = _Budget(self._limit)
            fetching = [asyncio.ensure_future(self._fetch(url, budget)) for url in urls]
            try:
                return await asyncio.gather(*fetching)
            finally:
                for task in fetching:
                    task.cancel()
                await asyncio.gather(*fetching, return_exceptions=True)

    async def _fetch(self, address: str, budget: _Budget) -> str:
        try:
            image = await asyncio.wait_for(self._follow(_parse(address), budget), self._seconds)
        except asyncio.TimeoutError:
            raise _failed(address, f"it took longer than {self._seconds:g} seconds") from None
        except aiohttp.ClientError as error:
            # The name of the error only: its text would tell about hosts that are not public.
            raise _failed(address, _reason(error)) from error
        kind = image_type(image)
        if kind is None:
            raise _failed(address, "it is no PNG, JPEG, GIF, BMP or WebP image")
        return await asyncio.to_thread(_data_url, kind, image)

    async def _follow(self, url: URL, budget: _Budget) -> bytes:
        """The body behind at most so many redirects."""
        for _ in range(_MAX_REDIRECTS + 1):
            self._check(url)
            async with self._connected().get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS or "Location" not in response.headers:
                    return await _read(response, url, budget)
                url = url.join(_parse(response.headers["Location"], within=url))
        raise _failed(str(url), f"it was redirected more than {_MAX_REDIRECTS} times")

    def _check(self, url: URL) -> None:
        """Refuse what the resolver is not asked about."""
        if url.scheme not in {"http", "https"} or not url.host:
            raise _failed(str(url), "only `http://` and `https://` addresses are fetched")
        if url.user is not None or url.password is not None:
            raise _failed(str(url.with_user(None)), "an address must not carry a login")
        if _NUMERIC.fullmatch(url.host) and not self._allows_literal(url.host):
            raise _private(str(url))

    def _allows_literal(self, host: str) -> bool:
        if self._allowed.name(host):
            return True
        try:
            return self._allowed.address(host)
        except ValueError:
            return False

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            resolver = _Checked(self._resolver or ThreadedResolver(), self._allowed)
            self._session = aiohttp.ClientSession(
                # A connection that is kept was made to an address that was looked at.
                connector=aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={
                    "User-Agent": f"model-runner/{model_runner.__version__}",
                    "Accept": "image/*",
                    "Accept-Encoding": "identity",
                },
                # A small body must not become a large one.
                auto_decompress=False,
                trust_env=False,  # a proxy would look the host up by itself
            )
        return self._session


class _Checked(AbstractResolver):
    """Gives the addresses of a host that may be asked; aiohttp connects to these and no others."""

    def __init__(self, inner: AbstractResolver, allowed: Allowed) -> None:
        self._inner = inner
        self._allowed = allowed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if self._allowed.name(host):
            return found
        kept = [result for result in found if self._allowed.address(result["host"])]
        if found and not kept:
            raise _private(host)
        return kept

    async def close(self) -> None:
        await self._inner.close()


class _Budget:
    """Bytes that one request's images may have together, once they are text."""

    def __init__(self, limit: int) -> None:
        self._left = limit * 3 // 4

    def take(self, count: int, url: URL) -> None:
        self._left -= count
        if self._left < 0:
            raise _failed(str(url), "the images together are larger than a request may be")


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of the internet at large."""
    if isinstance(address, ipaddress.IPv6Address) and (
        address not in _ROUTED or any(address in network for network in _WRAPPING)
    ):
        return False
    return address.is_global and not address.is_multicast


def image_type(image: bytes) -> str | None:
    """The type of an image by its first bytes; None if it is none."""
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for magic, kind in _MAGIC if image.startswith(magic)), None)


async def _read(response: aiohttp.ClientResponse, url: URL, budget: _Budget) -> bytes:
    if response.status != 200:
        raise _failed(str(url), f"the answer was {response.status}")
    kind = response.content_type
    if not kind.startswith("image/") and kind != "application/octet-stream":
        raise _failed(str(url), f"it is `{kind}`, not an image")
    too_large = f"it is larger than {_MAX_BYTES // 1024 // 1024} MiB"
    if (response.content_length or 0) > _MAX_BYTES:
        raise _failed(str(url), too_large)
    image = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        image += chunk
        if len(image) > _MAX_BYTES:
            raise _failed(str(url), too_large)
        budget.take(len(chunk), url)
    return bytes(image)


def _parse(address: str, *, within: URL | None = None) -> URL:
    try:
        return URL(address)
    except ValueError as error:
        raise _failed(str(within or address), "it leads to what is no address") from error


def _folded(host: str) -> str:
    return host.lower().rstrip(".")


def _data_url(kind: str, image: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(image).decode('ascii')}"


def _reason(error: aiohttp.ClientError) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectionError):
        return "its host was not found, or the connection failed"
    return "its answer could not be read"


def _private(url: str) -> MediaNotFetched:
    return MediaNotFetched(
        f"`{_shown(url)}` is not fetched: it leads to a private address",
        hint=f"{_INLINE}, or allow the host with `MODEL_RUNNER_MEDIA_HOSTS`",
    )


def _failed(url: str, reason: str) -> MediaNotFetched:
    return MediaNotFetched(f"`{_shown(url)}` could not be fetched: {reason}", hint=_INLINE)


def _shown(url: str) -> str:
    return url if len(url) <= 200 else url[:200] + "…"
