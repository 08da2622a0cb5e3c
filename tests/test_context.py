"""The context: what a handler may ask, shown in whole wakes of one entity."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.errors import HandlerFailed
from ray_agents.events import Event
from ray_agents.requests import SpawnRequest
from tests.cluster.conftest import ask, log_of, spawned

registry = Registry()


class Args(BaseModel):
    size: int = 3


class Point(BaseModel):
    x: int | None = None


class Note(BaseModel):
    key: str
    text: str


def note(state: Any, key: str, text: str) -> None:
    state.notes.insert({"key": key, "text": text})


@registry.entity(
    "any",
    creation_schema=Args,
    state={"notes": Note},
    actions={"note": note},
    limits=Limits(attempts_max=1),
)
async def do(ctx: Any, wake: Any) -> Any:
    """Do the message's one word."""
    return await WORDS[wake.payload](ctx)


@registry.entity("child", creation_schema=Args)
async def child(ctx: Any, wake: Any) -> None: ...


async def do_action(ctx: Any) -> Any:
    ctx.actions.note("first", "one")
    ctx.actions.note("second", text="two")
    return [*ctx.actions], [row.text for row in ctx.state.notes.list()]


async def do_unknown_action(ctx: Any) -> Any:
    ctx.actions.nothing()


async def do_tags(ctx: Any) -> Any:
    ctx.set_tag("a", "1")
    ctx.set_tag("b", "2")
    ctx.remove_tag("b")
    ctx.remove_tag("never there")
    return dict(ctx.tags)


async def do_context(ctx: Any) -> Any:
    ctx.insert_context("a", name="n", content="one")
    ctx.insert_context("a", name="n", content="two", attrs={"k": 1})
    ctx.insert_context("b", name="n", content="x")
    ctx.remove_context("b")
    return [ctx.get_context("a"), len(ctx.list_context())]


async def do_missing_context(ctx: Any) -> None:
    ctx.remove_context("nothing")


async def do_talk(ctx: Any) -> None:
    ctx.reply_text("one")
    ctx.reply_text("two")


async def do_run(ctx: Any) -> None:
    run = ctx.record_run()
    run.attach_response("half, ")
    run.attach_response("whole")
    run.end(status="failed", finish_reason="tired")


async def do_bad_run(ctx: Any) -> None:
    ctx.record_run().end(status="sideways")


async def do_agent(ctx: Any) -> None:
    await ctx.agent.run()


async def do_who(ctx: Any) -> Any:
    return [ctx.address, ctx.first_wake, ctx.args.size, ctx.definition_version, ctx.wake.attempt]


async def do_send_model(ctx: Any) -> None:
    await ctx.send("/child/c", Point())


async def do_bad_address(ctx: Any) -> None:
    await ctx.send("child", 1)


async def do_bad_payload(ctx: Any) -> None:
    await ctx.send("/child/c", object())


async def do_bad_message_type(ctx: Any) -> None:
    await ctx.send("/child/c", 1, message_type="")


async def do_bad_type(ctx: Any) -> None:
    await ctx.spawn("nothing", "n")


async def do_bad_args(ctx: Any) -> None:
    await ctx.spawn("child", "c", args={"size": "big"})


async def do_bad_tags(ctx: Any) -> None:
    await ctx.spawn("child", "c", tags={"a": 1})


async def do_twice(ctx: Any) -> None:
    await ctx.spawn("child", "c")
    await ctx.spawn("child", "c")


async def do_records(ctx: Any) -> Any:
    return [len(ctx.records.inbox), ctx.records.wakes.list()[0]["status"]]


WORDS = {name.removeprefix("do_"): value for name, value in globals().items() if "do_" in name}


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime("memory:") as runtime:
        await runtime.register(registry)
        yield runtime


@pytest.fixture
async def entity(runtime: LocalRuntime) -> Address:
    where = Address.parse("/any/e")
    await runtime.spawn(where, SpawnRequest(args={"size": 4}, tags={"b": "0", "c": "3"}))
    return where


def values(events: list[Event], type_name: str) -> list[Any]:
    return [event.value for event in events if event.type == type_name]


async def test_actions_write_to_the_state(runtime: LocalRuntime, entity: Address) -> None:
    assert (await ask(runtime, entity, "action")).value == [["note"], ["one", "two"]]


async def test_an_unknown_action_is_answered_with_the_known_ones(
    runtime: LocalRuntime, entity: Address
) -> None:
    with pytest.raises(HandlerFailed, match="no action 'nothing'; known actions: note"):
        await ask(runtime, entity, "unknown_action")


async def test_tags_are_set_and_removed(runtime: LocalRuntime, entity: Address) -> None:
    assert (await ask(runtime, entity, "tags")).value == {"a": "1", "c": "3"}
    assert (await runtime.inspect(entity)).tags == {"a": "1", "c": "3"}


async def test_context_entries_are_kept_by_id(runtime: LocalRuntime, entity: Address) -> None:
    kept, count = (await ask(runtime, entity, "context")).value
    assert (kept["content"], kept["attrs"], count) == ("two", {"k": 1}, 1)


async def test_a_handler_talks_without_a_model(runtime: LocalRuntime, entity: Address) -> None:
    assert (await ask(runtime, entity, "talk")).text == "one\ntwo"
    events = await log_of(runtime, entity)
    assert [value["delta"] for value in values(events, "text_delta")] == ["one", "two"]
    assert {value["status"] for value in values(events, "run")} == {"started", "completed"}


async def test_a_run_without_a_model_is_recorded(runtime: LocalRuntime, entity: Address) -> None:
    await ask(runtime, entity, "run")
    run = values(await log_of(runtime, entity), "run")[-1]
    assert run == {"status": "failed", "finish_reason": "tired", "text": "half, whole"}


async def test_a_handler_knows_who_and_why(runtime: LocalRuntime, entity: Address) -> None:
    assert (await ask(runtime, entity, "who")).value == ["/any/e", True, 4, 1, 1]
    assert (await ask(runtime, entity, "who")).value == ["/any/e", False, 4, 1, 1]


async def test_a_model_is_sent_whole_as_the_receiver_reads_it(
    runtime: LocalRuntime, entity: Address, wait_until: Any
) -> None:
    c = await spawned(runtime, "/child/c")
    await ask(runtime, entity, "send_model")
    await wait_until(lambda: not any(e.busy for e in runtime.hosts.host.awake))
    assert values(await log_of(runtime, c), "inbox")[0]["payload"] == {"x": None}


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("missing_context", "MissingKey: no context entry 'nothing'"),
        ("bad_run", "InvalidPayload: a run ends completed or failed"),
        ("agent", "NoAgentConfigured"),
        ("bad_address", "InvalidAddress: 'child'"),
        ("bad_payload", "InvalidPayload: the message to '/child/c'"),
        ("bad_message_type", "InvalidPayload: 'type'"),
        ("bad_type", "UnknownType: .*'nothing'"),
        ("bad_args", "InvalidPayload: .*'size'"),
        ("bad_tags", "InvalidPayload: 'tags.a'"),
        ("twice", "EntityExists: /any/e has already spawned '/child/c'"),
    ],
)
async def test_what_is_wrong_is_named_in_the_handler(
    runtime: LocalRuntime, entity: Address, word: str, error: str
) -> None:
    with pytest.raises(HandlerFailed, match=error):
        await ask(runtime, entity, word)


async def test_a_handler_reads_the_log_of_its_own_life(
    runtime: LocalRuntime, entity: Address
) -> None:
    await ask(runtime, entity, "who")
    assert (await ask(runtime, entity, "records")).value == [2, "handled"]
    await runtime.kill(entity)
    await runtime.spawn(entity, SpawnRequest())
    assert (await ask(runtime, entity, "records")).value == [1, "started"]
