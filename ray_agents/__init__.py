"""ray-agents: the durable runtime for long-lived AI agents, on Ray.

The public names load when they are first used: importing the package costs neither Ray nor a
model's SDK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_agents.address import Address
    from ray_agents.agent import AgentConfig, AgentRunResult
    from ray_agents.budgets import Budget
    from ray_agents.client import AsyncClient, Client, connect, connect_async
    from ray_agents.context import Context
    from ray_agents.definition import (
        Dedicated,
        Definition,
        Limits,
        Packed,
        Registry,
        Resources,
        Retention,
    )
    from ray_agents.errors import RayAgentsError
    from ray_agents.events import Event
    from ray_agents.settings import Settings
    from ray_agents.tables.query import query
    from ray_agents.tables.scan import scan
    from ray_agents.tools import Tool, tool
    from ray_agents.views import Durability, EntityView, Receipt, Reply, Status
    from ray_agents.wakes import Wake

    __version__: str

__all__ = [
    "Address",
    "AgentConfig",
    "AgentRunResult",
    "AsyncClient",
    "Budget",
    "Client",
    "Context",
    "Dedicated",
    "Definition",
    "Durability",
    "EntityView",
    "Event",
    "Limits",
    "Packed",
    "RayAgentsError",
    "Receipt",
    "Registry",
    "Reply",
    "Resources",
    "Retention",
    "Settings",
    "Status",
    "Tool",
    "Wake",
    "__version__",
    "connect",
    "connect_async",
    "query",
    "scan",
    "tool",
]

_HOMES = {
    "Address": "address",
    "AgentConfig": "agent",
    "AgentRunResult": "agent",
    "AsyncClient": "client",
    "Budget": "budgets",
    "Client": "client",
    "Context": "context",
    "Dedicated": "definition",
    "Definition": "definition",
    "Durability": "views",
    "EntityView": "views",
    "Event": "events",
    "Limits": "definition",
    "Packed": "definition",
    "RayAgentsError": "errors",
    "Receipt": "views",
    "Registry": "definition",
    "Reply": "views",
    "Resources": "definition",
    "Retention": "definition",
    "Settings": "settings",
    "Status": "views",
    "Tool": "tools",
    "Wake": "wakes",
    "connect": "client",
    "connect_async": "client",
    "query": "tables.query",
    "scan": "tables.scan",
    "tool": "tools",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value = import_module("importlib.metadata").version("ray-agents")
    elif name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
