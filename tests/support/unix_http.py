"""HTTP over a Unix socket, for asking an engine directly."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(
    socket_path: Path, path: str, body: dict[str, Any] | None = None, *, key: str = ""
) -> tuple[int, Any]:
    """Send a GET, or a POST if there is a body; the status and the JSON of the answer."""
    connection = _Connection(socket_path)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        data = None if body is None else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers)
        response = connection.getresponse()
        answered = response.read()
        return response.status, json.loads(answered) if answered else None
    finally:
        connection.close()
