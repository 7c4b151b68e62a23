"""Where registries are: over which scheme and proxy they are asked, and which hosts are private.

http is for every registry when `INSECURE_REGISTRY=true`, for those that
MODEL_RUNNER_INSECURE_REGISTRIES names, and for `localhost`, `*.localhost` and `*.local`; for
loopback addresses, and for whoever says that it need not be secure, https, and http when nothing
there speaks https; https for all others.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.request import getproxies, proxy_bypass

from yarl import URL

from model_runner.errors import RegistryError, RegistryUnreachable
from model_runner.registry.credentials import DOCKER_HUB_HOSTS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from model_runner.registry.resolver import Resolver

# Near: this machine, and its link, where clouds serve their secrets. Private: the network around.
Reach: TypeAlias = Literal["near", "private", "public"]
_NEAREST: tuple[Reach, ...] = ("near", "private")

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_DOCKER_HUB_API = "registry-1.docker.io"


class Places:
    """What one process knows of where its registries are.

    Args:
        insecure: Whether every registry is asked over plain http.
        insecure_hosts: `host` or `host:port` of those that are.
        resolver: Knows the addresses that connections will go to.
        probe: Finds the scheme that a host speaks, or None when nothing answers there.
    """

    def __init__(
        self,
        *,
        insecure: bool,
        insecure_hosts: Collection[str],
        resolver: Resolver,
        probe: Callable[[str], Awaitable[str | None]],
    ) -> None:
        self._insecure = insecure
        self._insecure_hosts = frozenset(insecure_hosts)
        self._probe = probe
        self._resolver = resolver
        self._probed_schemes: dict[str, str] = {}

    async def base(self, registry: str, *, insecure: bool = False) -> URL:
        """The root of a registry.

        Args:
            registry: Its name.
            insecure: Whether who asks takes plain http where nothing speaks https. Docker Hub does.

        Raises:
            RegistryUnreachable: The name is no host.
        """
        is_hub = registry in DOCKER_HUB_HOSTS
        host = _DOCKER_HUB_API if is_hub else registry
        try:
            scheme = await self._scheme(host, insecure=insecure and not is_hub)
            return URL(f"{scheme}://{host}/")
        except ValueError as error:
            raise RegistryUnreachable(
                f"registry `{registry}` cannot be reached: {error}"
            ) from error

    async def check_way(self, source: URL, target: URL, *, login: bool) -> None:
        """Refuse what a registry has no business sending us to.

        A registry out there that names a host of this machine or of the network around it would
        have us knock there in its place.

        Args:
            source: The registry, or what it has sent us to.
            target: Where it sends us now.
            login: Whether a login would be shown there.

        Raises:
            RegistryError: From a public host to a private one.
        """
        if source.host == target.host:
            return
        reach = await self._reach(target)
        if reach == "public" or await self._reach(source) != "public":
            return
        # Storage in a private network may be right for a registry whose name is public; this
        # machine is not, nor is any private host that would get a login.
        if login or reach == "near":
            raise RegistryError(
                f"`{source.host}` leads to the private address `{target.host}`, which is refused",
                hint="tell the registry's owner",
            )

    async def _scheme(self, host: str, *, insecure: bool) -> str:
        name = URL(f"//{host}").host or ""
        if self._insecure or {host, name} & self._insecure_hosts:
            return "http"
        if name == "localhost" or name.endswith((".localhost", ".local")):
            return "http"
        if not is_loopback(name) and not insecure:
            return "https"
        if host not in self._probed_schemes:
            scheme = await self._probe(host)
            if scheme is None:
                return "https"
            self._probed_schemes[host] = scheme
        return self._probed_schemes[host]

    async def _reach(self, url: URL) -> Reach:
        host = url.host or ""
        address = _address(host)
        if address is not None:
            return _reach_of(address)
        if _is_local_name(host):
            return "near"
        if proxy_of(url) is not None:
            return "public"  # only the proxy knows its address
        addresses = map(_address, await self._resolver.look_up(host))
        reaches = {_reach_of(address) for address in addresses if address is not None}
        # Of several addresses the nearest counts. A host that is not found is not reached either.
        return next((reach for reach in _NEAREST if reach in reaches), "public")


def proxy_of(url: URL) -> str | None:
    """The proxy that HTTP(S)_PROXY and NO_PROXY name; this machine is always asked directly.

    aiohttp's own `trust_env` would also send logins out of ~/.netrc.

    Raises:
        RegistryUnreachable: What they name is no address of a proxy that can be asked.
    """
    host = url.host or ""
    proxies = getproxies()
    if host == "localhost" or is_loopback(host) or proxy_bypass(f"{host}:{url.port}"):
        return None
    if _is_excepted(host, proxies.get("no", "")):
        return None
    proxy = proxies.get(url.scheme)
    return _checked_proxy(proxy, url.scheme) if proxy else None


def _checked_proxy(proxy: str, scheme: str) -> str:
    """An address as aiohttp takes it: it repeats others in its errors, with the password."""
    address = proxy if "://" in proxy else f"http://{proxy}"  # as curl reads it
    try:
        parsed = URL(address)
        usable = parsed.scheme in {"http", "https"} and bool(parsed.host)
        f"{parsed.user}{parsed.password}".encode("latin-1")  # in which Basic sends it
    except ValueError:
        usable = False
    if not usable:
        raise RegistryUnreachable(
            f"{scheme.upper()}_PROXY is not the address of an HTTP proxy",
            hint="it looks like http://user:password@host:port; in a password, write what is "
            "not a letter or a digit in percent-encoding",
        )
    return address


def is_loopback(name: str) -> bool:
    """Whether this is an address of this machine's own."""
    address = _address(name)
    return address is not None and address.is_loopback


def _is_excepted(host: str, exceptions: str) -> bool:
    """Whether NO_PROXY has the network of an address: `10.0.0.0/8`, which urllib does not know."""
    address = _address(host)
    if address is None:
        return False
    return any(address in network for network in map(_network, exceptions.split(",")) if network)


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry.strip(), strict=False) if "/" in entry else None
    except ValueError:
        return None


def _address(host: str) -> Address | None:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    # `::ffff:127.0.0.1` is the IPv4 address that it holds.
    return getattr(address, "ipv4_mapped", None) or address


def _is_local_name(host: str) -> bool:
    return host == "localhost" or host.endswith((".localhost", ".local"))


def _reach_of(address: Address) -> Reach:
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return "near"
    return "public" if address.is_global else "private"
