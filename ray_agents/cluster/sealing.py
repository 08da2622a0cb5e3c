"""Many entities sealed at once, within a bound: one that fails or hangs keeps no other from it.

What cannot be sealed in time is given up: its owner writes nothing any more, and whoever takes the
log next finds an end as after a crash. So a host that is to leave always can.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from datetime import timedelta
from typing import Any

from ray_agents.cluster.entity import Entity
from ray_agents.errors import Fenced, RuntimeUnavailable

LOGGER = logging.getLogger("ray_agents.host")


async def seal_all(
    entities: Iterable[Entity],
    seal: Callable[[Entity], Coroutine[Any, Any, None]],
    *,
    within: timedelta,
) -> list[str]:
    """Call ``seal`` for each, all at once; the names of those that were not sealed in time."""
    loop = asyncio.get_running_loop()
    sealing = {loop.create_task(seal(e), name=f"seal:{e.address}"): e for e in entities}
    if not sealing:
        return []
    await asyncio.wait(sealing, timeout=within.total_seconds())
    failed: list[str] = []
    for task, entity in sealing.items():
        error = _failure(task, within)
        if error is not None:
            LOGGER.error("%s is given up, not sealed: %s", entity.name, error)
            entity.owner.give_up(error)
            task.cancel()
            failed.append(entity.name)
    return failed


def _failure(task: asyncio.Task[None], within: timedelta) -> BaseException | None:
    if not task.done():
        return RuntimeUnavailable(f"it was not sealed within {within.total_seconds():g} s")
    if task.cancelled():
        return RuntimeUnavailable("its sealing was cancelled")
    error = task.exception()
    return None if isinstance(error, Fenced) else error  # taken over: nothing was left to seal
