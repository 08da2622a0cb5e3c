"""A Runtime in memory that keeps what it is told and answers at once: the doors' tests use it."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
from typing import Self

from ray_agents.address import Address
from ray_agents.definition import Registry
from ray_agents.errors import (
    AskTimedOut,
    EntityExists,
    RayAgentsError,
    UnknownEntity,
    UnknownOffset,
    UnknownType,
)
from ray_agents.events import Draft, Event
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    ListQuery,
    SendRequest,
    SpawnRequest,
)
from ray_agents.views import (
    ApprovalStatus,
    ApprovalView,
    EntityView,
    Interrupted,
    Page,
    Receipt,
    Reply,
    StateView,
    Status,
    TypeView,
)

WAITS = ApprovalView(
    id="toolu_1",
    key="wake-2-run-1:s1:tool:0",
    status=ApprovalStatus.PENDING,
    wake="wake-2",
    tool="delete",
    args={"path": "a"},
    requested=1,
)


class FakeRuntime:
    """Logs are lists; ``fails_with`` makes every verb raise; ``observers`` counts open streams."""

    def __init__(self) -> None:
        self.logs: dict[Address, list[Event]] = {}
        self.spawned: dict[Address, SpawnRequest] = {}
        self.sent: list[tuple[Address, SendRequest]] = []
        self.killed: dict[Address, str | None] = {}
        self.ended: list[int | None] = []
        self.queries: list[ListQuery] = []
        self.registered: list[tuple[Registry, str | None]] = []
        self.parked: list[tuple[str, Address, str | None]] = []
        self.decided: list[tuple[Address, str, DecisionRequest]] = []
        self.interrupts: list[tuple[Address, str | None, str | None]] = []
        self.signals: list[str | None] = []
        self.forked: list[tuple[Address, ForkRequest]] = []
        self.imported = b""
        self.fails_with: BaseException | None = None
        self.breaks_after: int | None = None
        self.observers = 0
        self.changed = asyncio.Condition()
        self.entered = False

    async def __aenter__(self) -> Self:
        self.entered = True
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.entered = False

    async def append(self, address: Address, *texts: str) -> None:
        """Put data rows into an entity's log."""
        log = self.logs[address]
        async with self.changed:
            for text in texts:
                draft = Draft.of("text", f"k{len(log)}", value=text)
                log.append(Event.at(len(log), 1_000_000 + len(log), draft))
            self.changed.notify_all()

    def _log(self, address: Address) -> list[Event]:
        if self.fails_with is not None:
            raise self.fails_with
        if address not in self.logs:
            raise UnknownEntity(f"no entity lives at {str(address)!r}", address=str(address))
        return self.logs[address]

    async def register(self, registry: Registry, *, source: str | None = None) -> list[TypeView]:
        self.registered.append((registry, source))
        return [TypeView(type=each.type, version=1, source=source or "") for each in registry]

    async def types(self) -> list[TypeView]:
        if self.fails_with is not None:
            raise self.fails_with
        return [TypeView(type="assistant", version=1)]

    async def spawn(self, address: Address, request: SpawnRequest) -> EntityView:
        if address.type == "nobody":
            raise UnknownType(f"no definition of type {address.type!r}", type=address.type)
        if address in self.spawned and self.spawned[address].spawn_id != request.spawn_id:
            raise EntityExists(f"{str(address)!r} exists already", address=str(address))
        self.spawned[address] = request
        self.logs.setdefault(address, [])
        return await self.inspect(address)

    async def send(self, address: Address, request: SendRequest) -> Receipt:
        log = self._log(address)
        self.sent.append((address, request))
        await self.append(address, str(request.payload))
        name = request.id or "made-up"
        return Receipt(address=str(address), id=name, offset=len(log) - 1)

    async def ask(self, address: Address, request: SendRequest, *, within: timedelta) -> Reply:
        receipt = await self.send(address, request)
        if request.payload == "silence":
            raise AskTimedOut(f"no reply within {within}", address=str(address), id=receipt.id)
        return Reply(
            address=receipt.address,
            id=receipt.id,
            wake="w0",
            offset=receipt.offset,
            text=f"{within.total_seconds():g} s for {request.payload}",
        )

    async def observe(
        self, address: Address, *, offset: int = 0, live: bool = True
    ) -> AsyncGenerator[Event]:
        log = self._log(address)
        if offset > len(log):
            raise UnknownOffset(f"{offset!r} lies beyond the end {len(log)!r}", offset=offset)
        position = len(log) if offset < 0 else offset
        self.observers += 1
        try:
            while live or position < len(log):
                if position < len(log):
                    yield log[position]
                    position += 1
                    self._maybe_break()
                    continue
                await self._longer_than(log, position)
        finally:
            self.observers -= 1

    async def _longer_than(self, log: list[Event], length: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(log) > length)

    def _maybe_break(self) -> None:
        if self.breaks_after is None:
            return
        self.breaks_after -= 1
        if self.breaks_after < 0:
            self.breaks_after = None
            raise ConnectionResetError("a stream that breaks")

    async def inspect(self, address: Address) -> EntityView:
        log = self._log(address)
        return EntityView(
            address=str(address),
            type=address.type,
            id=address.id,
            status=Status.SLEEPING,
            created=1,
            events=len(log),
            tags=self.spawned[address].tags,
            approvals=(WAITS,),
        )

    async def list(self, query: ListQuery) -> Page:
        self.queries.append(query)
        views = [await self.inspect(address) for address in list(self.logs)[: query.limit]]
        return Page(items=tuple(views), cursor="more")

    async def fork(self, source: Address, request: ForkRequest) -> EntityView:
        rows = self._log(source)
        if request.at is not None and request.at > len(rows):
            raise UnknownOffset(f"{request.at!r} lies beyond the end", offset=request.at)
        target = Address.parse(request.to)
        self.forked.append((source, request))
        self.spawned[target] = self.spawned[source]
        self.logs[target] = rows[: request.at]
        return await self.inspect(target)

    async def state(self, address: Address, *, at: int | None = None) -> StateView:
        rows = self._log(address)
        end = len(rows) if at is None else at
        if end > len(rows):
            raise UnknownOffset(f"{end!r} lies beyond the end", offset=end)
        return StateView(
            address=str(address),
            type=address.type,
            id=address.id,
            at=end,
            tip=len(rows),
            time=1,
            created=1,
            collections={"texts": [row.value for row in rows[:end]]},
        )

    async def export(
        self, address: Address, *, children: bool = False
    ) -> AsyncGenerator[bytes, None]:
        self._log(address)
        for piece in (b"export of ", str(address).encode(), b" and all" if children else b""):
            yield piece

    async def import_(
        self, chunks: AsyncIterator[bytes], *, to: Address | None = None
    ) -> builtins.list[EntityView]:
        self.imported = b"".join([chunk async for chunk in chunks])
        if self.fails_with is not None:
            raise self.fails_with
        address = to or Address.of("assistant", "imported")
        return [await self.spawn(address, SpawnRequest())]

    async def kill(
        self, address: Address, *, reason: str | None = None, life: int | None = None
    ) -> None:
        self._log(address)
        self.killed[address] = reason
        self.ended.append(life)

    async def interrupt(
        self,
        address: Address,
        *,
        wake: str | None = None,
        reason: str | None = None,
        signal_id: str | None = None,
    ) -> Interrupted:
        self._log(address)
        self.signals.append(signal_id)
        self.interrupts.append((address, wake, reason))
        return Interrupted(address=str(address), interrupted=True, wake=wake or "w1", offset=7)

    async def retry(self, address: Address, *, wake: str | None = None) -> int:
        self._log(address)
        self.parked.append(("retry", address, wake))
        return 2

    async def skip(self, address: Address, *, wake: str | None = None) -> int:
        self._log(address)
        self.parked.append(("skip", address, wake))
        return 1

    async def decide(
        self, address: Address, approval: str, request: DecisionRequest
    ) -> ApprovalView:
        self._log(address)
        self.decided.append((address, approval, request))
        return WAITS.model_copy(
            update={"id": approval, "status": request.status, "reason": request.reason}
        )


def failing(error: RayAgentsError | Exception) -> FakeRuntime:
    """A runtime on which every verb raises ``error``."""
    runtime = FakeRuntime()
    runtime.fails_with = error
    return runtime
