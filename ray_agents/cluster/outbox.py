"""The outbox of one awake entity: sends and spawns of committed effects, delivered at least once.

A row may leave once it is durable here. The receiver deduplicates by the row's key, so a crash
between delivery and its record costs a repeated delivery and nothing else. What a receiver refuses
for good (nobody there, payload does not fit) is recorded as an error and taken out; what cannot be
reached is tried again, a bounded number of times, and stays in the outbox for the next owner.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from ray_agents.cluster.awake import Awake
from ray_agents.errors import AuthorError, BacklogFull, CallerError, RayAgentsError
from ray_agents.events import Draft, EffectStaged, ErrorRecorded

TRIES_MAX = 8
DELAY_FIRST = timedelta(milliseconds=50)
CONCURRENT_MAX = 16


class Outbox:
    """Delivers what stands in the outbox of ``entity``.

    Rows to one target leave in their order, and a target that is slow or away holds up no other.
    """

    def __init__(self, entity: Awake) -> None:
        self._entity = entity
        self._rows: dict[str, deque[str]] = {}
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._taken: set[str] = set()
        self._slots = asyncio.Semaphore(CONCURRENT_MAX)

    @property
    def running(self) -> bool:
        """Whether anything is being delivered."""
        return bool(self._tasks)

    def advance(self) -> None:
        """Deliver what is durable and not yet taken up."""
        entity = self._entity
        if entity.leaving:
            return
        durable = entity.owner.durable_tip
        for row in entity.state.outbox.values():
            effect = row.effect
            if row.offset < durable and effect.key not in self._taken:
                self._taken.add(effect.key)
                self._rows.setdefault(effect.target, deque()).append(effect.key)
        for target in [target for target in self._rows if target not in self._tasks]:
            self._begin(target)

    def _begin(self, target: str) -> None:
        name = f"outbox:{self._entity.name}>{target}"
        task = asyncio.get_running_loop().create_task(self._run(target), name=name)
        self._tasks[target] = task
        task.add_done_callback(lambda ended: self._ended(target, ended))

    def _ended(self, target: str, task: asyncio.Task[bool]) -> None:
        del self._tasks[target]
        if task.cancelled():
            return
        if (error := task.exception()) is not None:
            self._entity.owner.give_up(error)
        elif not self._rows[target]:
            del self._rows[target]
        elif task.result() and not self._entity.leaving:
            self._begin(target)  # a row came after the task had seen none

    async def stop(self) -> None:
        """Stop delivering; what was not confirmed is delivered again by the next owner."""
        tasks = [*self._tasks.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _run(self, target: str) -> bool:
        """Whether everything for one target was seen to; one out of reach keeps what is left."""
        keys = self._rows[target]
        while keys:
            row = self._entity.state.outbox.get(keys[0])  # gone, if its life has been ended
            if row is not None and not await self._delivered(row.effect):
                return False
            self._taken.discard(keys.popleft())
        return True

    async def _delivered(self, effect: EffectStaged) -> bool:
        """Deliver a row and record what became of it; False if its target is out of reach."""
        services = self._entity.services
        delay = DELAY_FIRST
        for _ in range(TRIES_MAX):
            try:
                async with self._slots:
                    await services.deliver(effect)
            except BacklogFull:
                await services.clock.sleep(delay)
            except (CallerError, AuthorError) as error:
                self._record([self._refused(effect, error).draft(), effect.delivered()])
                return True
            except (RayAgentsError, OSError):
                await services.clock.sleep(delay)
            else:
                self._record([effect.delivered()])
                return True
            delay *= 2
        return False

    def _record(self, drafts: Sequence[Draft]) -> None:
        """Write what became of a row; without it the next owner delivers it again, harmlessly."""
        if not self._entity.owner.lost.is_set():
            self._entity.write(drafts)

    def _refused(self, effect: EffectStaged, error: RayAgentsError) -> ErrorRecorded:
        return ErrorRecorded(
            key=f"outbox-{effect.key}",
            error_code=error.slug,
            message=f"{effect.kind.value} to {effect.target!r} was refused: {error}",
        )
