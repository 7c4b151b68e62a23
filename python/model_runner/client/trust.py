"""Whom a client of https trusts: the system's authorities, and what the environment says.

The variables are those of Docker's command line: MODEL_RUNNER_TLS_CA_CERT names a PEM file with one
more authority, MODEL_RUNNER_TLS_SKIP_VERIFY trusts everybody.
"""

from __future__ import annotations

import os
import ssl

from model_runner.errors import InvalidRequest

# As config reads truth values, Docker's way.
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}


def is_set(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "").strip().strip("\"'") in _TRUE


def context() -> ssl.SSLContext:
    """How servers are verified.

    Raises:
        InvalidRequest: MODEL_RUNNER_TLS_CA_CERT names no certificate.
    """
    trusting = ssl.create_default_context()
    if is_set("MODEL_RUNNER_TLS_SKIP_VERIFY"):
        trusting.check_hostname = False
        trusting.verify_mode = ssl.CERT_NONE
        return trusting
    authority = os.environ.get("MODEL_RUNNER_TLS_CA_CERT", "").strip().strip("\"'")
    if authority:
        try:
            trusting.load_verify_locations(authority)
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError
            reason = getattr(error, "strerror", None) or error
            raise InvalidRequest(
                f"MODEL_RUNNER_TLS_CA_CERT names `{authority}`, which is no certificate: {reason}",
                hint="`model-runner serve` prints where the certificate of its authority is",
            ) from error
    return trusting
