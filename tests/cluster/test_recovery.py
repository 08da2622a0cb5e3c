"""After a crash, work goes on by itself, and everything acknowledged is handled once in the log."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.calls import Answer, Call
from ray_agents.cluster.clock import SystemClock
from ray_agents.cluster.folders import entity_folder, host_folder
from ray_agents.cluster.hostlog import AWAKE
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.recovery import Recovery
from ray_agents.definition import Limits, Registry
from ray_agents.errors import RayAgentsError, StoreUnavailable, UnknownEntity
from ray_agents.events import Draft, Operation
from ray_agents.log.claiming import take
from ray_agents.log.files import LogFiles
from ray_agents.log.owner import Claim, LogOwner
from ray_agents.log.reader import LogReader
from ray_agents.log.segment import epoch_of
from ray_agents.log.threads import Kept, LogIO
from ray_agents.model import ModelEvent, ModelRequest, ToolCallBegun
from ray_agents.models.scripted import FunctionModel
from ray_agents.ports import Blobs
from ray_agents.requests import SendRequest, SpawnRequest
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.tools import tool
from ray_agents.views import Receipt
from tests.cluster import gates
from tests.cluster.conftest import ask, inbox_of, log_of, spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10)
registry = Registry()


class Row(BaseModel):
    key: str


@registry.entity("gated", limits=AT_ONCE)
async def gated(ctx: Any, wake: Any) -> str:
    await gates.wait("gate")
    return f"attempt {wake.attempt}"


@registry.entity("other", idle_timeout=timedelta(milliseconds=10))
async def other(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("whole", state={"rows": Row}, limits=AT_ONCE)
async def whole(ctx: Any, wake: Any) -> str:
    """Everything a wake can do: two rows, a message, an agent that calls a tool."""

    @tool(idempotent=True)
    async def note(text: str) -> str:
        """Note something, as a row of its own."""
        ctx.state.rows.insert({"key": f"noted {text}"})
        return "noted"

    ctx.state.rows.insert({"key": "before"})
    await ctx.send("/other/o", "hello")
    ctx.use_agent("You note things.", tools=[note])
    result = await ctx.agent.run()
    ctx.state.rows.insert({"key": "after"})
    return result.text


class CountingModel:
    """Answers twice, and counts how often each answer was asked for."""

    def __init__(self) -> None:
        self.calls: Counter[int] = Counter()

    def __call__(self, _: AgentConfig) -> FunctionModel:
        return FunctionModel(self._answer)

    def _answer(self, request: ModelRequest) -> Any:
        step = 1 + sum(message["role"] == "assistant" for message in request.messages)
        self.calls[step] += 1
        return ("Noting.", [("note", {"text": "x"})]) if step == 1 else "Done."


G = Address.parse("/gated/g")


async def cut_off(store: Blobs) -> tuple[Receipt, str]:
    """A host dies with a handler at its gate; the receipt of the message, and who died."""
    runtime = LocalRuntime(store)
    async with runtime:
        await runtime.register(registry)
        await spawned(runtime, str(G))
        receipt = await runtime.send(G, SendRequest(payload=1, id="m1"))
        await gates.reached["gate"].wait()
        await runtime.crash()
    return receipt, runtime.hosts.id


async def test_a_handler_cut_off_by_a_crash_runs_again_by_itself(store: Blobs) -> None:
    receipt, _ = await cut_off(store)
    gates.opened["gate"].set()
    async with LocalRuntime(store) as after:
        reply = await ask(after, G, 1, "m1")
        assert reply.value == "attempt 2"
        rows = [event for event in await log_of(after, G) if event.type == "inbox"]
        assert [row.offset for row in rows] == [receipt.offset]


@pytest.mark.parametrize("crash_at", range(1, 14))
async def test_what_dies_while_it_opens_is_not_taken_for_alive(crash_at: int) -> None:
    store = memory()
    await cut_off(store)
    with pytest.raises(StoreUnavailable, match="the process is dead"):
        await LocalRuntime(DyingBlobs(store, crash_at=crash_at)).__aenter__()
    before = gates.times["gate"]
    gates.opened["gate"].set()
    async with LocalRuntime(store):
        await turn_until(lambda: gates.times["gate"] > before)


async def test_a_hosts_log_stays_until_all_it_left_is_resumed() -> None:
    blobs, clock, called = FaultyBlobs(memory()), SystemClock(), list[str]()
    away: dict[str, Exception] = {"b": StoreUnavailable("no", path=""), "c": UnknownEntity("none")}

    async def route(address: Address, _: Call) -> Answer:
        called.append(address.id)
        if address.id in away:
            raise away[address.id]
        return None

    with closing(LogIO(threads_max=1)) as io:
        claim = Claim(host="h", token="t")
        log = await LogOwner.claim(
            blobs, host_folder("h"), head=None, claim=claim, clock=clock, io=io
        )
        rows = [Draft.of(AWAKE, f"/other/{name}", operation=Operation.UPSERT) for name in "abc"]
        await log.append(rows)
        await log.abandon()
        recovery = Recovery(blobs, io=io, clock=clock, route=route)
        files, other = LogFiles(blobs, host_folder("h"), kept=Kept()), Claim(host="r", token="o")
        blobs.meanwhile["create"] = lambda: take(files, head=files.head(), claim=other)
        assert await recovery.resume("h") == 0  # another recovery is at it
        assert await recovery.resume("h") == 2
        assert await recovery.hosts() == ["h"]
        del away["b"]
        assert await recovery.resume("h") == 3
        assert await recovery.hosts() == []
    assert called == [*"abcabc"]
    epochs = [epoch_of(name.rpartition("/")[2]) for name in blobs.deleted]
    assert list(filter(None, epochs)) == [4, 3, 2, 1]  # at any time what is left is a whole log


async def test_a_clean_stop_in_mid_handler_costs_no_attempt(store: Blobs) -> None:
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        g = await spawned(runtime, "/gated/g")
        await runtime.send(g, SendRequest(payload=1, id="m1"))
        await gates.reached["gate"].wait()
    gates.opened["gate"].set()
    async with LocalRuntime(store) as after:
        assert (await ask(after, g, 1, "m1")).value == "attempt 1"


async def test_recovery_run_five_times_finds_work_once() -> None:
    store = memory()
    _, dead = await cut_off(store)
    async with LocalRuntime(store) as after:
        recovery = Recovery(store, io=LogIO(), clock=SystemClock(), route=after.hosts.call)
        counts = [await recovery.resume(dead) for _ in range(5)]
        gates.opened["gate"].set()
        assert (await ask(after, G, 1, "m1")).value == "attempt 2"
    assert counts == [0] * 5
    assert gates.times["gate"] == 2


async def test_an_entity_that_kills_its_host_is_parked_in_the_end() -> None:
    store, g = memory(), Address.parse("/mortal/m")
    mortal = Registry()
    mortal.define("mortal", handler=gated)
    for life in range(4):
        runtime = LocalRuntime(store)
        async with runtime:
            if not life:
                await runtime.register(mortal)
                await runtime.spawn(g, SpawnRequest())
                await runtime.send(g, SendRequest(payload=1))
            if life == 3:
                (parked,) = (await runtime.inspect(g)).parked
                assert "died while the handler ran" in parked.error
                errors = [e.value for e in await log_of(runtime, g) if e.type == "error"]
                assert [error["error_code"] for error in errors] == ["host_died"]
                return
            await gates.reached["gate"].wait()
            gates.reached["gate"].clear()
            await runtime.crash()


async def crash_once(store: Blobs, *, crash_at: int, after: bool, model: CountingModel) -> int:
    """Run the scenario until the store dies at its n-th write; how many writes there were."""
    died, loop = asyncio.Event(), asyncio.get_running_loop()
    dying = DyingBlobs(
        store, crash_at=crash_at, after=after, died=lambda: loop.call_soon_threadsafe(died.set)
    )
    runtime = LocalRuntime(dying, model_for=model)
    w = Address.parse("/whole/w")
    try:
        async with asyncio.TaskGroup() as group, runtime:
            work = group.create_task(ask(runtime, w, "go", "m1"))
            death = group.create_task(died.wait())
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            await quiet(runtime, death)
            death.cancel()
            work.cancel()
            await runtime.crash()
    except* (RayAgentsError, asyncio.CancelledError):
        pass
    return dying.writes


async def quiet(runtime: LocalRuntime, death: asyncio.Task[Any]) -> None:
    """Return when nothing is left to do, or the process is dead."""
    awake = runtime.hosts.host
    await turn_until(lambda: death.done() or not any(entity.busy for entity in awake.awake))


async def prepared() -> Blobs:
    store = memory()
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/other/o")
        await spawned(runtime, "/whole/w")
    return store


async def steps_recorded(store: Blobs) -> set[int]:
    """The steps whose answer a dead process has left in the log."""
    io = LogIO()
    reading = await LogReader(store, entity_folder(Address.parse("/whole/w")), io).read(0)
    io.close()
    steps = [event.value for event in reading.events if event.type == "step"]
    return {step["step_number"] for step in steps if step["status"] == "completed"}


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
async def test_a_wake_that_is_killed_at_any_write_happens_once(after: bool) -> None:
    """Acceptance 5: killed at every point between the first event and ``handled``."""
    crash_at = 0
    while True:
        crash_at += 1
        store, model = await prepared(), CountingModel()
        writes = await crash_once(store, crash_at=crash_at, after=after, model=model)
        recorded, calls = await steps_recorded(store), Counter(model.calls)
        async with LocalRuntime(store, model_for=model) as runtime:
            repeated = await check_it_happens_once(runtime, model)
        assert repeated <= 1  # the call in flight, whose answer was not recorded
        assert all(model.calls[step] == calls[step] for step in recorded)
        if writes < crash_at:
            break
    assert crash_at > 10


class StallingModel(FunctionModel):
    """Announces a tool call, and says no more."""

    def __init__(self) -> None:
        super().__init__(str)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """One announcement, and silence."""
        yield ToolCallBegun(block=0, id="toolu_0000", name="note")
        await asyncio.Event().wait()


async def test_a_tool_call_that_was_only_announced_is_taken_back(wait_until: Any) -> None:
    store, model, w = await prepared(), CountingModel(), Address.parse("/whole/w")
    runtime = LocalRuntime(store, model_for=lambda _: StallingModel())
    async with runtime:
        await runtime.send(w, SendRequest(payload="go", id="m1"))

        async def announced() -> bool:
            return any(event.type == "tool_call" for event in await log_of(runtime, w))

        await wait_until(announced)
        await runtime.crash()
    async with LocalRuntime(store, model_for=model) as after:
        assert await check_it_happens_once(after, model) == 0


async def check_it_happens_once(runtime: LocalRuntime, model: CountingModel) -> int:
    """How many calls were repeated, as their answer had not been recorded."""
    w, o = Address.parse("/whole/w"), Address.parse("/other/o")
    assert (await ask(runtime, w, "go", "m1")).value == "Done."
    await turn_until(lambda: not any(entity.busy for entity in runtime.hosts.host.awake))
    events = await log_of(runtime, w)
    rows = Counter(event.key for event in events if event.type == "state:rows")
    assert rows == {"before": 1, "noted x": 1, "after": 1}
    assert len({event.key for event in events if event.type == "run"}) == 1
    ends = [e for e in events if e.type == "wake" and e.value["status"] == "handled"]
    assert len(ends) == 1
    assert await inbox_of(runtime, o) == ["hello"]
    return sum(model.calls.values()) - 2
