"""Test tools, shipped: twins of the seams, conformance suites, a stand-in Messages API server."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray_agents.testing.clients import local_async_client, local_client

__all__ = ["local_async_client", "local_client"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.clients"), name)
