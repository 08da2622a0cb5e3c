"""HttpRuntime against the control API itself, over a real loopback port."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Any

import httpx
import pytest
import uvicorn

from ray_agents.address import Address
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.errors import (
    AskTimedOut,
    EntityExists,
    InvalidDefinition,
    InvalidPayload,
    RuntimeUnavailable,
    Unauthorized,
    UnknownEntity,
    UnknownOffset,
)
from ray_agents.events import Event
from ray_agents.http.following import Patience
from ray_agents.http.runtime import HttpRuntime
from ray_agents.modes import Mode
from ray_agents.ports import Runtime
from ray_agents.requests import (
    DecisionRequest,
    ForkRequest,
    ListQuery,
    SendRequest,
    ShareRequest,
    SpawnRequest,
)
from ray_agents.settings import Settings
from ray_agents.testing.loopback import quiet_server
from ray_agents.views import Durability, Status
from tests.fake_runtime import FakeRuntime
from tests.serve.apps import app_over

AMY = Address.of("assistant", "amy")
TOKEN = "open-sesame"
HASTY = Patience(pause=timedelta(milliseconds=1), pause_max=timedelta(seconds=5), attempts=2)
Wait = Callable[..., Awaitable[object]]


@asynccontextmanager
async def served(runtime: Runtime, settings: Settings) -> AsyncGenerator[str]:
    app = app_over(runtime, settings)
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        server = quiet_server(config)
        task = asyncio.create_task(server.serve(sockets=[door]))
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}"
        finally:
            server.leave()
            await task


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime()


@pytest.fixture
async def http(runtime: FakeRuntime) -> AsyncIterator[HttpRuntime]:
    async with (
        served(runtime, Settings(token=TOKEN)) as url,
        HttpRuntime(url, TOKEN, patience=HASTY) as http,
    ):
        yield http


async def test_spawn_send_ask_and_inspect(http: HttpRuntime) -> None:
    view = await http.spawn(AMY, SpawnRequest(tags={"team": "x"}))
    receipt = await http.send(AMY, SendRequest(payload={"a": [1, None]}))
    reply = await http.ask(AMY, SendRequest(payload="hi"), within=timedelta(seconds=3))
    assert (view.status, receipt.offset) == (Status.SLEEPING, 0)
    assert reply.text == "3 s for hi"
    assert (await http.inspect(AMY)).events == 2


async def test_what_an_acknowledgement_is_worth_travels_with_receipts_and_views() -> None:
    registry = Registry()

    @registry.entity("echo", durability=Durability.BATCH)
    async def echo(ctx: Any, wake: Any) -> Any:
        return wake.payload

    local = LocalRuntime("memory:")
    async with served(local, Settings()) as url, HttpRuntime(url, None) as http:
        await local.register(registry)
        address = Address.of("echo", "ada")
        view = await http.spawn(address, SpawnRequest())
        receipt = await http.send(address, SendRequest(payload="x"))
        views = (view, receipt, await http.inspect(address), *await http.types())
        assert {each.durability for each in views} == {Durability.BATCH}


async def test_a_delay_travels_in_seconds(http: HttpRuntime, runtime: FakeRuntime) -> None:
    await http.spawn(AMY, SpawnRequest())
    await http.send(AMY, SendRequest(payload=1, after_seconds=0.25))
    assert runtime.sent[0][1].after_seconds == 0.25


async def test_a_message_gets_an_id_so_that_it_may_be_sent_twice(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    await http.spawn(AMY, SpawnRequest())
    await http.send(AMY, SendRequest(payload=1))
    assert runtime.sent[0][1].id
    assert runtime.spawned[AMY].spawn_id


async def test_a_budget_goes_along_with_a_spawn_to_the_last_cent(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    budget = ShareRequest(cost_max=Decimal("0.10"), tokens_max=5)
    await http.spawn(AMY, SpawnRequest(budget=budget))
    assert runtime.spawned[AMY].budget == budget


async def test_interrupt_and_the_mode_of_a_message(http: HttpRuntime, runtime: FakeRuntime) -> None:
    await http.spawn(AMY, SpawnRequest())
    answer = await http.interrupt(AMY, reason="enough")
    assert (answer.interrupted, answer.wake, answer.offset) == (True, "w1", 7)
    assert runtime.signals[0]
    await http.interrupt(AMY, wake="wake-77")
    assert runtime.interrupts == [(AMY, None, "enough"), (AMY, "wake-77", None)]
    with pytest.raises(InvalidPayload, match="reason"):
        await http.interrupt(AMY, reason="x" * 1_001)
    await http.send(AMY, SendRequest(payload="hi", mode=Mode.IMMEDIATE))
    assert runtime.sent[0][1].mode is Mode.IMMEDIATE


async def test_an_interrupt_whose_answer_is_lost_is_made_again_as_the_same() -> None:
    bodies: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        if len(bodies) == 1:
            raise httpx.ReadError("the answer is lost")
        return httpx.Response(200, json={"address": str(AMY), "interrupted": False})

    lossy = httpx.MockTransport(answer)
    async with HttpRuntime("http://a", None, patience=HASTY, transport=lossy) as http:
        await http.interrupt(AMY)
        await http.interrupt(AMY)
    assert bodies[0] == bodies[1] != bodies[2]
    assert json.loads(bodies[0])["id"]


class LosesAnAnswer(httpx.AsyncBaseTransport):
    """The first answer to a DELETE is lost; ``meanwhile`` happens before it is sent again."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self._meanwhile = meanwhile
        self.lost = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        if request.method == "DELETE" and not self.lost:
            await answer.aread()
            self.lost += 1
            await self._meanwhile()
            raise httpx.ReadError("the answer is lost")
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_kill_whose_answer_is_lost_does_not_end_a_life_that_was_begun_since() -> None:
    registry = Registry()

    @registry.entity("assistant")
    async def assistant(ctx: Any, wake: Any) -> None:
        """Do nothing."""

    runtime = LocalRuntime()
    lossy = LosesAnAnswer(lambda: runtime.spawn(AMY, SpawnRequest()))
    async with (
        served(runtime, Settings()) as url,
        HttpRuntime(url, patience=HASTY, transport=lossy) as http,
    ):
        await runtime.register(registry)
        await http.spawn(AMY, SpawnRequest())
        await http.kill(AMY, reason="old")
        view = await http.inspect(AMY)
    assert (lossy.lost, view.life, view.status is Status.STOPPED) == (1, 1, False)


async def test_list_kill_retry_and_skip(http: HttpRuntime, runtime: FakeRuntime) -> None:
    await http.spawn(AMY, SpawnRequest())
    page = await http.list(ListQuery(type="assistant", status=Status.IDLE, limit=3))
    assert ([item.id for item in page.items], page.cursor) == (["amy"], "more")
    assert runtime.queries == [ListQuery(type="assistant", status=Status.IDLE, limit=3)]
    assert (await http.retry(AMY), await http.skip(AMY, wake="w")) == (2, 1)
    assert runtime.parked == [("retry", AMY, None), ("skip", AMY, "w")]


async def test_decide_names_any_call(http: HttpRuntime, runtime: FakeRuntime) -> None:
    await http.spawn(AMY, SpawnRequest())
    request = DecisionRequest(decision="approve", by="ann")
    decided = await http.decide(AMY, "odd/id:%", request)
    assert (decided.id, decided.status) == ("odd/id:%", "approved")
    assert runtime.decided == [(AMY, "odd/id:%", request)]
    await http.kill(AMY, reason="done")
    assert runtime.killed == {AMY: "done"}


async def test_types_and_registering(http: HttpRuntime, runtime: FakeRuntime) -> None:
    assert [each.type for each in await http.types()] == ["assistant"]
    source = "tests.serve.test_routes:registry"
    assert await http.register(Registry(), source=source) == []
    assert runtime.registered[0][1] == source


async def test_registering_by_value_is_refused_unless_it_is_on(runtime: FakeRuntime) -> None:
    async with served(runtime, Settings()) as url, HttpRuntime(url) as http:
        with pytest.raises(InvalidDefinition, match="REGISTER_BY_VALUE"):
            await http.register(Registry())


async def test_registering_by_value_works_if_it_is_on(runtime: FakeRuntime) -> None:
    settings = Settings(token=TOKEN, register_by_value=True)
    async with served(runtime, settings) as url, HttpRuntime(url, TOKEN) as http:
        assert await http.register(Registry()) == []
    assert runtime.registered[0][1] is None


async def test_errors_arrive_as_the_class_they_left_as(http: HttpRuntime) -> None:
    with pytest.raises(UnknownEntity, match="'/assistant/amy'") as caught:
        await http.inspect(AMY)
    assert caught.value.facts == {"address": "/assistant/amy"}
    await http.spawn(AMY, SpawnRequest(spawn_id="a"))
    with pytest.raises(EntityExists):
        await http.spawn(AMY, SpawnRequest(spawn_id="b"))
    with pytest.raises(AskTimedOut):
        await http.ask(AMY, SendRequest(payload="silence"), within=timedelta(seconds=1))


async def test_a_wrong_token_is_unauthorized(runtime: FakeRuntime) -> None:
    async with (
        served(runtime, Settings(token=TOKEN)) as url,
        HttpRuntime(url, "wrong", patience=HASTY) as http,
    ):
        with pytest.raises(Unauthorized):
            await http.types()
        with pytest.raises(Unauthorized):
            await anext(http.observe(AMY))


async def test_nobody_listening_says_how_to_start() -> None:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{door.getsockname()[1]}"
        async with HttpRuntime(url, patience=HASTY) as http:
            with pytest.raises(RuntimeUnavailable, match="ray-agents start"):
                await http.types()
            with pytest.raises(RuntimeUnavailable, match="ray-agents start"):
                await anext(http.observe(AMY))


async def test_another_program_on_the_port_is_told_apart() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 4\r\n\r\noops")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, HttpRuntime(f"http://127.0.0.1:{port}", patience=HASTY) as http:
        with pytest.raises(RuntimeUnavailable, match="no answer of our control API"):
            await http.types()


@pytest.mark.parametrize(
    "stranger",
    [
        httpx.Response(308, headers={"location": "https://elsewhere"}),
        httpx.Response(200, json={"hello": "world"}),
    ],
    ids=["a redirect", "another program's JSON"],
)
async def test_nothing_was_done_where_another_program_answers(stranger: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda _: stranger)
    async with HttpRuntime("http://control", transport=transport, patience=HASTY) as http:
        for verb in (http.kill(AMY), http.inspect(AMY), http.types(), http.cost(), http.skip(AMY)):
            with pytest.raises(RuntimeUnavailable, match="no answer of our control API"):
                await verb


async def test_a_runtime_that_is_not_entered_says_so() -> None:
    with pytest.raises(RuntimeUnavailable, match="async with"):
        await HttpRuntime("http://127.0.0.1:1").types()


# -- observing -----------------------------------------------------------------------------------


async def test_a_log_is_read_to_its_end(http: HttpRuntime, runtime: FakeRuntime) -> None:
    await http.spawn(AMY, SpawnRequest())
    await runtime.append(AMY, *(str(n) for n in range(1_100)))
    events = [event async for event in http.observe(AMY, offset=50, live=False)]
    assert events == runtime.logs[AMY][50:]
    assert [event async for event in http.observe(AMY, offset=-1, live=False)] == []
    with pytest.raises(UnknownOffset):
        await anext(http.observe(AMY, offset=2_000, live=False))


async def test_observe_follows(http: HttpRuntime, runtime: FakeRuntime, wait_until: Wait) -> None:
    await http.spawn(AMY, SpawnRequest())
    await runtime.append(AMY, "before")
    async with aclosing(http.observe(AMY, offset=-1)) as events:
        coming = asyncio.ensure_future(anext(events))
        await wait_until(lambda: runtime.observers == 1)
        await runtime.append(AMY, "after")
        assert (await coming).value == "after"
    await wait_until(lambda: runtime.observers == 0)


async def test_a_quiet_stream_is_followed_for_as_long_as_it_takes(
    runtime: FakeRuntime, wait_until: Wait
) -> None:
    settings = Settings(heartbeat=timedelta(milliseconds=10))
    async with served(runtime, settings) as url, HttpRuntime(url, patience=HASTY) as http:
        await http.spawn(AMY, SpawnRequest())
        await runtime.append(AMY, "before")
        async with aclosing(http.observe(AMY)) as events:
            while (await anext(events)).value != "before":
                continue
            coming = asyncio.ensure_future(anext(events))
            await asyncio.wait({coming}, timeout=0.1)  # ten keep-alives
            await runtime.append(AMY, "after")
            assert (await coming).value == "after"


async def test_a_stream_that_breaks_is_taken_up_behind_the_last_event(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    await http.spawn(AMY, SpawnRequest())
    await runtime.append(AMY, "a", "b", "c", "d")
    runtime.breaks_after = 2
    assert [event.value for event in await take(http, 4)] == ["a", "b", "c", "d"]


async def test_streams_that_keep_breaking_are_given_up(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    await http.spawn(AMY, SpawnRequest())
    runtime.fails_with = RuntimeUnavailable("away")
    with pytest.raises(RuntimeUnavailable):
        await take(http, 1)


async def test_another_failure_in_mid_stream_is_raised(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    await http.spawn(AMY, SpawnRequest())
    with pytest.raises(UnknownOffset):
        await anext(http.observe(AMY, offset=7))


async def take(http: HttpRuntime, count: int) -> list[Event]:
    found: list[Event] = []
    async with aclosing(http.observe(AMY)) as events:
        async for event in events:
            found.append(event)
            if len(found) == count:
                break
    return found


async def test_forks_states_exports_and_imports_travel(
    http: HttpRuntime, runtime: FakeRuntime
) -> None:
    await http.spawn(AMY, SpawnRequest())
    await runtime.append(AMY, "a", "b")
    view = await http.fork(AMY, ForkRequest(to="/assistant/bob", at=1))
    assert (view.address, view.events) == ("/assistant/bob", 1)
    assert runtime.forked[0][1].fork_id
    assert (await http.state(AMY, at=1)).collections == {"texts": ["a"]}
    assert (await http.state(AMY)).at == 2
    with pytest.raises(UnknownOffset):
        await http.state(AMY, at=3)
    exported = http.export(AMY, children=True)
    assert b"".join([chunk async for chunk in exported]) == b"export of /assistant/amy and all"
    with pytest.raises(UnknownEntity):
        _ = [chunk async for chunk in http.export(Address.of("assistant", "nobody"))]

    async def file() -> AsyncGenerator[bytes]:
        yield b"what was "
        yield b"exported"

    (made,) = await http.import_(file(), to=Address.of("assistant", "cay"))
    assert (made.address, runtime.imported) == ("/assistant/cay", b"what was exported")


async def test_an_import_over_a_connection_that_breaks_is_told(http: HttpRuntime) -> None:
    async def breaking() -> AsyncGenerator[bytes]:
        yield b"what was "
        raise httpx.ReadError("broken")

    with pytest.raises(RuntimeUnavailable, match="broke"):
        await http.import_(breaking())
