"""The control API as tests drive it: put together once for equal settings, over any runtime.

FastAPI works out each route of an application when the first request looks for its own; that takes
longer than most of the tests, and comes out the same each time.
"""

from __future__ import annotations

from functools import cache

from fastapi import FastAPI

from ray_agents.ports import Runtime
from ray_agents.settings import Settings
from serve.api import create_app

_runtimes: dict[Settings, Runtime] = {}


def app_over(runtime: Runtime, settings: Settings) -> FastAPI:
    """One that enters ``runtime`` when it next begins; of equal settings, one at a time."""
    _runtimes[settings] = runtime
    return _app_of(settings)


@cache
def _app_of(settings: Settings) -> FastAPI:
    return create_app(_runtimes.__getitem__, settings)
