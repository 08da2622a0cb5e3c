"""An interrupt stops what runs, is in the log, and what it stopped does not go on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster import wakeloop
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import EntityGone, Fenced, UnknownEntity
from ray_agents.events import Event, WakeRecorded
from ray_agents.interruption import CANCELLED, LEFT_RUNNING
from ray_agents.modes import Mode
from ray_agents.replies import reply_of
from ray_agents.requests import SendRequest
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import Timeline
from ray_agents.tools import tool
from ray_agents.views import Receipt, Reply, Status
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned, turn_until
from tests.cluster.paced import Paced, words_of
from tests.cluster.stores import memory
from tests.simulation.world import SeededClock, World, options

WITHIN = timedelta(milliseconds=200)
AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10)
LATER = Limits(retry_delay=timedelta(hours=1), retry_delay_max=timedelta(hours=1))
registry = Registry()


@tool
async def hang() -> None:
    """Hang."""
    await gates.wait("hanging")


@tool
def block() -> None:
    """Block a thread."""
    gates.threads["blocking"].set()
    gates.threads["held"].wait()


@registry.entity("clerk", limits=AT_ONCE)
async def clerk(ctx: Any, wake: Any) -> Any:
    """Run the agent; how it ended."""
    ctx.use_agent(tools=[hang, block])
    result = await ctx.agent.run()
    ctx.insert_context("after", name="after", content="the run")
    return [result.stop_reason, ctx.cancelled.is_set()]


@registry.entity("waiter", limits=AT_ONCE)
async def waiter(ctx: Any, wake: Any) -> Any:
    """Wait; when told to stop, do what the message says."""
    gates.times["handled"] += 1
    gates.reached["waiting"].set()
    ctx.insert_context("begun", name="begun", content="it")
    await ctx.cancelled.wait()
    match wake.payload:
        case "end":
            return "ended"
        case "raise":
            raise ValueError("as told")
        case _:
            await asyncio.Event().wait()
    return None


@registry.entity("recorder", limits=AT_ONCE)
async def recorder(ctx: Any, wake: Any) -> None:
    """Record a run of its own, and end it when told to stop."""
    run = ctx.record_run()
    await ctx.commit()
    gates.reached["recording"].set()
    await ctx.cancelled.wait()
    run.attach_response("so far")
    run.end(finish_reason="told to")


@registry.entity("deaf", limits=AT_ONCE)
async def deaf(ctx: Any, wake: Any) -> Any:
    """Go on whatever is said, and write at last."""
    while not gates.opened["waiting"].is_set():
        try:
            await gates.wait("waiting")
        except asyncio.CancelledError:
            gates.reached["told to end"].set()
    try:
        ctx.insert_context("late", name="late", content="it")
        await ctx.commit()
    except Fenced:
        gates.reached["refused"].set()
    return wake.payload


@registry.entity("failing", limits=LATER)
async def failing(ctx: Any, wake: Any) -> Any:
    """Fail the first time."""
    gates.times["handled"] += 1
    raise ValueError("as told")


async def running(runtime: LocalRuntime, gate: str, *, kind: str = "clerk") -> Address:
    """An entity whose handler has come to a gate."""
    await runtime.register(registry)
    at = await spawned(runtime, f"/{kind}/a")
    await runtime.send(at, SendRequest(payload="go", id="go"))
    await gates.reached[gate].wait()
    return at


async def handled(runtime: LocalRuntime, at: Address, offset: int = 0) -> Event:
    """The row of the end of the first wake behind an offset."""
    async for event in runtime.observe(at, offset=offset):
        if event.type == "wake" and event.value["status"] == "handled":
            return event
    raise AssertionError("the log ends")


async def test_it_stops_a_stream_and_what_was_said_stands() -> None:
    model = Paced(["Well, ", "let me ", "@speaking", "see."], ["Again."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "speaking")
        answer = await runtime.interrupt(at, reason="enough")
        end = WakeRecorded.of(await handled(runtime, at))
        again = await ask(runtime, at, "and now?")
        events = await log_of(runtime, at)
    rows = {kind: [e.value for e in events if e.type == kind] for kind in ("run", "text", "step")}
    assert answer.interrupted
    assert (end.key, end.interrupted) == (answer.wake, True)
    assert end.reply == ["interrupted", True]
    assert (end.attempt, end.text) == (1, "Well, let me ")
    assert [row["status"] for row in rows["run"][:2]] == ["started", "completed"]
    assert (rows["run"][1]["finish_reason"], rows["run"][1]["uncounted"]) == ("interrupted", 1)
    assert [row["status"] for row in rows["text"][:2]] == ["streaming", "interrupted"]
    assert words_of(model.requests[1]) == [
        ("user", "go"),
        ("assistant", "Well, let me "),
        ("user", "and now?"),
    ]
    assert again.text == "Again."


def test_the_end_of_the_run_is_in_the_log_within_200_ms() -> None:
    """In the time of a world: all that waits on the way counts, and how busy we are does not."""

    async def five() -> list[float]:
        model, clock = Paced(*[["Well, ", f"@speaking{n}"] for n in range(5)]), SeededClock()
        taken = list[float]()
        async with LocalRuntime(model_for=model.for_any, **options(Random(4), clock)) as runtime:
            at = await running(runtime, "speaking0")
            for number in range(5):
                await gates.reached[f"speaking{number}"].wait()
                asked = clock.now()
                answer = await runtime.interrupt(at)
                assert answer.offset is not None
                await handled(runtime, at, answer.offset)
                rows = [e for e in await log_of(runtime, at) if e.type == "run"]
                assert rows[-1].value["finish_reason"] == "interrupted"
                taken.append(rows[-1].time - asked)
                await runtime.send(at, SendRequest(payload="more"))
        return taken

    with asyncio.Runner(loop_factory=World) as runner:
        assert max(runner.run(five())) < WITHIN / timedelta(microseconds=1)


async def test_the_signal_is_in_the_log() -> None:
    async with LocalRuntime(model_for=Paced(["@speaking"]).for_any) as runtime:
        at = await running(runtime, "speaking")
        answer = await runtime.interrupt(at, reason="enough")
        (signal,) = [e for e in await log_of(runtime, at) if e.type == "signal"]
    assert signal.offset == answer.offset
    assert (signal.value["signal"], signal.value["outcome"]) == ("SIGINT", "aborted")
    assert (signal.value["reason"], signal.value["wake"]) == ("enough", answer.wake)


async def test_an_answer_of_which_nothing_was_said_is_void() -> None:
    model = Paced(["@speaking"], ["Again."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "speaking")
        await runtime.interrupt(at)
        await handled(runtime, at)
        await ask(runtime, at, "and now?")
        steps = [e.value for e in await log_of(runtime, at) if e.type == "step"]
    assert (steps[2]["status"], steps[2]["finish_reason"]) == ("failed", "interrupted")
    assert words_of(model.requests[1]) == [("user", "go"), ("user", "and now?")]


async def test_tools_are_cancelled_and_the_model_is_told() -> None:
    model = Paced(["!hang", "!block"], ["I see."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "hanging")
        await turn_until(gates.threads["blocking"].is_set)
        await runtime.interrupt(at)
        await handled(runtime, at)
        reply = await ask(runtime, at, "and now?")
        gates.threads["held"].set()
        rows = [e.value for e in await log_of(runtime, at) if e.type == "tool_call"]
    lasted = {row["status"]: row["duration_ms"] for row in rows}
    assert lasted["executing"] is None
    assert lasted["failed"] is not None
    told = [("user", CANCELLED), ("user", LEFT_RUNNING), ("user", "and now?")]
    assert words_of(model.requests[1])[-3:] == told
    assert reply.text == "I see."


async def test_a_handler_may_end_in_order() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/waiter/a")
        receipt = await runtime.send(at, SendRequest(payload="end"))
        await gates.reached["waiting"].wait()
        await runtime.interrupt(at)
        reply = await reply_to(runtime, at, receipt)
        rows = [e for e in await log_of(runtime, at) if e.type == "context_inserted"]
    assert (reply.value, reply.interrupted, len(rows)) == ("ended", True, 1)


async def test_a_run_that_its_handler_ends_in_order_has_the_end_it_gave_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with LocalRuntime() as runtime:
        at = await running(runtime, "recording", kind="recorder")
        (entity,) = runtime.hosts.host.awake
        made_ready, ready = list[int](), entity.owner.ready

        async def noted(start: int = 0, **bounds: Any) -> None:
            await ready(start, **bounds)
            made_ready.extend([] if bounds else [start])

        monkeypatch.setattr(entity.owner, "ready", noted)
        await runtime.interrupt(at)
        end = WakeRecorded.of(await handled(runtime, at))
        runs = [e.value for e in await log_of(runtime, at) if e.type == "run"]
    assert [run["status"] for run in runs] == ["started", "completed"]
    assert (runs[1]["text"], runs[1]["finish_reason"]) == ("so far", "told to")
    assert end.from_offset in made_ready  # before its rows are looked through


@pytest.mark.parametrize("payload", ["raise", "go on"])
async def test_one_that_does_not_has_a_while_and_is_not_run_again(
    payload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeloop, "INTERRUPTED_MAX", timedelta(milliseconds=10))
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/waiter/a")
        receipt = await runtime.send(at, SendRequest(payload=payload))
        await gates.reached["waiting"].wait()
        await runtime.interrupt(at)
        reply = await reply_to(runtime, at, receipt)
        rows = [e for e in await log_of(runtime, at) if e.type == "context_inserted"]
        assert (await runtime.inspect(at)).parked == ()
    assert (reply.value, reply.interrupted, rows) == (None, True, [])
    assert gates.times["handled"] == 1


async def test_the_entity_goes_on_without_one_that_does_not_end_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakeloop, "INTERRUPTED_MAX", timedelta(milliseconds=5))
    monkeypatch.setattr(wakeloop, "CANCELLED_MAX", timedelta(milliseconds=5))
    async with LocalRuntime() as runtime:
        at = await running(runtime, "waiting", kind="deaf")
        await runtime.interrupt(at)
        await gates.reached["told to end"].wait()
        await handled(runtime, at)
        gates.opened["waiting"].set()
        await gates.reached["refused"].wait()
        assert (await ask(runtime, at, "and now?")).value == "and now?"
        ends = [e.value for e in await log_of(runtime, at) if e.type == "wake"]
    assert [(end["status"], end.get("interrupted")) for end in ends] == [
        ("started", None),
        ("started", True),
        ("started", True),
        ("handled", True),
        ("started", None),
        ("handled", None),
    ]


async def test_an_entity_that_does_nothing_is_left_alone() -> None:
    model = Paced(["Hello."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/clerk/a")
        await ask(runtime, at, "hi")
        before = await log_of(runtime, at)
        assert not (await runtime.interrupt(at)).interrupted
        assert await log_of(runtime, at) == before


async def test_a_sleeper_is_not_woken() -> None:
    store = memory()
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/clerk/a")
    async with LocalRuntime(store) as runtime:
        assert not (await runtime.interrupt(at)).interrupted
        assert (await runtime.inspect(at)).status is Status.SLEEPING
        with pytest.raises(UnknownEntity):
            await runtime.interrupt(Address.parse("/clerk/nobody"))


async def test_one_that_was_killed_is_gone() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/clerk/a")
        await runtime.kill(at)
        with pytest.raises(EntityGone):
            await runtime.interrupt(at)


async def test_only_the_wake_that_is_meant_is_stopped() -> None:
    async with LocalRuntime(model_for=Paced(["@speaking", "Done."]).for_any) as runtime:
        at = await running(runtime, "speaking")
        refused = await runtime.interrupt(at, wake="wake-0")
        assert (refused.interrupted, refused.wake) == (False, None)
        assert refused.running is not None
        gates.opened["speaking"].set()
        ended = WakeRecorded.of(await handled(runtime, at))
        assert (ended.interrupted, ended.key) == (False, refused.running)


async def test_a_wake_that_waits_for_its_next_attempt_is_ended() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/failing/a")
        receipt = await runtime.send(at, SendRequest(payload="go"))
        async for event in runtime.observe(at):
            if event.type == "wake" and event.value["status"] == "failed":
                break
        assert (await runtime.interrupt(at)).interrupted
        assert (await reply_to(runtime, at, receipt)).interrupted
        assert (await runtime.inspect(at)).status is Status.IDLE
    assert gates.times["handled"] == 1


@pytest.mark.parametrize("gate", ["speaking", "hanging"])
async def test_a_crash_right_after_the_acknowledgement_resumes_nothing(gate: str) -> None:
    answers = {"speaking": ["Well, ", "@speaking"], "hanging": ["!hang"]}
    model, store = Paced(answers[gate], ["Again."]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    at = await running(runtime, gate)
    (entity,) = runtime.hosts.host.awake
    entity.wakeloop.advance = lambda: None  # nothing is carried out
    answer = await runtime.interrupt(at)
    await runtime.crash()
    async with LocalRuntime(store, model_for=model.for_any) as again:
        end = WakeRecorded.of(await handled(again, at))
        assert (end.key, end.interrupted, len(model.requests)) == (answer.wake, True, 1)
        runs = [e.value for e in await log_of(again, at) if e.type == "run"]
        assert [run["finish_reason"] for run in runs] == [None, "interrupted"]
        assert (await ask(again, at, "and now?")).text == "Again."
        assert (await again.inspect(at)).spent.uncounted == (gate == "speaking")


async def test_a_host_that_leaves_meanwhile_hands_over_nothing_to_resume() -> None:
    store = memory()
    async with LocalRuntime(store) as runtime:
        at = await running(runtime, "waiting", kind="waiter")
        await runtime.interrupt(at)
    async with LocalRuntime(store) as runtime:
        end = WakeRecorded.of(await handled(runtime, at))
    assert (end.interrupted, end.reply, gates.times["handled"]) == (True, None, 1)


async def test_a_wake_whose_host_has_died_is_stopped_before_it_is_resumed() -> None:
    model, store = Paced(["@speaking"], ["@again"], ["Done."]), memory()
    runtime = LocalRuntime(store, model_for=model.for_any)
    await runtime.__aenter__()
    at = await running(runtime, "speaking")
    await runtime.crash()
    again = LocalRuntime(store, model_for=model.for_any)
    await again.hosts.open(recover=False)
    assert (await again.inspect(at)).status is Status.WAITING
    assert (await again.interrupt(at)).interrupted
    assert WakeRecorded.of(await handled(again, at)).interrupted
    gates.opened["again"].set()
    await again.__aexit__(None, None, None)


async def test_a_delayed_immediate_message_interrupts_when_it_is_due() -> None:
    model = Paced(["Well, ", "@speaking"], ["Now."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "speaking")
        late = SendRequest(payload="now!", mode=Mode.IMMEDIATE, after_seconds=0.01)
        await runtime.send(at, late)
        first = await handled(runtime, at)
        second = await handled(runtime, at, first.offset + 1)
    assert WakeRecorded.of(first).interrupted
    assert WakeRecorded.of(second).text == "Now."


async def test_an_immediate_message_lets_a_failed_wake_have_its_next_attempt() -> None:
    async with LocalRuntime() as runtime:
        await runtime.register(registry)
        at = await spawned(runtime, "/failing/a")
        await runtime.send(at, SendRequest(payload="go"))
        async for event in runtime.observe(at):
            if event.type == "wake" and event.value["status"] == "failed":
                break
        await runtime.send(at, SendRequest(payload="now!", mode=Mode.IMMEDIATE))
        assert not [e for e in await log_of(runtime, at) if e.type == "signal"]
        assert (await runtime.inspect(at)).status is Status.RETRYING


async def test_an_immediate_message_interrupts_and_is_handled_next() -> None:
    model = Paced(["Well, ", "@speaking"], ["Now."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "speaking")
        now = SendRequest(payload="now!", mode=Mode.IMMEDIATE)
        reply = await runtime.ask(at, now, within=timedelta(seconds=10))
        first = WakeRecorded.of(await handled(runtime, at))
    assert (reply.text, reply.interrupted, first.interrupted) == ("Now.", False, True)
    assert words_of(model.requests[1])[-2:] == [("assistant", "Well, "), ("user", "now!")]


async def test_every_prefix_of_such_a_log_is_a_valid_transcript() -> None:
    model = Paced(["Well.", "!hang"], ["Hm, ", "@speaking"], ["Done."])
    async with LocalRuntime(model_for=model.for_any) as runtime:
        at = await running(runtime, "hanging")
        await runtime.interrupt(at)
        await handled(runtime, at)
        await runtime.send(at, SendRequest(payload="more"))
        await gates.reached["speaking"].wait()
        now = SendRequest(payload="now!", mode=Mode.IMMEDIATE)
        await runtime.ask(at, now, within=timedelta(seconds=10))
        events = await log_of(runtime, at)
    timeline = Timeline()
    for event in events:
        timeline.see(event)
        if timeline.messages():
            check_messages(timeline.messages(), ends_with_user=False)


async def reply_to(runtime: LocalRuntime, at: Address, receipt: Receipt) -> Reply:
    async for event in runtime.observe(at, offset=receipt.offset):
        if (reply := reply_of(receipt, event)) is not None:
            return reply
    raise AssertionError("the log ends")
