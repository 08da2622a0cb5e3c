"""A tool that people must approve, from end to end: real processes, the SDK, the shell, HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from ray_agents.cluster.processes import trees_of
from ray_agents.cluster.running import find_running, recorded
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body, Step
from tests.cluster.rig import HOST_TITLE, eventually, title_of
from tests.doors.conftest import Folder, folder_in

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

BOTS = """
from datetime import timedelta
from ray_agents import Registry, tool
registry = Registry()

@tool(approval="required")
async def delete(path: str) -> str:
    "Delete a file."
    with open(path, "a") as file:
        file.write("gone ")
    return "deleted"

@registry.entity("janitor", idle_timeout=timedelta(milliseconds=50))
async def janitor(ctx, wake):
    ctx.use_agent("You tidy up.", tools=[delete])
    return (await ctx.agent.run()).text
"""


class Api:
    """The stand-in server on a loop in a thread, as the tests here block."""

    def __init__(self, script: Callable[[Body], Step]) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.server = MessagesApi(script=script)

    def __enter__(self) -> MessagesApi:
        self._thread.start()
        self._do(self.server.__aenter__())
        return self.server

    def __exit__(self, *exc: object) -> None:
        self._do(self.server.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Folder]:
    path = tmp_path_factory.mktemp("janitor")
    (path / "bots.py").write_text(BOTS)

    def script(body: Body) -> Step:
        last = body["messages"][-1]["content"]
        results = [block for block in last if block["type"] == "tool_result"]
        if results:
            return f"It says: {results[0]['content']}"
        return Answer(calls=[("delete", {"path": str(path / "deleted")})])

    with Api(script) as api:
        model = {"ANTHROPIC_BASE_URL": api.url, "ANTHROPIC_API_KEY": "any"}
        for folder in folder_in(path, model):
            folder.shell("start", "--app", "bots:registry")
            yield folder


@pytest.fixture
def http(folder: Folder) -> Iterator[httpx.Client]:
    running = recorded(folder.settings)
    assert running is not None
    token = Path(running.token_file).read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=running.url or "", headers=headers, timeout=30) as client:
        yield client


def hosts_of(folder: Folder, address: str) -> list[psutil.Process]:
    """The processes that hold the entity."""
    running = find_running(folder.settings)
    processes = trees_of(running.processes) if running else []
    titles = [(each, title_of(each)) for each in processes]
    return [each for each, title in titles if title.startswith(HOST_TITLE) and address in title]


def waits(folder: Folder, http: httpx.Client, address: str) -> dict[str, Any]:
    """The call that waits, once the entity is asleep and no process is there for it."""

    def look() -> list[dict[str, Any]]:
        view = http.get(f"/v1/entities{address}").json()
        asleep = view["host"] is None and not hosts_of(folder, address)
        return view["approvals"] if asleep else []

    (waiting,) = eventually(look)
    return waiting


def answer_of(folder: Folder, address: str) -> str:
    def look() -> list[str]:
        said = folder.shell("observe", address, "--no-follow", "--json").stdout.splitlines()
        wakes = [row["value"] for row in map(json.loads, said) if row["type"] == "wake"]
        return [wake["reply"] for wake in wakes if wake["status"] == "handled"]

    (reply,) = eventually(look)
    return reply


def test_the_shell_approves_what_a_sleeper_waits_for(folder: Folder, http: httpx.Client) -> None:
    folder.shell("spawn", "/janitor/a", "tidy up")
    waiting = waits(folder, http, "/janitor/a")
    assert "waiting for approval" in folder.shell("ps", "--status", "waiting").stdout
    assert waiting["id"] in folder.shell("inspect", "/janitor/a").stdout
    said = folder.shell("approve", "/janitor/a", "--by", "ann").stdout
    assert "is approved" in said
    assert answer_of(folder, "/janitor/a") == "It says: deleted"
    assert (folder.path / "deleted").read_text() == "gone "
    assert "approved by ann" in folder.shell("view", "/janitor/a").stdout
    refused = folder.shell("deny", "/janitor/a", waiting["id"], check=False)
    assert (refused.returncode, "was approved by ann already" in refused.stderr) == (1, True)
    assert folder.shell("approve", "/janitor/a", check=False).returncode == 3


def test_http_denies_it_and_the_model_reads_why(folder: Folder, http: httpx.Client) -> None:
    http.put("/v1/entities/janitor/b", json={"message": {"payload": "tidy up"}})
    waiting = waits(folder, http, "/janitor/b")
    assert [each["id"] for each in http.get("/v1/entities/janitor/b/approvals").json()] == [
        waiting["id"]
    ]
    path = f"/v1/entities/janitor/b/approvals/{waiting['id']}"
    assert http.post(f"{path}-no", json={"decision": "deny"}).status_code == 404
    for _ in range(2):
        decided = http.post(path, json={"decision": "deny", "reason": "too late"})
        assert (decided.status_code, decided.json()["status"]) == (200, "denied")
    assert http.post(path, json={"decision": "approve"}).status_code == 409
    assert answer_of(folder, "/janitor/b").endswith("The reason given: too late")
