"""https as users meet it: curl, Python's ssl, and the command line, against the real server."""

from __future__ import annotations

import http.client
import json
import shutil
import ssl
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.server import (
    DEADLINE,
    add_model,
    base_environment,
    run_cli,
    running_server,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a certificate of its own making."""
    directory = tmp_path_factory.mktemp("secure")
    add_model(directory, "ai/tiny-script")
    with running_server(directory, "--tls", MODEL_RUNNER_TLS_PORT="0") as server:
        yield server


def https(server: Server) -> str:
    return next(address for address in server.addresses if address.startswith("https:"))


def authority(server: Server) -> Path:
    return Path(server.environment["MODEL_RUNNER_STATE_DIR"]) / "certs" / "ca.crt"


def port(server: Server) -> int:
    return int(https(server).rpartition(":")[2])


def connect(server: Server, context: ssl.SSLContext) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", port(server), timeout=DEADLINE, context=context)


def test_curl_is_served_over_http2_and_http1(secure):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    url = https(secure).replace("127.0.0.1", "localhost") + "/models"
    for option, version in (("--http2", "2"), ("--http1.1", "1.1")):
        command = ["curl", "-sS", option, "--cacert", str(authority(secure)), url]
        written = "\n%{http_version} %{http_code}"
        output = subprocess.run(
            [*command, "-w", written], capture_output=True, text=True, check=True
        ).stdout
        body, _, outcome = output.rpartition("\n")
        # A curl without HTTP/2 speaks what it can.
        assert outcome in {f"{version} 200", "1.1 200"}
        assert "ai/tiny-script" in body


def test_curl_is_served_over_http2_without_tls(secure):
    if shutil.which("curl") is None:
        pytest.skip("no curl")
    body = json.dumps({"model": "ai/tiny-script", "prompt": "Hi", "stream": True, "max_tokens": 4})
    command = ["curl", "-sS", "--http2-prior-knowledge", secure.url + "/v1/completions"]
    run = subprocess.run(
        [*command, "-d", body, "-w", "%{http_version} %{http_code}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "HTTP/2" in run.stderr:
        pytest.skip("a curl without HTTP/2")
    assert run.stdout.endswith("data: [DONE]\n\n2 200")


def test_python_is_served_and_old_versions_of_tls_are_not(secure):
    context = ssl.create_default_context(cafile=str(authority(secure)))
    connection = connect(secure, context)
    connection.request("GET", "/models")
    assert connection.getresponse().status == 200
    connection.close()
    with pytest.raises(ssl.SSLCertVerificationError):
        connect(secure, ssl.create_default_context()).request("GET", "/models")


def test_the_command_line_trusts_whom_it_is_told_to(secure):
    environment = {**secure.environment, "MODEL_RUNNER_HOST": https(secure)}
    refused = run_cli("list", environment=environment)
    assert refused.returncode == 3
    assert "MODEL_RUNNER_TLS_CA_CERT" in refused.stderr
    trusting = {**environment, "MODEL_RUNNER_TLS_CA_CERT": str(authority(secure))}
    listed = run_cli("list", environment=trusting)
    assert "tiny-script" in listed.stdout, listed.stderr
    careless = {**environment, "MODEL_RUNNER_TLS_SKIP_VERIFY": "1"}
    assert "tiny-script" in run_cli("list", environment=careless).stdout
    wrong = {**environment, "MODEL_RUNNER_TLS_CA_CERT": "/nowhere/ca.crt"}
    failed = run_cli("list", environment=wrong)
    assert failed.returncode == 2
    assert "/nowhere/ca.crt" in failed.stderr
    plain = {**trusting, "MODEL_RUNNER_HOST": secure.url.replace("http:", "https:")}
    confused = run_cli("list", environment=plain)
    assert confused.returncode == 3
    assert "does not speak TLS" in confused.stderr


def test_a_changed_certificate_is_used_and_a_broken_one_is_logged(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    issue(tmp_path)
    given = {
        "MODEL_RUNNER_TLS_CERT": str(tmp_path / "site.crt"),
        "MODEL_RUNNER_TLS_KEY": str(tmp_path / "site.key"),
    }
    with running_server(tmp_path, "--tls", MODEL_RUNNER_TLS_PORT="0", **given) as server:
        before = served(server)
        issue(tmp_path)
        after = wait_until(
            lambda: (now := served(server)) != before and now, "the new certificate is served"
        )
        (tmp_path / "site.crt").write_text("junk")
        wait_until(lambda: "site.crt" in server.log.read_text(), "the problem is logged")
        assert served(server) == after
        issue(tmp_path)
        wait_until(lambda: served(server) != after, "the mended certificate is served")


def issue(directory: Path) -> None:
    """Put a new certificate, signed by itself, and its key into place, as tools do."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(directory / "new.key"), "-out", str(directory / "new.crt")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    for suffix in ("key", "crt"):
        (directory / f"new.{suffix}").replace(directory / f"site.{suffix}")


def served(server: Server) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port(server)))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"MODEL_RUNNER_TLS_CERT": "/x.crt"}, "MODEL_RUNNER_TLS_KEY"),
        ({"MODEL_RUNNER_TLS_AUTO_CERT": "false"}, "MODEL_RUNNER_TLS_CERT"),
        ({"MODEL_RUNNER_TLS_CERT": "/x.crt", "MODEL_RUNNER_TLS_KEY": "/x.key"}, "`/x.crt`"),
    ],
)
def test_there_is_no_start_without_a_certificate(tmp_path, environment, said):
    ended = run_cli(
        *("serve", "--port", "0", "--tls"),
        environment={
            **base_environment(tmp_path),
            "MODEL_RUNNER_TLS_PORT": "0",
            **environment,
        },
    )
    assert ended.returncode in {1, 2}
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_first_lines_say_how_to_trust_the_server(secure, tmp_path):
    assert authority(secure).is_file()
    again = run_cli(
        *("serve", "--port", "0", "--tls"),
        environment={**secure.environment, "MODEL_RUNNER_TLS_PORT": str(port(secure))},
    )
    assert again.returncode == 1
    assert "in use" in again.stderr
    assert "MODEL_RUNNER_TLS_PORT" in again.stderr
