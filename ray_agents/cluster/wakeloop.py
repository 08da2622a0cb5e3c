"""The wakes of one awake entity, one after another: begin, run the handler, record what became.

Three appends make a wake: ``wake started`` (beside the message that caused it), whatever the
handler commits on its way, and its remaining effects together with ``wake handled`` (and the next
``wake started``, if messages have come meanwhile). The handler starts only after the first of
them is acknowledged.
"""

from __future__ import annotations

import asyncio
import traceback
from typing import TYPE_CHECKING, NamedTuple

from ray_agents import wakes
from ray_agents.cluster.session import EntitySession
from ray_agents.context import Context
from ray_agents.errors import Fenced, InvalidDefinition, NondeterministicWake, RayAgentsError
from ray_agents.events import ErrorRecorded, WakeRecorded, WakeStatus

if TYPE_CHECKING:
    from ray_agents.cluster.entity import Entity
    from ray_agents.definition import Definition
    from ray_agents.events import Draft
    from ray_agents.log.owner import Appending


class Begun(NamedTuple):
    """A wake whose start (or parking) is being written."""

    wake: WakeRecorded
    appending: Appending


class WakeLoop:
    """Runs the wakes of ``entity``, at most one at a time."""

    def __init__(self, entity: Entity) -> None:
        self._entity = entity
        self._task: asyncio.Task[None] | None = None
        self._session: EntitySession | None = None

    @property
    def running(self) -> bool:
        """Whether a wake is under way, or between two attempts."""
        return self._task is not None and not self._task.done()

    @property
    def handling(self) -> bool:
        """Whether a handler runs right now."""
        return self._session is not None

    def advance(self) -> None:
        """Begin the next attempt, if one is due, none runs, and the host admits it."""
        entity = self._entity
        if self.running or entity.sealing or not entity.state.alive:
            return
        if entity.state.current is None and not wakes.due(entity.state):
            return
        entity.waiting_for = entity.services.admit(entity)
        if entity.waiting_for is None:
            begun = self._begin()
            name = f"wake:{entity.name}"
            self._task = asyncio.get_running_loop().create_task(self._run(begun), name=name)
            self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        """Tell the handler to stop and cancel it; what it had not committed never happened."""
        if self._session is not None:
            self._session.cancelled.set()
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel, wait for the end, and record that the attempt does not count."""
        if self._task is None or self._task.done():
            return
        self.cancel()
        await asyncio.wait([self._task])
        entity = self._entity
        current = entity.state.current
        if (
            current is None
            or current.status is not WakeStatus.STARTED
            or entity.owner.lost.is_set()
        ):
            return
        stopped = wakes.interrupted(current, now=entity.services.clock.now())
        await entity.write([stopped.draft()]).durable()

    def _done(self, task: asyncio.Task[None]) -> None:
        """Look again: a message may have come between the last look and the end of the loop.

        A loop that ends by an error of ours gives the entity up: its next owner resumes.
        """
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._entity.owner.give_up(error)
        elif not self._entity.owner.lost.is_set():
            self.advance()

    async def _run(self, begun: Begun | None) -> None:
        while begun is not None:
            await begun.appending.durable()
            if begun.wake.status is WakeStatus.STARTED:
                begun = await self._attempt(begun.wake)
            else:
                begun = self._begin()

    def _begin(self) -> Begun | None:
        """Write the start of the next attempt, or the parking of one that died too often."""
        entity = self._entity
        state, services = entity.state, entity.services
        if not state.alive:
            return None
        attempt = wakes.Attempt(
            host=services.host,
            definition_version=services.definitions.newest_version(entity.address.type),
            now=services.clock.now(),
        )
        if state.current is not None:
            wake = wakes.again(state.current, attempt, entity.definition.limits)
        elif wakes.due(state):
            wake = wakes.begin(state, attempt)
        else:
            return None
        return Begun(wake, entity.enqueue([wake.draft()]))

    async def _attempt(self, wake: WakeRecorded) -> Begun | None:
        """Run the handler once and record the outcome; the wake begun beside it, if any."""
        entity = self._entity
        try:
            drafts = await self._handle(wake)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return await self._failed(wake, error)
        except Fenced:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a user's handler raises: recorded
            return await self._failed(wake, error)
        appending = entity.enqueue(drafts)
        begun = self._begin()
        await appending.durable()
        entity.outbox.advance()
        return begun

    async def _handle(self, wake: WakeRecorded) -> list[Draft]:
        entity = self._entity
        definitions = entity.services.definitions
        definition = definitions.load(entity.address.type, wake.definition_version).definition
        session = EntitySession(entity, wake, definition)
        context = Context(session, wakes.as_seen(wake, session.events))
        self._session = session
        try:
            returned = await _bounded(definition, context)
        finally:
            self._session = None
        text = context.said or session.run_text
        now = entity.services.clock.now()
        end = wakes.handled(wake, now=now, reply=returned, text=text)
        return [*session.effects.take(), end.draft()]

    async def _failed(self, wake: WakeRecorded, error: BaseException) -> Begun | None:
        """Record the failure with its traceback; then wait, and begin again or go on."""
        entity = self._entity
        now = entity.services.clock.now()
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, (NondeterministicWake, InvalidDefinition)):
            outcome = wakes.parked(wake, words, now=now)
        else:
            outcome = wakes.failed(wake, words, now=now, limits=entity.definition.limits)
        record = ErrorRecorded(
            key=f"{wake.key}-attempt-{wake.attempt}-{now}",
            error_code=error.slug if isinstance(error, RayAgentsError) else "handler_failed",
            message=words,
            traceback="".join(traceback.format_exception(error)),
            wake=wake.key,
        )
        await entity.enqueue([record.draft(), outcome.draft()]).durable()
        if outcome.status is WakeStatus.FAILED:
            clock = entity.services.clock
            await clock.sleep(wakes.until(outcome.retry_at, now=clock.now()))
        return self._begin()


async def _bounded(definition: Definition, context: Context) -> object:
    """Call the handler, for no longer than its limit.

    Raises:
        TimeoutError: it took longer.
    """
    limit = definition.limits.handler_time_max.total_seconds()
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            return await definition.handler(context, context.wake)
    except TimeoutError as error:
        if not scope.expired():
            raise
        message = f"the handler ran longer than {limit:g} s (Limits.handler_time_max)"
        raise TimeoutError(message) from error
