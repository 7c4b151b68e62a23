"""From Hugging Face to a chat and back, as a user does it; the hub is a double."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support import tiny_gguf
from support.hub_double import HubDouble, hub_double
from support.oci_push import noise
from support.server import running_server
from support.tiny_gguf import SCRIPT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "hf.co/Org/Tiny-GGUF:Q8_0"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubDouble]:
    gguf = tiny_gguf.tiny_script(tmp_path / "tiny.gguf").read_bytes()
    with hub_double() as double:
        double.publish("Org/Tiny-GGUF", {"tiny-Q8_0.gguf": gguf, "tiny-F16.gguf": b"other"})
        yield double


def test_a_model_is_pulled_asked_pushed_and_pulled_again(tmp_path: Path, hub: HubDouble) -> None:
    repository = hub.repositories["Org/Tiny-GGUF"]
    repository.gated, repository.readers = True, {"owner"}
    with running_server(tmp_path, HF_ENDPOINT=hub.endpoint) as server:
        refused = server.cli("pull", NAME)
        assert refused.returncode == 6
        assert "accept its terms at" in refused.stderr
        # The token of whoever types, not of the server.
        server.environment["HF_TOKEN"] = "hf_owner"
        pulled = server.cli("pull", NAME)
        assert pulled.returncode == 0, pulled.stderr
        assert "Selected Q8_0 quantization" in pulled.stdout
        assert "Model pulled successfully" in pulled.stdout
        assert server.cli("pull", "-q", NAME).stdout.strip() == (
            "huggingface.co/org/tiny-gguf:Q8_0"
        )
        assert server.cli("run", NAME, "Hello").stdout.strip() == SCRIPT
        assert server.cli("tag", NAME, "hf.co/owner/Mine-GGUF:Q8_0").returncode == 0
        pushed = server.cli("push", "hf.co/owner/Mine-GGUF:Q8_0")
        assert pushed.returncode == 0, pushed.stderr
        assert "Model pushed successfully" in pushed.stdout
        assert server.cli("rm", NAME, "hf.co/owner/Mine-GGUF:Q8_0").returncode == 0
        assert server.request("/models").json() == []
        assert server.cli("pull", "hf.co/owner/Mine-GGUF:Q8_0").returncode == 0
        assert server.chat("hf.co/owner/mine-gguf:Q8_0").status == 200


def test_refusals_have_their_statuses(tmp_path: Path, hub: HubDouble) -> None:
    hub.publish("Org/Gated", {"a-Q8_0.gguf": b"a"})
    hub.repositories["Org/Gated"].gated = True

    with running_server(tmp_path, HF_ENDPOINT=hub.endpoint) as server:

        def pull(name: str) -> tuple[int, str]:
            answer = server.request("/models/create", {"from": name})
            return answer.status, answer.text.strip()

        assert pull("hf.co/Org/None") == (404, "Model not found")
        status, text = pull("hf.co/Org/Gated")
        assert status == 401
        assert text.startswith("Unauthorized: `Org/Gated` at Hugging Face is gated")
        status, text = pull("hf.co/Org/Tiny-GGUF:Q4_K_M")
        assert status == 422
        assert "it has `F16`, `Q8_0`" in text
        assert pull("hf.co/Org/Tiny-GGUF@..")[0] == 400


def test_a_model_is_looked_at_pulled_damaged_and_repaired(tmp_path: Path, hub: HubDouble) -> None:
    gguf = hub.repositories["Org/Tiny-GGUF"].branches["main"][0].files["tiny-Q8_0.gguf"]
    # More than two of the ranges of which it is known how they were.
    large = gguf + noise(40 << 20)
    hub.publish("Org/Tiny-GGUF", {"tiny-Q8_0.gguf": large})
    with running_server(tmp_path, HF_ENDPOINT=hub.endpoint) as server:
        looked = server.cli("inspect", "--remote", NAME)
        assert looked.returncode == 0, looked.stderr
        assert hub.served() <= 1 << 20
        assert server.cli("show", "--remote", NAME).returncode == 0
        assert server.request("/models").json() == []
        missing = server.cli("inspect", "--remote", "hf.co/Org/Tiny-GGUF:Q2_K")
        assert missing.returncode == 1
        assert "it has `F16`, `Q8_0`" in missing.stderr

        assert server.cli("pull", NAME).returncode == 0
        known = json.loads(looked.stdout)
        assert json.loads(server.cli("inspect", NAME).stdout)["id"] == known["id"]

        weights = tmp_path / "models/blobs/sha256" / hashlib.sha256(large).hexdigest()
        with weights.open("rb+") as file:
            file.seek(20 << 20)
            file.write(b"damaged")
        hub.publish("Org/Tiny-GGUF", {"README.md": b"goes on"})
        hub.seen.clear()
        repaired = server.cli("verify", NAME, "--repair")
        assert repaired.returncode == 0, repaired.stderr
        assert 0 < hub.served() <= 16 << 20
        assert weights.read_bytes() == large
        assert json.loads(server.cli("inspect", NAME).stdout)["id"] == known["id"]


def test_a_server_that_stops_during_a_pull_goes_on_later(tmp_path: Path, hub: HubDouble) -> None:
    data = hub.repositories["Org/Tiny-GGUF"].branches["main"][0].files["tiny-Q8_0.gguf"]

    def stall(exchange) -> bool:
        if exchange.host != "storage" or "Range" in exchange.headers:
            return False
        exchange.send_response(200)
        exchange.send_header("Content-Length", str(len(data)))
        exchange.end_headers()
        exchange.wfile.write(data[:400_000])
        exchange.wfile.flush()
        exchange.rfile.read(1)  # until the server is gone
        exchange.close_connection = True
        return True

    hub.intercept = stall
    with running_server(tmp_path, HF_ENDPOINT=hub.endpoint) as server:
        connection = server.connect()
        connection.request("POST", "/models/create", json.dumps({"from": NAME}))
        answer = connection.getresponse()
        while b"&#34;current&#34;:0" in (line := answer.readline()) or b"current" not in line:
            pass
        assert server.stop() == 0
        connection.close()
    with running_server(tmp_path, HF_ENDPOINT=hub.endpoint) as server:
        assert server.cli("pull", NAME).returncode == 0
    assert int(hub.downloads()[-1].headers["Range"][6:-1]) > 0


def test_what_starts_does_not_wait_for_the_library() -> None:
    """It takes 0.25 s to import, and most commands ask no hub."""
    program = "import sys, model_runner.app, model_runner.cli; print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    loaded = {name.partition(".")[0] for name in found.stdout.split()}
    assert "model_runner" in loaded
    assert not loaded & {"huggingface_hub", "httpx2"}
