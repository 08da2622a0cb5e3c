"""The fold: ``State = fold(events)``, what a wake needs to know and nothing more.

The state holds the open wakes, their approvals, the messages no wake has taken yet, the timers, the
outbox, tags, and the rows of the user's collections. Everything else in a log (runs, texts, old
messages) is read lazily.

What a wake has committed while it is still open is kept apart, in ``effects``, and joins ``rows``
when the wake ends or is parked: a wake that runs again therefore sees the state of its first
start, and meets its own earlier effects one by one as it repeats them (see ``effects.py``).

``fold(a + b) == fold(b, fold(a))``, by test.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ray_agents import runs
from ray_agents.approvals import ApprovalRecorded
from ray_agents.deferral import DeliveryDeferred
from ray_agents.events import (
    WAKE_HEADER,
    EffectStaged,
    EntityCreated,
    EntityStopped,
    Event,
    MessageReceived,
    Operation,
    SendScheduled,
    WakeRecorded,
    WakeStatus,
    decode,
)
from ray_agents.ledger import Granted, Spent
from ray_agents.origin import EntityForked

USER_TYPE_PREFIX = "state:"
TAGS_TYPE = "tags"
CONTEXT_TYPE = "context_inserted"
MANIFEST_TYPE = "manifest"
CHILD_KEY_PREFIX = "child:"
ROW_TYPES = frozenset({TAGS_TYPE, CONTEXT_TYPE, MANIFEST_TYPE})
CONTROL_TYPES = frozenset(
    {
        EntityCreated.TYPE,
        EntityForked.TYPE,
        EntityStopped.TYPE,
        WakeRecorded.TYPE,
        EffectStaged.TYPE,
        DeliveryDeferred.TYPE,
        ApprovalRecorded.TYPE,
    }
)
SCOPE_HEADER = "scope"
ORDINAL_HEADER = "ordinal"
DIGEST_HEADER = "digest"

EffectId = tuple[str, int]  # scope, ordinal


@dataclass(slots=True)
class Committed:
    """One effect of an open wake that is in the log: its digest and the rows it made.

    ``shown`` tells that they are in ``State.rows`` already, as after parking.
    """

    digest: str
    events: list[Event] = field(default_factory=list[Event])
    shown: bool = False

    @property
    def first_offset(self) -> int:
        """Where the effect stands in the log."""
        return self.events[0].offset if self.events else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """An outbox row, where it stands and since when; it may leave once that offset is durable."""

    offset: int
    time: int
    effect: EffectStaged

    @classmethod
    def of(cls, event: Event) -> Outgoing:
        """The row of an event."""
        return cls(offset=event.offset, time=event.time, effect=EffectStaged.of(event))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """A delayed send that is pending, and where it stands: the offset its sender was told."""

    offset: int
    send: SendScheduled


@dataclass(slots=True)
class State:
    """The wake state of one entity. Only :func:`fold` and :meth:`apply` change it.

    ``origin`` says where it comes from if it was forked or imported in this life. Messages before
    ``ids_offset`` do not count when ids are compared. ``steered`` are the offsets, from the
    watermark on, of messages that a running wake has taken in. ``compacted`` is the newest row that
    puts a summary in the place of a part of the transcript.
    """

    created: EntityCreated | None = None
    origin: EntityForked | None = None
    life_offset: int = 0
    ids_offset: int = 0
    stopped: EntityStopped | None = None
    watermark: int = 0
    steered: set[int] = field(default_factory=set[int])
    pending: list[Event] = field(default_factory=list[Event])
    wakes: dict[str, WakeRecorded] = field(default_factory=dict[str, WakeRecorded])
    approvals: dict[str, ApprovalRecorded] = field(default_factory=dict[str, ApprovalRecorded])
    woken: bool = False
    spent: Spent = field(default_factory=Spent)
    granted: Granted = field(default_factory=Granted)
    compacted: Event | None = None
    timers: dict[str, Timer] = field(default_factory=dict[str, Timer])
    outbox: dict[str, Outgoing] = field(default_factory=dict[str, Outgoing])
    deferred: dict[str, DeliveryDeferred] = field(default_factory=dict[str, DeliveryDeferred])
    rows: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    effects: dict[str, dict[EffectId, Committed]] = field(
        default_factory=dict[str, dict[EffectId, Committed]]
    )

    @property
    def parked(self) -> list[WakeRecorded]:
        """The parked wakes, oldest first."""
        return [wake for wake in self.wakes.values() if wake.status is WakeStatus.PARKED]

    @property
    def current(self) -> WakeRecorded | None:
        """The wake to go on with: one that is begun before one that was parked and is retried."""
        open_wakes = [w for w in self.wakes.values() if w.status is not WakeStatus.PARKED]
        begun = (wake for wake in open_wakes if wake.attempt)
        return next(begun, open_wakes[0] if open_wakes else None)

    @property
    def waiting(self) -> bool:
        """Whether the wake to go on with waits until people have decided on its tool calls."""
        wake = self.current
        if wake is None or wake.status is not WakeStatus.WAITING or wake.interrupted:
            return False
        return any(each.pending for each in self.approvals.values() if each.wake == wake.key)

    @property
    def unfinished(self) -> bool:
        """Whether there is anything to do, now and not only when somebody decides or it is due."""
        wakes_left = bool(self.current or self.pending) and not self.waiting
        return self.alive and (wakes_left or self.undelivered)

    @property
    def alive(self) -> bool:
        """Whether an entity lives here now."""
        return self.created is not None and self.stopped is None

    @property
    def incarnation(self) -> str:
        """What tells this life from every other that has rows of this log: for ids made in it."""
        life = self.created.life if self.created else 0
        return f"{life}" if self.origin is None else f"{life}-{self.origin.key}"

    @property
    def undelivered(self) -> bool:
        """Whether the outbox holds anything that waits for no due time."""
        return any(row.effect.target not in self.deferred for row in self.outbox.values())

    @property
    def tags(self) -> dict[str, str]:
        """The tags as they are now: those of the spawn, then those set and removed since."""
        first = dict(self.created.tags) if self.created else {}
        for key, text in self.rows.get(TAGS_TYPE, {}).items():
            value = decode(text)["value"]
            if value is None:
                first.pop(key, None)
            else:
                first[key] = value
        return first

    @property
    def size(self) -> int:
        """How many characters its rows and its arguments hold, about."""
        args = len(repr(self.created.args)) if self.created else 0
        return args + sum(len(text) for table in self.rows.values() for text in table.values())

    def show_committed(self) -> None:
        """Take what open wakes have committed into ``rows``, as an end of them would."""
        for wake_key in self.effects:
            self._show_effects(wake_key)

    def apply(self, event: Event) -> None:
        """Take one more event, the next of the log, into account."""
        match event.type:
            case MessageReceived.TYPE:
                if event.offset >= self.watermark:
                    self.pending.append(event)
            case WakeRecorded.TYPE:
                self._apply_wake(WakeRecorded.of(event))
            case EffectStaged.TYPE:
                self._apply_outbox(event)
            case DeliveryDeferred.TYPE if event.operation is Operation.DELETE:
                self.deferred.pop(event.key, None)
            case DeliveryDeferred.TYPE:
                self.deferred[event.key] = DeliveryDeferred.of(event)
            case SendScheduled.TYPE if SendScheduled.is_row(event.type, event.key):
                self._apply_schedule(event)
            case Spent.TYPE | ApprovalRecorded.TYPE | runs.COMPACTION:
                self._apply_run(event)
            case _:
                self._apply_life(event)
        self._note_effect(event)

    def _apply_run(self, event: Event) -> None:
        match event.type:
            case Spent.TYPE:
                self._apply_ledger(event)
            case ApprovalRecorded.TYPE:
                if event.headers.get(WAKE_HEADER) in self.wakes:  # else nobody waits any more
                    self.approvals[event.key] = ApprovalRecorded.of(event)
            case _:
                self.compacted = event

    def _apply_ledger(self, event: Event) -> None:
        if event.key == Granted.KEY:
            self.granted = Granted.of(event)
        else:
            self.spent = Spent.of(event)

    def _apply_life(self, event: Event) -> None:
        match event.type:
            case EntityCreated.TYPE:
                self._apply_created(event)
            case EntityForked.TYPE:
                self.come_from(EntityForked.of(event), event.offset)
            case EntityStopped.TYPE:
                self.stopped = EntityStopped.of(event)
                self._abandon()
            case _:
                pass

    def _apply_created(self, event: Event) -> None:
        self.created, self.stopped, self.origin = EntityCreated.of(event), None, None
        self.life_offset = self.ids_offset = self.watermark = event.offset
        self.woken, self.compacted = False, None
        self.spent, self.granted = Spent(), Granted()
        self.rows.clear()
        self._abandon()

    def come_from(self, origin: EntityForked, offset: int) -> None:
        """Take into account that the rows before ``offset`` were inherited.

        What they obliged the source to is ended by the rows that follow (``closing.py``).
        """
        if self.created is not None:
            self.created = origin.creation(self.created)
        self.origin, self.ids_offset = origin, offset
        self.spent, self.granted = Spent(), Granted()
        self.woken = self.woken or origin.woken

    def _abandon(self) -> None:
        """The end of a life ends its obligations."""
        ended = (self.pending, self.wakes, self.timers, self.outbox, self.deferred, self.effects)
        for left in (*ended, self.steered, self.approvals):
            left.clear()

    def _apply_wake(self, wake: WakeRecorded) -> None:
        if wake.joined:
            self.steered.update(offset for offset in wake.joined if offset >= self.watermark)
            self.pending = [e for e in self.pending if e.offset not in self.steered]
        if wake.to_offset > self.watermark:
            self.watermark = wake.to_offset
            self.pending = [e for e in self.pending if e.offset >= wake.to_offset]
            self.steered = {offset for offset in self.steered if offset >= wake.to_offset}
        if wake.closed:
            self.woken = self.woken or wake.attempt > 0
            self.wakes.pop(wake.key, None)
        else:
            self.wakes[wake.key] = wake
        if wake.closed or wake.status is WakeStatus.PARKED:
            self._show_effects(wake.key)
        if wake.closed:
            self.effects.pop(wake.key, None)
            for key in [each.key for each in self.approvals.values() if each.wake == wake.key]:
                del self.approvals[key]

    def _show_effects(self, wake_key: str) -> None:
        for committed in self.effects.get(wake_key, {}).values():
            if not committed.shown:
                committed.shown = True
                for event in committed.events:
                    self._write_row(event)

    def _apply_outbox(self, event: Event) -> None:
        if event.operation is Operation.DELETE:
            self.outbox.pop(event.key, None)
        else:
            self.outbox[event.key] = Outgoing.of(event)

    def _apply_schedule(self, event: Event) -> None:
        """Keep what is pending, and nothing else: schedules are no rows of the state."""
        if event.headers.get(SendScheduled.STATUS_HEADER) == SendScheduled.PENDING:
            send = SendScheduled.of(event)
            self.timers[send.key] = Timer(offset=event.offset, send=send)
        else:
            self.timers.pop(event.key.partition(":")[2], None)

    def _note_effect(self, event: Event) -> None:
        wake = event.headers.get(WAKE_HEADER)
        current = self.wakes.get(wake) if wake else None
        if wake is None or current is None or current.status is WakeStatus.PARKED:
            self._write_row(event)
            return
        ordinal = event.headers.get(ORDINAL_HEADER)
        if ordinal is None:
            return
        effect = (event.headers[SCOPE_HEADER], int(ordinal))
        kept = self.effects.setdefault(wake, {}).setdefault(
            effect, Committed(digest=event.headers[DIGEST_HEADER])
        )
        kept.events.append(event)

    def _write_row(self, event: Event) -> None:
        if not is_row_type(event.type) or SendScheduled.is_row(event.type, event.key):
            return
        table = self.rows.setdefault(event.type, {})
        if event.operation is Operation.DELETE:
            table.pop(event.key, None)
        else:
            table[event.key] = event.text


def is_row_type(type_name: str) -> bool:
    """Whether the wake state keeps the rows of this type."""
    return type_name.startswith(USER_TYPE_PREFIX) or type_name in ROW_TYPES


def fold(events: Iterable[Event], state: State | None = None) -> State:
    """The state after ``events``, starting from ``state``, which is changed and returned."""
    state = state or State()
    for event in events:
        state.apply(event)
    return state
