"""A switch for tests: whether this process may call a model that costs money."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from ray_agents.errors import ModelUnavailable

_forbidden = False


def forbid_real_model_calls(*, forbidden: bool = True) -> None:
    """Refuse every call of a real model in this process from now on, or allow them again.

    A server on this machine (the stand-in) is not a real model.
    """
    global _forbidden  # noqa: PLW0603 -- one switch per process is the point
    _forbidden = forbidden


def check_permission(base_url: str, model: str) -> None:
    """Pass if a call there is allowed.

    Raises:
        ModelUnavailable: the switch is on and the server is not on this machine.
    """
    if _forbidden and not _is_loopback(urlsplit(base_url).hostname or ""):
        message = (
            f"a call of {model!r} at {base_url!r} was refused: forbid_real_model_calls() is on; "
            "give the agent test_responses, or a base_url of the stand-in server"
        )
        raise ModelUnavailable(message, model=model, base_url=base_url)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
