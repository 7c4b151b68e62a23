"""What somebody has said of a model in Ollama's way: its Modelfile, kept beside the manifest.

Docker's formats have no place for most of it. It is JSON in an annotation, which Docker's tools
ignore; what of it matters to an engine is in the layers and in the engine's flags, too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from model_runner.store.manifests import MODELFILE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from model_runner.store.manifests import Manifest

# The parameter that is the size of the context.
NUM_CTX: Final = "num_ctx"


@dataclass(frozen=True, slots=True)
class Message:
    """A message that comes before those of each request."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Modelfile:
    """The instructions of a Modelfile; empty where it has none.

    Attributes:
        source: The model that this one was made from, as it was named.
        template: As it was given, in Go's language or in Jinja.
        system: The system prompt.
        parameters: Ollama's names and values, also such as mean nothing to us.
        messages: What comes before the messages of each request.
        license: Texts. In a package they are layers, and not kept here once more.
    """

    source: str = ""
    template: str = ""
    system: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    license: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> Modelfile:
        """That of a model; empty if it has none. Anybody may write annotations."""
        try:
            content = json.loads(manifest.annotations.get(MODELFILE, "{}"))
        except (ValueError, RecursionError):
            return cls()
        if not isinstance(content, dict):
            return cls()
        parameters = content.get("parameters")
        return cls(
            source=_text(content.get("from")),
            template=_text(content.get("template")),
            system=_text(content.get("system")),
            parameters=parameters if isinstance(parameters, dict) else {},
            messages=tuple(
                Message(_text(item.get("role")), _text(item.get("content")))
                for item in _list(content.get("messages"))
                if isinstance(item, dict)
            ),
        )

    def merged(self, given: Modelfile) -> Modelfile:
        """This one, changed: what is given replaces, parameters are merged."""
        return replace(
            self,
            source=given.source or self.source,
            template=given.template or self.template,
            system=given.system or self.system,
            parameters={**self.parameters, **given.parameters},
            messages=given.messages or self.messages,
            license=given.license,
        )

    def encode(self) -> str:
        """The annotation; empty if there is nothing to keep."""
        fields = {
            "from": self.source,
            "template": self.template,
            "system": self.system,
            "parameters": dict(self.parameters),
            "messages": [{"role": item.role, "content": item.content} for item in self.messages],
        }
        kept = {name: value for name, value in fields.items() if value}
        return json.dumps(kept, ensure_ascii=False, separators=(",", ":")) if kept else ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
