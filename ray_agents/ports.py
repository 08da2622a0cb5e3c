"""The seams: what the pure core asks of the world, on one page.

Each has a real implementation in a folder and an in-memory twin beside it; one conformance suite
per seam in ``ray_agents.testing`` runs on both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Protocol, Self, TypeVar

from ray_agents.address import Address
from ray_agents.approvals import ApprovalRecorded
from ray_agents.definition import Registry
from ray_agents.events import Draft, Event
from ray_agents.interruption import Interruption
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    ListQuery,
    SendRequest,
    SpawnRequest,
)
from ray_agents.views import (
    ApprovalView,
    EntityView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    TypeView,
)

T = TypeVar("T")


class Clock(Protocol):
    """Time and fresh names, handed in so that tests decide both."""

    def now(self) -> int:
        """Microseconds since the epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go backwards."""
        ...

    def fresh_id(self) -> str:
        """A new unguessable name of 20 lower-case characters; later ones sort later."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Return after ``duration``."""
        ...


class Blobs(Protocol):
    """A durable tree of named byte strings: what a log is kept in. All calls block.

    Names are relative paths with ``/``. Every method raises ``StoreUnavailable`` (or
    ``StoreFull``) that names the path when the medium refuses.
    """

    @property
    def prompt(self) -> bool:
        """Whether calls that neither create nor sync take microseconds, as in memory.

        Then an owner may make them on its event loop, and saves the way to a thread and back.
        """
        ...

    @property
    def linger(self) -> timedelta:
        """How long an append that nobody waits for may wait for others, to be written with them.

        Zero where a write costs little.
        """
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write ``data`` under a new name, whole and synced; False if the name exists already.

        The *name* is durable only after :meth:`sync_names` of its folder.
        """
        ...

    def link(self, source: str, name: str) -> bool:
        """Give the content of ``source``, which nobody appends to any more, a second name.

        It is not read or copied, and stays when ``source`` is deleted. False if ``name`` exists
        already; as durable as :meth:`create`. ``StoreUnavailable`` if ``source`` does not exist.
        """
        ...

    def sync_names(self, name: str) -> None:
        """Make the existence of ``name``, and of every folder above it, durable."""
        ...

    def exists(self, name: str) -> bool:
        """Whether the name is there."""
        ...

    def read(self, name: str, start: int = 0) -> bytes | None:
        """The bytes from ``start`` on; None if there is no such name."""
        ...

    def append(self, name: str) -> Appender:
        """Open an existing name, created by this owner, for appending."""
        ...

    def names(self, folder: str) -> list[str]:
        """The names directly in ``folder`` (last parts only), sorted; empty if there is none."""
        ...

    def delete(self, name: str) -> None:
        """Remove the name, a folder too if it is empty; absent is fine."""
        ...


class Appender(Protocol):
    """One open live segment. After a failed ``sync`` it must never be synced again."""

    def write(self, data: bytes) -> None:
        """Append all of ``data``."""
        ...

    def sync(self) -> None:
        """Make everything written durable (``fdatasync``)."""
        ...

    def close(self) -> None:
        """Close; twice is harmless."""
        ...


class Journal(Protocol):
    """Where an agent run records itself: the running wake's part of its entity's log."""

    @property
    def run_key(self) -> str:
        """The key of this run, the same each time the wake is run again."""
        ...

    def recorded(self) -> Sequence[Event]:
        """This run's rows that are already in the log, oldest first; empty for a new run.

        And the approvals that runs have asked for inside of its tool calls, which it waits for.
        """
        ...

    def history(self) -> Sequence[Event]:
        """The rows before this run from which the transcript is built, oldest first.

        Types inbox, run, step, tool_call, steered, wake, compaction, own_compaction.
        """
        ...

    def is_alone(self, before: int | None) -> bool:
        """Whether no other run has said anything since this one began that it does not know.

        What was said ``before`` an offset counts, all of it if that is None, but not what agents
        inside of this run's tools have said.
        """
        ...

    async def commit(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """Append ``drafts`` and everything the handler has staged; return once it is durable.

        A commit point of DESIGN invariant 3: nothing that follows happens if this raises.
        """
        ...

    async def commit_waiting(self, drafts: Sequence[Draft]) -> Sequence[Event]:
        """The last commit of a run that waits for people; those it asks are asked by it.

        If it is inside of a tool call, they are asked with the row by which that call waits, too.
        """
        ...

    def post(self, drafts: Sequence[Draft]) -> None:
        """Append without waiting, in order with commits: deltas for whoever watches."""
        ...

    def steering(self) -> Sequence[Event]:
        """The inbox rows that wait to be taken in by a running loop, oldest first.

        A commit with their ``steered`` rows takes them.
        """
        ...

    def waiting(self) -> Sequence[Event]:
        """The inbox rows behind this wake's that no run has taken in, oldest first."""
        ...

    @property
    def interruption(self) -> Interruption:
        """Whether the wake was told to stop, and what is to end when it is."""
        ...

    def used_up(self) -> str | None:
        """What forbids another model call, as a stop reason; None if nothing does.

        ``budget``: the entity has nothing left to spend; ``goal_budget``: nor for its goal.
        """
        ...

    def in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do ``work``, which blocks, in a thread as soon as one is free.

        One that is cancelled before is not done.
        """
        ...

    def effects_of(self, scope: str) -> EffectScope:
        """A context manager: effects staged inside belong to ``scope`` (a tool call's key)."""
        ...

    def approval(self, key: str) -> ApprovalRecorded | None:
        """The approval of the tool call of that key as it is now; None if it has asked for none.

        A decision may have been made since the run began or went on.
        """
        ...

    def now(self) -> int:
        """Microseconds since the epoch."""
        ...


class EffectScope(Protocol):
    """Entered around a tool's execution."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> bool | None: ...


class Runtime(Protocol):
    """The verbs. The client speaks them; the cluster, LocalHosts and HTTP each answer them."""

    async def register(self, registry: Registry, *, source: str | None = None) -> list[TypeView]:
        """Make definitions known; ``source`` is ``module:attribute``, to ship them by path."""
        ...

    async def types(self) -> list[TypeView]:
        """The newest version of every definition."""
        ...

    async def spawn(self, address: Address, request: SpawnRequest) -> EntityView:
        """Create an entity; return once it is durable."""
        ...

    async def send(self, address: Address, request: SendRequest) -> Receipt:
        """Put a message into an inbox; return once it is durable."""
        ...

    async def ask(self, address: Address, request: SendRequest, *, within: timedelta) -> Reply:
        """Send, and return the reply to that message."""
        ...

    def observe(
        self, address: Address, *, offset: int = 0, live: bool = True
    ) -> AsyncIterator[Event]:
        """The events from ``offset`` on; ``-1`` means from now. Never wakes the entity."""
        ...

    async def inspect(self, address: Address) -> EntityView:
        """One entity, as it is now."""
        ...

    async def state(self, address: Address, *, at: int | None = None) -> StateView:
        """One entity as of an offset, as the rows below it tell; never wakes it."""
        ...

    async def list(self, query: ListQuery) -> Page:
        """Some entities."""
        ...

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        """Make a new entity of the rows of another; return once it is durable. Wakes neither."""
        ...

    def export(self, address: Address, *, children: bool = False) -> AsyncIterator[bytes]:
        """The bytes of a file with the entity, and all that descend from it. Wakes nobody."""
        ...

    async def import_(
        self, chunks: AsyncIterator[bytes], *, to: Address | None = None
    ) -> list[EntityView]:
        """Make the entities of such a file, the one of them at ``to`` if given; durable then."""
        ...

    async def kill(
        self, address: Address, *, reason: str | None = None, life: int | None = None
    ) -> None:
        """End the entity's life; its log remains readable.

        ``life`` is the one that is meant, by its number; None is that which goes on now.
        """
        ...

    async def interrupt(
        self,
        address: Address,
        *,
        wake: str | None = None,
        reason: str | None = None,
        signal_id: str | None = None,
    ) -> Interrupted:
        """Stop what runs (``wake``: only if it is that one); return once the log says so.

        ``signal_id`` makes a repeated interrupt of something that ran harmless.
        """
        ...

    async def retry(self, address: Address, *, wake: str | None = None) -> int:
        """Run parked wakes again (one, or all); how many."""
        ...

    async def skip(self, address: Address, *, wake: str | None = None) -> int:
        """Give parked wakes up (one, or all), or one that waits for approval; how many."""
        ...

    async def decide(
        self, address: Address, approval: str, request: DecisionRequest
    ) -> ApprovalView:
        """Approve or deny a tool call by its key, or an id no other has; durable on return."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...
