"""Nothing follows from a row before it is durable: no answer, no handler, no call, no tool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ray_agents.agent import AgentConfig
from ray_agents.cluster.calls import Interrupt
from ray_agents.cluster.interrupting import interrupt
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.model import ModelRequest
from ray_agents.models.scripted import FunctionModel, Says, ScriptedModel
from ray_agents.requests import DecisionRequest, SendRequest
from ray_agents.tools import tool
from tests.cluster import gates
from tests.cluster.conftest import spawned, turn_until
from tests.cluster.stores import DyingBlobs, memory

APPROVE = DecisionRequest(decision="approve")
GATES = ["commit", "agent", "model"]
TURNS = 50  # of the loop: more than any verb takes that waits for nothing
registry = Registry()


@tool(approval="required")
async def refund() -> str:
    """Pay money back."""
    return "paid"


@registry.entity("clerk")
async def clerk(ctx: Any, wake: Any) -> str:
    ctx.use_agent(tools=[refund])
    return (await ctx.agent.run()).text


@tool
async def look() -> str:
    """Look."""
    gates.times["looked"] += 1
    return "seen"


@registry.entity("worker")
async def worker(ctx: Any, wake: Any) -> None:
    gates.times["begun"] += 1
    await gates.wait("commit")
    ctx.set_tag("done", "half")
    await ctx.commit()
    gates.times["committed"] += 1
    await gates.wait("agent")
    ctx.use_agent(tools=[look])
    await ctx.agent.run()


async def answer(request: ModelRequest) -> Any:
    gates.times["asked"] += 1
    await gates.wait("model")
    return "Done." if len(request.messages) > 1 else Says(calls=[("look", {})])


@pytest.mark.parametrize(
    ("gate", "next_"),
    [(None, "begun"), ("commit", "committed"), ("agent", "asked"), ("model", "looked")],
)
async def test_nothing_follows_before_what_it_follows_from_is_durable(
    gate: str | None, next_: str
) -> None:
    store = DyingBlobs(memory(), far=True)
    async with LocalRuntime(store, model_for=lambda _: FunctionModel(answer)) as runtime:
        await runtime.register(registry)
        await spawned(runtime, "/worker/w")
        (entity,) = runtime.hosts.host.awake
        before = GATES[: GATES.index(gate)] if gate else []
        for each in before:
            gates.opened[each].set()
        if gate:
            await entity.deliver(SendRequest(payload="go"))
            await gates.reached[gate].wait()
        with store.writing:
            sent = None if gate else asyncio.create_task(entity.deliver(SendRequest(payload=1)))
            gates.opened[gate or ""].set()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert gates.times[next_] == 0
        await turn_until(lambda: gates.times[next_])
        assert sent is None or not (await sent).duplicate


def model_for(_: AgentConfig) -> ScriptedModel:
    return ScriptedModel([Says(calls=[("refund", {}), ("refund", {})]), "Done."])


async def half_decided(runtime: LocalRuntime) -> Any:
    """An entity that is awake, of whose two calls one is decided on."""
    await runtime.register(registry)
    at = await spawned(runtime, "/clerk/c")
    await runtime.send(at, SendRequest(payload="go"))
    await turn_until(lambda: not runtime.hosts.host.awake)
    first, _ = (await runtime.inspect(at)).approvals
    await runtime.decide(at, first.key, APPROVE)
    (entity,) = runtime.hosts.host.awake
    return entity


VERBS: dict[str, Callable[[Any, str, str], Coroutine[Any, Any, object]]] = {
    "send": lambda entity, wake, call: entity.deliver(SendRequest(payload=1, id="m")),
    "decide": lambda entity, wake, call: entity.decide(call, APPROVE),
    "interrupt": lambda entity, wake, call: interrupt(entity, Interrupt(signal_id="once")),
    "kill": lambda entity, wake, call: entity.kill("no more of it"),
    "skip": lambda entity, wake, call: entity.resolve("skip", wake),
}


@pytest.mark.parametrize("verb", VERBS)
async def test_no_verb_answers_before_its_row_is_durable(verb: str) -> None:
    store = DyingBlobs(memory(), far=True)
    async with LocalRuntime(store, model_for=model_for) as runtime:
        entity = await half_decided(runtime)
        (call,) = (each.key for each in entity.state.approvals.values() if each.pending)
        wake, times = entity.state.current.key, 1 if verb == "skip" else 2
        with store.writing:
            made = [asyncio.create_task(VERBS[verb](entity, wake, call)) for _ in range(times)]
            for _ in range(TURNS):
                await asyncio.sleep(0)
            assert not any(each.done() for each in made)
        await asyncio.gather(*made)
