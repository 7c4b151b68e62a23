"""Proxies, private addresses, mirrors as they are written, and pauses."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from types import SimpleNamespace

import pytest
from multidict import CIMultiDict
from yarl import URL

from model_runner.config import Settings
from model_runner.errors import RegistryError, RegistryUnreachable
from model_runner.registry import Patience
from model_runner.registry.mirrors import Mirror
from model_runner.registry.places import Places, proxy_of
from model_runner.registry.resolver import Resolver
from model_runner.registry.wire import retry_after
from support.pulling import forget_logins


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch, tmp_path):
    forget_logins(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("url", "exceptions", "proxied"),
    [
        ("https://ghcr.io/", "", True),
        ("http://ghcr.io/", "", False),  # there is none for http
        ("https://localhost:5000/", "", False),
        ("https://127.0.0.1/", "", False),
        ("https://[::1]/", "", False),
        ("https://ghcr.io/", "other.io,ghcr.io", False),
        ("https://ghcr.io/", ".io", False),
        ("https://ghcr.io/", "*", False),
        ("https://10.1.2.3:5000/", "10.0.0.0/8", False),
        ("https://11.1.2.3/", "10.0.0.0/8, nonsense/99", True),
        ("https://[fd00::1]/", "10.0.0.0/8,fd00::/8", False),
    ],
)
def test_which_registries_are_asked_through_the_proxy(monkeypatch, url, exceptions, proxied):
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", exceptions)
    assert proxy_of(URL(url)) == ("http://proxy:3128" if proxied else None)


def test_a_proxy_without_a_scheme_is_asked_as_curl_does(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "user:secret@proxy:3128")
    assert proxy_of(URL("https://ghcr.io/")) == "http://user:secret@proxy:3128"


@pytest.mark.parametrize(
    "address",
    [
        "http://user:secret@",
        "http://user:secret@proxy:port",
        "http://[user:secret@proxy",
        "http://user:secret\u20ac@proxy",
        "socks5://user:secret@proxy:1080",
    ],
)
def test_a_proxy_that_cannot_be_asked_is_named_without_its_password(monkeypatch, address):
    monkeypatch.setenv("HTTPS_PROXY", address)
    with pytest.raises(RegistryUnreachable, match="HTTPS_PROXY is not") as refusal:
        proxy_of(URL("https://ghcr.io/"))
    assert "secret" not in str(refusal.value)


_ADDRESSES = {
    "public.example": "93.184.216.34",
    "inside.example": "10.0.0.7",
    "here.example": "127.0.0.1",
    "cloud.example": "169.254.169.254",
    "mapped.example": "::ffff:127.0.0.1",
}


@pytest.fixture
def places(monkeypatch):
    """Places of an internet of few names."""

    async def resolve(_loop, host, *_arguments, **_options):
        if host not in _ADDRESSES:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (_ADDRESSES[host], 0))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)

    async def probe(_host):
        return None

    return Places(
        insecure=False,
        insecure_hosts=["plain.example", "some.example:5000"],
        resolver=Resolver(),
        probe=probe,
    )


@pytest.mark.parametrize(
    ("source", "target", "login", "refused"),
    [
        ("public.example", "public.example", True, False),
        ("public.example", "unknown.example", True, False),
        ("public.example", "93.184.216.35", True, False),
        ("public.example", "inside.example", False, False),
        ("public.example", "inside.example", True, True),
        ("public.example", "10.0.0.8", True, True),
        ("public.example", "here.example", False, True),
        ("public.example", "localhost", False, True),
        ("public.example", "cloud.example", False, True),
        ("public.example", "mapped.example", False, True),
        ("public.example", "[::ffff:127.0.0.1]", False, True),
        ("inside.example", "10.0.0.8", True, False),
        ("localhost", "127.0.0.1", True, False),
    ],
)
def test_where_a_registry_may_lead(places, source, target, login, refused):
    way = places.check_way(URL(f"https://{source}/v2/"), URL(f"https://{target}/"), login=login)
    if refused:
        with pytest.raises(RegistryError, match="private address"):
            asyncio.run(way)
    else:
        asyncio.run(way)


@pytest.mark.parametrize("first", ["93.184.216.34", None], ids=["elsewhere", "not found"])
def test_a_name_cannot_lead_here_after_it_was_checked(monkeypatch, first):
    answers = [first, "127.0.0.1"]

    async def resolve(_loop, *_arguments, **_options):
        answer = answers.pop(0)
        if answer is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (answer, 0))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)

    async def check_and_connect():
        resolver = Resolver()
        assert await resolver.look_up("storage.example") == ([first] if first else [])
        return await resolver.resolve("storage.example", 443)

    if first is None:
        with pytest.raises(OSError, match="not known"):
            asyncio.run(check_and_connect())
    else:
        (result,) = asyncio.run(check_and_connect())
        assert (result["host"], result["port"]) == (first, 443)


@pytest.mark.parametrize(
    ("registry", "base"),
    [
        ("docker.io", "https://registry-1.docker.io/"),
        ("ghcr.io", "https://ghcr.io/"),
        ("plain.example", "http://plain.example/"),
        ("plain.example:8080", "http://plain.example:8080/"),
        ("some.example:5000", "http://some.example:5000/"),
        ("some.example", "https://some.example/"),
        ("localhost:5000", "http://localhost:5000/"),
        ("foo.local", "http://foo.local/"),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/"),  # nothing answers there
    ],
)
def test_over_which_scheme_a_registry_is_asked(places, registry, base):
    assert asyncio.run(places.base(registry)) == URL(base)


def test_mirrors_as_people_write_them(monkeypatch):
    monkeypatch.setenv(
        "MODEL_RUNNER_REGISTRY_MIRRORS",
        ' "mirror.example , https://Host.example:5000/Cache/ ,http://10.0.0.1/v2/" ',
    )
    assert [Mirror.parse(one) for one in Settings().mirror_list] == [
        Mirror("mirror.example", "", "/v2"),
        Mirror("host.example:5000", "https", "/Cache/v2"),
        Mirror("10.0.0.1", "http", "/v2"),
    ]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_RUNNER_REGISTRY_MIRRORS", "https://user:secret@mirror.example"),
        ("MODEL_RUNNER_REGISTRY_MIRRORS", "ftp://mirror.example"),
        ("MODEL_RUNNER_REGISTRY_MIRRORS", "mirror.example,https://"),
        ("MODEL_RUNNER_REGISTRY_MIRRORS", "http://mirror.example:65536/v2"),
        ("MODEL_RUNNER_INSECURE_REGISTRIES", "http://registry.example"),
        ("MODEL_RUNNER_INSECURE_REGISTRIES", "registry.example/path"),
        ("MODEL_RUNNER_INSECURE_REGISTRIES", "registry.example:99999"),
    ],
)
def test_hosts_that_cannot_be_are_refused_at_the_start(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match="it looks like"):
        Settings()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        ("99999999999999999999", 999999999),
        ("", 0),
        ("-1", 0),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 99999 07:28:00 GMT", 0),
    ],
)
def test_how_long_a_registry_wants_to_be_left_alone(value, seconds):
    assert retry_after(SimpleNamespace(headers=CIMultiDict({"Retry-After": value}))) == seconds


def test_a_registry_may_name_a_time():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    found = retry_after(SimpleNamespace(headers=CIMultiDict({"Retry-After": date})))
    assert 90 < found <= 100


def test_pauses_grow_and_differ_and_are_as_long_as_was_asked_up_to_a_limit(monkeypatch):
    pauses = []

    async def sleep(seconds):
        pauses.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)

    async def main():
        patience = Patience(pause=1.0, longest_pause=60.0)
        for failures in (1, 2, 3) * 10:
            await patience.wait(failures)
        for asked in (30.0, 3600.0):
            await patience.wait(1, asked=asked)

    asyncio.run(main())
    for failures, usual in ((1, 1), (2, 2), (3, 4)):
        of_these = pauses[failures - 1 : 30 : 3]
        assert all(usual * 0.5 <= pause <= usual * 1.5 for pause in of_these)
        assert len(set(of_these)) > 1
    assert pauses[30:] == [30.0, 60.0]


@pytest.mark.parametrize(
    ("registry", "speaks", "insecure", "expected"),
    [
        ("registry.example", "http", True, "http://registry.example/"),
        ("registry.example", "https", True, "https://registry.example/"),
        ("registry.example", None, True, "https://registry.example/"),
        ("registry.example", "http", False, "https://registry.example/"),
        ("docker.io", "http", True, "https://registry-1.docker.io/"),
    ],
)
def test_plain_http_only_for_who_asks_for_it(registry, speaks, insecure, expected):
    async def probe(_host):
        return speaks

    places = Places(insecure=False, insecure_hosts=(), resolver=Resolver(), probe=probe)

    async def main():
        first = await places.base(registry, insecure=insecure)
        await places.base(registry, insecure=True)
        # That somebody else takes plain http changes nothing for who does not.
        return first, await places.base(registry)

    first, secure = asyncio.run(main())
    assert str(first) == expected
    assert secure.scheme == "https"
