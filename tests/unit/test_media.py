"""Images by address: from public addresses only, small, in time, and nothing but images."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import json
import socket
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from model_runner.config import Settings
from model_runner.errors import InvalidRequest, MediaNotFetched
from model_runner.media import Allowed, Media, image_type, is_public
from support.control_planes import serving

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
LOOPBACK = "127.0.0.0/8, ::1"
MIB = 1024 * 1024


class Names(AbstractResolver):
    """Leads hosts to addresses; a list is gone through, one look-up after the other."""

    def __init__(self, **hosts: str | list[str]) -> None:
        self._hosts = {name.replace("_", "."): found for name, found in hosts.items()}
        self.asked: list[str] = []

    async def resolve(self, host, port=0, _family=socket.AF_INET):
        self.asked.append(host)
        found = self._hosts[host]
        address = found.pop(0) if isinstance(found, list) else found
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
        ]

    async def close(self) -> None:
        pass


Handler = Callable[[web.Request], object]


@contextlib.asynccontextmanager
async def web_server(handler: Handler) -> AsyncIterator[int]:
    """A server on loopback that answers everything with `handler`; its port."""
    runner = web.ServerRunner(web.Server(handler, handler_cancellation=True), shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def png(_request: web.Request) -> web.Response:
    return web.Response(body=PNG, content_type="image/png")


@contextlib.asynccontextmanager
async def fetching(hosts: str = LOOPBACK, **options) -> AsyncIterator[Media]:
    settings = Settings(media_hosts=hosts, **options.pop("settings", {}))
    media = Media(settings, **options)
    try:
        yield media
    finally:
        await media.close()


def fetch(
    handler: Handler, paths: Sequence[str] = ("/",), *, host: str = "127.0.0.1", **options
) -> list[str]:
    async def main() -> list[str]:
        async with web_server(handler) as port, fetching(**options) as media:
            return await media.fetch([f"http://{host}:{port}{path}" for path in paths])

    return asyncio.run(main())


def refusal(handler: Handler, paths: Sequence[str] = ("/",), **options) -> str:
    with pytest.raises(MediaNotFetched) as caught:
        fetch(handler, paths, **options)
    assert caught.value.status == 400
    assert "data:" in str(caught.value)
    return str(caught.value)


def test_images_come_as_data_urls_in_their_order():
    async def each(request):
        return web.Response(body=PNG + request.path.encode(), content_type="image/png")

    found = fetch(each, ["/b", "/a"])
    assert [base64.b64decode(url.partition(",")[2])[-2:] for url in found] == [b"/b", b"/a"]
    assert all(url.startswith("data:image/png;base64,") for url in found)


def test_the_type_is_what_the_bytes_say():
    async def jpeg(_request):
        return web.Response(body=b"\xff\xd8\xff\xe0", content_type="image/png")

    assert fetch(jpeg)[0].startswith("data:image/jpeg;base64,")
    assert image_type(b"RIFF....WEBPVP8 ") == "image/webp"
    assert image_type(b"<svg>") is None


def test_what_is_no_image_is_refused():
    async def page(_request):
        return web.Response(text="<html>")

    async def liar(_request):
        return web.Response(body=b"root:x:0:0", content_type="image/png")

    async def packed(_request):
        return web.Response(body=PNG, content_type="image/png", headers={"Content-Encoding": "br"})

    assert "text/plain" in refusal(page)
    assert "no PNG" in refusal(liar)
    assert fetch(packed), "it is not unpacked, and is an image as it is"


def test_an_error_is_no_image():
    async def missing(_request):
        return web.Response(status=404, body=PNG, content_type="image/png")

    assert "404" in refusal(missing)


def test_an_image_that_is_too_large_is_not_read_to_its_end():
    sent = 0

    async def announced(_request):
        return web.Response(body=PNG + bytes(10 * MIB), content_type="image/png")

    async def endless(request):
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "image/png"})
        await response.prepare(request)
        while True:
            await response.write(PNG + bytes(MIB))
            sent += 1

    assert "10 MiB" in refusal(announced)
    assert "10 MiB" in refusal(endless)
    assert sent < 30


def test_all_images_together_fit_into_a_request():
    async def large(_request):
        return web.Response(body=PNG + bytes(600_000), content_type="image/png")

    settings = {"body_limit": MIB}
    assert fetch(large, ["/"], settings=settings)
    assert "together" in refusal(large, ["/1", "/2"], settings=settings)


def test_there_may_be_sixteen_images():
    assert len(fetch(png, [f"/{i}" for i in range(16)])) == 16
    assert "at most 16" in refusal(png, [f"/{i}" for i in range(17)])


def test_a_slow_server_is_given_up():
    async def slow(_request):
        await asyncio.Event().wait()

    assert "0.05 seconds" in refusal(slow, seconds=0.05)


def test_nothing_is_fetched_if_it_is_switched_off():
    assert "not fetched" in refusal(png, settings={"fetch_media": False})


def test_private_addresses_are_not_asked():
    asked = []

    async def note(request):
        asked.append(request.host)
        return await png(request)

    for host in ("127.0.0.1", "127.1", "2130706433", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]"):
        refusal(note, host=host, hosts="")
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1"):
        names = Names(evil_example=address)
        assert "private" in refusal(note, host="evil.example", hosts="", resolver=names)
        assert names.asked == ["evil.example"]
    assert asked == []


def test_the_systems_own_spellings_of_loopback_lead_nowhere():
    for host in ("localhost", "0x7f.0.0.1", "0177.0.0.1"):
        refusal(png, host=host, hosts="")


def test_a_host_may_be_allowed_by_name_and_by_network():
    names = Names(images_intern="127.0.0.1")
    assert fetch(png, host="IMAGES.intern", hosts="images.intern.", resolver=names)
    assert fetch(png, host="images.intern", hosts="127.0.0.0/8", resolver=names)
    assert "private" in refusal(png, host="images.intern", hosts="other.intern", resolver=names)


def test_the_address_that_was_looked_at_is_the_one_that_is_asked():
    # The first answer is allowed, all later ones would not be: there is no second look-up.
    names = Names(rebinding_example=["127.0.0.1", "10.0.0.1"])
    assert fetch(png, host="rebinding.example", hosts="127.0.0.1", resolver=names)
    assert names.asked == ["rebinding.example"]
    # And the other way round: a name that was fine once is looked at again.
    names = Names(rebinding_example=["127.0.0.1", "127.0.0.2"])

    async def main():
        async with web_server(png) as port:
            for expected in (True, False):
                async with fetching("127.0.0.1", resolver=names) as media:
                    url = f"http://rebinding.example:{port}/"
                    if expected:
                        assert await media.fetch([url])
                    else:
                        with pytest.raises(MediaNotFetched, match="private"):
                            await media.fetch([url])

    asyncio.run(main())


def redirecting(target: str) -> Handler:
    async def handler(request):
        if request.path == "/":
            return web.Response(status=302, headers={"Location": target})
        return await png(request)

    return handler


def test_a_redirect_is_followed_and_looked_at_like_the_first_address():
    assert fetch(redirecting("/image"))
    for target in (
        "http://10.0.0.1/image",
        "http://[::ffff:7f00:1]/image",
        "//169.254.169.254/latest/meta-data/",
        "file:///etc/passwd",
        "gopher://x/",
        "http://user:secret@127.0.0.1/",
        "http://[",
    ):
        said = refusal(redirecting(target), hosts="127.0.0.1")
        assert "secret" not in said
    names = Names(inside_example="10.0.0.1")
    target = redirecting("http://inside.example/image")
    assert "private" in refusal(target, hosts="127.0.0.1", resolver=names)


def test_redirects_end():
    async def handler(request):
        left = int(request.path[1:])
        if left:
            return web.Response(status=307, headers={"Location": f"/{left - 1}"})
        return await png(request)

    assert fetch(handler, ["/3"])
    assert "3 times" in refusal(handler, ["/4"])


def test_nothing_of_ours_is_sent():
    seen = []

    async def note(request):
        seen.append(dict(request.headers))
        response = await png(request)
        response.set_cookie("session", "1")
        return response

    fetch(note, ["/1"])
    fetch(note, ["/1", "/2"])
    for headers in seen:
        assert not {"Cookie", "Authorization", "Referer"} & set(headers)


@pytest.mark.parametrize("url", ["http://u@127.0.0.1/", "ftp://x/", "http:///x", "x", "http://["])
def test_other_addresses_are_refused(url):
    async def main():
        async with fetching() as media:
            await media.fetch([url])

    with pytest.raises(MediaNotFetched):
        asyncio.run(main())


def test_no_proxy_of_the_environment_is_asked(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(png)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("1.1.1.1", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:1.1.1.1", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::1", False),
        ("2002:a00:1::", False),
        ("2001:0:1::", False),
        ("2001:db8::1", False),
        ("fc00::1", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
    ],
)
def test_what_is_public(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "text", ["http://x", "a b", "10.0.0.0/33", "127.1", "*.example.com", "x/8"]
)
def test_a_setting_that_names_no_host_is_refused(text):
    with pytest.raises(InvalidRequest, match="MODEL_RUNNER_MEDIA_HOSTS"):
        Allowed.parse(text)


def ask(tmp_path, media: object, body: object):
    async def main():
        async with serving(tmp_path, media=media) as client:
            return await client.send("POST", "/_control/media", json=body)

    answer = asyncio.run(main())
    return answer.status, json.loads(answer.body)


class FakeMedia:
    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.left = asyncio.Event()

    async def fetch(self, urls):
        self.asked.set()
        if urls == ["refused"]:
            raise MediaNotFetched("no", hint="do this")
        if urls == ["slow"]:
            try:
                await asyncio.Event().wait()
            finally:
                self.left.set()
        return [f"data:{url}" for url in urls]


def test_the_data_plane_gets_what_it_asks_for(tmp_path):
    found = ask(tmp_path, FakeMedia(), {"urls": ["b", "a"]})
    assert found == (200, {"data_urls": ["data:b", "data:a"]})


def test_the_data_plane_is_told_what_is_to_blame(tmp_path):
    status, body = ask(tmp_path, FakeMedia(), {"urls": ["refused"]})
    assert (status, body["code"], body["param"]) == (400, "media_not_fetched", "image_url")
    assert (body["message"], body["hint"]) == ("no", "do this")
    assert ask(tmp_path, FakeMedia(), {"urls": "x"})[0] == 400


def test_when_the_caller_leaves_the_fetch_ends(tmp_path):
    async def main():
        media = FakeMedia()
        async with serving(tmp_path, media=media) as client:
            call = asyncio.ensure_future(
                client.send("POST", "/_control/media", json={"urls": ["slow"]})
            )
            await media.asked.wait()
            call.cancel()
            await asyncio.wait_for(media.left.wait(), 10)

    asyncio.run(main())


def test_when_a_fetch_is_cancelled_its_connections_end():
    async def main():
        begun, ended = asyncio.Event(), asyncio.Event()

        async def slow(_request):
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        async with web_server(slow) as port, fetching() as media:
            call = asyncio.ensure_future(media.fetch([f"http://127.0.0.1:{port}/"]))
            await begun.wait()
            call.cancel()
            await asyncio.wait_for(ended.wait(), 10)

    asyncio.run(main())
