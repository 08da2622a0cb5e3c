"""``ray-agents start``, ``stop`` and ``status``: a runtime that stays, brought up and down."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ray_agents.cluster.head import absolute_store, agents_of
from ray_agents.cluster.launch import clear_leftovers, join_ray, start_ray, stop_ray
from ray_agents.cluster.running import RunningRay, find_running, recorded, write_running
from ray_agents.cluster.sockets import require_free
from ray_agents.cluster.untyped import import_ray
from ray_agents.definition import Registry
from ray_agents.errors import InvalidSetting, RuntimeUnavailable
from ray_agents.settings import Settings

Description = Mapping[str, Any]
Report = Callable[[str], None]


def start(
    settings: Settings, *, http_port: int | None = None, report: Report = lambda _: None
) -> Description:
    """Start Ray, the keeper and the control API; resume unfinished work; register ``app``.

    Returns when all of it answers. Started twice, it registers ``app`` and says what runs.
    ``http_port``, if given, is insisted on, as is one in the settings that is not the default.
    ``report`` is told of each step.

    Raises:
        PortTaken, RuntimeUnavailable, StoreUnavailable, InvalidDefinition: it cannot start; then
            nothing is left running.
        InvalidSetting: it runs, with another port; it goes on, and nothing is registered.
    """
    settings = replace(settings, http_port=http_port or settings.http_port)
    known = find_running(settings)
    if known is not None and (http_port or settings.http_port != Settings().http_port):
        _check_port(settings, known)
    registry = _app(settings)
    if known is None:
        report("looking for what an earlier runtime may have left")
        clear_leftovers(settings)
        require_free(settings.http_host, settings.http_port)
        report("starting Ray")
    try:
        running = start_ray(settings)
        join_ray(running)
        report("resuming unfinished work, registering types")
        types = asyncio.run(_begin(settings, registry))
        if running.url is None:
            report("starting the control API")
            running = _with_control_api(settings, running)
    except BaseException:
        _leave()
        if known is None and recorded(settings) is not None:
            report("ending what was started")
            stop_ray(settings)
        raise
    _leave()
    described = {
        "control API": running.url,
        "token file": running.token_file,
        "store": running.store,
        "ray": running.address,
        "types": types,
    }
    return described | dict(_only_now(settings, known=known))


def _check_port(settings: Settings, running: RunningRay) -> None:
    port = settings.http_port
    if running.url is not None and urlsplit(running.url).port != port:
        raise InvalidSetting(
            f"the runtime of the store {running.store!r} runs already, with its control API at "
            f"{running.url}: it cannot change to port {port} while it runs; `ray-agents stop` "
            f"first, then start it with --port {port}",
            variable="RAY_AGENTS_HTTP_PORT",
            url=running.url,
        )


def _app(settings: Settings) -> Registry | None:
    if settings.app is None:
        return None
    sys.path.insert(0, str(Path.cwd()))  # where `python -m` would look, too
    from ray_agents.cluster.shipping import import_registry

    return import_registry(settings.app)


def _with_control_api(settings: Settings, running: RunningRay) -> RunningRay:
    from ray_agents.cluster.deploy import deploy_serve

    running = running.with_url(deploy_serve(settings)).with_processes(agents_of(running))
    write_running(settings, running)
    return running


def _only_now(settings: Settings, *, known: RunningRay | None) -> Description:
    """What is only known of a fresh start, or of one that found a runtime."""
    if known is not None:
        return {"was running": True}
    claude = settings.anthropic_base_url or ("Anthropic" if settings.anthropic_api_key else None)
    other = settings.openai_base_url or ("OpenAI" if settings.openai_api_key else None)
    return {"model API": claude or other}


async def _begin(settings: Settings, registry: Registry | None) -> list[str]:
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
        message = f"no runtime of the store {absolute_store(settings)!r} is running here"
        raise RuntimeUnavailable(message, store=settings.store)
    join_ray(running)
    try:
        seen = asyncio.run(_seen(settings))
    finally:
        _leave()
    return {
        "control API": running.url,
        "token file": running.token_file,
        "store": running.store,
        "ray": running.address,
        **seen,
    }


async def _seen(settings: Settings) -> dict[str, Any]:
    """What the keeper sees, and the gateway of model calls."""
    from ray_agents.cluster.attach import ClusterRuntime

    async with ClusterRuntime(settings) as runtime:
        return dict(await runtime.keeper_status()) | dict(await runtime.models_status())


def _leave() -> None:
    import_ray().shutdown()
