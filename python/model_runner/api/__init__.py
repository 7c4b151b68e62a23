"""The control plane's HTTP application, a router for each family of paths."""

from __future__ import annotations

from fastapi import FastAPI

from model_runner import __version__
from model_runner.api import (
    anthropic,
    archives,
    control,
    engines,
    errors,
    media,
    models,
    ollama,
    openai,
    push,
    repackage,
    stored_responses,
    system,
    tags,
    templates,
    upkeep,
)
from model_runner.api.paths import PathRules
from model_runner.api.services import Services
from model_runner.api.views import ERRORS

__all__ = ["Services", "create_app"]


def create_app(services: Services) -> FastAPI:
    """Build the application that serves every path which is not inference.

    Args:
        services: What the routers work on.
    """
    application = FastAPI(
        title="model-runner",
        version=__version__,
        docs_url=None,  # the page would fetch its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    application.state.services = services
    application.add_middleware(PathRules)
    errors.install(application)
    families = (control, templates, media, system, engines, openai, anthropic)
    application.include_router(ollama.router, responses=ollama.ERRORS)
    # The catch-all of `models` comes last.
    for router in (*families, push, repackage, tags, upkeep, archives, models):
        application.include_router(router.router, responses=ERRORS)
    application.include_router(stored_responses.control)
    application.include_router(stored_responses.router, responses=ERRORS)
    return application
