"""What a setting's text may be, and what becomes of it: types with their checks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator

from model_runner import names
from model_runner.errors import InvalidReference

# Docker Model Runner's truth values: Go's ParseBool, and anything else is false.
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}


def unquote(value: object) -> object:
    """Environment files often carry the quotes along: `MODELS_PATH="/models"`."""
    return value.strip().strip("\"'") if isinstance(value, str) else value


def _flag(value: object) -> object:
    return unquote(value) in _TRUE if isinstance(value, str) else value


def _hub_flag(value: object) -> object:
    """Hugging Face's truth values, and ours."""
    return _flag(value) or str(unquote(value)).upper() in {"ON", "YES"}


def _word(value: object) -> object:
    text = unquote(value)
    return text.lower() if isinstance(text, str) else text


def _switch(value: object) -> object:
    word = "on" if value is True else "off" if value is False else _word(value)
    return {"1": "on", "true": "on", "yes": "on", "0": "off", "false": "off", "no": "off"}.get(
        str(word), word
    )


def _level(value: object) -> object:
    text = unquote(value)
    return {"warn": "warning"}.get(text.lower(), text.lower()) if isinstance(text, str) else text


def expand(path: Path) -> Path:
    """No shell expands `~` in a file, in a quoted variable, or behind the `=` of a flag."""
    try:
        return path.expanduser()
    except RuntimeError as error:  # `~nobody/models`
        raise ValueError(str(error)) from error


def _known_origins(text: str) -> str:
    """One that no browser ever sends would be a page that is refused in spite of it."""
    for origin in split(text):
        if origin not in {"*", "null"} and not _ORIGIN.fullmatch(origin):
            raise ValueError(
                f"`{origin}` is no origin (it looks like `https://app.example.com`, "
                "`http://host:*` or `chrome-extension://*`, in lower case and with no path)"
            )
    return text


def split(text: str) -> list[str]:
    """The entries of a list that commas separate."""
    return [entry for part in text.split(",") if (entry := part.strip())]


def _registry(text: str) -> str:
    """As references have it, or no name that leaves its registry out would ever be found again."""
    try:
        return names.registry_name(text)
    except InvalidReference as error:
        raise ValueError(
            f"`{text}` is no registry (it looks like `registry.example.com`)"
        ) from error


def _known_hosts(text: str) -> str:
    """One that is no host would be asked over https in spite of it."""
    for host in split(text):
        if not _HOST.fullmatch(host.lower()) or _port_of(host) > _LAST_PORT:
            raise ValueError(f"`{host}` is no host (it looks like `host` or `host:5000`)")
    return text


def _known_mirrors(text: str) -> str:
    """One that cannot be asked would be passed over without a word, pull after pull."""
    for mirror in split(text):
        found = _MIRROR.fullmatch(mirror)
        if not found or _port_of(found[2]) > _LAST_PORT:
            raise ValueError(
                f"`{mirror.rpartition('@')[2]}` is no mirror (it looks like `host:5000` or "
                "`https://mirror.example.com/cache`, without a login)"
            )
    return text


def _endpoint(text: str) -> str:
    """Without a slash at its end: paths are appended."""
    address = urlsplit(text)
    if address.scheme not in {"http", "https"} or not address.hostname or address.query:
        raise ValueError(f"`{text}` is no address (it looks like `https://huggingface.co`)")
    return text.rstrip("/")


def _port_of(host: str) -> int:
    """The port of `host:port`, 0 if there is none; IPv6 addresses end in a bracket."""
    port = host.rpartition(":")[2]
    return int(port) if port.isdecimal() and port != host else 0


def _bare_address(host: str) -> str:
    """IPv6 addresses are written in brackets wherever a port may follow."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


_LAST_PORT = 65535

# A scheme, a host and perhaps a port, as browsers write them.
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://(\*|(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:(\*|[0-9]{1,5}))?)"
)

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[0-9]{1,5})?")
_MIRROR = re.compile(rf"(https?://)?({_HOST.pattern})(/[\w.~/-]*)?", re.IGNORECASE)

Text = Annotated[str, BeforeValidator(unquote)]
Host = Annotated[Text, AfterValidator(_bare_address)]
Count = Annotated[int, BeforeValidator(unquote)]
Seconds = Annotated[float, BeforeValidator(unquote)]
Location = Annotated[Path, BeforeValidator(unquote), AfterValidator(expand)]
Switch = Annotated[Literal["on", "off"], BeforeValidator(_switch)]
Hosts = Annotated[Text, AfterValidator(_known_hosts)]
Mirrors = Annotated[Text, AfterValidator(_known_mirrors)]
RegistryName = Annotated[Text, AfterValidator(_registry)]
Origins = Annotated[Text, AfterValidator(_known_origins)]
Redaction = Annotated[Literal["off", "prompts", "all"], BeforeValidator(_word)]
Flag = Annotated[bool, BeforeValidator(_flag)]
HubFlag = Annotated[bool, BeforeValidator(_hub_flag)]
Endpoint = Annotated[Text, AfterValidator(_endpoint)]
Level = Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_level)]
