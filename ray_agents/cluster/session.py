"""One attempt at one wake: the context's wishes and the agent run's rows, carried to the log."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TypeVar

from ray_agents.address import Address
from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.approvals import ApprovalRecorded, AwaitsApproval
from ray_agents.beside import SAYING, is_alone
from ray_agents.cluster.awake import Awake
from ray_agents.cluster.toolthreads import in_thread
from ray_agents.collections import validated
from ray_agents.contextplan import ContextPlan
from ray_agents.contextreport import ContextReport
from ray_agents.definition import Definition
from ray_agents.effects import Effects
from ray_agents.errors import AuthorError, Fenced
from ray_agents.events import Draft, Event, MessageReceived, WakeRecorded, decode
from ray_agents.goals import Goals
from ray_agents.interruption import Interruption
from ray_agents.ledger import Spent, added_by, billed_in
from ray_agents.log.owner import Appending
from ray_agents.loopside import running_loop
from ray_agents.projection import CONTEXT_TYPE, State
from ray_agents.prompting import Prompting, summariser_config
from ray_agents.requests import SpawnRequest
from ray_agents.runs import AWAITING, BUDGET, ENDED, GOAL_BUDGET, RUN_TYPES, SUMMARIES, runs_inside
from ray_agents.shares import Shares
from ray_agents.steering import is_steering, offsets_in
from ray_agents.timeline import TYPES, check_said
from ray_agents.views import ApprovalStatus

T = TypeVar("T")


class EntitySession:
    """The session of a context (see ``context.Session``) over an awake entity.

    It ends with its attempt, or with the life: what a handler that outlives either still wants to
    write is refused.
    """

    def __init__(self, entity: Awake, wake: WakeRecorded, definition: Definition) -> None:
        self._entity = entity
        self._wake = wake
        self._runs: Counter[str] = Counter()  # by scope
        self._open: set[str] = set()  # keys of runs that have begun and not returned
        self._going: dict[str, set[asyncio.Future[None]]] = defaultdict(set)  # by scope
        self.asking: dict[str, list[Draft]] = defaultdict(list)  # by the call they are inside of
        self._closed = False
        self._loop = running_loop()
        self.address: Address = entity.address
        self.definition = definition
        self.definition_version = wake.definition_version
        self.state: State = entity.state
        committed = entity.state.effects.get(wake.key, {})
        self.effects = Effects(wake.key, dict(committed), entity.state.rows)
        self.shares = Shares(self.state, self.effects, budget=definition.budget)
        self.cancelled = asyncio.Event()
        self.interruption = Interruption()
        self.resting = False
        self.waiting = False
        messages = entity.owner.history.read(
            wake.from_offset,
            stop=wake.to_offset,
            types=frozenset({MessageReceived.TYPE}),
        )
        self.events: Sequence[Event] = [e for e in messages if e.offset not in wake.apart]
        self._last: Appending | None = None
        self.run_text: str | None = None
        self.stop_reason: str | None = None
        self.plan: ContextPlan | None = None
        self.report: ContextReport | None = None

    @property
    def over(self) -> bool:
        """Whether this attempt has ended, by itself or with the life of its entity."""
        now = self._entity.state.wakes.get(self._wake.key)
        return self._closed or not self._wake.is_attempt_of(now)

    @property
    def has_open_runs(self) -> bool:
        """Whether this attempt has begun, or gone on with, a run that has not come to its end."""
        return bool(self._open)

    def goes_on(self, scope: str) -> bool:
        """Whether several runs that were made in a scope have not come to their end."""
        return len(self._going[scope]) > 1

    def close(self) -> None:
        """End the attempt."""
        self._closed = True

    def interrupt(self) -> None:
        """Tell the handler to stop, and cut short what runs for it."""
        self.cancelled.set()
        self.interruption.set()

    async def settled(self) -> None:
        """Return when all that this attempt has written is durable."""
        if self._last is not None:
            await self._last.durable()

    def rest(self) -> None:
        """Have the entity fall asleep when this attempt has ended, if nothing else is due."""
        self.resting = True

    async def commit(self) -> None:
        """Make everything staged durable, then let the outbox leave."""
        await self.append([])

    async def append(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """Append ``drafts`` and what is staged, as one frame; return when durable.

        Raises:
            Fenced: the attempt is over.
            PayloadTooLarge, InvalidPayload: they cannot be written; what was staged still is.
        """
        self._check_open()
        rows = [*self.shares.entered(self.effects.ready), *drafts]
        if not rows:
            return []
        appending = self._last = self._entity.enqueue(rows)
        self.effects.take()  # not before: what the log refuses is still staged
        events = await appending.durable()
        self._entity.outbox_grew()
        return events

    def post(self, drafts: Sequence[Draft]) -> None:
        """Append without waiting; raises as :meth:`append`."""
        self._check_open()
        if drafts:
            self._last = self._entity.enqueue(drafts)

    def joined_by(self, offsets: Sequence[int]) -> Draft:
        """The row by which this wake takes over the messages at ``offsets``, too."""
        wake = self.state.wakes[self._wake.key]
        return replace(wake, joined=(*wake.joined, *offsets)).draft()

    def _check_open(self) -> None:
        if running_loop() is not self._loop:
            message = "only the handler's own event loop can commit, not a tool in a thread"
            raise AuthorError(message, wake=self._wake.key)
        if self.over:
            message = f"wake {self._wake.key!r} of {self._entity.name} is over; nothing is written"
            raise Fenced(message, wake=self._wake.key)

    def read(self, types: frozenset[str]) -> Sequence[Event]:
        """The rows of these types in this life's part of the log, oldest first."""
        return self._entity.owner.history.read(self.state.life_offset, types=types)

    def newest(self, type_name: str) -> Event | None:
        """The newest row of a type in this life; None if there is none."""
        event = self._entity.owner.history.last(type_name)
        return None if event is None or event.offset < self.state.life_offset else event

    def transcript(self, own: Sequence[Event] = ()) -> tuple[list[Event], list[Event]]:
        """The rows of the transcript: of a long one its newest summary, and those it still needs.

        So what a run reads does not grow with all that was ever said. For a run that goes on, with
        its ``own`` rows, they are of others what it saw when it began, and the messages it may have
        taken in.
        """
        newest = self._summary_for(own)
        since = self._told_since(newest)
        rows = self._entity.owner.history.read(since, types=TYPES)
        if own:
            begun = own[0].offset
            rows = [e for e in rows if e.offset < begun or e.type == MessageReceived.TYPE]
        return [] if newest is None or since == self.state.life_offset else [newest], rows

    def _summary_for(self, own: Sequence[Event]) -> Event | None:
        """The summary with which a transcript begins; None for one that needs all rows.

        A run that goes on begins with its own newest, or with what stood when it began: what runs
        inside of it or beside have summed up since is in their words. To find one that theirs has
        replaced all is read, which is rare.
        """
        mine = next((row for row in reversed(own) if row.type in SUMMARIES), None)
        newest = self.state.compacted
        if mine is not None or newest is None or not own:
            return mine or newest
        return newest if newest.offset < own[0].offset else None

    def _told_since(self, summary: Event | None) -> int:
        """The offset from which on a transcript needs the log's rows."""
        life = self.state.life_offset
        since = summary.value["read_from"] if summary is not None else None
        return life if since is None else max(life, since)

    async def _ready(self, run_key: str) -> None:
        """See to it that what a run reads is in memory."""
        start, own = self._wake.from_offset, list[Event]()
        if self.state.compacted is not None:
            await self._entity.owner.ready(start)
            own = rows_of(run_key, self.read_wake(RUN_TYPES))
        await self._entity.owner.ready(min(self._told_since(self._summary_for(own)), start))

    def read_wake(self, types: frozenset[str]) -> Sequence[Event]:
        """The rows of these types since this wake's first message."""
        return self._entity.owner.history.read(self._wake.from_offset, types=types)

    def check_spawn(self, address: Address, request: SpawnRequest) -> None:
        """Raise UnknownType, InvalidPayload or OverBudget if no such entity can be spawned."""
        definition = self._entity.services.definitions.load(address.type).definition
        check_args(definition, request)
        if not self.effects.repeats():
            self.shares.check(str(address), request.share)

    def check_type(self, type_name: str) -> None:
        """Raise UnknownType if no definition of that type is registered."""
        self._entity.services.definitions.newest_version(type_name)

    def now(self) -> int:
        """Microseconds since the epoch."""
        return self._entity.services.clock.now()

    async def run_agent(self, config: AgentConfig, input_text: str | None) -> AgentRunResult:
        """Run the agent loop; a run this wake has finished before is answered from the log.

        Raises:
            AwaitsApproval: it waits for people, and no run beside it goes on any more.
        """
        scope = self.effects.scope
        self._runs[scope] += 1
        run_key = f"{runs_inside(scope, wake=self._wake.key)}{self._runs[scope]}"
        self._open.add(run_key)
        going, beside = asyncio.Future[None](), self._going[scope]
        beside.add(going)
        try:
            result = await self._run(run_key, config, input_text)
        except AwaitsApproval:
            beside.discard(going)
            going.set_result(None)
            if beside:  # they end in good order, not by what becomes of a group of tasks
                await asyncio.wait(beside)
            self.waiting = True
            raise
        finally:
            beside.discard(going)
            if not going.done():
                going.set_result(None)
        self._open.discard(run_key)
        self.run_text, self.stop_reason = result.text, result.stop_reason
        return result

    async def _run(
        self, run_key: str, config: AgentConfig, input_text: str | None
    ) -> AgentRunResult:
        from ray_agents.loop import run_agent

        if any(bound.cost_max is not None for bound in self.shares.bounds):
            config.check_priced(f"the budget of {self.address} has a cost_max")
        await self._ready(run_key)
        entries = [decode(text) for text in self.effects.rows(CONTEXT_TYPE).values()]
        journal = RunJournal(self, run_key)
        model_for, summing_up = self._entity.services.model_for, summariser_config(config)
        model = model_for(config)
        summariser = model_for(summing_up) if summing_up else None
        prompting = Prompting(
            config, model, plan=self.plan, entries=entries, summariser=summariser, seen=self._seen
        )
        return await run_agent(journal, config, model=model, input=input_text, prompting=prompting)

    def _seen(self, report: ContextReport) -> None:
        self.report = report


class RunJournal:
    """The journal of one agent run (see ``ports.Journal``)."""

    def __init__(self, session: EntitySession, run_key: str) -> None:
        self._session = session
        self._run_key = run_key
        self._scope = session.effects.scope
        recent = session.read_wake(RUN_TYPES)
        own = rows_of(run_key, recent)
        self._recorded = [*own, *_asked_inside(run_key, recent)]
        summed_up, past = session.transcript(own)
        self._history: list[Event] = [*summed_up, *past]
        self._billed = billed_in(own)
        calls = {e.key: e.value["status"] for e in own if e.type == "tool_call" and e.text}
        ended = (key for key, status in calls.items() if status in ENDED)
        inside = tuple(runs_inside(key, wake="") for key in ended)
        session.effects.adopt(calls.keys(), inside=inside)

    @property
    def run_key(self) -> str:
        """The key of this run."""
        return self._run_key

    def recorded(self) -> Sequence[Event]:
        """This run's rows that are already in the log, and what was asked inside of its calls."""
        return self._recorded

    def history(self) -> Sequence[Event]:
        """The rows before this run from which the transcript is built."""
        return self._history

    async def commit(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """Append rows and staged effects; return once durable."""
        ended = _calls_in(drafts, ENDED)
        for key in ended:
            self._session.effects.release(key)
            self._session.asking.pop(key, None)  # it did not wait for whoever it would have asked
        rows = [*self._entered(drafts), *self._withdrawn(ended), *self._asked(drafts)]
        return await self._session.append(rows)

    async def commit_waiting(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """The same at the end of a run that waits for people.

        Those that it asks inside of a tool call are asked when that call has ended in good order
        and waits, in one append: else a crash between the two would end the call, be it approved
        or not. They are asked at once if other runs of the call go on, which may take long.
        """
        if not self._scope or self._session.goes_on(self._scope):
            return await self.commit(drafts)
        waits = set(_calls_in(drafts, {AWAITING}))
        held = [each for each in drafts if each.type == ApprovalRecorded.TYPE or each.key in waits]
        asking = [*self._session.effects.mark(held), *self._asked(held)]
        self._session.asking[self._scope] += asking
        return await self.commit([each for each in drafts if each not in held])

    def _asked(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The rows by which people are asked inside of the calls that wait by these."""
        waits = _calls_in(drafts, {AWAITING})
        return [row for key in waits for row in self._session.asking.pop(key, ())]

    def _withdrawn(self, ended: Sequence[str]) -> list[Draft]:
        """The rows by which what was asked inside of tool calls that have ended waits no more."""
        inside = tuple(runs_inside(key, wake="") for key in ended)
        approvals = self._session.state.approvals.values()
        return [
            each.decided(ApprovalStatus.WITHDRAWN, now=self._session.now()).draft()
            for each in approvals
            if each.pending and each.key.startswith(inside)
        ]

    def post(self, drafts: Sequence[Draft]) -> None:
        """Append without waiting."""
        self._session.post(self._entered(drafts))

    def steering(self) -> Sequence[Event]:
        """The messages that wait to be taken in by a running loop, oldest first."""
        return [event for event in self.waiting() if is_steering(event)]

    def waiting(self) -> Sequence[Event]:
        """The messages that are for later wakes, oldest first."""
        return self._session.state.pending

    def is_alone(self, before: int | None) -> bool:
        """Whether no other run has said anything since this one began that it does not know."""
        return is_alone(self._run_key, self._session.read_wake(SAYING), before=before)

    def approval(self, key: str) -> ApprovalRecorded | None:
        """The approval of the tool call of that key, as it is now."""
        return self._session.state.approvals.get(key)

    @property
    def interruption(self) -> Interruption:
        """Whether the wake was told to stop, and what is to end when it is."""
        return self._session.interruption

    def used_up(self) -> str | None:
        """What forbids another model call: the entity's budget, or its goal's."""
        if self._session.shares.used_up:
            return BUDGET
        goal = Goals(self._session).get()
        return GOAL_BUDGET if goal is not None and goal.is_used_up else None

    def _entered(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The rows as this wake's own, and beside steps that have cost something the ledger's.

        Appending applies them to the state at once, so runs that go on side by side add up, and
        a message joins one of them only.
        """
        marked = self._session.effects.mark(drafts)
        if joining := offsets_in(drafts):
            marked.append(self._session.joined_by(joining))
        billed = billed_in(drafts)
        added = added_by(billed, self._billed)
        self._billed |= billed
        if added == Spent():
            return marked
        return [*marked, (self._session.state.spent + added).draft()]

    def in_thread(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Do a tool's work in a thread of those that are for tools."""
        return in_thread(work)

    def effects_of(self, scope: str) -> ToolScope:
        """Effects staged inside belong to the tool call ``scope``; a failed one's are dropped."""
        return ToolScope(self._session.effects, scope)

    def now(self) -> int:
        """Microseconds since the epoch."""
        return self._session.now()


class ToolScope:
    """See ``ports.EffectScope``: what a tool that fails had staged is dropped."""

    def __init__(self, effects: Effects, scope: str) -> None:
        self._effects = effects
        self._scope = scope
        self._entered = ExitStack()

    def __enter__(self) -> None:
        self._entered.enter_context(self._effects.within(self._scope))

    def __exit__(self, *exc: object) -> None:
        if any(exc):
            self._effects.drop(self._scope)
        self._entered.close()


def _calls_in(drafts: Sequence[Draft], statuses: Collection[str]) -> list[str]:
    """The keys of the tool calls that have one of these statuses by the rows."""
    return [
        draft.key
        for draft in drafts
        if draft.type == "tool_call" and draft.text and decode(draft.text)["status"] in statuses
    ]


def _asked_inside(run_key: str, rows: Sequence[Event]) -> list[Event]:
    """The approvals among ``rows`` that runs have asked for inside of a run's tool calls."""
    inside = f"{run_key}-"  # see ``runs.py``
    return [row for row in rows if row.type == ApprovalRecorded.TYPE and row.key.startswith(inside)]


def rows_of(run_key: str, rows: Sequence[Event]) -> list[Event]:
    """Those of ``rows`` that are of one run."""
    return [row for row in rows if row.key == run_key or row.key.startswith(f"{run_key}:")]


def check_args(definition: Definition, request: SpawnRequest) -> None:
    """Check spawn arguments, and the first message, against a definition.

    Raises:
        InvalidPayload: they do not fit; the message names the field.
    """
    if definition.creation_schema is not None:
        what = f"the arguments of {definition.type!r}"
        validated(definition.creation_schema, request.args, what=what)
    if request.message is not None:
        check_message(definition, request.message.type, request.message.payload)


def check_message(definition: Definition, message_type: str, payload: object) -> None:
    """Check a message's payload against the definition's inbox schemas.

    Raises:
        InvalidPayload: it does not fit, or shows an image that is none; the message names it.
    """
    check_said(payload)
    schemas = definition.inbox_schemas
    schema = schemas.get(message_type) or schemas.get("*")
    if schema is not None:
        validated(schema, payload, what=f"a {message_type!r} message to {definition.type!r}")
