"""``cost``: what the fleet's logs say was spent, held to what each entity's own ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ray_agents.address import Address
from ray_agents.client import Client
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import InvalidPayload, RuntimeUnavailable
from ray_agents.events import Draft
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.store import open_blobs
from ray_agents.model import ModelEvent, ModelRequest, Usage, UsageSeen
from ray_agents.models.scripted import Says
from ray_agents.ports import Blobs
from ray_agents.requests import ForkRequest, SendRequest, SpawnRequest
from ray_agents.tables.cost import cost, cost_in
from ray_agents.testing import local_client
from ray_agents.testing.scan_suite import ADA, append, created, log_of
from ray_agents.views import CostLine
from tests.fake_runtime import FakeRuntime

USAGE = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=3, cache_write_tokens=4)
YEARS = timedelta(days=3650)
registry = Registry()


def well(_: ModelRequest) -> Says:
    """What costs 127 tokens."""
    return Says(text="Well.\nYes.", usage=USAGE)


async def saying(ctx: Any, wake: Any) -> None:
    """Say something, at a model's price."""
    model = wake.payload if isinstance(wake.payload, str) else "claude-sonnet-5-5"
    ctx.use_agent(model=model, test_responses=well)
    await ctx.agent.run()


registry.define("one", handler=saying)
registry.define("two", handler=saying)


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[Client, Blobs]]:
    """Five steps of two types: a fork, two lives, and a model without a price."""
    blobs = MemoryBlobs()
    with local_client(blobs) as client:
        client.register(registry)
        client.spawn("/one/a")
        client.ask("/one/a", {})
        client.fork("/one/a", "/one/b")
        client.ask("/one/b", {})
        client.ask("/one/b", "unheard-of")
        client.spawn("/two/c")
        client.ask("/two/c", {})
        client.kill("/two/c")
        client.spawn("/two/c")
        client.ask("/two/c", {})
        yield client, blobs


def told(lines: list[CostLine]) -> dict[str, tuple[int, int, int | None]]:
    return {line.of: (line.steps, line.tokens, line.cost_micros) for line in lines}


def test_a_line_for_each_type_and_what_has_no_price_is_unknown(
    fleet: tuple[Client, Blobs],
) -> None:
    one, two = cost(fleet[1])
    assert told([one, two]) == {"one": (3, 381, None), "two": (2, 254, 820)}
    assert (one.priced_micros, one.unpriced_tokens) == (820, 127)
    assert Usage(**{name: getattr(two, name) for name in USAGE.as_row()}) == USAGE + USAGE


def test_a_fork_pays_what_is_its_own_and_a_life_that_is_over_counts(
    fleet: tuple[Client, Blobs],
) -> None:
    lines = told(cost(fleet[1], by="entity"))
    assert lines == {"/one/a": (1, 127, 410), "/one/b": (2, 254, None), "/two/c": (2, 254, 820)}


def test_the_report_equals_the_ledgers_of_those_with_one_life(
    fleet: tuple[Client, Blobs],
) -> None:
    client, blobs = fleet
    lines = {line.of: line for line in cost(blobs, by="entity")}
    for address in ("/one/a", "/one/b"):
        spent = client.inspect(address).spent
        assert spent.model_dump().items() <= lines[address].model_dump().items()


def test_lines_by_model_and_by_day(fleet: tuple[Client, Blobs]) -> None:
    models = told(cost(fleet[1], by="model"))
    assert models == {"claude-sonnet-5-5": (4, 508, 1640), "unheard-of": (1, 127, None)}
    days = cost(fleet[1], by="day")
    assert sum(line.steps for line in days) == 5
    assert {datetime.fromisoformat(line.of).year for line in days} <= {datetime.now(UTC).year}


def test_only_what_is_recent_counts_if_that_is_asked_for(fleet: tuple[Client, Blobs]) -> None:
    now = datetime.now(UTC)
    assert cost(fleet[1], since=now + YEARS) == []
    assert cost(fleet[1], since=now - YEARS) == cost(fleet[1])


def test_the_client_tells_the_same(fleet: tuple[Client, Blobs]) -> None:
    client, blobs = fleet
    assert client.cost(by="model") == cost(blobs, by="model")


def test_a_client_of_a_runtime_alone_has_no_store_to_read() -> None:
    with Client(FakeRuntime()) as client, pytest.raises(RuntimeUnavailable, match="a store"):
        client.cost()


async def test_a_line_for_each_entity_that_nobody_spawned_with_its_descendants() -> None:
    blobs = MemoryBlobs()
    paid = Draft.of("step", "r:s1", value={**USAGE.as_row(), "cost_micros": 410, "model_id": "m"})
    parents = {"/bot/root": None, "/bot/a": "/bot/root", "/bot/b": "/bot/a", "/bot/c": "/bot/gone"}
    for address, parent in parents.items():
        born = created(parent=parent)
        await append(log_of(blobs, address), [born, paid])
    lines = told(cost(blobs, by="tree"))
    assert lines == {"/bot/root": (3, 381, 1230), "/bot/gone": (1, 127, 410)}


async def test_a_fork_in_the_midst_of_a_call_does_not_count_it_again() -> None:
    asked, held = asyncio.Event(), asyncio.Event()

    class Held:
        """A model that counts a prompt and then says nothing."""

        provider = "held"

        async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelEvent, None]:
            yield UsageSeen(usage=USAGE)
            asked.set()
            await held.wait()

    blobs, a = MemoryBlobs(), Address.parse("/one/a")
    async with LocalRuntime(blobs, model_for=lambda _: Held()) as runtime:
        await runtime.register(registry)
        await runtime.spawn(a, SpawnRequest(message=SendRequest(payload={})))
        await asked.wait()
        await runtime.send(a, SendRequest(payload="later"))  # durable, and so is what came before
        fork = await runtime.fork(a, ForkRequest(to="/one/b"))
        (line,) = await cost_in(blobs, by="entity", since=None)
    assert fork.spent.tokens == 0
    assert (line.of, line.tokens, line.uncounted) == ("/one/a", 127, 0)


async def test_a_call_that_broke_before_anything_was_counted_is_uncounted() -> None:
    blobs = MemoryBlobs()
    torn = {"status": "failed", "model_id": "claude-sonnet-5-5", "uncounted": 1}
    await append(log_of(blobs, ADA), [created(), Draft.of("step", "r:s1", value=torn)])
    (line,) = cost(blobs, by="entity")
    assert (line.steps, line.tokens, line.cost_micros, line.uncounted) == (1, 0, 0, 1)


def test_an_empty_store_has_cost_nothing() -> None:
    assert cost(open_blobs("memory:")) == []


async def test_rows_of_before_there_were_prices_are_unknown_and_broken_steps_count() -> None:
    blobs = MemoryBlobs()
    old = Draft.of("step", "r:s1", value={"input_tokens": 5, "output_tokens": 1, "model_id": "m"})
    begun = Draft.of("step", "r:s2", value={"status": "started", "model_id": "m"})
    torn = {"status": "failed", "input_tokens": 7, "cost_micros": 14, "uncounted": 1}
    steps = [old, begun, Draft.of("step", "r:s3", value=torn)]
    await append(log_of(blobs, ADA), [created(), *steps])
    (line,) = cost(blobs, by="entity")
    assert (line.steps, line.input_tokens, line.uncounted) == (2, 12, 1)
    assert (line.cost_micros, line.priced_micros, line.unpriced_tokens) == (None, 14, 6)


def test_what_cannot_be_asked_for_is_refused(fleet: tuple[Client, Blobs]) -> None:
    with pytest.raises(InvalidPayload, match="type, entity, model, day, tree"):
        fleet[0].cost(by="colour")
    with pytest.raises(InvalidPayload, match="zone"):
        fleet[0].cost(since=datetime(2026, 1, 1))  # noqa: DTZ001 - that is what is wrong
