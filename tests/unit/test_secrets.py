"""Values that hold a secret do not show it when they are printed, logged or part of a traceback."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import pytest
from pydantic import BaseModel

import model_runner

# Names of fields that hold a key, a password or a whole environment.
SECRET = {"api_key", "authorization", "environment", "form", "headers", "secret", "token"}


def classes():
    """Every class of the package."""
    for info in pkgutil.walk_packages(model_runner.__path__, "model_runner."):
        if info.name.endswith("__main__"):
            continue
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and value.__module__ == info.name:
                yield value


def fields_with_secrets():
    for found in classes():
        if dataclasses.is_dataclass(found):
            shown = {field.name: field.repr for field in dataclasses.fields(found)}
        elif issubclass(found, BaseModel):
            shown = {name: field.repr for name, field in found.model_fields.items()}
        else:
            continue
        for name in SECRET & set(shown):
            yield pytest.param(shown[name], id=f"{found.__module__}.{found.__name__}.{name}")


FIELDS = list(fields_with_secrets())


@pytest.mark.parametrize("shown", FIELDS)
def test_field_with_a_secret_is_left_out_of_the_repr(shown):
    assert not shown


def test_the_fields_are_found():
    assert len(FIELDS) >= 10
