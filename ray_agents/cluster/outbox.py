"""The outbox of one awake entity: sends and spawns of committed effects, delivered at least once.

A row may leave once it is durable here. The receiver deduplicates by the row's key, so a crash
between delivery and its record costs a repeated delivery and nothing else. What a receiver refuses
for good (nobody there, payload does not fit) is recorded as an error and taken out; what cannot be
reached is tried again, a bounded number of times, and stays in the outbox for the next owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from ray_agents.cluster.awake import Awake
from ray_agents.errors import AuthorError, BacklogFull, CallerError, RayAgentsError
from ray_agents.events import Draft, EffectStaged, ErrorRecorded

TRIES_MAX = 8
DELAY_FIRST = timedelta(milliseconds=50)
CONCURRENT_MAX = 16


class Outbox:
    """Delivers what stands in the outbox of ``entity``."""

    def __init__(self, entity: Awake) -> None:
        self._entity = entity
        self._task: asyncio.Task[None] | None = None
        self._given_up: set[str] = set()

    @property
    def running(self) -> bool:
        """Whether anything is being delivered."""
        return self._task is not None and not self._task.done()

    def advance(self) -> None:
        """Deliver what is durable and not yet delivered."""
        if self._entity.leaving or self.running or not self._ready():
            return
        name = f"outbox:{self._entity.name}"
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
        self._task.add_done_callback(self._done)

    async def stop(self) -> None:
        """Stop delivering; what was not confirmed is delivered again by the next owner."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _ready(self) -> list[EffectStaged]:
        durable = self._entity.owner.durable_tip
        rows = self._entity.state.outbox.values()
        return [
            row.effect
            for row in rows
            if row.offset < durable and row.effect.key not in self._given_up
        ]

    def _done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._entity.owner.give_up(error)

    async def _run(self) -> None:
        """Rows to one target leave in their order; targets do not wait for each other."""
        while ready := self._ready():
            by_target: dict[str, list[EffectStaged]] = {}
            for effect in ready:
                by_target.setdefault(effect.target, []).append(effect)
            slots = asyncio.Semaphore(CONCURRENT_MAX)
            async with asyncio.TaskGroup() as group:
                for effects in by_target.values():
                    group.create_task(self._deliver_all(effects, slots))

    async def _deliver_all(self, effects: list[EffectStaged], slots: asyncio.Semaphore) -> None:
        async with slots:
            for effect in effects:
                await self._deliver(effect)

    async def _deliver(self, effect: EffectStaged) -> None:
        services = self._entity.services
        delay = DELAY_FIRST
        for _ in range(TRIES_MAX):
            try:
                await services.deliver(effect)
            except BacklogFull:
                await services.clock.sleep(delay)
            except (CallerError, AuthorError) as error:
                self._record([self._refused(effect, error).draft(), effect.delivered()])
                return
            except (RayAgentsError, OSError):
                await services.clock.sleep(delay)
            else:
                self._record([effect.delivered()])
                return
            delay *= 2
        self._given_up.add(effect.key)

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
