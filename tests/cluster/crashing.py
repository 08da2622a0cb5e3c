"""A runtime that crashes as its store dies at its n-th write, whatever it was about to do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from ray_agents.cluster.local import LocalRuntime
from ray_agents.errors import RayAgentsError
from ray_agents.ports import Blobs
from tests.cluster.conftest import turn_until
from tests.cluster.stores import DyingBlobs

Through = Callable[[LocalRuntime], Coroutine[Any, Any, object]]


async def crash_during(
    through: Through, store: Blobs, *, crash_at: int, after: bool, **options: Any
) -> int:
    """Go ``through`` it until the store dies, before or after that write; how many there were."""
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    dying = DyingBlobs(
        store, crash_at=crash_at, after=after, died=lambda: loop.call_soon_threadsafe(died.set)
    )
    runtime = LocalRuntime(dying, **options)
    try:
        async with asyncio.TaskGroup() as group, runtime:
            work = group.create_task(through(runtime))
            death = group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            awake = runtime.hosts.host
            await turn_until(lambda: death.done() or not any(e.busy for e in awake.awake))
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass
    return dying.writes
