"""Where the server is: what MODEL_RUNNER_HOST can say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from model_runner.client.trust import is_set
from model_runner.errors import InvalidRequest

# config's DEFAULT_HOST and DEFAULT_PORT, which a test holds it to: importing config here would cost
# every command the 0.2 s that pydantic takes.
DEFAULT_ADDRESS = "http://127.0.0.1:12434"
DEFAULT_TLS_ADDRESS = "https://127.0.0.1:12444"
_DEFAULT_PORTS = {"http": 12434, "https": 12444}


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens.

    Attributes:
        url: The base URL, without a slash at the end.
        socket: The path of the Unix socket to connect to, or None for TCP.
    """

    url: str
    socket: str | None = None

    @classmethod
    def parse(cls, text: str, *, tls: bool = False) -> Address:
        """Read `http://…`, `https://…`, `host:port`, `unix:///path` or a path ending in `.sock`.

        Args:
            text: The address.
            tls: Whether an address that names no protocol means https.

        Raises:
            InvalidRequest: The text is none of these.
        """
        text = text.strip().strip("\"'")
        if text.startswith("unix://") or text.endswith(".sock"):
            path = text.removeprefix("unix://")
            if path:
                return cls("http://localhost", path)
        scheme, separator, rest = text.partition("://")
        if not separator:
            scheme, rest = "https" if tls else "http", text
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if not host or scheme not in {"http", "https", "tcp"} or parts.query or parts.fragment:
            raise InvalidRequest(
                f"`{text}` is not the address of a server",
                hint="MODEL_RUNNER_HOST is like `http://127.0.0.1:12434`, `host:port` or "
                "`unix:///run/model-runner.sock`",
            )
        if port is None and not separator:
            rest = rest.replace(parts.netloc, f"{parts.netloc}:{_DEFAULT_PORTS[scheme]}", 1)
        return cls(f"{'https' if scheme == 'https' else 'http'}://{rest}".rstrip("/"))

    @classmethod
    def from_environment(cls) -> Address:
        """What MODEL_RUNNER_HOST says, or where `model-runner serve` listens by default."""
        tls = is_set("MODEL_RUNNER_TLS")
        usual = DEFAULT_TLS_ADDRESS if tls else DEFAULT_ADDRESS
        return cls.parse(os.environ.get("MODEL_RUNNER_HOST") or usual, tls=tls)

    def __str__(self) -> str:
        """The address as a user would write it."""
        return f"unix://{self.socket}" if self.socket else self.url
