"""A type that does not keep everything: what goes, what stays, and what is said about it."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Limits, Registry, Retention
from ray_agents.errors import InvalidDefinition, MessageConflict, OffsetGone
from ray_agents.log import owner, tidying
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.views import Status
from tests.cluster.conftest import ask, log_of

ADA = Address.parse("/bot/ada")
Wait = Callable[[Callable[[], object]], Awaitable[object]]


class Note(BaseModel):
    key: str
    text: str


async def bot(ctx: Any, wake: Any) -> str:
    """Note the first message, and say how many notes there are."""
    if ctx.first_wake:
        ctx.state.notes.insert(Note(key="first", text=str(ctx.events[0].value["payload"])))
    return str(len(ctx.state.notes.list()))


@pytest.fixture
async def runtime(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[LocalRuntime]:
    monkeypatch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 2)
    monkeypatch.setattr(tidying, "SNAPSHOT_ROWS_MIN", 4)
    registry = Registry()
    small = Retention(bytes_max=20_000)
    registry.define(
        "bot",
        Definition(
            type="bot",
            handler=bot,
            state={"notes": Note},
            idle_timeout=timedelta(0),
            retention=small,
        ),
    )
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        await runtime.spawn(ADA, SpawnRequest())
        yield runtime


async def work(runtime: LocalRuntime, wait_until: Wait, *, wakes: int) -> None:
    """So many wakes, each in an ownership of its own."""

    async def asleep() -> bool:
        return (await runtime.inspect(ADA)).status is Status.SLEEPING

    for number in range(wakes):
        await ask(runtime, ADA, f"hello {number}", id=f"m{number}")
        await wait_until(asleep)


async def test_what_is_let_go_is_said_to_be_gone(runtime: LocalRuntime, wait_until: Wait) -> None:
    await work(runtime, wait_until, wakes=24)
    view = await runtime.inspect(ADA)
    assert 0 < view.first < view.events
    with pytest.raises(OffsetGone, match=f"the first that exists is {view.first}") as gone:
        [event async for event in runtime.observe(ADA, offset=1, live=False)]
    assert gone.value.facts["first"] == view.first
    assert (await log_of(runtime, ADA))[0].offset >= view.first


async def test_state_and_message_ids_stay(runtime: LocalRuntime, wait_until: Wait) -> None:
    first = await runtime.send(ADA, SendRequest(payload="hello", id="early"))
    await work(runtime, wait_until, wakes=24)
    assert (await runtime.inspect(ADA)).first > first.offset
    again = await runtime.send(ADA, SendRequest(payload="hello", id="early"))
    assert (again.duplicate, again.offset) == (True, first.offset)
    with pytest.raises(MessageConflict):
        await runtime.send(ADA, SendRequest(payload="another", id="early"))
    assert (await ask(runtime, ADA, "how many?")).value == "1"


@pytest.mark.parametrize("wrong", [{"age": timedelta(0)}, {"bytes_max": 0}])
def test_a_retention_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidDefinition, match="Retention"):
        Retention(**wrong)


async def test_a_delayed_send_that_is_accepted_while_the_log_is_tidied_fires(
    monkeypatch: pytest.MonkeyPatch, wait_until: Wait, runtime: LocalRuntime
) -> None:
    gate, entered = threading.Event(), threading.Event()

    def held_up(*args: Any, **options: Any) -> Any:
        entered.set()
        gate.wait(10)
        return tidying.tidied(*args, **options)

    async def tidying_or_asleep() -> bool:
        return entered.is_set() or (await runtime.inspect(ADA)).status is Status.SLEEPING

    monkeypatch.setattr(owner, "tidied", held_up)
    while not entered.is_set():
        await ask(runtime, ADA, "once more")
        await wait_until(tidying_or_asleep)
    await runtime.send(ADA, SendRequest(payload="later", id="late", after_seconds=0.2))
    gate.set()

    async def fired() -> bool:
        rows = await log_of(runtime, ADA)
        return any((row.type, row.key) == ("inbox", "late") for row in rows)

    await wait_until(fired)


async def test_messages_of_a_parked_wake_are_fetched_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, wait_until: Wait, tmp_path: Path
) -> None:
    """They may lie in a merged file, which nobody has read since the runtime began."""
    wrong = [True]

    async def sometimes(ctx: Any, wake: Any) -> object:
        if wrong[0] and ctx.events[0].value["payload"] == "hard":
            raise ValueError("too hard")
        return ctx.events[0].value["payload"]

    registry = Registry()
    limits = Limits(attempts_max=1)
    registry.define(
        "bot",
        Definition(type="bot", handler=sometimes, idle_timeout=timedelta(0), limits=limits),
    )
    monkeypatch.setattr(tidying, "UNMERGED_SEGMENTS_MAX", 2)
    monkeypatch.setattr(tidying, "SNAPSHOT_ROWS_MIN", 4)
    async with LocalRuntime(str(tmp_path)) as runtime:
        await runtime.register(registry)
        await runtime.spawn(ADA, SpawnRequest())
        await runtime.send(ADA, SendRequest(payload="hard", id="hard"))
        await work(runtime, wait_until, wakes=12)
    wrong[0] = False
    readers: list[threading.Thread] = []
    read = DirectoryBlobs.read

    def noticed(blobs: DirectoryBlobs, name: str, start: int = 0) -> bytes | None:
        if "/sealed/" in name:
            readers.append(threading.current_thread())
        return read(blobs, name, start)

    async with LocalRuntime(str(tmp_path)) as runtime:
        await runtime.register(registry)
        assert (await runtime.inspect(ADA)).parked
        monkeypatch.setattr(DirectoryBlobs, "read", noticed)
        await runtime.retry(ADA)

        async def done() -> bool:
            return not (await runtime.inspect(ADA)).parked

        await wait_until(done)
    assert readers
    assert threading.main_thread() not in readers
