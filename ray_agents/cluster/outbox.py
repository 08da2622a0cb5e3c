"""The outbox of one awake entity: sends and spawns of committed effects, delivered at least once.

A row may leave once it is durable here. The receiver deduplicates by the row's key, so a crash
between delivery and its record costs a repeated delivery and nothing else. What a receiver refuses
for good (nobody there, payload does not fit) is recorded as an error and taken out; what cannot be
reached is tried again, a bounded number of times, and then *deferred*: the log says when the target
is tried next, after a delay that grows, and until then the entity may sleep (``timers.py``). So a
target that is dead keeps nobody awake. A row that is too old by then is recorded and taken out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import timedelta

from ray_agents import schedule
from ray_agents.cluster.awake import Awake
from ray_agents.errors import AuthorError, BacklogFull, CallerError, RayAgentsError
from ray_agents.events import Draft, EffectStaged, ErrorRecorded

TRIES_MAX = 8
DELAY_FIRST = timedelta(milliseconds=50)
CONCURRENT_MAX = 16


class Outbox:
    """Delivers what stands in the outbox of ``entity``.

    Rows to one target leave in their order, and a target that is slow or away holds up no other.
    ``deferred`` is called when one has to wait for its next try.
    """

    def __init__(self, entity: Awake, *, deferred: Callable[[], object]) -> None:
        self._entity = entity
        self._told_deferred = deferred
        self._rows: dict[str, deque[str]] = {}
        self._tasks: dict[str, asyncio.Task[bool]] = {}
        self._taken: set[str] = set()
        self._slots = asyncio.Semaphore(CONCURRENT_MAX)

    @property
    def running(self) -> bool:
        """Whether anything is being delivered."""
        return bool(self._tasks)

    @property
    def next_due(self) -> int | None:
        """When a target that was out of reach is tried next, in microseconds since the epoch."""
        waiting = self._entity.state.deferred.values()
        times = (
            each.retry_at
            for each in waiting
            if each.target in self._rows and each.target not in self._tasks
        )
        return min(times, default=None)

    def advance(self, *, now: int | None = None) -> None:
        """Deliver what is durable, not yet taken up, and not deferred beyond ``now``."""
        entity = self._entity
        if entity.leaving:
            return
        durable = entity.owner.durable_tip
        for row in entity.state.outbox.values():
            effect = row.effect
            if row.offset < durable and effect.key not in self._taken:
                self._taken.add(effect.key)
                self._rows.setdefault(effect.target, deque()).append(effect.key)
        if not self._rows:
            return
        instant = max(now or 0, entity.services.clock.now())
        for target in [each for each in self._rows if each not in self._tasks]:
            waits = entity.state.deferred.get(target)
            if waits is None or waits.retry_at <= instant:
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
        elif self._entity.leaving:
            return
        elif task.result():
            self._begin(target)  # a row came after the task had seen none
        else:
            self._told_deferred()

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
        services, state = self._entity.services, self._entity.state
        delay, last = DELAY_FIRST, ""
        for number in range(1 if effect.target in state.deferred else TRIES_MAX):
            if number:
                await services.clock.sleep(delay)
                delay *= 2
            try:
                async with self._slots:
                    await services.deliver(effect)
            except BacklogFull as error:
                last = str(error)
            except (CallerError, AuthorError) as error:
                refused = _error(effect, f"was refused: {error}", code=error.slug)
                self._record([refused.draft(), effect.delivered(), *self._reached(effect)])
                return True
            except (RayAgentsError, OSError) as error:
                last = str(error)
            else:
                self._record([effect.delivered(), *self._reached(effect)])
                return True
        return self._deferred(effect, last)

    def _reached(self, effect: EffectStaged) -> list[Draft]:
        waited = self._entity.state.deferred.get(effect.target)
        return [waited.ended()] if waited else []

    def _deferred(self, effect: EffectStaged, error: str) -> bool:
        """Record when the target is tried next, and what is given up; whether that is all."""
        state, now = self._entity.state, self._entity.services.clock.now()
        target, drafts = effect.target, list[Draft]()
        rows = [row for row in state.outbox.values() if row.effect.target == target]
        old = [row.effect for row in rows if schedule.is_given_up(row, now=now)]
        for each in old:
            words = f"could not be delivered for {schedule.OUTBOX_AGE_MAX.days} days: {error}"
            drafts += [_error(each, words, code="undeliverable").draft(), each.delivered()]
        if len(old) < len(rows):
            earlier = state.deferred.get(target)
            drafts.append(schedule.deferred(earlier, target, error=error, now=now).draft())
        else:
            drafts += self._reached(effect)
        self._record(drafts)
        return len(old) == len(rows)

    def _record(self, drafts: Sequence[Draft]) -> None:
        """Write what became of a row; without it the next owner delivers it again, harmlessly."""
        if drafts and not self._entity.owner.lost.is_set():
            self._entity.write(drafts)


def _error(effect: EffectStaged, words: str, *, code: str) -> ErrorRecorded:
    return ErrorRecorded(
        key=f"outbox-{effect.key}",
        error_code=code,
        message=f"{effect.kind.value} to {effect.target!r} {words}",
    )
