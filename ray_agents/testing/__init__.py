"""Test tools, shipped: twins of the seams, conformance suites, a stand-in Messages API server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_agents.models.permission import forbid_real_model_calls
    from ray_agents.models.scripted import FunctionModel, Says, ScriptedModel
    from ray_agents.testing.clients import local_async_client, local_client
    from ray_agents.testing.messages_api import MessagesApi
    from ray_agents.testing.recorded import Recording

__all__ = [
    "FunctionModel",
    "MessagesApi",
    "Recording",
    "Says",
    "ScriptedModel",
    "forbid_real_model_calls",
    "local_async_client",
    "local_client",
]

_HOMES = {
    "FunctionModel": "ray_agents.models.scripted",
    "MessagesApi": "ray_agents.testing.messages_api",
    "Recording": "ray_agents.testing.recorded",
    "Says": "ray_agents.models.scripted",
    "ScriptedModel": "ray_agents.models.scripted",
    "forbid_real_model_calls": "ray_agents.models.permission",
    "local_async_client": "ray_agents.testing.clients",
    "local_client": "ray_agents.testing.clients",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
