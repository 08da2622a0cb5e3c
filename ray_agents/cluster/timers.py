"""The timers of one awake entity: what is due fires, and the index knows when it may sleep.

A delayed send is acknowledged as a schedule in the entity's own log. When it is due, its inbox row
and the end of its schedule are one append, hence one frame: after a crash at any point either both
are there or neither is, and the next owner, who folds the log, fires what is still pending.

A due message is never refused: the bounds were checked when it was accepted (``Limits``).

What could not be delivered to others waits for its next try by the same means (``outbox.py``), and
so does a tool call whose approval expires.

One task at most waits for the earliest of them, by the host's clock. An entity whose next due time
is some way off falls asleep all the same, once the index of due times (``dueindex.py``) has
acknowledged that time: so it is somebody's concern at every instant, this owner's while it is
awake, which its host's log records, the index's while it sleeps. If the index cannot be reached
the entity stays awake, asks again after a growing delay, and fires by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from heapq import heapify, heappop, heappush
from typing import Protocol

from ray_agents import wakes
from ray_agents.cluster.awake import Awake
from ray_agents.cluster.calls import Due
from ray_agents.cluster.interrupting import marks
from ray_agents.cluster.outbox import Outbox
from ray_agents.errors import RayAgentsError
from ray_agents.events import MessageReceived, SendScheduled
from ray_agents.log.owner import Appending
from ray_agents.projection import Timer
from ray_agents.schedule import expired, expiries, next_due

IMMINENT = timedelta(seconds=1)  # what is due so soon is waited for: less than a sleep costs
CLOCK_LOOK_MAX = timedelta(minutes=1)  # a clock that is set is noticed after so long
FIRED_AT_ONCE_MAX = 100
ASK_AGAIN_FIRST = 1.0
ASK_AGAIN_MAX = 60.0
LOGGER = logging.getLogger("ray_agents.timers")


class Arrives(Protocol):
    """Takes note of a message whose row is not durable yet."""

    def __call__(self, message: MessageReceived, offset: int, *, accepted: int | None) -> None:
        """``offset`` is the row's, ``accepted`` the one that the sender was told."""
        ...


class Timers:
    """Fires the delayed sends of ``entity``: ``arrives`` is told of each, ``fired`` of some.

    ``outbox`` has due times of its own.
    """

    def __init__(
        self, entity: Awake, *, arrives: Arrives, fired: Callable[[], object], outbox: Outbox
    ) -> None:
        self._entity = entity
        self._outbox = outbox
        self._arrives = arrives
        self._fired = fired
        self._task: asyncio.Task[None] | None = None
        self._waits_for: int | None = None
        self._queue = [
            (timer.send.fire_at, timer.send.key) for timer in entity.state.timers.values()
        ]
        heapify(self._queue)
        self._registered = next_due(entity.state) is not None  # so the index may know of us
        self._last: Appending | None = None  # of those that may not be durable yet
        self._agreed_at: int | None = None
        self._ask_delay = ASK_AGAIN_FIRST
        self._ask_at = 0.0

    @property
    def next_due(self) -> int | None:
        """When anything is due next, in microseconds since the epoch; None if nothing ever is."""
        known = [due for due in (self._next_send(), self._outbox.next_due) if due is not None]
        return min((*known, *expiries(self._entity.state)), default=None)

    def _next_send(self) -> int | None:
        while self._queue and self._pending(*self._queue[0]) is None:
            heappop(self._queue)
        return self._queue[0][0] if self._queue else None

    @property
    def imminent(self) -> bool:
        """Whether something is due so soon that the entity had better wait for it."""
        due = self.next_due
        return (
            due is not None and wakes.until(due, now=self._entity.services.clock.now()) <= IMMINENT
        )

    def _pending(self, fire_at: int, key: str) -> Timer | None:
        timer = self._entity.state.timers.get(key)
        return timer if timer is not None and timer.send.fire_at == fire_at else None

    # -- firing -------------------------------------------------------------------------------

    def added(self, send: SendScheduled) -> None:
        """One more delayed send is pending."""
        heappush(self._queue, (send.fire_at, send.key))
        self.advance()

    def advance(self) -> None:
        """See to it that somebody waits for what is due next."""
        due = self.next_due
        if due is None or self._entity.leaving:
            return
        if self._task is not None and not self._task.done():
            if self._waits_for is None or self._waits_for <= due:
                return
            self._task.cancel()
        name = f"timers:{self._entity.name}"
        self._waits_for = None
        self._task = asyncio.get_running_loop().create_task(self._run(), name=name)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """The life is over: nothing is waited for any more."""
        self._queue.clear()
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Stop waiting; what is pending is fired by the next owner."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    def _done(self, task: asyncio.Task[None]) -> None:
        """A task that ends by an error of ours gives the entity up: its next owner goes on."""
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._entity.leaving:
            self._entity.owner.give_up(error)
        elif task is self._task:  # something may have come before it had ended
            self.advance()

    async def _run(self) -> None:
        clock = self._entity.services.clock
        while not self._entity.leaving and (due := self.next_due) is not None:
            wait = wakes.until(due, now=clock.now())
            if wait:
                self._waits_for = due
                await clock.sleep(min(wait, CLOCK_LOOK_MAX))
                self._waits_for = None
            else:
                await self.fire(clock.now())

    async def fire(self, now: int) -> bool:
        """Let everything that is due by ``now`` happen; return when it is durable.

        Returns:
            Whether there was anything for the inbox, of which that had to be awaited.

        Raises:
            Fenced, StoreUnavailable, StoreFull: the ownership has ended; the next owner fires.
        """
        self._outbox.advance(now=now)
        if late := expired(self._entity.state, now=now):
            self._last = self._entity.enqueue([approval.draft() for approval in late])
            self._fired()
        while not self._entity.leaving and (ready := self._take(now)):
            for timer in ready:
                self._last = self._put(timer)
            self._fired()
            await asyncio.sleep(0)  # others have their turn between two batches
        last = self._last
        if last is None:
            return False
        await last.durable()
        if self._last is last:
            self._last = None
        return True

    def _take(self, now: int) -> list[Timer]:
        """Some of what is due by ``now``, oldest first."""
        ready: list[Timer] = []
        while (
            len(ready) < FIRED_AT_ONCE_MAX and (due := self._next_send()) is not None and due <= now
        ):
            timer = self._pending(*heappop(self._queue))
            if timer is not None:
                ready.append(timer)
        return ready

    def _put(self, timer: Timer) -> Appending:
        """Inbox row and end of the schedule, in one append: one frame."""
        now = self._entity.services.clock.now()
        message = timer.send.message(now=now)
        headers = {SendScheduled.OFFSET_HEADER: str(timer.offset)}
        draft = message.draft()
        row = replace(draft, headers={**draft.headers, **headers})
        also = marks(self._entity, message)
        appending = self._entity.enqueue([row, timer.send.sent(now=now), *also])
        self._arrives(message, appending.events[0].offset, accepted=timer.offset)
        return appending

    # -- sleeping -----------------------------------------------------------------------------

    @property
    def agreed(self) -> bool:
        """Whether the index knows when this entity is next due, if it ever is."""
        due = self.next_due
        return due is None or due == self._agreed_at

    def called(self) -> None:
        """The index has called: it now waits to be told anew."""
        self._agreed_at = None
        self._registered = True

    async def agree(self) -> bool:
        """Tell the index when this entity is next due; whether it may sleep, as far as that goes.

        It may not if the index cannot be reached, or if the time has changed meanwhile.
        """
        services, due = self._entity.services, self.next_due
        if due is None and not self._registered:
            return True
        if services.clock.monotonic() < self._ask_at:
            return due is None
        try:
            told = Due(address=self._entity.address, at=due, epoch=self._entity.owner.epoch)
            await services.register(told)
        except RayAgentsError as error:
            return self._not_now(due, error)
        self._agreed_at, self._registered = due, due is not None
        self._ask_delay = ASK_AGAIN_FIRST
        return self.next_due == due

    def _not_now(self, due: int | None, error: RayAgentsError) -> bool:
        if due is None:
            return True  # it will be called once in vain
        LOGGER.warning(
            "%s stays awake, as the index of due times cannot be told of it: %s",
            self._entity.name,
            error,
        )
        self._ask_at = self._entity.services.clock.monotonic() + self._ask_delay
        self._ask_delay = min(2 * self._ask_delay, ASK_AGAIN_MAX)
        return False
