"""Finds the login for a registry where Docker keeps it: environment, helpers, config.json."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_log = logging.getLogger(__name__)

DOCKER_HUB_HOSTS = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})

# What `docker login` files Docker Hub under, in config.json and in credential helpers.
_DOCKER_HUB_KEY = "https://index.docker.io/v1/"

# A helper that asks a person (a key ring that wants to be unlocked) must not hold a pull for ever.
_HELPER_SECONDS = 30

# Docker's mark in place of a user name: the secret is an identity token.
_TOKEN_USER = "<token>"  # noqa: S105

_ENVIRONMENT_PAIRS = (
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
    ("DOCKER_HUB_USER", "DOCKER_HUB_PASSWORD"),
)


@dataclass(frozen=True, slots=True)
class Credential:
    """A login.

    Attributes:
        username: The user, or "" when the secret is an identity token (an OAuth refresh token).
        secret: The password, access token or identity token. Never shown by `repr`.
    """

    username: str
    secret: str = field(repr=False)


def find_credential(
    registry: str, environment: Mapping[str, str] | None = None
) -> Credential | None:
    """The login for a registry, or None for an anonymous visit.

    Looks at `DOCKER_USERNAME`/`DOCKER_PASSWORD` and `DOCKER_HUB_USER`/`DOCKER_HUB_PASSWORD` (for
    Docker Hub only: these are never shown to another registry), then at `credHelpers`, `credsStore`
    and `auths` of `$DOCKER_CONFIG/config.json` (default `~/.docker/config.json`). A helper that
    fails counts as one that knows nothing. Blocks: it may run a helper.

    Args:
        registry: `host` or `host:port`, `docker.io` for Docker Hub.
        environment: Defaults to that of this process.
    """
    variables = os.environ if environment is None else environment
    is_hub = registry in DOCKER_HUB_HOSTS
    if is_hub:
        for user_variable, password_variable in _ENVIRONMENT_PAIRS:
            username, password = variables.get(user_variable), variables.get(password_variable)
            if username and password:
                return Credential(username, password)
    config = _read_config(variables)
    helper = _mapping(config.get("credHelpers")).get(registry)
    key = _DOCKER_HUB_KEY if is_hub else registry
    if is_hub and helper is None:
        helper = _mapping(config.get("credHelpers")).get(_DOCKER_HUB_KEY)
    for name in (helper, config.get("credsStore")):
        if isinstance(name, str) and name:
            found = _ask_helper(name, key)
            if found is not None:
                return found
    return _from_auths(_mapping(config.get("auths")), registry)


def _read_config(variables: Mapping[str, str]) -> Mapping[str, object]:
    given = variables.get("DOCKER_CONFIG")
    folder = Path(given) if given else Path.home() / ".docker"
    path = folder / "config.json"
    try:
        return _mapping(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("cannot read the logins in %s, going on without: %s", path, error)
        return {}


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _ask_helper(name: str, key: str) -> Credential | None:
    """`docker-credential-<name> get` reads a server from stdin and prints {Username, Secret}."""
    # The name becomes part of a program's name: it must not lead to another folder.
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        _log.warning("credential helper %r has a name that cannot be a program's", name)
        return None
    try:
        answer = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_SECONDS,
            check=True,
        )
        found = _mapping(json.loads(answer.stdout))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        _log.info("credential helper %s knows nothing about %s: %s", name, key, error)
        return None
    username, secret = found.get("Username"), found.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        return None
    return Credential("" if username == _TOKEN_USER else username, secret)


def _from_auths(auths: Mapping[str, object], registry: str) -> Credential | None:
    wanted = DOCKER_HUB_HOSTS if registry in DOCKER_HUB_HOSTS else {registry}
    for key, value in auths.items():
        if _host(key) in wanted:
            found = _from_entry(_mapping(value))
            if found is not None:
                return found
    return None


def _host(key: str) -> str:
    """`https://index.docker.io/v1/` -> `index.docker.io`."""
    bare = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    return bare.removesuffix("/v1").removesuffix("/v2")


def _from_entry(entry: Mapping[str, object]) -> Credential | None:
    identity_token = entry.get("identitytoken")
    if isinstance(identity_token, str) and identity_token:
        return Credential("", identity_token)
    username, password = entry.get("username"), entry.get("password")
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            username, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            _log.warning("an `auth` entry of Docker's config.json is not base64, skipping it")
            return None
    if isinstance(username, str) and isinstance(password, str) and username and password:
        return Credential(username, password)
    return None
