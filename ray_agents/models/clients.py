"""The SDKs' clients, one per event loop, provider and settings: a new one costs a TLS context."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, cast
from weakref import WeakKeyDictionary

from ray_agents.model import ModelSettings

NO_KEY = "none"  # for a server that asks for no key; the SDKs insist on sending one
_Key = tuple[str, ModelSettings]


class Client(Protocol):
    """What is kept: it can be closed."""

    async def close(self) -> None:
        """Let its connections go."""
        ...


C = TypeVar("C", bound=Client)
_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[_Key, Client]] = WeakKeyDictionary()


def client_of(provider: str, settings: ModelSettings, make: Callable[[], C]) -> C:
    """The client of this event loop for these settings, made if there is none."""
    mine = _clients.setdefault(asyncio.get_running_loop(), {})
    key = (provider, settings)
    if key not in mine:
        mine[key] = make()
    return cast("Any", mine[key])


async def close_clients() -> None:
    """Close the clients of this event loop; later calls make new ones."""
    for client in _clients.pop(asyncio.get_running_loop(), {}).values():
        await client.close()
