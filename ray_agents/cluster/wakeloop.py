"""The wakes of one awake entity, one after another: begin, run the handler, record what became.

Three appends make a wake: ``wake started`` (beside the message that caused it), whatever the
handler commits on its way, and its remaining effects together with ``wake handled`` (and the next
``wake started``, if messages have come meanwhile). The handler starts only after the first of
them is acknowledged.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import traceback
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, NamedTuple

from ray_agents import wakes
from ray_agents.approvals import only_awaits
from ray_agents.cluster.awake import Awake
from ray_agents.cluster.interrupting import left_open
from ray_agents.cluster.session import EntitySession
from ray_agents.context import Context
from ray_agents.definition import Definition
from ray_agents.errors import Fenced, InvalidDefinition, NondeterministicWake, RayAgentsError
from ray_agents.events import Draft, ErrorRecorded, WakeRecorded, WakeStatus
from ray_agents.interruption import Interruption
from ray_agents.log.owner import Appending
from ray_agents.runs import INTERRUPTED
from ray_agents.turns import CALLER

ERROR_CHARS_MAX = 20_000
CANCELLED_MAX = timedelta(seconds=2)  # for a handler to end once it is cancelled
OF_THE_PROCESS = (KeyboardInterrupt, GeneratorExit)  # all else that is raised is the handler's
INTERRUPTED_MAX = timedelta(seconds=2)  # for it to end by itself, after which it is cancelled
LOGGER = logging.getLogger("ray_agents.host")


class Begun(NamedTuple):
    """A wake whose start (or parking) is being written."""

    wake: WakeRecorded
    appending: Appending


class WakeLoop:
    """Runs the wakes of ``entity``, at most one at a time."""

    def __init__(self, entity: Awake) -> None:
        self._entity = entity
        self._task: asyncio.Task[None] | None = None
        self._session: EntitySession | None = None
        self._begun: WakeRecorded | None = None
        self._resumes = False  # whether there were attempts before: they may have left runs open
        self._deaf: set[asyncio.Task[None]] = set()
        self.signals: dict[str, Appending] = {}

    @property
    def running(self) -> bool:
        """Whether a wake is under way, or between two attempts."""
        return self._task is not None and not self._task.done()

    @property
    def handling(self) -> bool:
        """Whether a handler runs right now."""
        return self._session is not None

    def advance(self) -> None:
        """Begin the next attempt, if one is due, none runs, and the host admits it.

        What runs and has been interrupted is told so.
        """
        entity = self._entity
        if entity.leaving:
            return
        if self.running:
            self._pass_on_interrupt()
            return
        entity.waiting_for = None
        if not entity.state.alive or self._gives_way() or not wakes.ready(entity.state):
            return
        if not _is_interrupted(entity):  # else there is only to be written that it has ended
            entity.waiting_for = entity.services.admit(entity)
        if entity.waiting_for is None:
            self._go(self._run(self._begin()))

    def _go(self, work: Coroutine[Any, Any, None]) -> None:
        """Do this from now on."""
        name = f"wake:{self._entity.name}"
        # Who sent may be a tool, in whose scope the effects of this wake do not belong.
        own = contextvars.Context()
        own.run(CALLER.set, self._entity.caller)
        self._task = asyncio.get_running_loop().create_task(work, name=name, context=own)
        self._task.add_done_callback(self._done)

    def _pass_on_interrupt(self) -> None:
        wake = self._entity.state.current
        if wake is None or not wake.interrupted:
            return
        if self._session is not None:
            self._interrupt(self._session)
        elif self._task is not None and wake.status is WakeStatus.FAILED:
            self._task.cancel()  # it waits for its next attempt; _done begins that

    def _interrupt(self, session: EntitySession) -> None:
        if not session.interruption.is_set:
            session.interrupt()
            self._leave_later(session, INTERRUPTED_MAX + CANCELLED_MAX)

    def _leave_later(self, session: EntitySession, bound: timedelta) -> None:
        running = asyncio.get_running_loop()
        running.call_later(bound.total_seconds(), self._leave_behind, session)

    def _leave_behind(self, session: EntitySession) -> None:
        """Go on without a handler that was told to end and does not; it writes nothing any more."""
        if self._drop(session):
            self.advance()

    def _drop(self, session: EntitySession) -> bool:
        """Let go of a handler that does not end; whether it is this one that still runs here."""
        task = self._task
        if self._session is not session or task is None or self._entity.leaving:
            return False
        LOGGER.error(
            "%s: its handler was told to stop and cancelled and does not end; the entity goes on "
            "without it, and nothing that it still does is recorded",
            self._entity.name,
        )
        session.close()
        task.remove_done_callback(self._done)
        self._deaf.add(task)
        task.add_done_callback(self._forget)
        self._task = self._session = None
        return True

    def _forget(self, deaf: asyncio.Task[None]) -> None:
        """It has ended after all; how, is not news."""
        self._deaf.discard(deaf)
        if not deaf.cancelled():
            deaf.exception()

    def _overrun(self, session: EntitySession, wake: WakeRecorded, limit: timedelta) -> None:
        """Fail the attempt of a handler whose time is up, which was cancelled and does not end.

        One that was told to stop otherwise is left behind by :meth:`_leave_later`.
        """
        if session.cancelled.is_set() or not self._drop(session):
            return
        grace = CANCELLED_MAX.total_seconds()
        ran = f"{_ran_longer(limit)}, and did not end within {grace:g} s of being cancelled"
        self._go(self._go_on(wake, TimeoutError(ran)))

    async def _go_on(self, wake: WakeRecorded, error: BaseException) -> None:
        await self._run(await self._failed(wake, error))

    def _next(self) -> Begun | None:
        """The next attempt, unless the entity goes on without this task."""
        return self._begin() if self._task is asyncio.current_task() else None

    def cancel(self) -> None:
        """Tell the handler to stop and cancel it; what it had not committed never happened."""
        self._entity.waiting_for = None
        if self._session is not None:
            self._session.cancelled.set()
            self._leave_later(self._session, CANCELLED_MAX)
        if self._task is not None:
            self._task.cancel()

    async def stop(self) -> None:
        """Cancel, wait for the end, and record that the attempt does not count.

        A handler that swallows the cancellation is waited for no longer than the bound. It runs
        on and writes nothing: an entity that is being sealed takes no rows of a handler.
        """
        if self._task is None or self._task.done():
            return
        self.cancel()
        _, deaf = await asyncio.wait([self._task], timeout=CANCELLED_MAX.total_seconds())
        entity, begun = self._entity, self._begun
        if deaf:
            LOGGER.error(
                "%s: its handler was cancelled and does not end within %g s; host %s lets go of "
                "the entity without it, and nothing that it still does is recorded",
                entity.name,
                CANCELLED_MAX.total_seconds(),
                entity.services.host,
            )
        if begun is None or entity.owner.lost.is_set() or not is_under_way(entity, begun):
            return
        stopped = wakes.interrupted(latest(entity, begun), now=entity.services.clock.now())
        await entity.write([stopped.draft()]).durable()

    def _done(self, task: asyncio.Task[None]) -> None:
        """Look again: a message, or a new life, may have come before the loop had ended.

        A loop that ends by an error of ours gives the entity up: its next owner resumes.
        """
        error = None if task.cancelled() else task.exception()
        if self._entity.leaving:
            return
        if error is not None:
            self._entity.owner.give_up(error)
            return
        try:
            self.advance()
        except RayAgentsError as refused:
            self._entity.owner.give_up(refused)

    async def _run(self, begun: Begun | None) -> None:
        while begun is not None:
            await begun.appending.durable()
            if begun.wake.status is WakeStatus.STARTED:
                begun = await self._attempt(begun.wake)
            else:
                begun = self._next()

    def _gives_way(self) -> bool:
        """Whether no wake begins here any more: its owner's segment is full, the next one's is not.

        The host lets the entity go, and resumes it.
        """
        if self._entity.owner.full:
            self._entity.rest()
        return self._entity.owner.full

    def _begin(self) -> Begun | None:
        """Write the start of the next attempt, or the parking of one that died too often."""
        entity = self._entity
        state, services = entity.state, entity.services
        if not state.alive or self._gives_way() or not wakes.ready(state):
            return None
        attempt = wakes.Attempt(
            host=services.host,
            definition_version=services.definitions.newest_version(entity.address.type),
            now=services.clock.now(),
        )
        self._resumes = state.current is not None
        if state.current is not None:
            wake = wakes.again(state.current, attempt, entity.limits_of(state.current))
        else:
            wake = wakes.begin(state, attempt)
        drafts = [wake.draft()]
        if wake.status is WakeStatus.PARKED:
            drafts.insert(0, self._death(wake).draft())
        appending = entity.enqueue(drafts)
        self._begun = wake
        return Begun(wake, appending)

    def _death(self, wake: WakeRecorded) -> ErrorRecorded:
        """Why a wake is parked whose handler left no error, as it took its host with it."""
        return ErrorRecorded(
            key=f"{wake.key}-attempt-{wake.attempt}-{wake.timestamp}",
            error_code="host_died",
            message=wake.error or "",
            wake=wake.key,
        )

    async def _attempt(self, wake: WakeRecorded) -> Begun | None:
        """Run the handler once and record the outcome; the wake begun beside it, if any."""
        entity = self._entity
        try:
            drafts, resting = await self._handle(wake)
            if not self._counts(wake):
                return self._next()
            appending = entity.enqueue(drafts)  # the effects may be more than one append can hold
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            return await self._failed(wake, error)
        except OF_THE_PROCESS:
            raise
        except BaseException as error:
            if entity.leaving:
                raise Fenced(f"{entity.name} leaves while a wake ends") from error
            return await self._failed(wake, error)
        begun = self._next()
        await appending.durable()
        entity.outbox_grew()
        if resting and begun is None:
            entity.rest()
        return begun

    async def _handle(self, wake: WakeRecorded) -> tuple[list[Draft], bool]:
        """Call the handler; the rows of its end, and whether it said that it may sleep at once."""
        entity = self._entity
        await entity.owner.ready(wake.from_offset, stop=wake.to_offset)
        if _is_interrupted(entity):  # before its handler has begun, or under an owner before us
            return await self._cut_short(wake, None), False
        definitions = entity.services.definitions
        definition = definitions.load(entity.address.type, wake.definition_version).definition
        session = EntitySession(entity, wake, definition)
        context = Context(session, wakes.as_seen(wake, session.events))
        self._session = session
        limit = definition.limits.handler_time_max
        after = limit.total_seconds() + CANCELLED_MAX.total_seconds()
        overrun = asyncio.get_running_loop().call_later(after, self._overrun, session, wake, limit)
        try:
            returned = await _bounded(definition, context, session.interruption)
        except OF_THE_PROCESS:
            raise
        except BaseException as error:
            if only_awaits(error):
                returned = None
            elif not session.interruption.is_set or _is_cancelled():
                raise
            else:
                LOGGER.warning("%s was interrupted, and its handler failed: %r", entity.name, error)
                session.close()
                return await self._cut_short(wake, session), False
        finally:
            overrun.cancel()
            session.close()
            if self._session is session:
                self._session = None
        now = entity.services.clock.now()
        if session.waiting and not session.interruption.is_set:
            # What the handler has staged since is staged again when it goes on.
            return [wakes.waiting(latest(entity, wake), now=now).draft()], True
        said, stop = context.said or session.run_text, session.stop_reason
        last = session.effects.take()
        if session.interruption.is_set or session.has_open_runs or self._resumes:
            await session.settled()
            await entity.owner.ready(wake.from_offset)
            last += left_open(entity, wake, last)
        end = wakes.handled(
            latest(entity, wake), now=now, reply=returned, text=said, stop_reason=stop
        )
        return [*session.shares.entered(last), end.draft()], session.resting

    async def _cut_short(self, wake: WakeRecorded, session: EntitySession | None) -> list[Draft]:
        """The rows of the end of an interrupted wake whose handler does not end it itself.

        What the handler had not committed never happened.
        """
        entity = self._entity
        if session is not None:
            await session.settled()
        await entity.owner.ready(wake.from_offset)
        now, runs = entity.services.clock.now(), left_open(entity, wake)
        text, stop = (session.run_text, session.stop_reason) if session else (None, None)
        if any(draft.type == "run" for draft in runs):
            stop = INTERRUPTED
        end = wakes.handled(latest(entity, wake), now=now, reply=None, text=text, stop_reason=stop)
        return [*runs, end.draft()]

    def _counts(self, wake: WakeRecorded) -> bool:
        """Whether what became of this attempt is still to be recorded, and by this task."""
        return self._task is asyncio.current_task() and is_under_way(self._entity, wake)

    async def _failed(self, wake: WakeRecorded, error: BaseException) -> Begun | None:
        """Record the failure with its traceback; then wait, and begin again or go on."""
        entity = self._entity
        if not self._counts(wake):
            return self._next()
        now = entity.services.clock.now()
        words = printable(f"{type(error).__name__}: {_said_by(error)}")
        if isinstance(error, (NondeterministicWake, InvalidDefinition)):
            outcome = wakes.parked(latest(entity, wake), words, now=now)
        else:
            limits = entity.limits_of(wake)
            outcome = wakes.failed(latest(entity, wake), words, now=now, limits=limits)
        record = ErrorRecorded(
            key=f"{wake.key}-attempt-{wake.attempt}-{now}",
            error_code=error.slug if isinstance(error, RayAgentsError) else "handler_failed",
            message=words,
            traceback=printable("".join(traceback.format_exception(error))),
            wake=wake.key,
        )
        await entity.enqueue([record.draft(), outcome.draft()]).durable()
        entity.outbox_grew()  # a commit that was cancelled while it was written stands all the same
        if outcome.status is WakeStatus.FAILED:
            clock = entity.services.clock
            await clock.sleep(wakes.until(outcome.retry_at, now=clock.now()))
        return self._next()


def printable(text: str) -> str:
    """``text`` as it can stand in a log: any character JSON knows, and not too long."""
    if len(text) > ERROR_CHARS_MAX:
        half = ERROR_CHARS_MAX // 2
        text = f"{text[:half]}\n[{len(text) - 2 * half} characters left out]\n{text[-half:]}"
    return text.encode(errors="backslashreplace").decode()


def _said_by(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        return f"(its message cannot be printed: {type(broken).__name__})"


def is_under_way(entity: Awake, wake: WakeRecorded) -> bool:
    """Whether this attempt still counts: its life is not over, and nothing has become of it."""
    now = entity.state.wakes.get(wake.key)
    return wake.status is WakeStatus.STARTED and wake.is_attempt_of(now)


def latest(entity: Awake, wake: WakeRecorded) -> WakeRecorded:
    """An open wake with what has joined it and what it was told since its attempt began."""
    return entity.state.wakes.get(wake.key, wake)


def _is_interrupted(entity: Awake) -> bool:
    """Whether the wake to go on with is not to go on."""
    current = entity.state.current
    return current is not None and current.interrupted


def _is_cancelled() -> bool:
    """Whether this task is told to end."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _ran_longer(limit: timedelta) -> str:
    seconds = limit.total_seconds()
    return f"the handler ran longer than {seconds:g} s (Limits.handler_time_max)"


async def _bounded(definition: Definition, context: Context, interruption: Interruption) -> object:
    """Call the handler, for no longer than its limit, or than it has once it is interrupted.

    Raises:
        TimeoutError: it took longer.
    """
    limit = definition.limits.handler_time_max.total_seconds()
    scope = asyncio.timeout(limit)
    try:
        async with scope:
            with interruption.cuts(scope, after=INTERRUPTED_MAX.total_seconds()):
                return await definition.handler(context, context.wake)
    except TimeoutError as error:
        if not scope.expired():
            raise
        message = _ran_longer(definition.limits.handler_time_max)
        if interruption.is_set:
            seconds = INTERRUPTED_MAX.total_seconds()
            message = f"it did not end within {seconds:g} s of the interrupt"
        raise TimeoutError(message) from error
