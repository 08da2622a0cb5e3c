"""What a handler sends leaves once its effects are durable, arrives once, and blocks nobody."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ray_agents.cluster import outbox
from ray_agents.cluster.calls import Activate, Release
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import RuntimeUnavailable, StoreUnavailable
from ray_agents.events import EffectStaged, OutboxKind
from ray_agents.projection import Outgoing, State
from ray_agents.requests import SendRequest
from tests.cluster import gates
from tests.cluster.clocks import ManualClock
from tests.cluster.conftest import ask, inbox_of, log_of, spawned
from tests.cluster.stores import memory

registry = Registry()
QUICK = Limits(retry_delay=timedelta(milliseconds=1))


@registry.entity("sender", limits=QUICK)
async def sender(ctx: Any, wake: Any) -> list[str]:
    """Send each text to its target, in order; a text ``!`` fails first, ``|`` commits."""
    ids: list[str] = []
    for target, text in wake.payload:
        if text == "!" and wake.attempt == 1:
            raise ValueError("not yet")
        if text == "|":
            await ctx.commit()
        ids.append(await ctx.send(target, text))
    return ids


@registry.entity("receiver")
async def receiver(ctx: Any, wake: Any) -> None:
    """Only receive."""


@registry.entity("busy", limits=Limits(backlog_max=1))
async def busy(ctx: Any, wake: Any) -> None:
    await gates.wait("busy")


@registry.entity("spawner")
async def spawner(ctx: Any, wake: Any) -> None:
    child = await ctx.spawn("receiver", wake.payload, initial_message="first")
    await child.send("second")


@pytest.fixture(autouse=True)
async def registered(runtime: LocalRuntime) -> None:
    await runtime.register(registry)


async def idle(runtime: LocalRuntime, wait_until: Any) -> None:
    await wait_until(lambda: not any(entity.busy for entity in runtime.hosts.host.awake))


async def test_a_row_leaves_once_it_is_durable_and_not_before() -> None:
    effect = EffectStaged(key="k", kind=OutboxKind.SEND, target="/receiver/r", body={})
    state = State(outbox={"k": Outgoing(offset=7, time=0, effect=effect)})
    owner, clock = SimpleNamespace(durable_tip=7), ManualClock()
    entity: Any = SimpleNamespace(
        state=state, owner=owner, services=SimpleNamespace(clock=clock), leaving=False, name="s"
    )
    out = outbox.Outbox(entity, deferred=lambda: None)
    out.advance()
    assert not out.running
    owner.durable_tip = 8
    out.advance()
    assert out.running
    await out.stop()


async def test_messages_to_one_target_arrive_in_order(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")
    await ask(runtime, s, [(str(r), str(n)) for n in range(50)])
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == [str(n) for n in range(50)]


async def test_a_repeated_attempt_sends_what_it_had_committed_only_once(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")
    await ask(runtime, s, [(str(r), "a"), (str(r), "|"), (str(r), "!"), (str(r), "b")])
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == ["a", "|", "!", "b"]


async def test_a_message_to_nobody_is_an_error_and_is_not_tried_for_ever(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s = await spawned(runtime, "/sender/s")
    await ask(runtime, s, [("/receiver/nobody", "x")])
    await idle(runtime, wait_until)
    errors = [e.value for e in await log_of(runtime, s) if e.type == "error"]
    assert [error["error_code"] for error in errors] == ["UnknownEntity"]
    assert not runtime.hosts.host.awake[0].state.outbox


async def test_a_full_target_does_not_hold_up_the_others(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, b = await spawned(runtime, "/sender/s"), await spawned(runtime, "/busy/b")
    r = await spawned(runtime, "/receiver/r")
    await runtime.send(b, SendRequest(payload=1))
    await gates.reached["busy"].wait()
    await ask(runtime, s, [(str(b), "2"), (str(b), "3"), (str(r), "x")])
    await wait_until(lambda: inbox_of(runtime, r))
    gates.opened["busy"].set()
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, b) == [1, "2", "3"]


async def test_a_full_target_does_not_hold_up_what_is_sent_to_others_later(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, b = await spawned(runtime, "/sender/s"), await spawned(runtime, "/busy/b")
    r = await spawned(runtime, "/receiver/r")
    await runtime.send(b, SendRequest(payload=1))
    await gates.reached["busy"].wait()
    await ask(runtime, s, [(str(b), "2"), (str(b), "3")])
    await wait_until(lambda: len(runtime.hosts.host.awake[0].state.outbox) == 1)
    await ask(runtime, s, [(str(r), "x")])
    await wait_until(lambda: inbox_of(runtime, r))
    assert await inbox_of(runtime, b) == [1, "2"]
    gates.opened["busy"].set()
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, b) == [1, "2", "3"]


async def test_a_target_out_of_reach_keeps_the_order_of_its_messages(
    runtime: LocalRuntime, wait_until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "DELAY_FIRST", timedelta(microseconds=1))
    s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")
    services = runtime.hosts.host.awake[0].services
    deliver, tries = services.deliver, 0

    async def away(effect: EffectStaged) -> None:
        nonlocal tries
        tries += 1
        if tries <= outbox.TRIES_MAX:
            raise RuntimeUnavailable("not yet")
        await deliver(effect)

    object.__setattr__(services, "deliver", away)
    await ask(runtime, s, [(str(r), "1"), (str(r), "2")])
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == []
    await ask(runtime, s, [(str(r), "3")])
    due = (await runtime.inspect(s)).next_due
    await runtime.hosts.call(s, Activate(due=due))
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == ["1", "2", "3"]
    assert (await runtime.inspect(s)).next_due is None


async def test_what_a_dead_life_had_not_sent_yet_is_not_sent(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, b = await spawned(runtime, "/sender/s"), await spawned(runtime, "/busy/b")
    await runtime.send(b, SendRequest(payload=1))
    await gates.reached["busy"].wait()
    await ask(runtime, s, [(str(b), "2"), (str(b), "3"), (str(b), "4")])
    await wait_until(lambda: len(runtime.hosts.host.awake[0].state.outbox) == 2)
    await runtime.kill(s)
    gates.opened["busy"].set()
    await idle(runtime, wait_until)
    assert "4" not in await inbox_of(runtime, b)


async def test_a_child_gets_its_first_message_first(runtime: LocalRuntime, wait_until: Any) -> None:
    s = await spawned(runtime, "/spawner/s")
    await ask(runtime, s, "kid")
    await idle(runtime, wait_until)
    kid = runtime.hosts.host.awake[-1].address
    assert await inbox_of(runtime, kid) == ["first", "second"]


async def test_the_longest_addresses_can_send(runtime: LocalRuntime, wait_until: Any) -> None:
    long = Registry()
    long.define("t" * 64, handler=sender)
    await runtime.register(long)
    s = await spawned(runtime, f"/{'t' * 64}/{'i' * 128}")
    r = await spawned(runtime, "/receiver/r")
    for n in range(3):
        (message_id,) = (await ask(runtime, s, [(str(r), n)])).value
        assert len(message_id) <= 256
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == [0, 1, 2]


async def test_a_delivery_cut_off_by_falling_asleep_is_made_by_the_next_owner(
    runtime: LocalRuntime, wait_until: Any
) -> None:
    s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")
    services = runtime.hosts.host.awake[0].services
    deliver = services.deliver
    cut = asyncio.Event()

    async def hang(_: EffectStaged) -> None:
        cut.set()
        await asyncio.Event().wait()

    object.__setattr__(services, "deliver", hang)
    await ask(runtime, s, [(str(r), "x")])
    await cut.wait()
    await runtime.hosts.call(s, Release())
    object.__setattr__(services, "deliver", deliver)
    assert await inbox_of(runtime, r) == []
    await ask(runtime, s, [])
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == ["x"]


@pytest.mark.parametrize("error", [RuntimeUnavailable, StoreUnavailable, OSError])
async def test_a_target_out_of_reach_is_tried_again(
    runtime: LocalRuntime, wait_until: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    monkeypatch.setattr(outbox, "DELAY_FIRST", timedelta(microseconds=1))
    s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")
    services = runtime.hosts.host.awake[0].services
    deliver, tries = services.deliver, 0

    async def flaky(effect: EffectStaged) -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise error("not yet")
        await deliver(effect)

    object.__setattr__(services, "deliver", flaky)
    await ask(runtime, s, [(str(r), "x")])
    await idle(runtime, wait_until)
    assert await inbox_of(runtime, r) == ["x"]
    assert tries == 3


async def test_what_was_not_delivered_before_a_crash_is_delivered_after_it(wait_until: Any) -> None:
    store = memory()
    runtime = LocalRuntime(store)
    async with runtime:
        await runtime.register(registry)
        s, r = await spawned(runtime, "/sender/s"), await spawned(runtime, "/receiver/r")

        async def never(_: EffectStaged) -> None:
            await asyncio.Event().wait()

        object.__setattr__(runtime.hosts.host.awake[0].services, "deliver", never)
        await ask(runtime, s, [(str(r), "x")])
        await runtime.crash()
    async with LocalRuntime(store) as after:
        await wait_until(lambda: inbox_of(after, r))
        assert await inbox_of(after, r) == ["x"]
