"""However a handler ends, its wake has an end that says so, and leaves no run open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster import wakeloop
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import Fenced, InvalidDefinition, ModelUnavailable
from ray_agents.model import ModelEvent, ModelRequest, TextDelta
from ray_agents.models.scripted import Says
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.tools import tool
from ray_agents.views import EntityView
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned, turn_until
from tests.cluster.paced import Paced
from tests.cluster.stores import DyingBlobs, memory

AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=2)
APPROVE = DecisionRequest(decision="approve")
registry = Registry()


class OfNoKind(BaseException):
    """What a library raises past every ``except Exception``."""


@tool(approval="required")
async def act() -> str:
    """Act."""
    return "acted"


@tool
async def escape() -> None:
    """Raise what nobody expects."""
    raise OfNoKind("as told")


def asks(_: ModelRequest) -> Says:
    """Call the tool that people must approve, whatever was said."""
    return Says(calls=[("act", {})])


@registry.entity("grouped", limits=AT_ONCE)
async def grouped(ctx: Any, wake: Any) -> None:
    """Run an agent that comes to wait, beside what then fails."""
    agent = ctx.use_agent(tools=[act], test_responses=asks)

    async def beside() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("as told")

    async with asyncio.TaskGroup() as group:
        group.create_task(beside())
        group.create_task(agent.run())


@registry.entity("nesting", limits=AT_ONCE)
async def nesting(ctx: Any, wake: Any) -> str:
    """The same inside of a tool."""

    @tool
    async def delegate() -> None:
        """Run an agent."""
        await grouped(ctx, wake)

    agent = ctx.use_agent(
        tools=[delegate], test_responses=[Says(calls=[("delegate", {})]), "I see."]
    )
    result = await agent.run()
    return str(result.tool_calls[0].error)


@registry.entity("escaping", limits=AT_ONCE)
async def escaping(ctx: Any, wake: Any) -> str:
    """Raise what nobody expects, here or in a tool."""
    if wake.payload == "here":
        raise OfNoKind("as told")
    ctx.use_agent(tools=[escape], test_responses=[Says(calls=[("escape", {})]), "I see."])
    return str((await ctx.agent.run()).tool_calls[0].error)


async def parked(runtime: LocalRuntime, address: str, payload: str) -> tuple[EntityView, Any]:
    """An entity whose wake is parked, and its log."""
    await runtime.register(registry)
    at = await spawned(runtime, address)
    await runtime.send(at, SendRequest(payload=payload))
    async for event in runtime.observe(at):
        if event.type == "wake" and event.value["status"] == "parked":
            break
    return await runtime.inspect(at), await log_of(runtime, at)


@pytest.mark.parametrize(
    ("address", "said"),
    [("/grouped/a", "ValueError: as told"), ("/escaping/a", "OfNoKind: as told")],
)
async def test_whatever_it_raises_is_recorded_and_no_death_of_its_host(
    address: str, said: str
) -> None:
    async with LocalRuntime() as runtime:
        view, events = await parked(runtime, address, "here")
    errors = [event.value for event in events if event.type == "error"]
    assert [error["error_code"] for error in errors] == ["handler_failed"] * 2
    assert all(said in error["traceback"] for error in errors)
    assert view.epoch == 1


@pytest.mark.parametrize(
    ("address", "said"),
    [("/nesting/a", "BaseExceptionGroup"), ("/escaping/a", "OfNoKind: as told")],
)
async def test_whatever_a_tool_raises_the_model_reads(address: str, said: str) -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, address)
        reply = await ask(runtime, at, "in a tool")
        view = await runtime.inspect(at)
    assert said in reply.value
    assert (view.epoch, view.approvals) == (1, ())  # nobody need decide any more


@registry.entity("despairing", limits=AT_ONCE)
async def despairing(ctx: Any, wake: Any) -> str:
    """Run the agent, and give up when that has failed once."""
    if wake.attempt > 1:
        return "sorry"
    ctx.use_agent(tools=[act])
    await ctx.agent.run()
    return "well"


async def test_a_run_that_the_next_attempt_does_not_go_on_with_is_ended() -> None:
    model, store = Paced(["Well, ", "@speaking"]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    await runtime.register(registry)
    at = await spawned(runtime, "/despairing/a")
    await runtime.send(at, SendRequest(payload="go", id="go"))
    await gates.reached["speaking"].wait()
    await runtime.crash()
    async with LocalRuntime(store) as again:
        assert (await ask(again, at, "go", "go")).value == "sorry"
        runs = [event.value for event in await log_of(again, at) if event.type == "run"]
        view = await again.inspect(at)
    assert [run["status"] for run in runs] == ["started", "completed"]
    assert (runs[-1]["finish_reason"], view.spent.uncounted) == ("interrupted", 1)


@registry.entity("stopping", limits=AT_ONCE)
async def stopping(ctx: Any, wake: Any) -> None:
    """Run the agent, and fail when that was interrupted."""
    ctx.use_agent()
    await ctx.agent.run()
    raise ValueError("as told")


async def test_the_reply_says_why_the_last_run_of_an_interrupted_handler_ended() -> None:
    model = Paced(["Well, ", "@speaking"])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/stopping/a")
        await runtime.send(at, SendRequest(payload="go", id="go"))
        await gates.reached["speaking"].wait()
        await runtime.interrupt(at)
        reply = await ask(runtime, at, "go", "go")
    assert (reply.interrupted, reply.text, reply.stop_reason) == (True, "Well, ", "interrupted")


async def test_so_does_that_of_one_which_a_dead_owner_had_interrupted() -> None:
    model, store = Paced(["Well, ", "@speaking"]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    await runtime.register(registry)
    at = await spawned(runtime, "/stopping/a")
    await runtime.send(at, SendRequest(payload="go", id="go"))
    await gates.reached["speaking"].wait()
    (entity,) = runtime.hosts.host.awake
    entity.wakeloop.advance = lambda: None  # nothing is carried out
    await runtime.interrupt(at)
    await runtime.crash()
    async with LocalRuntime(store) as again:
        reply = await ask(again, at, "go", "go")
    assert (reply.interrupted, reply.text, reply.stop_reason) == (True, "", "interrupted")


@registry.entity("recording", limits=AT_ONCE)
async def recording(ctx: Any, wake: Any) -> None:
    """Begin a run of its own, and fail."""
    ctx.record_run()
    await ctx.commit()
    raise ValueError("as told")


async def test_a_run_that_a_skipped_handler_had_recorded_is_ended() -> None:
    async with LocalRuntime() as runtime:
        view, _ = await parked(runtime, "/recording/a", "go")
        at = Address.parse(view.address)
        await runtime.skip(at)
        runs = [event.value for event in await log_of(runtime, at) if event.type == "run"]
    assert [run["status"] for run in runs] == ["started", "failed"]


@registry.entity("undefined", limits=AT_ONCE)
async def undefined(ctx: Any, wake: Any) -> None:
    """What is wrong here is wrong for every attempt."""
    raise InvalidDefinition("it cannot be loaded here")


async def test_what_no_other_attempt_can_mend_is_parked_at_once() -> None:
    async with LocalRuntime() as runtime:
        view, _ = await parked(runtime, "/undefined/a", "go")
        rows = await log_of(runtime, Address.parse(view.address))
    assert len([row for row in rows if row.type == "error"]) == 1


@registry.entity("refused", limits=Limits(attempts_max=1))
async def refused(ctx: Any, wake: Any) -> None:
    """Run an agent whose model breaks off."""
    ctx.use_agent()
    await ctx.agent.run()


async def test_a_wake_is_skipped_once_all_that_it_has_written_is_durable() -> None:
    class Broken(Paced):
        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            async for event in super().stream(request):
                yield event
                if isinstance(event, TextDelta):
                    await gates.wait("breaking")
                    raise ModelUnavailable("gone", model="m")

    store = DyingBlobs(memory(), far=True)
    async with LocalRuntime(store, model_for=Broken(["Well, "]).for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/refused/a")
        await runtime.send(at, SendRequest(payload="go", id="go"))
        await gates.reached["breaking"].wait()
        (entity,) = runtime.hosts.host.awake
        await turn_until(lambda: entity.owner.durable_tip == entity.owner.tip)
        with store.writing:
            gates.opened["breaking"].set()
            await turn_until(lambda: entity.state.parked)
            skipping = asyncio.create_task(runtime.skip(at))
            for _ in range(20):
                await asyncio.sleep(0)
        await skipping
        runs = [event.value for event in await log_of(runtime, at) if event.type == "run"]
        view = await runtime.inspect(at)
    assert [run["finish_reason"] for run in runs] == [None, "error"]
    assert view.spent.uncounted == 1


@registry.entity("deaf", limits=AT_ONCE)
async def deaf(ctx: Any, wake: Any) -> Any:
    """Go on whatever is said, if told so, and write at last."""
    for _ in range(4 if wake.payload == "go on" else 0):
        with suppress(asyncio.CancelledError):
            await gates.wait("waiting")
    try:
        ctx.insert_context("late", name="late", content=wake.payload)
        await ctx.commit()
    except Fenced:
        gates.reached["refused"].set()
        raise
    return wake.payload


async def test_a_new_life_does_not_wait_for_a_handler_of_the_last_one_that_does_not_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakeloop, "CANCELLED_MAX", timedelta(milliseconds=5))
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/deaf/a")
        await runtime.send(at, SendRequest(payload="go on"))
        await gates.reached["waiting"].wait()
        await runtime.kill(at)
        await spawned(runtime, "/deaf/a")
        assert (await ask(runtime, at, "and now?")).value == "and now?"
        gates.opened["waiting"].set()
        await gates.reached["refused"].wait()
        rows = [e.value["content"] for e in await log_of(runtime, at) if "late" in e.key]
    assert rows == ["and now?"]


BRIEF = Limits(
    retry_delay=timedelta(milliseconds=1),
    attempts_max=2,
    handler_time_max=timedelta(milliseconds=200),
)


async def whatever_is_said() -> None:
    """Wait, and go on waiting however often that is cancelled."""
    while not gates.opened["waiting"].is_set():
        with suppress(asyncio.CancelledError):
            await gates.wait("waiting")


@tool
async def stubborn() -> None:
    """Do not end."""
    await whatever_is_said()


@registry.entity("endless", limits=BRIEF)
async def endless(ctx: Any, wake: Any) -> Any:
    """Do not end when the time is up, by itself or in a tool; and write at last."""
    match wake.payload:
        case "go on":
            ctx.insert_context("late", name="late", content="late")
            await whatever_is_said()
            try:
                await ctx.commit()
            except Fenced:
                gates.times["refused"] += 1
                raise
        case "in a tool":
            says = [Says(calls=[("stubborn", {})]), "I see."]
            ctx.use_agent(tools=[stubborn], test_responses=says)
            await ctx.agent.run()
        case "a while":
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
        case _:
            pass
    return wake.payload


OVERRUN = "0.2 s (Limits.handler_time_max), and did not end within 0.02 s of being cancelled"


async def test_a_handler_that_does_not_end_when_its_time_is_up_holds_its_entity_no_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakeloop, "CANCELLED_MAX", timedelta(milliseconds=20))
    async with LocalRuntime() as runtime:
        view, events = await parked(runtime, "/endless/a", "go on")
        at = Address.parse(view.address)
        assert (await ask(runtime, at, "and now?")).value == "and now?"
        gates.opened["waiting"].set()
        await turn_until(lambda: gates.times["refused"] == 2)
        rows = await log_of(runtime, at)
    told = [event.value for event in events if event.type == "error"]
    assert [each["error_code"] for each in told] == ["handler_failed"] * 2
    assert all(OVERRUN in each["message"] for each in told)
    assert view.parked[0].attempts == 2
    assert not any("late" in each.key for each in rows)


async def test_nor_does_one_whose_tool_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeloop, "CANCELLED_MAX", timedelta(milliseconds=20))
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/endless/a")
        reply = await ask(runtime, at, "in a tool")
        gates.opened["waiting"].set()
        [told] = [e.value["message"] for e in await log_of(runtime, at) if e.type == "error"]
    assert OVERRUN in told
    assert reply.text == "I see."  # the model was told that the tool was interrupted


async def test_one_that_ends_soon_after_its_time_has_ended_by_itself() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/endless/a")
        assert (await ask(runtime, at, "a while")).value == "a while"
        rows = await log_of(runtime, at)
    assert not any(event.type == "error" for event in rows)


@registry.entity("timeless", limits=Limits(handler_time_max=timedelta.max, attempts_max=1))
async def timeless(ctx: Any, wake: Any) -> Any:
    """Take as long as it takes."""
    return wake.payload


async def test_a_handler_may_have_all_the_time_there_is() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/timeless/a")
        assert (await ask(runtime, at, "well")).value == "well"
