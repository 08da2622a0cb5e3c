"""A switch for tests: whether this process may call a model that costs money."""

from __future__ import annotations

import ipaddress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ray_agents.errors import ModelUnavailable

_forbidden = False


class Switched:
    """The switch as it was set; leaving ``with`` sets it back to what it was before."""

    def __init__(self, *, before: bool) -> None:
        self._before = before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        forbid_real_model_calls(forbidden=self._before)


def forbid_real_model_calls(*, forbidden: bool = True) -> Switched:
    """Refuse every call of a real model in this process from now on, or allow them again.

    ``with forbid_real_model_calls():`` sets it back at the end. A server on this machine (a
    stand-in, a recording) is not a real model. The pytest plugin ``ray_agents.testing.plugin``
    has it as the fixture ``no_real_model_calls``.
    """
    global _forbidden
    before, _forbidden = _forbidden, forbidden
    return Switched(before=before)


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
        raise ModelUnavailable(message, model=model, base_url=base_url, kind="forbidden")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
