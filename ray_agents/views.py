"""What the doors answer: receipts, replies and descriptions, the same over Python, HTTP and CLI."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Durability(StrEnum):
    """When an append is acknowledged: after its sync, before it, or never on disk."""

    SYNC = "sync"
    BATCH = "batch"
    MEMORY = "memory"


class Status(StrEnum):
    """What an entity is doing, derived from ownership and log."""

    SLEEPING = "sleeping"
    WAITING = "waiting"
    IDLE = "idle"
    RUNNING = "running"
    RETRYING = "retrying"
    STOPPED = "stopped"


class ApprovalStatus(StrEnum):
    """What became of a tool call that may not run before people have approved it.

    ``withdrawn``: the run ended otherwise, so nobody need decide any more.
    """

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    EXPIRED = "expired"
    WITHDRAWN = "withdrawn"


class View(BaseModel):
    """Base of all answers: frozen, strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Receipt(View):
    """An acknowledged message: in the log at ``offset``, as durable as ``durability`` says.

    ``fire_at`` is when a delayed one enters the inbox, in microseconds since the epoch; None once
    it has, and for one without delay.
    """

    address: str
    id: str
    offset: int
    fire_at: int | None = None
    duplicate: bool = False
    durability: Durability = Durability.SYNC


class Reply(View):
    """What a handler answered to one message.

    ``text`` is what the agent or ``ctx.reply_text`` said; ``value`` is what the handler returned.
    ``interrupted`` says that the handler was told to stop, so that ``text`` is what it got to say.
    ``stop_reason`` is why its agent's last run ended: see
    :class:`ray_agents.agent.AgentRunResult`; None if none ran.
    """

    address: str
    id: str
    wake: str
    offset: int
    text: str = ""
    value: Any = None
    interrupted: bool = False
    stop_reason: str | None = None


class Interrupted(View):
    """The answer to an interrupt: which wake was told to stop; None and False if nothing ran.

    ``offset`` is where the log says so. The wake does not go on, whatever happens next.
    ``running`` is the open wake that was left alone, as another one was meant.
    """

    address: str
    interrupted: bool
    wake: str | None = None
    offset: int | None = None
    running: str | None = None


class ParkedWake(View):
    """A wake that failed as often as it may; ``retry`` or ``skip`` it."""

    wake: str
    attempts: int
    error: str
    messages: int


class ApprovalView(View):
    """A tool call that waits for approval, or was decided on; ``id`` is the model's for the call.

    ``key`` is that of its row, unique in the log; the id may come again. Times are microseconds
    since the epoch; after ``expires`` the call counts as denied.
    """

    id: str
    key: str
    status: ApprovalStatus
    wake: str
    tool: str
    args: Any = None
    requested: int
    expires: int | None = None
    decided: int | None = None
    by: str | None = None
    reason: str | None = None


class Origin(View):
    """Where an entity comes from that was not spawned: ``fork`` or ``import``, and of what.

    It has the rows of ``address`` with an offset below ``offset``.
    """

    cause: str
    address: str
    offset: int


class Spending(View):
    """Tokens as the provider counted them, and what they cost in micro-dollars.

    ``cost_micros`` is None if a part has no price; ``priced_micros`` is what the rest costs, and
    ``unpriced_tokens`` counts that part. ``uncounted`` counts model calls whose end was not seen:
    the provider may have billed more for them.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_micros: int | None = 0
    priced_micros: int = 0
    unpriced_tokens: int = 0
    uncounted: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all kinds."""
        cached = self.cache_read_tokens + self.cache_write_tokens
        return self.input_tokens + self.output_tokens + cached


CostBy = Literal["type", "entity", "model", "day", "tree"]


class CostLine(Spending):
    """One line of a report of costs: of the type, entity, model or day (UTC) that ``of`` names.

    By ``tree`` it is an entity that nobody spawned, with all that descend from it.
    """

    of: str
    steps: int = 0


class BudgetView(View):
    """What bounds an entity's spending, None meaning no bound; dollars are micro-dollars.

    ``tree``: with all that descend from it. ``share``: given with its spawn, not by its type.
    """

    tokens_max: int | None = None
    cost_micros_max: int | None = None
    tree: bool = False
    share: bool = False


class GoalView(View):
    """What an entity works towards: see :mod:`ray_agents.goals`."""

    objective: str
    status: str
    token_budget: int | None = None
    tokens_used: int = 0
    summary: str | None = None


class EntityView(View):
    """One entity as ``inspect`` and ``list`` show it; times are microseconds since the epoch.

    ``events`` is the offset that comes next and ``first`` the first one that was not let go by the
    type's retention. ``approvals`` are the tool calls that wait for one. ``schedules`` counts its
    pending delayed sends; ``next_due`` is when it next wakes by the clock. ``spent`` is what its
    agents have spent in this life; ``granted_…`` what it has given to children of the budget of its
    tree; ``over_budget`` that nothing is left.
    """

    address: str
    type: str
    id: str
    status: Status
    created: int
    life: int = 0
    args: dict[str, Any] = {}
    tags: dict[str, str] = {}
    parent: str | None = None
    forked_from: Origin | None = None
    epoch: int = 0
    events: int = 0
    first: int = 0
    last_event: int = 0
    backlog: int = 0
    parked: tuple[ParkedWake, ...] = ()
    approvals: tuple[ApprovalView, ...] = ()
    schedules: int = 0
    next_due: int | None = None
    waiting_for: str | None = None
    host: str | None = None
    pid: int | None = None
    definition_version: int | None = None
    durability: Durability = Durability.SYNC
    spent: Spending = Spending()
    over_budget: bool = False
    budgets: tuple[BudgetView, ...] = ()
    granted_tokens: int = 0
    granted_micros: int = 0
    goal: GoalView | None = None


class StateView(View):
    """One entity as of an offset: what the rows below ``at`` say of it.

    ``tip`` is the end of the log now, ``time`` that of the newest row below ``at``; times are
    microseconds since the epoch. ``collections`` are the user's, by name, each a list of rows in
    the order of first writing; what a wake had committed is in them, whether it had ended or not.
    ``context`` is likewise. ``woken`` says whether any wake had ended, ``open_wakes`` counts those
    that had not, parked ones included; ``backlog`` counts the messages that no ended or parked wake
    had taken, ``outgoing`` what was in the outbox.
    """

    address: str
    type: str
    id: str
    at: int
    tip: int
    time: int
    created: int
    life: int = 0
    stopped: bool = False
    args: dict[str, Any] = {}
    tags: dict[str, str] = {}
    parent: str | None = None
    forked_from: Origin | None = None
    collections: dict[str, list[Any]] = {}
    context: list[Any] = []
    backlog: int = 0
    woken: bool = False
    open_wakes: int = 0
    parked: tuple[ParkedWake, ...] = ()
    schedules: int = 0
    outgoing: int = 0


class ExportView(View):
    """A file with exported entities: where it is, its size, its xxh3_64, and who is in it."""

    file: str
    bytes: int
    digest: str
    addresses: tuple[str, ...]


class TypeView(View):
    """One registered definition."""

    type: str
    version: int
    description: str = ""
    placement: str = "dedicated"
    durability: Durability = Durability.SYNC
    source: str = ""
    creation_schema: dict[str, Any] | None = None
    inbox_schemas: dict[str, dict[str, Any]] = {}
    collections: tuple[str, ...] = ()


class Page(View):
    """Some entities of a list; ask again with ``cursor`` while it is not None."""

    items: tuple[EntityView, ...]
    cursor: str | None = None
