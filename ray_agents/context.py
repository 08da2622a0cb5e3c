"""What a handler may do. How it is done is the :class:`Session`'s affair, behind it.

Reads answer at once from memory. Writes, sends and spawns are *staged* (``effects.py``) and become
durable together at the next commit point; nothing is sent by a handler that fails before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

from ray_agents.address import Address
from ray_agents.agent import AgentConfig, AgentRunResult
from ray_agents.agenttools import agent_tools
from ray_agents.binding import bound
from ray_agents.budgets import Budget
from ray_agents.collections import Collections
from ray_agents.contextplan import ContextPlan, Source, TimedMessage, plan_of
from ray_agents.contextreport import ContextReport
from ray_agents.conversation import Projection, timed_messages
from ray_agents.definition import Definition
from ray_agents.effects import Effects
from ray_agents.events import JSON, Event
from ray_agents.goals import Goals, GoalVerbs
from ray_agents.handles import Actions, AgentHandle, EntityHandle, RunHandle
from ray_agents.injected import Injected
from ray_agents.modes import Mode
from ray_agents.notes import Notes
from ray_agents.progress import ToolProgress
from ray_agents.projection import State
from ray_agents.records import Records
from ray_agents.requests import SpawnRequest
from ray_agents.runs import CONTEXT
from ray_agents.sending import Sending
from ray_agents.timeline import TYPES
from ray_agents.tools import Tool
from ray_agents.wakes import Wake


class Session(Protocol):
    """How a context's wishes are carried out, for one attempt at one wake."""

    address: Address
    definition: Definition
    definition_version: int
    state: State
    effects: Effects
    events: Sequence[Event]
    cancelled: asyncio.Event
    plan: ContextPlan | None
    report: ContextReport | None

    async def commit(self) -> None:
        """Make everything staged durable."""
        ...

    def read(self, types: frozenset[str]) -> Sequence[Event]:
        """The log's rows of these types, oldest first."""
        ...

    def transcript(self) -> tuple[Sequence[Event], Sequence[Event]]:
        """What the transcript is made of: its newest summary, if any, and the rows behind."""
        ...

    def newest(self, type_name: str) -> Event | None:
        """The newest row of a type in this life."""
        ...

    def check_spawn(self, address: Address, request: SpawnRequest) -> None:
        """Raise UnknownType, InvalidPayload or OverBudget if no such entity can be spawned."""
        ...

    def check_type(self, type_name: str) -> None:
        """Raise UnknownType if no definition of that type is registered."""
        ...

    async def run_agent(self, config: AgentConfig, input_text: str | None) -> AgentRunResult:
        """Run the agent loop."""
        ...

    def now(self) -> int:
        """Microseconds since the epoch."""
        ...

    def rest(self) -> None:
        """Have the entity fall asleep when this attempt has ended, if nothing else is due."""
        ...


class Context(GoalVerbs, Notes, Injected):
    """The first argument of every handler."""

    def __init__(self, session: Session, wake: Wake) -> None:
        super().__init__(session)
        self._session = session
        self.wake = wake
        self.state = Collections(session.definition.state, session.effects)
        self.actions = Actions(session.definition.actions, self.state)
        self.records = Records(session.read)
        self.agent = AgentHandle(session.run_agent, None)
        self._sending = Sending(session, wake_key=wake.key)
        self._goals = Goals(session)
        self.progress = ToolProgress()
        self._said: list[str] = []
        self._runs = 0

    # -- who and why --------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """This entity's address, ``/type/id``."""
        return str(self._session.address)

    @property
    def first_wake(self) -> bool:
        """Whether no wake of this entity has ended yet."""
        return not self._session.state.woken

    @property
    def args(self) -> Any:
        """The spawn arguments: an instance of the creation schema, or a plain dict."""
        created = self._session.state.created
        args = created.args if created else {}
        schema = self._session.definition.creation_schema
        return schema.model_validate(args) if schema else args

    @property
    def events(self) -> Sequence[Event]:
        """The messages that triggered this wake, oldest first."""
        return self._session.events

    @property
    def cancelled(self) -> asyncio.Event:
        """Set when the handler should stop early: interrupt or shutdown."""
        return self._session.cancelled

    @property
    def definition_version(self) -> int:
        """Which version of the definition handles this wake."""
        return self._session.definition_version

    # -- the agent ----------------------------------------------------------------------------

    def use_agent(self, system_prompt: str = "", **options: Any) -> AgentHandle:
        """Configure the agent; options as in :class:`ray_agents.agent.AgentConfig`.

        Among ``tools`` may be factories, and tools with a parameter annotated ``Context``.
        """
        tools = bound(options.pop("tools", ()), self)
        config = AgentConfig(system_prompt=system_prompt, tools=tools, **options)
        self.agent = AgentHandle(self._session.run_agent, config)
        return self.agent

    def use_context(
        self, *, source_budget: int, sources: Mapping[str, Source | Mapping[str, Any]]
    ) -> ContextPlan:
        """Compose the prompts of the agent's runs from sources, in place of the whole transcript.

        Args:
            source_budget: tokens of all sources together.
            sources: by name, each a :class:`ray_agents.contextplan.Source` or a dict of its fields
                ``content``, ``max`` (tokens) and ``cache``. The transcript is one only if it is
                given: ``{"content": ctx.timeline_messages}``. What a run itself is told and says
                stands behind the sources, whole.

        Raises:
            InvalidDefinition: the plan cannot hold; the message has the numbers.
        """
        self._session.plan = plan_of(source_budget, sources)
        return self._session.plan

    def timeline_messages(
        self, *, since: int = 0, projection: Projection | None = None, whole: bool = False
    ) -> list[TimedMessage]:
        """What was said in this entity's life, as messages with their offsets, oldest first.

        Args:
            since: only items from that offset on.
            projection: called with each :class:`ray_agents.conversation.TimelineItem`; the
                messages it returns are said in the item's place, None says the item as it is.
            whole: read past summaries, as if nothing had ever been summed up. That reads all that
                was ever said, and what of it is not in memory while the host waits.
        """
        if whole:
            events = self._session.read(TYPES)
        else:
            summed_up, rows = self._session.transcript()
            events = [*summed_up, *rows]
        return timed_messages(events, since=since, projection=projection, whole=whole)

    def context_report(self) -> ContextReport | None:
        """Tokens by source of the last prompt of an agent, and how many a cache could give.

        In this wake, or else the last that was answered; None if none ever was.
        """
        asked = (event.value.get(CONTEXT) for event in self._steps())
        return self._session.report or next((ContextReport.of(row) for row in asked if row), None)

    def _steps(self) -> Iterator[Event]:
        """The rows of steps, newest first: those at hand before all others, and so some twice."""
        newest = self._session.newest("step")
        if newest is None:
            return
        yield newest
        _, rows = self._session.transcript()
        yield from (event for event in reversed(rows) if event.type == "step")
        yield from reversed(self._session.read(frozenset({"step"})))

    def reply_text(self, text: str) -> None:
        """Say something without a model: the same rows a chat reads."""
        run = self.record_run()
        self.record(("text", f"{run.key}-text"), value={"run_id": run.key, "status": "completed"})
        delta = {"text_id": f"{run.key}-text", "run_id": run.key, "delta": text}
        self.record(("text_delta", f"{run.key}-delta"), value=delta)
        run.attach_response(text)
        run.end()
        self._said.append(text)

    def record_run(self) -> RunHandle:
        """Open a run for work that is not a model's; ``end()`` closes it."""
        self._runs += 1
        handle = RunHandle(self.record, f"{self.wake.key}-recorded-{self._runs}")
        self.record(("run", handle.key), value={"status": "started", "finish_reason": None})
        return handle

    @property
    def said(self) -> str:
        """What ``reply_text`` has said in this wake."""
        return "\n".join(self._said)

    # -- others -------------------------------------------------------------------------------

    async def send(
        self,
        address: str,
        payload: JSON,
        *,
        message_type: str = "message",
        after: timedelta | None = None,
        mode: Mode | str = Mode.QUEUED,
    ) -> str:
        """Send a message at the next commit point, exactly one inbox row; the message's id.

        Args:
            address: whom to send it to; this entity itself is fine.
            payload: any JSON.
            message_type: its type, as in the receiver's inbox schemas.
            after: how long the receiver keeps it before it enters the inbox, counted from when
                the receiver accepts it; the receiver may sleep meanwhile.
            mode: how it meets a wake of the receiver; see :mod:`ray_agents.modes`.

        Raises:
            InvalidAddress: ``address`` does not parse.
            InvalidPayload: ``payload`` is not JSON, ``after`` is negative or over five years, or
                there is no such ``mode``.
        """
        return self._sending.send(
            address, payload, message_type=message_type, after=after, mode=mode
        )

    async def spawn(
        self,
        type_name: str,
        entity_id: str,
        *,
        args: Mapping[str, JSON] | None = None,
        initial_message: JSON = None,
        tags: Mapping[str, str] | None = None,
        budget: Budget | None = None,
    ) -> EntityHandle:
        """Create a child entity at the next commit point.

        ``budget`` is what it may spend, with all that descend from it (see :class:`Budget`).

        Raises:
            UnknownType: no such definition.
            InvalidPayload: the arguments do not fit its creation schema, or a budget is missing.
            OverBudget: the budget is more than what is left of this entity's own.
            EntityExists: this entity has spawned that address before.
        """
        target = Address.of(type_name, entity_id)
        self._sending.spawn(
            target, args=args, initial_message=initial_message, tags=tags, budget=budget
        )
        return EntityHandle(self.send, target)

    @property
    def children(self) -> Sequence[str]:
        """The addresses that this entity has spawned in this life, oldest first."""
        return self._sending.children

    def agent_tools(self, **options: Any) -> list[Tool]:
        """Tools with which a model spawns, sends, schedules, tags and reads its goal.

        Options as in :func:`ray_agents.agenttools.agent_tools`.
        """
        return agent_tools(self, check_type=self._session.check_type, **options)

    # -- flow ---------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Make everything staged so far durable; sends leave."""
        await self._session.commit()

    def sleep(self) -> None:
        """Say that there is nothing more to do: sleep once the handler has returned.

        The idle time-out is not waited for, unless something has come meanwhile.
        """
        self._session.rest()
