"""Every error that a user can meet, once.

```
ModelRunnerError
├── InvalidRequest              the caller sent something that cannot work
│   ├── InvalidReference        a model name outside the grammar
│   ├── CannotCancel            a response that is not, or no longer, made in the background
│   ├── InvalidParameter        a parameter of a query whose value cannot work
│   ├── PreviousResponseUnfinished  a conversation cannot go on from what is still being said
│   ├── InvalidArchive          a tar archive that is damaged, or holds no model or several
│   ├── MediaNotFetched         an image that a request names by its address cannot be had
│   ├── InvalidTemplate         a chat template that cannot be read, converted or rendered
│   ├── RequestTooLarge         a body that is larger than any that makes sense there
│   ├── UnsupportedModel        an artifact or file that is not a model we can run
│   └── WrongMode               a model that does something else than what it was asked for
├── NotFound
│   ├── ModelNotFound           no such model in the local store
│   ├── PreviousResponseNotFound  a conversation of which a part is not stored
│   ├── ResponseNotFound        no stored response has that ID
│   └── RemoteModelNotFound     the registry does not have it
├── Conflict                    the store or a runner is in a state that forbids it
│   └── ModelInUse              requests are being answered by that model
├── RegistryError               talking to a registry failed
│   ├── RegistryUnauthorized
│   ├── RegistryUnreachable
│   └── DigestMismatch          bytes arrived that are not the bytes that were named
├── StoreError                  the model store on disk is damaged or cannot be written
│   └── DiskFull
├── StateError                  the database of the state directory cannot be used
│   └── StateFull
├── EngineError
│   ├── EngineNotInstalled      no engine binary was found
│   ├── EngineFailed            the engine stopped or refused to start, in its own words
│   └── NoCapacity              every runner is busy, and no further one may be started
├── ShuttingDown                the server is stopping
├── HostedElsewhere             what only Ollama's own servers have: hosted models, web search
├── NotSignedIn                 there is no account to do that with
└── ServerError                 what the command line meets when it talks to a server
    ├── ServerUnreachable
    └── ServerRefused           the server answered with an error
```

An error carries a message (what happened, lower-case, no full stop), a hint (what to do next), and
how each surface shows it: `code`, `kind` and `param` in OpenAI-shaped JSON, `status` over HTTP,
`exit_code` in a shell.
Exit codes: 0 ok, 1 other, 2 usage, 3 server unreachable, 4 not found, 5 conflict, 6 not authorised,
7 does not fit, 130 interrupted.
"""

from __future__ import annotations

from typing import ClassVar, Literal


class ModelRunnerError(Exception):
    """The root of the tree: something failed, and the user is told what.

    Args:
        message: What happened. A phrase, lower-case, without a full stop.
        hint: What the user can do next, or None if there is nothing useful to say.
    """

    code: ClassVar[str] = "internal_error"
    kind: ClassVar[str] = "server_error"
    param: str | None = None
    status: int = 500
    exit_code: int = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message and the hint on one line, as logs and HTTP bodies show them."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidRequest(ModelRunnerError):
    """The caller sent something that cannot work."""

    code = "invalid_request"
    kind = "invalid_request_error"
    status = 400
    exit_code = 2


class InvalidReference(InvalidRequest):
    """A model name outside the grammar of references."""

    code = "invalid_reference"

    def __init__(self, reference: str, reason: str, *, hint: str | None = None) -> None:
        usual = "it looks like `ai/smollm2`, `registry.example.com/org/model:tag` or `sha256:…`"
        super().__init__(
            f"invalid model reference `{reference[:200]}`: {reason}", hint=hint or usual
        )
        self.reference = reference


class InvalidParameter(InvalidRequest):
    """A parameter of a query whose value cannot work."""

    code = "invalid_value"

    def __init__(self, param: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.param = param


class CannotCancel(InvalidRequest):
    """A response that is not, or no longer, made in the background. The words are OpenAI's."""

    param = "response_id"

    def __init__(self, kind: str) -> None:
        super().__init__(f"Cannot cancel a {kind} response.")


class PreviousResponseUnfinished(InvalidRequest):
    """A conversation cannot go on from a response that is still being made."""

    code = "previous_response_unfinished"
    param = "previous_response_id"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"previous response '{response_id[:100]}' is still being made",
            hint="wait until its status is no longer `queued` or `in_progress`",
        )


class InvalidArchive(InvalidRequest):
    """A tar archive that is damaged, or does not hold one model."""

    code = "invalid_archive"
    exit_code = 1


class InvalidTemplate(InvalidRequest):
    """A chat template that cannot be read, converted or rendered."""

    code = "invalid_template"
    param = "template"


class MediaNotFetched(InvalidRequest):
    """An image that a request names by its address cannot be had, or not from there."""

    code = "media_not_fetched"
    param = "image_url"


class RequestTooLarge(InvalidRequest):
    """A request body that is larger than any that makes sense there."""

    code = "request_too_large"
    status = 413


class UnsupportedModel(InvalidRequest):
    """An artifact or a file that is not a model this program can use."""

    code = "unsupported_model"
    status = 422
    exit_code = 1


class WrongMode(InvalidRequest):
    """A model that does something else than what it was asked for."""

    code = "wrong_mode"
    param = "model"

    _DOES: ClassVar[dict[str, tuple[str, str]]] = {
        "completion": ("writes text", "/v1/chat/completions"),
        "embedding": ("makes vectors of texts", "/v1/embeddings"),
        "reranking": ("ranks texts", "/v1/rerank"),
    }

    def __init__(self, name: str, *, wanted: str, does: str) -> None:
        does_what, path = self._DOES[does]
        super().__init__(
            f"model `{name}` {does_what}, and does not support {wanted}",
            hint=f"ask it at `{path}`, or choose another model",
        )


class NotFound(ModelRunnerError):
    """Something that was named does not exist."""

    code = "not_found"
    kind = "invalid_request_error"
    status = 404
    exit_code = 4


class ModelNotFound(NotFound):
    """No such model in the local store."""

    code = "model_not_found"

    def __init__(self, reference: str, *, hint: str | None = None) -> None:
        shown = reference if len(reference) <= 100 else reference[:100] + "…"
        super().__init__(
            f"model `{shown}` is not in the local store",
            hint=hint or f"pull it with `model-runner pull {shown}`, or see `model-runner list`",
        )
        self.reference = reference


class ResponseNotFound(NotFound):
    """No stored response has that ID. The first words are OpenAI's."""

    param = "response_id"

    def __init__(self, response_id: str) -> None:
        super().__init__(
            f"Response with id '{response_id[:100]}' not found",
            hint="it was deleted, has become too old, or was made with `store: false`",
        )


class ItemNotFound(NotFound):
    """No stored response has an item of that ID. The first words are OpenAI's."""

    status = 400
    param = "input"

    def __init__(self, item_id: str) -> None:
        super().__init__(
            f"Item with id '{item_id[:100]}' not found",
            hint="its response was deleted, is too old, or was made with `store: false`;"
            " send the item itself",
        )


class PreviousResponseNotFound(NotFound):
    """A conversation of which a part is not stored. The first words are OpenAI's.

    Args:
        missing: The response that is not there.
        asked: The response that the conversation was to go on from.
    """

    code = "previous_response_not_found"
    # As OpenAI has it: the request is wrong, its path is not.
    status = 400
    param = "previous_response_id"

    def __init__(self, missing: str, *, asked: str) -> None:
        leads = "" if missing == asked else f"'{asked[:100]}' goes back to it; "
        super().__init__(
            f"Previous response with id '{missing[:100]}' not found",
            hint=f"{leads}send what was said before in `input` instead",
        )


class RemoteModelNotFound(NotFound):
    """The registry does not have that repository or tag."""

    code = "remote_model_not_found"

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"`{reference}` was not found in its registry",
            hint="check the name and the tag; a private repository looks the same without a login",
        )
        self.reference = reference


class Conflict(ModelRunnerError):
    """The present state forbids what was asked."""

    code = "conflict"
    kind = "invalid_request_error"
    status = 409
    exit_code = 5


class ModelInUse(Conflict):
    """Requests are being answered by that model right now."""

    code = "model_in_use"

    def __init__(self, reference: str, leases: int) -> None:
        requests = "1 request" if leases == 1 else f"{leases} requests"
        super().__init__(
            f"model `{reference}` is answering {requests}",
            hint="wait for them, or force it, which ends them",
        )


class RegistryError(ModelRunnerError):
    """Talking to a registry failed."""

    code = "registry_error"
    status = 502


class RegistryUnauthorized(RegistryError):
    """The registry refused our credentials, or wants some."""

    code = "registry_unauthorized"
    status = 401
    exit_code = 6


class RegistryUnreachable(RegistryError):
    """No connection to the registry could be made, or it broke."""

    code = "registry_unreachable"


class DigestMismatch(RegistryError):
    """Bytes arrived that are not the bytes that were named."""

    code = "digest_mismatch"


class StoreError(ModelRunnerError):
    """The model store on disk is damaged or cannot be read or written."""

    code = "store_error"


class DiskFull(StoreError):
    """The disk that holds the store has no room."""

    code = "disk_full"
    status = 507
    exit_code = 7


class StateError(ModelRunnerError):
    """The database of the state directory is damaged or cannot be read or written."""

    code = "state_error"


class StateFull(StateError):
    """There is no room for what was to be stored."""

    code = "state_full"
    status = 507
    exit_code = 7


class EngineError(ModelRunnerError):
    """An inference engine is missing, or did not do its work."""

    code = "engine_error"
    status = 500


class EngineNotInstalled(EngineError):
    """No engine binary was found."""

    code = "engine_not_installed"
    status = 503


class EngineFailed(EngineError):
    """The engine stopped or refused to start; the message carries its own reason."""

    code = "engine_failed"


class NoCapacity(EngineError):
    """Every runner is busy, and no further one may be started."""

    code = "no_capacity"
    status = 503
    exit_code = 7


class ShuttingDown(ModelRunnerError):
    """The server is stopping and takes nothing new."""

    code = "shutting_down"
    status = 503


class HostedElsewhere(ModelRunnerError):
    """What only Ollama's own servers have, and this one has no part in."""

    code = "hosted_elsewhere"
    kind = "invalid_request_error"
    status = 403


class NotSignedIn(ModelRunnerError):
    """There is no account to do that with."""

    code = "not_signed_in"
    status = 401
    exit_code = 6


class ServerError(ModelRunnerError):
    """What the command line meets when it talks to a server.

    Attributes:
        passing: Whether the same request may do better a little later: `no`, `yes`, or `midway`,
            when it had got somewhere before.
    """

    passing: Literal["no", "midway", "yes"] = "no"


class ServerUnreachable(ServerError):
    """Nothing answers at the server's address."""

    code = "server_unreachable"
    exit_code = 3
    passing: Literal["no", "midway", "yes"] = "midway"


class ServerRefused(ServerError):
    """The server answered with an error."""

    code = "server_refused"

    _EXIT_CODES: ClassVar[dict[int, int]] = {400: 2, 401: 6, 403: 6, 404: 4, 409: 5, 507: 7}

    def __init__(self, status: int, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.exit_code = self._EXIT_CODES.get(status, 1)
