"""A run whose tool people must approve: it waits asleep, and goes on once, whatever crashes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.agent import AgentConfig
from ray_agents.cluster.local import LocalRuntime
from ray_agents.cluster.waking import load
from ray_agents.definition import Limits, Registry
from ray_agents.errors import (
    ApprovalDecided,
    AskTimedOut,
    EntityGone,
    NothingParked,
    UnknownApproval,
)
from ray_agents.events import Event
from ray_agents.log.history import History
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.ports import Blobs
from ray_agents.projection import fold
from ray_agents.requests import DecisionRequest, ForkRequest, SendRequest
from ray_agents.testing.rules import check_messages
from ray_agents.timeline import INTERRUPTED, Timeline
from ray_agents.tools import Tool, tool
from ray_agents.views import ApprovalStatus, EntityView, Status
from tests.cluster import gates
from tests.cluster.conftest import SOON, ask, log_of, spawned
from tests.cluster.crashing import crash_during
from tests.cluster.stores import memory

APPROVE = DecisionRequest(decision="approve", by="ann")
DENY = DecisionRequest(decision="deny", reason="not on a Friday")
AT_ONCE = Limits(retry_delay=timedelta(milliseconds=1), attempts_max=10)
OPS = Address.parse("/operator/o")
registry = Registry()


def tools_of(ctx: Any) -> Sequence[Tool]:
    @tool(approval="required")
    async def delete(path: str) -> str:
        """Delete a file; not to be repeated."""
        gates.times[path] += 1
        return f"deleted {path}"

    @tool(idempotent=True)
    async def look(path: str) -> str:
        """Look at a file."""
        gates.times["look"] += 1
        return f"seen {path}"

    return [delete, look]


@registry.entity("operator", limits=AT_ONCE, idle_timeout=timedelta(milliseconds=5))
async def operator(ctx: Any, wake: Any) -> str:
    gates.times["handler"] += 1
    ctx.use_agent("You tidy up.", tools=tools_of(ctx))
    result = await ctx.agent.run()
    return f"{wake.attempt}: {result.text}"


@registry.entity("hasty", limits=AT_ONCE, idle_timeout=timedelta(milliseconds=5))
async def hasty(ctx: Any, wake: Any) -> str:
    @tool(approval="required", approval_timeout=timedelta(milliseconds=40))
    async def launch() -> str:
        """Launch."""
        gates.times["launch"] += 1
        return "launched"

    ctx.use_agent(tools=[launch])
    return (await ctx.agent.run()).text


class Script:
    """Answers by the number of the model call; every transcript is checked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.asked: Counter[int] = Counter()
        self.last: list[Any] = []

    def __call__(self, _: AgentConfig) -> FunctionModel:
        return FunctionModel(self._answer)

    def _answer(self, request: ModelRequest) -> Any:
        self.last = list(request.messages)
        check_messages(self.last)
        step = sum(message["role"] == "assistant" for message in request.messages)
        self.asked[step] += 1
        return self.answers[step]

    @property
    def results(self) -> list[Any]:
        """What the model was last told of its tool calls."""
        blocks = [b for m in self.last for b in m["content"] if b["type"] == "tool_result"]
        return [block["content"] for block in blocks]


ONE = Says(calls=[("look", {"path": "a"}), ("delete", {"path": "a"})])


def one_call() -> Script:
    return Script(ONE, "Done.", "Later.")


async def asked_for(runtime: LocalRuntime, address: Address = OPS) -> EntityView:
    """Send a message whose run comes to a tool that needs approval, and wait until it waits."""
    await runtime.register(registry)
    await spawned(runtime, str(address))
    await runtime.send(address, SendRequest(payload="tidy", id="m1"))
    return await waiting(runtime, address)


async def waiting(runtime: LocalRuntime, address: Address = OPS) -> EntityView:
    """The entity, once it waits asleep."""
    while True:
        view = await runtime.inspect(address)
        if view.status is Status.WAITING and view.host is None and view.approvals:
            return view
        await asyncio.sleep(0)


async def slept(runtime: LocalRuntime, address: Address = OPS) -> EntityView:
    """The entity, once it sleeps."""
    while True:
        view = await runtime.inspect(address)
        if view.status is Status.SLEEPING:
            return view
        await asyncio.sleep(0)


def statuses(events: Sequence[Event], type_name: str = "approval") -> list[str]:
    return [event.value["status"] for event in events if event.type == type_name]


async def test_an_entity_sleeps_until_its_tool_call_is_approved_and_then_goes_on() -> None:
    script = one_call()
    async with LocalRuntime("memory:", model_for=script) as runtime:
        view = await asked_for(runtime)
        assert (view.waiting_for, view.host) == ("approval", None)
        (approval,) = view.approvals
        assert (approval.tool, approval.args, approval.wake) == ("delete", {"path": "a"}, "wake-3")
        assert gates.times == {"handler": 1, "look": 1}
        decided = await runtime.decide(OPS, approval.id, APPROVE)
        assert (decided.status, decided.by) == (ApprovalStatus.APPROVED, "ann")
        assert (await ask(runtime, OPS, "tidy", "m1")).value == "1: Done."
        assert gates.times == {"handler": 2, "look": 1, "a": 1}
        assert script.asked == {0: 1, 1: 1}
        assert script.results == ["seen a", "deleted a"]
        assert statuses(await log_of(runtime, OPS)) == ["pending", "approved"]
        assert (await slept(runtime)).approvals == ()


async def test_a_denial_is_told_to_the_model_with_its_reason() -> None:
    script = one_call()
    async with LocalRuntime("memory:", model_for=script) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        await runtime.decide(OPS, approval.key, DENY)
        assert (await ask(runtime, OPS, "tidy", "m1")).value == "1: Done."
    assert "a" not in gates.times
    assert script.results[1] == "Not run: this call was denied. The reason given: not on a Friday"


async def test_the_first_decision_stands_and_the_same_one_again_is_harmless() -> None:
    async with LocalRuntime("memory:", model_for=one_call()) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        for _ in range(2):
            assert (await runtime.decide(OPS, approval.id, APPROVE)).by == "ann"
        with pytest.raises(ApprovalDecided, match="approved by ann already"):
            await runtime.decide(OPS, approval.id, DENY)
        await ask(runtime, OPS, "tidy", "m1")
        await slept(runtime)
        assert (await runtime.decide(OPS, approval.id, APPROVE)).by == "ann"
        with pytest.raises(ApprovalDecided):
            await runtime.decide(OPS, approval.id, DENY)
        with pytest.raises(UnknownApproval, match="waiting: none"):
            await runtime.decide(OPS, "toolu_never", APPROVE)
        assert statuses(await log_of(runtime, OPS)) == ["pending", "approved"]


async def test_who_asks_in_vain_is_told_that_people_are_to_decide() -> None:
    async with LocalRuntime("memory:", model_for=one_call()) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        words = (
            rf"waits for approval of delete \({approval.id}\): ray-agents approve {OPS}, or deny"
        )
        with pytest.raises(AskTimedOut, match=words):
            await runtime.ask(OPS, SendRequest(payload=1), within=timedelta(milliseconds=250))


async def test_a_run_goes_on_when_every_call_of_the_step_is_decided() -> None:
    two = Says(calls=[("delete", {"path": "a"}), ("delete", {"path": "b"})])
    script = Script(two, "Done.")
    async with LocalRuntime("memory:", model_for=script) as runtime:
        first, second = (await asked_for(runtime)).approvals
        await runtime.decide(OPS, first.id, APPROVE)
        assert [each.id for each in (await waiting(runtime)).approvals] == [second.id]
        assert gates.times == {"handler": 1}
        await runtime.decide(OPS, second.id, DENY)
        assert (await ask(runtime, OPS, "tidy", "m1")).value == "1: Done."
    assert gates.times == {"handler": 2, "a": 1}
    assert [result.split(".")[0] for result in script.results] == [
        "deleted a",
        "Not run: this call was denied",
    ]


async def test_messages_that_come_meanwhile_wait_for_the_end_of_that_run() -> None:
    script = one_call()
    async with LocalRuntime("memory:", model_for=script) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        await runtime.send(OPS, SendRequest(payload="and then?", id="m2"))
        view = await waiting(runtime)
        assert (view.backlog, gates.times["handler"]) == (2, 1)
        await runtime.decide(OPS, approval.id, APPROVE)
        assert (await ask(runtime, OPS, "and then?", "m2")).value == "1: Later."
    assert [block["text"] for block in script.last[-1]["content"]] == ["and then?"]


async def test_a_call_with_wrong_arguments_asks_nobody() -> None:
    script = Script(Says(calls=[("delete", {"file": 3})]), "Sorry.")
    async with LocalRuntime("memory:", model_for=script) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/operator/o")
        assert (await ask(runtime, OPS, "tidy")).value == "1: Sorry."
        assert statuses(await log_of(runtime, OPS)) == []


async def test_an_approval_that_is_bounded_in_time_counts_as_denied_when_it_expires() -> None:
    script = Script(Says(calls=[("launch", {})]), "Too late.")
    h = Address.parse("/hasty/h")
    async with LocalRuntime("memory:", model_for=script) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/hasty/h")
        assert (await ask(runtime, h, "go")).text == "Too late."
        assert statuses(await log_of(runtime, h)) == ["pending", "expired"]
    assert script.results == ["Not run: nobody approved this call in time."]
    assert gates.times["launch"] == 0


async def test_a_wake_that_waits_can_be_skipped_by_its_name() -> None:
    script = one_call()
    async with LocalRuntime("memory:", model_for=script) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        with pytest.raises(NothingParked):
            await runtime.skip(OPS)
        assert await runtime.skip(OPS, wake=approval.wake) == 1
        with pytest.raises(ApprovalDecided, match="was withdrawn"):
            await runtime.decide(OPS, approval.id, APPROVE)
        assert (await slept(runtime)).approvals == ()
        assert statuses(await log_of(runtime, OPS), "run") == ["started", "failed"]
        assert (await ask(runtime, OPS, "again")).value == "1: Done."
    assert script.results == ["seen a", "Not run: the wake was skipped."]


async def test_a_killed_entity_waits_for_nothing() -> None:
    async with LocalRuntime("memory:", model_for=one_call()) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        await runtime.kill(OPS)
        with pytest.raises(EntityGone):
            await runtime.decide(OPS, approval.id, APPROVE)
        view = await runtime.inspect(OPS)
        assert (view.status, view.approvals) == (Status.STOPPED, ())


async def test_a_fork_does_not_inherit_what_waits_for_approval() -> None:
    script = one_call()
    async with LocalRuntime("memory:", model_for=script) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        p = Address.parse("/operator/p")
        view = await runtime.fork(OPS, ForkRequest(to=str(p)))
        assert (view.status, view.approvals) == (Status.SLEEPING, ())
        with pytest.raises(ApprovalDecided, match="withdrawn"):
            await runtime.decide(p, approval.id, APPROVE)
        assert (await ask(runtime, p, "go on")).value == "1: Done."
        assert script.results[1].startswith("Not run: what came after was not inherited")
        assert (await waiting(runtime)).approvals == (approval,)


async def test_a_whole_new_runtime_finds_what_waits(store: Blobs) -> None:
    async with LocalRuntime(store, model_for=one_call()) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
    script = one_call()
    async with LocalRuntime(store, model_for=script) as after:
        assert (await waiting(after)).approvals == (approval,)
        await after.decide(OPS, approval.id, APPROVE)
        assert (await ask(after, OPS, "tidy", "m1")).value == "1: Done."
    assert (script.asked, gates.times["a"]) == ({1: 1}, 1)


async def test_at_every_row_state_and_transcript_are_whole() -> None:
    async with LocalRuntime("memory:", model_for=one_call()) as runtime:
        (approval,) = (await asked_for(runtime)).approvals
        await runtime.decide(OPS, approval.id, APPROVE)
        await ask(runtime, OPS, "tidy", "m1")
        events = await log_of(runtime, OPS)
    for end in range(len(events) + 1):
        some = events[:end]
        history = History()
        history.extend(some)
        assert load(history).approvals == fold(some).approvals
        if messages := Timeline(some).messages():
            check_messages(messages if messages[-1]["role"] == "user" else messages[:-1])


# -- killed at every write -----------------------------------------------------------------------


async def prepared() -> Blobs:
    store = memory()
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/operator/o")
    return store


async def through(runtime: LocalRuntime) -> str:
    """From the message to the answer, by way of the approval."""
    await runtime.send(OPS, SendRequest(payload="tidy", id="m1"))
    replied = asyncio.create_task(
        runtime.ask(OPS, SendRequest(payload="tidy", id="m1"), within=SOON)
    )
    try:
        while not replied.done():
            for approval in (await runtime.inspect(OPS)).approvals:
                await runtime.decide(OPS, approval.id, APPROVE)
            await asyncio.sleep(0)
        return (await replied).value
    finally:
        replied.cancel()


@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after it"])
async def test_a_run_that_waits_is_killed_at_any_write_and_its_tool_runs_once(after: bool) -> None:
    crash_at = 0
    while True:
        crash_at += 1
        gates.reset()
        store, script = await prepared(), one_call()
        writes = await crash_during(
            through, store, crash_at=crash_at, after=after, model_for=script
        )
        async with LocalRuntime(store, model_for=script) as runtime:
            assert (await through(runtime)).endswith("Done.")
            events = await log_of(runtime, OPS)
        check_it_happened_once(events, script)
        if writes < crash_at:
            break
    assert crash_at > 10


def check_it_happened_once(events: Sequence[Event], script: Script) -> None:
    (deleted,) = (e.value for e in events if e.type == "tool_call" and is_end_of(e, "delete"))
    assert deleted["result"] == "deleted a" or deleted["error"] == INTERRUPTED
    assert gates.times["a"] <= 1
    if deleted["result"]:
        assert gates.times["a"] == 1
    assert statuses(events) == ["pending", "approved"]
    assert statuses(events, "wake").count("handled") == 1
    assert sum(script.asked.values()) <= 3  # one call in flight, whose answer was not recorded


def is_end_of(event: Event, name: str) -> bool:
    return event.value["tool_name"] == name and event.value["status"] in ("completed", "failed")
