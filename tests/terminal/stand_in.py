"""A stand-in for everything outside the terminal: one entity, its log, and what was asked of it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from ray_agents.approvals import ApprovalRecorded
from ray_agents.budgets import Budget
from ray_agents.errors import RayAgentsError
from ray_agents.events import (
    Draft,
    EntityCreated,
    EntityStopped,
    ErrorRecorded,
    Event,
    MessageReceived,
    WakeRecorded,
    WakeStatus,
)
from ray_agents.findings import Verification
from ray_agents.interruption import InterruptReceived
from ray_agents.modes import Mode
from ray_agents.terminal.installation import Answer, Description, Target
from ray_agents.terminal.screen import Screen
from ray_agents.views import (
    ApprovalStatus,
    ApprovalView,
    CostBy,
    CostLine,
    EntityView,
    ExportView,
    Interrupted,
    Origin,
    Page,
    ParkedWake,
    Receipt,
    Reply,
    StateView,
    Status,
    TypeView,
)

ADA = "/assistant/ada"
TEN_O_CLOCK = 1_767_348_000_000_000  # 2026-01-02 10:00:00 UTC
SECOND = 1_000_000
NOW = TEN_O_CLOCK + 60 * SECOND


def log_of(*drafts: Draft) -> list[Event]:
    """Drafts as the rows of a log, one each second from ten o'clock."""
    return [Event.at(n, TEN_O_CLOCK + n * SECOND, draft) for n, draft in enumerate(drafts)]


def row(type_name: str, key: str, /, **value: Any) -> Draft:
    return Draft.of(type_name, key, value=value)


def created(**changes: Any) -> Draft:
    facts: dict[str, Any] = {"entity_type": "assistant", "args": {}, "tags": {}, "parent": None}
    facts |= {"life": 0, "spawn_id": "s", "timestamp": TEN_O_CLOCK}
    return EntityCreated(**(facts | changes)).draft()


def message(payload: Any, *, sender: str | None = None, kind: str = "message") -> Draft:
    received = MessageReceived(
        key="m1", payload=payload, message_type=kind, sender=sender, timestamp=TEN_O_CLOCK
    )
    return received.draft()


def wake(status: WakeStatus, **changes: Any) -> Draft:
    facts: dict[str, Any] = {"source": "inbox", "from_offset": 1, "to_offset": 2, "event_count": 1}
    facts |= {"attempt": 1, "deaths": 0, "host": "h1", "definition_version": 1}
    return WakeRecorded(key="w1", status=status, timestamp=0, **(facts | changes)).draft()


def interrupt(*, reason: str | None = None, sender: str | None = None) -> Draft:
    facts: dict[str, Any] = {"reason": reason, "sender": sender}
    return InterruptReceived(key="signal-1", wake="w1", timestamp=0, **facts).draft()


def text(delta: str) -> Draft:
    return row("text_delta", "d", text_id="t1", run_id="r1", delta=delta)


def thought(delta: str) -> Draft:
    return row("reasoning_delta", "d", reasoning_id="t1", run_id="r1", delta=delta)


def tool(status: str, **fields: Any) -> Draft:
    return row("tool_call", "c1", tool_name="multiply", status=status, **fields)


def approval(status: ApprovalStatus, **decided: Any) -> Draft:
    asked = ApprovalRecorded(
        key="w1-run-1:s1:tool:0",
        status=status,
        run_id="w1-run-1",
        tool_call_id="toolu_1",
        tool_name="delete",
        args={"path": "a"},
        requested_at=TEN_O_CLOCK,
        wake="w1",
        **decided,
    )
    return asked.draft()


def error(traceback: str | None = None) -> Draft:
    facts = {"error_code": "handler_failed", "message": "ValueError: no"}
    return ErrorRecorded(key="e1", traceback=traceback, **facts).draft()


def stopped(reason: str | None) -> Draft:
    return EntityStopped(reason=reason, life=0, timestamp=0).draft()


CONVERSATION = log_of(
    created(args={"language": "en"}),
    message({"text": "What is 17 times 23?"}),
    wake(WakeStatus.STARTED),
    thought("They want a product; "),
    thought("I have a tool."),
    tool("started"),
    tool("executing", args={"a": 17, "b": 23}),
    tool("completed", args={"a": 17, "b": 23}, result=391, duration_ms=12),
    row("step", "s1", status="completed", step_number=1, input_tokens=1312, output_tokens=41),
    text("17 times 23 "),
    text("is 391.\nAnything"),
    text(" else?"),
    row("run", "r1", status="completed", finish_reason="stop", text="17 times 23 is 391."),
    wake(WakeStatus.HANDLED),
)


def entity(**changes: Any) -> EntityView:
    facts: dict[str, Any] = {"address": ADA, "type": "assistant", "id": "ada", "created": NOW}
    facts |= {"status": Status.SLEEPING, "created": TEN_O_CLOCK, "last_event": NOW - 3 * SECOND}
    return EntityView(**(facts | changes))


REPLY = Reply(address=ADA, id="m", wake="w", offset=4, text="391")
WAITS = ApprovalView(
    id="toolu_1",
    key="w1-run-1:s1:tool:0",
    status=ApprovalStatus.PENDING,
    wake="w1",
    tool="delete",
    args={"path": "a"},
    requested=TEN_O_CLOCK,
)
PARKED = ParkedWake(wake="w7", attempts=3, error="ValueError: no", messages=2)


STATE = StateView(
    address=ADA,
    type="assistant",
    id="ada",
    at=5,
    tip=14,
    time=TEN_O_CLOCK,
    created=TEN_O_CLOCK,
    collections={"notes": [{"key": "a"}, {"key": "b"}]},
    forked_from=Origin(cause="import", address="/assistant/old", offset=3),
    tags={"team": "red"},
    schedules=1,
)
COSTS = (
    CostLine(
        of="assistant", steps=2, input_tokens=1200, output_tokens=34, priced_micros=2740
    ).model_copy(update={"cost_micros": 2740}),
    CostLine(of="odd", steps=1, input_tokens=5, cost_micros=None, unpriced_tokens=5),
)
BUSY_MODEL = {
    "provider": "anthropic",
    "model": "claude-opus-4-5",
    "limit": 20,
    "known": 20,
    "in_flight": 18,
    "waiting": 44,
    "waited_seconds": 3.214,
    "paused_seconds": 12.0,
    "requests": {"used": 30, "allowed": 50},
    "tokens": {"used": 12_000, "allowed": 40_000},
    "hosts": 2,
}
ANSWER = Answer(columns=("tool", "calls"), rows=(("add", 12), ("a,b\n", None)))


@dataclass
class FakeClient:
    """Answers everything, and remembers what it was asked; ``failure`` is raised instead."""

    failure: BaseException | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(
        default_factory=list[tuple[str, dict[str, Any]]]
    )
    entities: tuple[EntityView, ...] = (entity(),)
    reply: Reply = REPLY
    decided_by: str | None = None

    def _note(self, verb: str, **what: Any) -> None:
        self.asked.append((verb, what))
        if self.failure is not None:
            raise self.failure

    def spawn(
        self,
        address: str,
        *,
        args: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        message: Any = None,
        budget: Budget | None = None,
    ) -> EntityView:
        bound = {} if budget is None else {"budget": budget}
        self._note("spawn", address=address, args=args, tags=tags, message=message, **bound)
        return entity()

    def send(
        self,
        address: str,
        payload: Any,
        *,
        type: str = "message",
        from_: str | None = None,
        id: str | None = None,
        after: timedelta | None = None,
        mode: Mode | str = Mode.QUEUED,
    ) -> Receipt:
        options: dict[str, Any] = {"after": after} if after else {}
        options |= {} if mode == Mode.QUEUED else {"mode": mode}
        self._note(
            "send", address=address, payload=payload, type=type, from_=from_, id=id, **options
        )
        fire_at = NOW + after // timedelta(microseconds=1) if after else None
        return Receipt(address=address, id=id or "m1", offset=7, fire_at=fire_at)

    def ask(
        self, address: str, payload: Any, *, within: timedelta, mode: Mode | str = Mode.QUEUED
    ) -> Reply:
        options = {} if mode == Mode.QUEUED else {"mode": mode}
        self._note("ask", address=address, payload=payload, within=within, **options)
        return self.reply

    def observe(self, address: str, *, offset: int = 0, live: bool = True) -> Iterator[Event]:
        self.asked.append(("observe", {"address": address, "offset": offset, "live": live}))
        yield from CONVERSATION[max(offset, 0) :]
        if self.failure is not None:
            raise self.failure

    def inspect(self, address: str) -> EntityView:
        self._note("inspect", address=address)
        return self.entities[0]

    def list(self, **query: Any) -> Page:
        self._note("list", **query)
        return Page(items=self.entities, cursor="next")

    def state(self, address: str, *, at: int | None = None) -> StateView:
        self._note("state", address=address, at=at)
        return STATE

    def fork(self, address: str, to: str, *, at: int | None = None) -> EntityView:
        self._note("fork", address=address, to=to, at=at)
        origin = Origin(cause="fork", address=address, offset=at or 14)
        return entity(address=to, forked_from=origin)

    def export(self, address: str, path: Path, *, children: bool = False) -> ExportView:
        self._note("export", address=address, path=path, children=children)
        found = (ADA, "/assistant/bob") if children else (ADA,)
        return ExportView(file=str(path), bytes=4096, digest="0" * 16, addresses=found)

    def import_(self, path: Path, *, to: str | None = None) -> builtins.list[EntityView]:
        self._note("import", path=path, to=to)
        return [entity()]

    def types(self) -> builtins.list[TypeView]:
        self._note("types")
        return [TypeView(type="assistant", version=2, description="Answers", source="my:registry")]

    def kill(self, address: str, *, reason: str | None = None) -> None:
        self._note("kill", address=address, reason=reason)

    def interrupt(
        self, address: str, *, wake: str | None = None, reason: str | None = None
    ) -> Interrupted:
        self._note("interrupt", address=address, wake=wake, reason=reason)
        if self.entities[0].status is not Status.RUNNING:
            return Interrupted(address=address, interrupted=False)
        if wake not in (None, "wake-3"):
            return Interrupted(address=address, interrupted=False, running="wake-3")
        return Interrupted(address=address, interrupted=True, wake="wake-3")

    def retry(self, address: str, *, wake: str | None = None) -> int:
        self._note("retry", address=address, wake=wake)
        return 2

    def skip(self, address: str, *, wake: str | None = None) -> int:
        self._note("skip", address=address, wake=wake)
        return 1

    def approve(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        self._note("approve", address=address, call_id=call_id, by=by, reason=reason)
        by = self.decided_by or by
        return WAITS.model_copy(update={"status": ApprovalStatus.APPROVED, "by": by})

    def deny(
        self, address: str, call_id: str, *, by: str | None = None, reason: str | None = None
    ) -> ApprovalView:
        self._note("deny", address=address, call_id=call_id, by=by, reason=reason)
        return WAITS.model_copy(update={"status": ApprovalStatus.DENIED})


@dataclass
class FakeInstallation:
    """Everything the commands need; ``missing`` is raised where nothing runs."""

    client: FakeClient = field(default_factory=FakeClient)
    missing: RayAgentsError | None = None
    verification: Verification = field(default_factory=lambda: Verification(logs=2_000))
    answer: Answer = ANSWER
    costs: list[CostLine] = field(default_factory=lambda: list(COSTS))
    asked: list[tuple[str, Any]] = field(default_factory=list[tuple[str, Any]])

    def connect(self, target: Target) -> AbstractContextManager[FakeClient]:
        self.asked.append(("connect", target))
        if self.missing is not None:
            raise self.missing
        return nullcontext(self.client)

    def start(
        self,
        target: Target,
        *,
        app: str | None,
        http_port: int | None,
        report: Callable[[str], None],
    ) -> Description:
        self.asked.append(("start", (app, http_port)))
        report("starting Ray")
        return {
            "control_api": "http://127.0.0.1:4437",
            "store": "./.ray-agents",
            "hosts": ["a", "b"],
        }

    def stop(self, target: Target, *, within: timedelta | None) -> Description:
        self.asked.append(("stop", within))
        return {"sealed": 3}

    def status(self, target: Target) -> Description:
        if self.missing is not None:
            raise self.missing
        return {"entities": 4, "models": [BUSY_MODEL]}

    def demo(self, target: Target, *, screen: Screen) -> None:
        self.asked.append(("demo", target))
        screen.show("the demo")

    def verify(
        self,
        target: Target,
        *,
        address: str | None,
        repair: bool,
        progress: Callable[[int, int], None],
    ) -> Verification:
        self.asked.append(("verify", (target, address, repair)))
        for done in range(2_001):
            progress(done, 2_000)
        return self.verification

    def query(
        self, target: Target, sql: str, *, on_corrupt: Callable[[str], None] | None
    ) -> Answer:
        self.asked.append(("query", (target.store, sql)))
        if on_corrupt is not None:
            on_corrupt("left out: /a/b")
        return self.answer

    def cost(
        self,
        target: Target,
        *,
        by: CostBy,
        since: timedelta | None,
        on_corrupt: Callable[[str], None] | None,
    ) -> builtins.list[CostLine]:
        self.asked.append(("cost", (target.store, by, since)))
        if on_corrupt is not None:
            on_corrupt("left out: /a/b")
        return self.costs

    def now(self) -> int:
        return NOW
