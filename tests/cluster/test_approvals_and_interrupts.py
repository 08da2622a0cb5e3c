"""A run that waits for approval, and those who do not wait with it: interrupts, steering, haste."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import ApprovalDecided
from ray_agents.events import Event
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import FunctionModel, Says
from ray_agents.modes import Mode
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.testing.rules import check_messages
from ray_agents.tools import tool
from ray_agents.views import EntityView, Status
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned, turn_until

APPROVE = DecisionRequest(decision="approve")
registry = Registry()


@tool(approval="required")
async def act() -> str:
    """Act."""
    gates.times["act"] += 1
    return "done"


@tool
async def think() -> str:
    """Think for long."""
    await gates.wait("thinking")
    return "thought"


@registry.entity("actor", idle_timeout=timedelta(milliseconds=5))
async def actor(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[act, think])
    result = await ctx.agent.run()
    return f"{result.stop_reason}: {result.text}"


class Model:
    """Calls tools in its first answer to each user, then says what it was told last."""

    def __init__(self, *calls: tuple[str, dict[str, Any]]) -> None:
        self.calls = calls
        self.heard: list[Any] = []

    def __call__(self, _: object) -> FunctionModel:
        return FunctionModel(self._answer)

    def _answer(self, request: ModelRequest) -> Any:
        check_messages(list(request.messages))
        self.heard = list(request.messages[-1]["content"])
        if len(request.messages) == 1:
            return Says(calls=self.calls)
        return "Well."

    @property
    def texts(self) -> list[str]:
        """What it was told last: results, then words."""
        return [block.get("text") or block["content"] for block in self.heard]


async def begun(runtime: LocalRuntime) -> Address:
    await runtime.register(registry)
    where = await spawned(runtime, "/actor/a")
    await runtime.send(where, SendRequest(payload="go", id="m1"))
    return where


async def waiting(runtime: LocalRuntime, address: Address) -> EntityView:
    while True:
        view = await runtime.inspect(address)
        if view.status is Status.WAITING and view.host is None and view.approvals:
            return view
        await asyncio.sleep(0)


def statuses(events: Sequence[Event], type_name: str) -> list[str]:
    return [event.value["status"] for event in events if event.type == type_name]


async def test_an_interrupt_ends_a_run_that_waits_in_its_sleep() -> None:
    model = Model(("act", {}))
    async with LocalRuntime("memory:", model_for=model) as runtime:
        a = await begun(runtime)
        (approval,) = (await waiting(runtime, a)).approvals
        interrupted = await runtime.interrupt(a, reason="changed my mind")
        assert (interrupted.interrupted, interrupted.wake) == (True, approval.wake)
        await turn_until(lambda: not any(e.busy for e in runtime.hosts.host.awake))
        events = await log_of(runtime, a)
        assert statuses(events, "approval") == ["pending", "withdrawn"]
        assert statuses(events, "wake")[-1] == "handled"
        assert [e.value["finish_reason"] for e in events if e.type == "run"][-1] == "interrupted"
        with pytest.raises(ApprovalDecided):
            await runtime.decide(a, approval.id, APPROVE)
        assert (await ask(runtime, a, "and now?")).value == "end_turn: Well."
    assert model.texts == ["Not run: the run stopped (interrupted).", "and now?"]
    assert gates.times["act"] == 0


async def test_an_interrupt_while_others_still_run_withdraws_the_request() -> None:
    async with LocalRuntime("memory:", model_for=Model(("act", {}), ("think", {}))) as runtime:
        a = await begun(runtime)
        await gates.reached["thinking"].wait()
        assert len((await runtime.inspect(a)).approvals) == 1
        assert (await runtime.interrupt(a)).interrupted
        assert (await ask(runtime, a, "go", "m1")).value == "interrupted: "
        events = await log_of(runtime, a)
        assert statuses(events, "approval") == ["pending", "withdrawn"]
        assert statuses(events, "wake") == ["started", "started", "handled"]


async def test_a_decision_made_while_others_still_run_outlives_an_interrupt() -> None:
    async with LocalRuntime("memory:", model_for=Model(("act", {}), ("think", {}))) as runtime:
        a = await begun(runtime)
        await gates.reached["thinking"].wait()
        (approval,) = (await runtime.inspect(a)).approvals
        await runtime.decide(a, approval.id, APPROVE)
        assert (await runtime.interrupt(a)).interrupted
        assert (await ask(runtime, a, "go", "m1")).value == "interrupted: "
        assert statuses(await log_of(runtime, a), "approval") == ["pending", "approved"]
        assert (await runtime.decide(a, approval.id, APPROVE)).status == "approved"
    assert gates.times["act"] == 0


async def test_who_steers_a_run_that_waits_is_heard_when_it_goes_on() -> None:
    model = Model(("act", {}))
    async with LocalRuntime("memory:", model_for=model) as runtime:
        a = await begun(runtime)
        (approval,) = (await waiting(runtime, a)).approvals
        await runtime.send(a, SendRequest(payload="be brief", mode=Mode.STEER))
        await waiting(runtime, a)
        await runtime.decide(a, approval.id, APPROVE)
        assert (await ask(runtime, a, "go", "m1")).value == "end_turn: Well."
        handled = [e for e in await log_of(runtime, a) if e.type == "wake"]
        assert [e.value["status"] for e in handled].count("handled") == 1
    assert model.texts == ["done", "be brief"]


async def test_haste_does_not_end_a_run_that_waits() -> None:
    async with LocalRuntime("memory:", model_for=Model(("act", {}))) as runtime:
        a = await begun(runtime)
        (approval,) = (await waiting(runtime, a)).approvals
        await runtime.send(a, SendRequest(payload="now!", id="m2", mode=Mode.IMMEDIATE))
        assert (await waiting(runtime, a)).backlog == 2
        await runtime.decide(a, approval.id, APPROVE)
        assert (await ask(runtime, a, "go", "m1")).value == "end_turn: Well."
        assert (await ask(runtime, a, "now!", "m2")).value == "end_turn: Well."
