"""Everything a log can say: rows, and the facts of the runtime's own rows.

A log is a sequence of :class:`Event` rows in the sense of the durable-streams State Protocol:
a type, a key, an operation, a value, headers. A :class:`Draft` is a row that is not yet in a
log and so has neither offset nor time. Most rows are data (``text_delta``, ``run``, a user's
collection); the rows by which the runtime steers itself have a frozen class below, in the past
tense, with ``draft()`` to write it and ``of(event)`` to read it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from json import dumps
from typing import Any, Self, cast

from pydantic_core import from_json, to_json
from xxhash import xxh3_64_hexdigest

from ray_agents.errors import InvalidPayload
from ray_agents.modes import MODE_HEADER, Mode

JSON = Any  # whatever json.loads gives; checked where it enters

NO_HEADERS: Mapping[str, str] = {}
WAKE_HEADER = "wake"  # of a row that a wake has written: the wake's key


class Operation(StrEnum):
    """What a row does to its (type, key)."""

    INSERT = "insert"
    UPDATE = "update"
    UPSERT = "upsert"
    DELETE = "delete"


def encode(value: JSON, what: str = "value") -> str:
    """``value`` as compact JSON text.

    Raises:
        InvalidPayload: it holds something JSON cannot say (NaN, too); ``what`` names it.
    """
    try:
        text = to_json(value, inf_nan_mode="constants").decode()
        if "NaN" in text or "Infinity" in text:
            from_json(text, allow_inf_nan=False)
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidPayload(f"{what} cannot be written as JSON: {error}", field=what) from error
    return text


def decode(text: str) -> JSON:
    """The value that :func:`encode` wrote."""
    return from_json(text)


def digest_of(value: JSON) -> str:
    """A stable digest of a JSON value, 16 hex digits; the order of an object's names is nothing."""
    return xxh3_64_hexdigest(dumps(decode(encode(value)), sort_keys=True).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A row before it is in a log; ``text`` is its value as JSON text, empty for a deletion."""

    type: str
    key: str
    operation: Operation = Operation.INSERT
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @classmethod
    def of(
        cls,
        type_name: str,
        key: str,
        *,
        value: JSON = None,
        operation: Operation = Operation.INSERT,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> Draft:
        """Build a row from a JSON value; ``value`` is ignored for a deletion."""
        text = "" if operation is Operation.DELETE else encode(value, f"{type_name} {key!r}")
        return cls(type=type_name, key=key, operation=operation, text=text, headers=headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One row of a log. ``offset`` counts from 0; ``time`` is microseconds since the epoch, UTC."""

    offset: int
    time: int
    type: str
    key: str
    operation: Operation
    text: str
    headers: Mapping[str, str] = field(default_factory=lambda: NO_HEADERS)

    @classmethod
    def at(cls, offset: int, time: int, draft: Draft) -> Event:
        """``draft`` as the row it becomes at ``offset``."""
        return cls(
            offset=offset,
            time=time,
            type=draft.type,
            key=draft.key,
            operation=draft.operation,
            text=draft.text,
            headers=draft.headers,
        )

    @property
    def value(self) -> JSON:
        """The decoded value; None for a deletion."""
        return decode(self.text) if self.text else None

    def as_json(self) -> dict[str, JSON]:
        """The row as doors show it."""
        return {
            "offset": self.offset,
            "time": self.time,
            "type": self.type,
            "key": self.key,
            "operation": self.operation.value,
            "value": self.value,
            "headers": dict(self.headers),
        }

    @classmethod
    def from_json(cls, row: Mapping[str, JSON]) -> Event:
        """Read back :meth:`as_json`."""
        operation = Operation(row["operation"])
        text = "" if operation is Operation.DELETE else encode(row["value"])
        return cls(
            offset=row["offset"],
            time=row["time"],
            type=row["type"],
            key=row["key"],
            operation=operation,
            text=text,
            headers=row["headers"],
        )


def wire_offset(offset: int) -> str:
    """An offset as the wire writes it, ``%016d_%016d`` (durable-streams PROTOCOL.md)."""
    return f"{0:016d}_{offset:016d}"


# -- the runtime's own rows ------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityCreated:
    """An entity came to be at this address; ``life`` counts its incarnations from 0.

    ``budget`` is what it may spend, with all that descend from it, as a row of ``budgets.py``.
    """

    entity_type: str
    args: dict[str, JSON]
    tags: dict[str, str]
    parent: str | None
    life: int
    spawn_id: str
    timestamp: int
    budget: dict[str, JSON] | None = None

    TYPE = "entity_created"

    def draft(self) -> Draft:
        """The row to append."""
        value = asdict(self)
        if self.budget is None:
            del value["budget"]
        return Draft.of(self.TYPE, "entity", value=value, operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        return cls(**event.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityStopped:
    """The entity was killed: its life is over and its log takes no more messages."""

    reason: str | None
    life: int
    timestamp: int

    TYPE = "entity_stopped"

    def draft(self) -> Draft:
        """The row to append."""
        return Draft.of(self.TYPE, "entity", value=asdict(self), operation=Operation.UPSERT)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        return cls(**event.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A message entered the inbox; ``key`` is the message id, unique for the entity's life."""

    key: str
    payload: JSON
    message_type: str
    sender: str | None
    timestamp: int
    mode: Mode = Mode.QUEUED

    TYPE = "inbox"

    @property
    def digest(self) -> str:
        """What makes two messages of one id the same."""
        return digest_of([self.message_type, self.payload])

    def draft(self) -> Draft:
        """The row to append."""
        value = {
            "key": self.key,
            "from": self.sender,
            "payload": self.payload,
            "message_type": self.message_type,
            "timestamp": self.timestamp,
        }
        if self.mode is Mode.QUEUED:
            return Draft.of(self.TYPE, self.key, value=value)
        headers = {MODE_HEADER: self.mode.value}
        return Draft.of(self.TYPE, self.key, value=value | headers, headers=headers)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = event.value
        return cls(
            key=row["key"],
            payload=row["payload"],
            message_type=row["message_type"],
            sender=row["from"],
            timestamp=row["timestamp"],
            mode=Mode(row.get("mode", Mode.QUEUED)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SendScheduled:
    """A delayed send was accepted: its message enters the inbox at ``fire_at``, in this life only.

    ``key`` is the message id; times are microseconds since the epoch. The row is one of the
    built-in collection ``manifests``, with the fields of upstream's ``future_send`` schedule. Its
    status stands in the headers too, for columnar reads.
    """

    key: str
    fire_at: int
    payload: JSON
    message_type: str
    sender: str | None
    target: str
    life: int
    timestamp: int
    mode: Mode = Mode.QUEUED

    TYPE = "manifest"
    KIND = "schedule"
    PENDING = "pending"
    SENT = "sent"
    CANCELLED = "cancelled"  # a fork or an import does not inherit it
    STATUS_HEADER = "status"
    OFFSET_HEADER = "scheduled"  # of the inbox row: the offset at which its send was accepted

    @staticmethod
    def is_row(type_name: str, key: str) -> bool:
        """Whether a row of that type and key is a schedule."""
        return type_name == SendScheduled.TYPE and key.startswith(f"{SendScheduled.KIND}:")

    def draft(self) -> Draft:
        """The row to append: the send is pending."""
        how = {} if self.mode is Mode.QUEUED else {"mode": self.mode.value}
        return self._row(self.PENDING, payload=self.payload, **how)

    def sent(self, *, now: int) -> Draft:
        """The row to append beside the inbox row, in which the payload stands from now on."""
        return self._row(self.SENT, sent_at=now)

    def cancelled(self) -> Draft:
        """The row that takes it back."""
        return self._row(self.CANCELLED)

    def message(self, *, now: int) -> MessageReceived:
        """The message as it enters the inbox."""
        return MessageReceived(
            key=self.key,
            payload=self.payload,
            message_type=self.message_type,
            sender=self.sender,
            timestamp=now,
            mode=self.mode,
        )

    def _row(self, status: str, **more: JSON) -> Draft:
        value = {
            "kind": self.KIND,
            "id": self.key,
            "schedule_type": "future_send",
            "fire_at": self.fire_at,
            "target_url": self.target,
            "message_type": self.message_type,
            "from": self.sender,
            "status": status,
            "life": self.life,
            "timestamp": self.timestamp,
            **more,
        }
        return Draft.of(
            self.TYPE,
            f"{self.KIND}:{self.key}",
            value=value,
            operation=Operation.UPSERT,
            headers={self.STATUS_HEADER: status},
        )

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read a pending row back."""
        row = event.value
        return cls(
            key=row["id"],
            fire_at=row["fire_at"],
            payload=row["payload"],
            message_type=row["message_type"],
            sender=row["from"],
            target=row["target_url"],
            life=row["life"],
            timestamp=row["timestamp"],
            mode=Mode(row.get("mode", Mode.QUEUED)),
        )


class WakeStatus(StrEnum):
    """How far a wake has come; ``handled`` and ``skipped`` are its two ends."""

    STARTED = "started"
    WAITING = "waiting"
    FAILED = "failed"
    PARKED = "parked"
    HANDLED = "handled"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeRecorded:
    """A wake came this far. The newest row of its key tells all: range, attempt, outcome.

    ``from_offset`` (inclusive) to ``to_offset`` (exclusive) bound the events that caused it.
    ``attempt`` counts from 1; ``deaths`` counts the attempts whose host died. ``retry_at`` is
    microseconds since the epoch. ``reply`` is what the handler returned, ``text`` what it said,
    and ``stop_reason`` why its agent's last run ended.
    ``joined`` are the offsets of later messages that were steered into it, ``apart`` of those in
    its range that were into an earlier one; ``interrupted`` that it was told to stop.
    """

    key: str
    status: WakeStatus
    source: str
    from_offset: int
    to_offset: int
    event_count: int
    attempt: int
    deaths: int
    host: str
    definition_version: int
    timestamp: int
    retry_at: int = 0
    error: str | None = None
    reply: JSON = None
    text: str | None = None
    joined: tuple[int, ...] = ()
    apart: tuple[int, ...] = ()
    interrupted: bool = False
    stop_reason: str | None = None

    TYPE = "wake"

    @property
    def closed(self) -> bool:
        """Whether the wake has come to its end."""
        return self.status in (WakeStatus.HANDLED, WakeStatus.SKIPPED)

    def took(self, offset: int) -> bool:
        """Whether the message at ``offset`` is one of those it was to handle."""
        within = self.from_offset <= offset < self.to_offset and offset not in self.apart
        return within or offset in self.joined

    def is_attempt_of(self, other: WakeRecorded | None) -> bool:
        """Whether ``other`` is this very attempt, whatever it has been told meanwhile."""
        return other is not None and all(
            getattr(self, name) == getattr(other, name) for name in _ATTEMPT_FIELDS
        )

    def draft(self) -> Draft:
        """The row to append; its status stands in the headers too, for columnar reads."""
        return Draft.of(
            self.TYPE,
            self.key,
            value=self._value(),
            operation=Operation.UPSERT,
            headers={"status": self.status.value},
        )

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = cast("dict[str, Any]", event.value)
        row["status"] = WakeStatus(row["status"])
        row |= {name: tuple(row[name]) for name in _RARE_OFFSETS if name in row}
        return cls(**row)

    def _value(self) -> dict[str, JSON]:
        value = {name: getattr(self, name) for name in _WAKE_FIELDS}  # asdict takes 50 µs
        for name in _RARE_FIELDS:
            if getattr(self, name):
                value[name] = getattr(self, name)
        return value


_RARE_OFFSETS = ("joined", "apart")
_RARE_FIELDS = (*_RARE_OFFSETS, "interrupted", "stop_reason")
_WAKE_FIELDS = tuple(n for n in WakeRecorded.__dataclass_fields__ if n not in _RARE_FIELDS)
_ATTEMPT_FIELDS = ("key", "status", "attempt", "deaths", "host", "timestamp")


class OutboxKind(StrEnum):
    """What leaves through an outbox."""

    SEND = "send"
    SPAWN = "spawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectStaged:
    """A send or spawn of a handler stands in the outbox, to be delivered at least once."""

    key: str
    kind: OutboxKind
    target: str
    body: dict[str, JSON]

    TYPE = "outbox"

    def draft(self, headers: Mapping[str, str]) -> Draft:
        """The row to append."""
        return Draft.of(self.TYPE, self.key, value=asdict(self), headers=headers)

    def delivered(self) -> Draft:
        """The row that takes it out of the outbox."""
        return Draft.of(self.TYPE, self.key, operation=Operation.DELETE)

    @classmethod
    def of(cls, event: Event) -> Self:
        """Read the row back."""
        row = cast("dict[str, Any]", event.value)
        row["kind"] = OutboxKind(row["kind"])
        return cls(**row)


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRecorded:
    """Something went wrong, for people to read; ``traceback`` is the handler's own."""

    key: str
    error_code: str
    message: str
    traceback: str | None = None
    wake: str | None = None

    TYPE = "error"

    def draft(self) -> Draft:
        """The row to append."""
        return Draft.of(self.TYPE, self.key, value=asdict(self))

    @classmethod
    def of(cls, event: Event) -> ErrorRecorded:
        """Read the row back; agent runs write more fields (upstream's), which are left out."""
        row = cast("dict[str, Any]", event.value)
        return cls(**{name: row[name] for name in cls.__dataclass_fields__ if name in row})
