"""`/api/pull` and `/api/push`: models fetched and sent, told step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from model_runner import names
from model_runner.api.ollama import naming
from model_runner.api.ollama.messages import described, read
from model_runner.api.ollama.steps import StepView, steps_response
from model_runner.api.services import Services, services_of
from model_runner.errors import InvalidReference, RegistryUnreachable, RemoteModelNotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from model_runner.api.ollama.steps import Report
    from model_runner.errors import ModelRunnerError
    from model_runner.registry import Progress
    from model_runner.store import Descriptor, Model

router = APIRouter()

Used = Annotated[Services, Depends(services_of)]

_REFUSED = "remote model is unavailable"
_LINES = "A `StepView` a line; without `stream`, the last one alone."


class TransferRequest(BaseModel):
    """Which model; `name` is the old spelling of `model`."""

    model: str = ""
    name: str = ""
    insecure: bool = Field(
        default=False, description="Use plain http if the registry does not speak https."
    )
    stream: bool = Field(default=True, description="Tell each step, a JSON object a line.")


@router.post(
    "/pull",
    response_model=StepView,
    response_description=_LINES,
    openapi_extra=described(TransferRequest),
)
async def pull_model(request: Request, services: Used) -> Response:
    """Pull a model from its registry. It ends when the client leaves; what has come is kept."""
    wanted = await read(request, TransferRequest)
    name = naming.local(wanted.model or wanted.name, refused=_REFUSED)
    _check(services, name)

    async def pull(report: Report) -> None:
        await fetch(services, name, report, insecure=wanted.insecure)
        report(StepView(status="verifying sha256 digest"))
        report(StepView(status="writing manifest"))

    return await steps_response(request, pull, stream=wanted.stream, word=pull_word)


@router.post(
    "/push",
    response_model=StepView,
    response_description=_LINES,
    openapi_extra=described(TransferRequest),
)
async def push_model(request: Request, services: Used) -> Response:
    """Push a model to the registry that its name leads to."""
    wanted = await read(request, TransferRequest)
    name = (wanted.model or wanted.name).strip()
    if not name:
        raise naming.required()

    async def push(report: Report) -> None:
        report(StepView(status="retrieving manifest"))
        try:
            spelling = await naming.spelling(services.store, name)
        except naming.UNRESOLVED:
            report(StepView(status="couldn't retrieve manifest"))
            raise
        await services.registry.push(
            spelling, insecure=wanted.insecure, report=_Layers("pushing", report)
        )
        report(StepView(status="pushing manifest"))

    return await steps_response(request, push, stream=wanted.stream)


async def fetch(services: Services, name: str, report: Report, *, insecure: bool = False) -> Model:
    """Pull a model, and tell each step but the last ones."""
    report(StepView(status="pulling manifest"))
    layers = _Layers("pulling", report)
    model = await services.registry.pull(name, insecure=insecure, report=layers)
    layers.complete(model.manifest.layers)
    await services.scheduler.refresh()
    return model


class _Layers:
    """Takes the progress of a transfer, and tells that of its layers."""

    def __init__(self, verb: str, report: Report) -> None:
        self._verb = verb
        self._report = report
        self._told: set[str] = set()

    def __call__(self, progress: Progress) -> None:
        """Tell it."""
        if progress.type == "warning":
            self._report(StepView(status=progress.message))
        if progress.type != "progress" or not progress.layer_id:
            return
        self._tell(progress.layer_id, progress.layer_size, progress.layer_current)

    def complete(self, layers: Iterable[Descriptor]) -> None:
        """Tell of layers that were here before, and that nobody has spoken of."""
        for layer in layers:
            if layer.digest not in self._told:
                self._tell(layer.digest, layer.size, layer.size)

    def _tell(self, digest: str, size: int, done: int) -> None:
        self._told.add(digest)
        status = f"{self._verb} {digest.partition(':')[2][:12]}"
        self._report(StepView(status=status, digest=digest, total=size, completed=done or None))


def _check(services: Services, name: str) -> None:
    """Refuse what cannot be pulled before anything is said.

    Raises:
        Worded: It is no name.
    """
    registry = services.store.default_registry
    try:
        if names.is_hub(name, default_registry=registry):
            names.parse_hub(name, default_registry=registry)
        else:
            names.parse(name, default_registry=registry)
    except InvalidReference as error:
        raise naming.invalid(error) from error


def pull_word(error: ModelRunnerError) -> str:
    """The error of a pull, in words of which the CLI knows some."""
    if isinstance(error, RemoteModelNotFound):
        return "pull model manifest: file does not exist"
    if isinstance(error, RegistryUnreachable):
        return f"pull model manifest: {error}"
    return str(error)
