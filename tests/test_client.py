"""The Python door over a runtime in this process: the same verbs, blocking and with coroutines."""

from __future__ import annotations

import asyncio
import gc
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ray_agents.client import AsyncClient, Client, connect, connect_async
from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Definition, Registry
from ray_agents.errors import (
    AskTimedOut,
    InvalidAddress,
    InvalidPayload,
    InvalidSetting,
    RuntimeUnavailable,
    UnknownEntity,
)
from ray_agents.settings import Settings
from ray_agents.testing import local_async_client, local_client
from ray_agents.views import Status

ROOT = Path(__file__).parents[1]
ADA = "/echo/ada"
NO_ANSWER = r"127\.0\.0\.1:9"
NOBODY = Settings(url="http://127.0.0.1:9")  # the discard port


def registry() -> Registry:
    found = Registry()

    @found.entity("echo", idle_timeout=timedelta(milliseconds=50))
    async def echo(ctx: Any, wake: Any) -> Any:
        if wake.payload == "never":
            await asyncio.Event().wait()
        return wake.payload

    return found


@pytest.fixture
def client() -> Iterator[Client]:
    with local_client() as opened:
        opened.register(registry())
        opened.spawn(ADA)
        yield opened


def client_threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "ray-agents-client"]


# -- the verbs ---------------------------------------------------------------------------------


def test_a_message_is_answered(client: Client) -> None:
    assert client.ask(ADA, "hello").value == "hello"


def test_the_same_with_coroutines() -> None:
    async def conversation() -> Any:
        async with local_async_client() as client:
            await client.register(registry())
            await client.spawn(ADA)
            return (await client.ask(ADA, "hello")).value

    assert asyncio.run(conversation()) == "hello"


def test_one_definition_can_be_registered_alone(client: Client) -> None:
    async def other(ctx: Any, wake: Any) -> None: ...

    [view] = client.register(Definition(type="other", handler=other))
    assert (view.type, view.version) == ("other", 1)
    assert [each.type for each in client.types()] == ["echo", "other"]


def test_entities_are_looked_at_listed_and_killed(client: Client) -> None:
    assert client.inspect(ADA).address == ADA
    assert [each.address for each in client.list(type="echo").items] == [ADA]
    client.kill(ADA, reason="done")
    assert client.inspect(ADA).status is Status.STOPPED


def test_what_is_wrong_is_said_before_anything_is_sent(client: Client) -> None:
    with pytest.raises(InvalidAddress, match="'ada'"):
        client.send("ada", "hello")
    with pytest.raises(UnknownEntity, match="'/echo/nobody'"):
        client.send("/echo/nobody", "hello")
    with pytest.raises(InvalidPayload, match="'limit'"):
        client.list(limit=0)
    with pytest.raises(InvalidPayload, match=r"'after_seconds'.*greater than or equal to 0"):
        client.send(ADA, "hello", after=timedelta(seconds=-1))
    with pytest.raises(InvalidPayload, match=r"'after_seconds'.*less than or equal to"):
        client.send(ADA, "hello", after=timedelta(days=5 * 366 + 1))
    with pytest.raises(InvalidPayload, match="must be a timedelta, not 5"):
        client.send(ADA, "hello", after=5)


def test_a_delayed_message_is_received_with_its_due_time(client: Client) -> None:
    receipt = client.send(ADA, "hello", after=timedelta(days=1))
    view = client.inspect(ADA)
    assert receipt.fire_at is not None
    assert (view.schedules, view.next_due) == (1, receipt.fire_at)


def test_a_reply_that_does_not_come_is_a_time_out(client: Client) -> None:
    with pytest.raises(AskTimedOut, match="in its inbox"):
        client.ask(ADA, "never", within=timedelta(milliseconds=100))


def test_a_client_works_where_a_loop_runs_already() -> None:
    async def cell() -> Any:
        with local_client() as client:
            client.register(registry())
            client.spawn(ADA)
            return client.ask(ADA, "hello").value

    assert asyncio.run(cell()) == "hello"


def test_two_clients_of_one_process_speak_to_the_same_entity(tmp_path: Path) -> None:
    with local_client(str(tmp_path)) as first, local_client(str(tmp_path)) as second:
        first.register(registry())
        first.spawn(ADA)
        assert second.ask(ADA, "hello").value == "hello"


def test_several_threads_share_a_client(client: Client) -> None:
    answers: list[Any] = []

    def ask(text: str) -> None:
        answers.append(client.ask(ADA, text).id)

    threads = [threading.Thread(target=ask, args=(text,)) for text in "abcde"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(answers)) == 5


# -- observing ---------------------------------------------------------------------------------


def test_a_log_is_read_to_its_end(client: Client) -> None:
    client.ask(ADA, "hello")
    types = [event.type for event in client.observe(ADA, live=False)]
    assert {"inbox", "wake"} <= set(types)


def test_an_iterator_closed_early_leaves_nothing_behind(client: Client) -> None:
    client.ask(ADA, "hello")
    for _ in client.observe(ADA):
        break
    gc.collect()
    assert followers(client) == []


def followers(client: Client) -> list[str]:
    """What runs on the client's loop and awaits an event."""
    tasks = asyncio.all_tasks(client._thread.loop)  # pyright: ignore[reportPrivateUsage]  # noqa: SLF001
    return [str(task) for task in tasks if "doing" in str(task.get_coro())]


def test_an_iterator_may_outlive_its_client() -> None:
    with local_client() as client:
        client.register(registry())
        client.spawn(ADA)
        events = client.observe(ADA)
        next(events)
    with pytest.raises((RuntimeUnavailable, StopIteration)):
        next(events)
    events.close()  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def test_an_async_iterator_can_be_closed_early() -> None:
    async with local_async_client() as client:
        await client.register(registry())
        await client.spawn(ADA)
        events: Any = client.observe(ADA)
        async with aclosing(events):
            assert (await anext(events)).offset >= 0


# -- the end -----------------------------------------------------------------------------------


def test_a_closed_client_says_so() -> None:
    with local_client() as client:
        pass
    client.close()
    with pytest.raises(RuntimeUnavailable, match="this client is closed; connect"):
        client.types()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        next(client.observe(ADA))
    assert client_threads() == []


async def test_an_async_client_is_used_inside_its_block() -> None:
    client = AsyncClient(LocalRuntime())
    with pytest.raises(RuntimeUnavailable, match="not open yet"):
        await client.types()
    async with client:
        await client.types()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        await client.types()
    with pytest.raises(RuntimeUnavailable, match="closed"):
        await client.__aenter__()


class Refusing(LocalRuntime):
    """A runtime that cannot be entered."""

    async def __aenter__(self) -> Any:
        raise RuntimeUnavailable("not today")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_client_that_cannot_be_opened_lets_go(kind: Callable[..., Any]) -> None:
    detached: list[bool] = []

    async def enter(client: AsyncClient) -> None:
        async with client:
            raise AssertionError

    with pytest.raises(RuntimeUnavailable, match="not today"):  # noqa: PT012 - either may raise
        opened = kind(Refusing(), lambda: detached.append(True))
        asyncio.run(enter(opened))
    assert detached == [True]
    assert client_threads() == []


INTERRUPTED = """
import signal, sys
sys.path.insert(0, {root!r})
from ray_agents.testing import local_client
from tests.test_client import ADA, followers, registry
signal.siginterrupt(signal.SIGINT, {ends_waits})
with local_client() as client:
    client.register(registry())
    client.spawn(ADA)
    client.send(ADA, "never")
    try:
        print("observing", flush=True)
        list(client.observe(ADA, offset=-1))
    except KeyboardInterrupt:
        print(followers(client), client.inspect(ADA).address)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ends_waits", [True, False])
def test_ctrl_c_cancels_the_call_and_the_client_goes_on(ends_waits: bool) -> None:
    script = INTERRUPTED.format(root=str(ROOT), ends_waits=ends_waits)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"observing\n"
            with pytest.raises(subprocess.TimeoutExpired):
                child.wait(timeout=0.2)
            child.send_signal(signal.SIGINT)
            assert child.communicate(timeout=20)[0] == f"[] {ADA}\n".encode()
        finally:
            child.kill()
    assert child.returncode == 0


UNCLOSED = """
import sys
sys.path.insert(0, {root!r})
from ray_agents.testing.clients import Client, LocalRuntime
client = Client(LocalRuntime({store!r}))
print(client.types())
"""


@pytest.mark.slow
def test_an_interpreter_ends_though_a_client_is_open(tmp_path: Path) -> None:
    script = UNCLOSED.format(root=str(ROOT), store=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_no_control_api_there_is_said_with_its_address() -> None:
    with connect(settings=NOBODY) as client, pytest.raises(RuntimeUnavailable, match=NO_ANSWER):
        client.types()


@pytest.mark.parametrize(
    "url", ["nonsense", "ftp://there", "http://", "http://[", "http://a:b", "http://there:99999"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(InvalidSetting, match=re.escape(f"{url!r} is no control API")):
        connect(url)


@pytest.mark.parametrize("token", ["gehé", "geh\nim", " geheim", ""])
def test_a_token_that_no_header_can_carry_is_refused_and_not_told(token: str) -> None:
    with pytest.raises(InvalidSetting, match="printable ASCII") as refused:
        connect("http://there", settings=Settings(token=token))
    assert "geh" not in str(refused.value)


async def test_no_control_api_there_is_said_to_coroutines_too() -> None:
    async with connect_async(settings=NOBODY) as client:
        with pytest.raises(RuntimeUnavailable, match=NO_ANSWER):
            await client.types()
