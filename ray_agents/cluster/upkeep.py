"""``ray-agents start``, ``stop`` and ``status``: a runtime that stays, brought up and down."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray_agents.cluster.launch import join_ray, start_ray, stop_ray
from ray_agents.cluster.running import find_running, write_running
from ray_agents.cluster.sockets import require_free
from ray_agents.errors import RuntimeUnavailable
from ray_agents.settings import Settings

Description = Mapping[str, Any]


def start(settings: Settings) -> Description:
    """Start Ray, the keeper and the control API; resume unfinished work; register ``app``.

    Returns when all of it answers. Started twice, it says what runs.

    Raises:
        PortTaken, RuntimeUnavailable, StoreUnavailable, InvalidDefinition: it cannot start.
    """
    known = find_running(settings)
    if known is None:
        require_free(settings.http_host, settings.http_port)
    registry = None
    if settings.app is not None:
        from ray_agents.cluster.shipping import import_registry

        sys.path.insert(0, str(Path.cwd()))  # where `python -m` would look, too
        registry = import_registry(settings.app)
    running = start_ray(settings)
    try:
        join_ray(running)
        types = asyncio.run(_begin(settings, registry))
        if running.url is None:
            from ray_agents.cluster.deploy import deploy_serve

            running = running.with_url(deploy_serve(settings))
            write_running(settings, running)
    except BaseException:
        if known is None:
            _leave()
            stop_ray(settings)
        raise
    _leave()
    return {
        "control API": running.url,
        "token file": running.token_file,
        "store": running.store,
        "ray": running.address,
        "types": types,
        "was running": known is not None,
    }


async def _begin(settings: Settings, registry: Any) -> list[str]:
    from ray_agents.cluster.attach import ClusterRuntime

    async with ClusterRuntime(settings) as runtime:
        if registry is not None:
            await runtime.register(registry, source=settings.app)
        return [f"{view.type} (version {view.version})" for view in await runtime.types()]


def stop(settings: Settings) -> Description:
    """Have every host seal what it holds, then end Ray, within the stop deadline.

    Raises:
        RuntimeUnavailable: nothing of this store runs.
    """
    running = find_running(settings)
    sealed = 0
    if running is not None and not running.embedded:
        try:
            join_ray(running)
            sealed = asyncio.run(_seal(settings))
        finally:
            _leave()
    stopped = stop_ray(settings)
    return {"hosts sealed": sealed, "processes ended": stopped.ended, "killed": stopped.killed}


async def _seal(settings: Settings) -> int:
    from ray_agents.cluster.attach import ClusterRuntime

    return await ClusterRuntime(settings).stop_hosts()


def status(settings: Settings) -> Description:
    """What runs for this store, and where.

    Raises:
        RuntimeUnavailable: nothing does.
    """
    running = find_running(settings)
    if running is None:
        message = (
            f"no runtime of the store {settings.store!r} is running; `ray-agents start` starts one"
        )
        raise RuntimeUnavailable(message, store=settings.store)
    join_ray(running)
    try:
        keeper = asyncio.run(_keeper(settings))
    finally:
        _leave()
    return {
        "control API": running.url,
        "token file": running.token_file,
        "store": running.store,
        "ray": running.address,
        **keeper,
    }


async def _keeper(settings: Settings) -> dict[str, Any]:
    from ray_agents.cluster.attach import ClusterRuntime

    async with ClusterRuntime(settings) as runtime:
        return dict(await runtime.keeper_status())


def _leave() -> None:
    import ray

    ray.shutdown()
