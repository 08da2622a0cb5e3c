"""A call that is made again, because its answer was lost, means what it meant the first time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster import wakeloop
from ray_agents.cluster.calls import Answer, Call, Kill
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import AmbiguousApproval, UnknownEntity
from ray_agents.events import WakeRecorded
from ray_agents.model import Answered, Block, ModelEvent, ModelRequest
from ray_agents.requests import DecisionRequest, SendRequest, SpawnRequest
from ray_agents.tools import tool
from ray_agents.views import ApprovalView, Status
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned, turn_until
from tests.cluster.stores import memory

APPROVE = DecisionRequest(decision="approve")
registry = Registry()


@tool(approval="required")
async def refund() -> str:
    """Pay money back."""
    gates.times["refund"] += 1
    return "paid"


@registry.entity("clerk")
async def clerk(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[refund])
    return (await ctx.agent.run()).text


@registry.entity("waiter")
async def waiter(ctx: Any, wake: Any) -> str:
    await gates.wait(wake.payload)
    return wake.payload


class OneIdForAll:
    """A model that asks for refunds, as many at a time as it is told, each by the same id."""

    provider = "one id"

    def __init__(self, *refunds: int) -> None:
        self._refunds = refunds

    def for_any(self, _: AgentConfig) -> OneIdForAll:
        """The model of every agent."""
        return self

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
        """Ask for the next refunds, or be done."""
        number = sum(message["role"] == "assistant" for message in request.messages)
        ids: Sequence[str] = ["call_0000"] * self._refunds[number]
        calls: list[Block] = [
            {"type": "tool_use", "id": each, "name": "refund", "input": {}} for each in ids
        ]
        reason = "tool_use" if calls else "end_turn"
        yield Answered(content=calls or [{"type": "text", "text": "Done."}], stop_reason=reason)


@pytest.fixture(autouse=True)
def handlers_are_cut_off_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeloop, "INTERRUPTED_MAX", timedelta(milliseconds=10))


async def waiting(runtime: LocalRuntime, at: Address, *, behind: str = "") -> list[ApprovalView]:
    """The calls that wait, once others do than the one of that key."""
    while True:
        found = (await runtime.inspect(at)).approvals
        if found and found[0].key != behind:
            return list(found)
        await asyncio.sleep(0)


async def begun(runtime: LocalRuntime, address: str, payload: str = "go") -> Address:
    await runtime.register(registry)
    at = await spawned(runtime, address)
    await runtime.send(at, SendRequest(payload=payload, id=payload))
    return at


async def test_a_decision_made_again_does_not_approve_what_came_since_by_the_same_id() -> None:
    async with LocalRuntime(model_for=OneIdForAll(1, 1, 0).for_any) as runtime:
        at = await begun(runtime, "/clerk/a")
        (first,) = await waiting(runtime, at)
        await runtime.decide(at, "call_0000", APPROVE)
        (second,) = await waiting(runtime, at, behind=first.key)
        with pytest.raises(AmbiguousApproval, match="use its key") as caught:
            await runtime.decide(at, "call_0000", APPROVE)
        assert caught.value.facts["keys"] == [first.key, second.key]
        assert (await runtime.decide(at, first.key, APPROVE)).status == "approved"
        assert (gates.times["refund"], len(await waiting(runtime, at))) == (1, 1)
        await runtime.decide(at, second.key, APPROVE)
        assert (await ask(runtime, at, "go", "go")).text == "Done."
    assert gates.times["refund"] == 2


async def test_nor_what_a_later_wake_asks() -> None:
    async with LocalRuntime(model_for=OneIdForAll(1, 0, 1, 0).for_any) as runtime:
        at = await begun(runtime, "/clerk/a")
        (first,) = await waiting(runtime, at)
        await runtime.decide(at, "call_0000", APPROVE)
        await ask(runtime, at, "go", "go")
        await runtime.send(at, SendRequest(payload="more"))
        await waiting(runtime, at, behind=first.key)
        with pytest.raises(AmbiguousApproval):
            await runtime.decide(at, "call_0000", APPROVE)
    assert gates.times["refund"] == 1


async def test_of_two_that_wait_by_one_id_neither_is_approved_by_it() -> None:
    async with LocalRuntime(model_for=OneIdForAll(2, 0).for_any) as runtime:
        at = await begun(runtime, "/clerk/a")
        both = await waiting(runtime, at)
        with pytest.raises(AmbiguousApproval):
            await runtime.decide(at, "call_0000", APPROVE)
        assert await waiting(runtime, at) == both


async def next_of(runtime: LocalRuntime, at: Address) -> None:
    """Let the next message's handler come to its gate, behind the wake that was interrupted."""
    await runtime.send(at, SendRequest(payload="second"))
    await gates.reached["second"].wait()


async def check_second_goes_on(runtime: LocalRuntime, at: Address) -> None:
    gates.opened["second"].set()
    await turn_until(lambda: not any(each.busy for each in runtime.hosts.host.awake))
    events = await log_of(runtime, at)
    ends = [e for e in events if e.type == "wake" and e.value["status"] == "handled"]
    assert [WakeRecorded.of(end).interrupted for end in ends] == [True, False]
    assert len([event for event in events if event.type == "signal"]) == 1


async def test_an_interrupt_made_again_does_not_stop_what_runs_next() -> None:
    async with LocalRuntime() as runtime:
        at = await begun(runtime, "/waiter/a", "first")
        await gates.reached["first"].wait()
        first = await runtime.interrupt(at, signal_id="once")
        await next_of(runtime, at)
        assert await runtime.interrupt(at, signal_id="once") == first
        await check_second_goes_on(runtime, at)


async def test_nor_when_another_owner_has_the_log_by_then() -> None:
    store = memory()
    runtime = LocalRuntime(store)
    await runtime.__aenter__()
    at = await begun(runtime, "/waiter/a", "first")
    await gates.reached["first"].wait()
    first = await runtime.interrupt(at, signal_id="once")
    await runtime.crash()
    async with LocalRuntime(store) as again:
        await next_of(again, at)
        assert await again.interrupt(at, signal_id="once") == first
        await check_second_goes_on(again, at)


async def test_nor_while_the_first_is_still_being_written() -> None:
    async with LocalRuntime() as runtime:
        at = await begun(runtime, "/waiter/a", "first")
        await gates.reached["first"].wait()
        both = await asyncio.gather(*(runtime.interrupt(at, signal_id="once") for _ in range(2)))
        assert both[0] == both[1]
        await next_of(runtime, at)
        await check_second_goes_on(runtime, at)


async def test_two_interrupts_of_one_wake_are_two() -> None:
    async with LocalRuntime() as runtime:
        at = await begun(runtime, "/waiter/a", "first")
        await gates.reached["first"].wait()
        both = await asyncio.gather(*(runtime.interrupt(at) for _ in range(2)))
        assert both[0].wake == both[1].wake
        assert both[0].offset != both[1].offset


def losing_the_first_kill(runtime: LocalRuntime, meanwhile: Callable[[], Awaitable[object]]) -> Any:
    """The way to its hosts, on which a kill is asked again: its answer was lost, and time passed.

    That is what the way over Ray does if a host dies between the sync and the answer.
    """
    straight = runtime.hosts.call

    async def call(address: Address, call: Call) -> Answer:
        answer = await straight(address, call)
        if not isinstance(call, Kill):
            return answer
        await meanwhile()
        return await straight(address, call)

    return call


async def test_a_kill_made_again_does_not_end_a_life_that_was_begun_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LocalRuntime() as runtime:
        at = await begun(runtime, "/waiter/a")
        spawning = partial(runtime.spawn, at, SpawnRequest())
        monkeypatch.setattr(runtime.hosts, "call", losing_the_first_kill(runtime, spawning))
        await runtime.kill(at)
        assert (await runtime.inspect(at)).life == 1
        assert (await runtime.inspect(at)).status is not Status.STOPPED


async def test_nor_one_that_began_while_it_was_on_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with LocalRuntime() as runtime:
        at = await begun(runtime, "/waiter/a")
        await runtime.kill(at)
        await runtime.spawn(at, SpawnRequest())
        await runtime.kill(at, life=0)
        assert (await runtime.inspect(at)).status is not Status.STOPPED
        with pytest.raises(UnknownEntity, match="life 7 of '/waiter/a' has not begun"):
            await runtime.kill(at, life=7)
        await runtime.kill(at, life=1)
        await runtime.kill(at, life=1)
        assert (await runtime.inspect(at)).status is Status.STOPPED
