"""``ray-agents start``, and then one entity through HTTP, through the shell, and from Python."""

from __future__ import annotations

import json
import os
import shlex
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ray_agents.cluster.running import recorded
from tests.doors.conftest import BOTS, Folder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture
def http(started: Folder) -> Iterator[httpx.Client]:
    """What ``curl`` with the token from the file would do."""
    running = recorded(started.settings)
    assert running is not None
    token = Path(running.token_file).read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=running.url or "", headers=headers, timeout=30) as client:
        yield client


def curls() -> list[tuple[str, str, dict[str, str], str | None]]:
    """Method, path, headers and body of the README's lines for ``curl``."""
    readme = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
    lines = [line for line in readme.splitlines() if line.startswith("curl ")]
    found: list[tuple[str, str, dict[str, str], str | None]] = []
    for line in lines:
        line = line.replace('"$JSON"', "'Content-Type: application/json'")  # noqa: PLW2901
        words = shlex.split(line.replace("$BOB", "/v1/entities/bot/bob"))
        headers = dict(
            words[at + 1].split(": ")
            for at, word in enumerate(words)
            if word == "-H" and words[at + 1] != "$AUTH"
        )
        body = words[words.index("-d") + 1] if "-d" in words else None
        method = words[words.index("-X") + 1] if "-X" in words else "GET"
        path = next(word for word in words if word.startswith("/"))
        found.append((method, path, headers, body))
    return found


def test_the_curl_lines_of_the_readme_work(http: httpx.Client) -> None:
    *changes, (method, path, headers, _) = curls()
    answers = [http.request(m, p, headers=h, content=body) for m, p, h, body in changes]
    assert [answer.status_code for answer in answers] == [201, 202, 202]
    with http.stream(method, path, headers=headers) as events:
        assert any("What is 2 ** 10?" in line for line in events.iter_lines())


def test_http_spawns_and_the_shell_sends_and_observes(started: Folder, http: httpx.Client) -> None:
    assert http.put("/v1/entities/bot/one", json={}).status_code == 201
    assert started.shell("ask", "/bot/one", "hello").stdout.strip() != ""
    told = started.shell("observe", "/bot/one", "--no-follow", "--json").stdout.splitlines()
    assert [json.loads(line)["type"] for line in told].count("inbox") == 1


def test_the_shell_spawns_and_http_sends_and_observes(started: Folder, http: httpx.Client) -> None:
    started.shell("spawn", "/bot/two")
    sent = http.post("/v1/entities/bot/two/messages", json={"payload": "from afar"})
    assert sent.status_code == 202
    with http.stream("GET", "/v1/entities/bot/two/events", headers=EVENTS) as stream:
        for line in stream.iter_lines():
            if '"handled"' in line:
                break
    assert "from afar" in started.shell("view", "/bot/two").stdout


def test_a_budget_and_costs_are_the_same_at_both_doors(started: Folder, http: httpx.Client) -> None:
    started.shell("spawn", "/bot/rich", "--cost-max", "0.50")
    view = http.get("/v1/entities/bot/rich").json()
    assert [bound["cost_micros_max"] for bound in view["budgets"]] == [500_000]
    told = http.get("/v1/cost", params={"by": "tree"})
    assert (told.status_code, told.json()) == (
        200,
        json.loads(started.shell("cost", "--by", "tree", "--json").stdout),
    )
    assert http.get("/v1/cost", params={"by": "colour"}).status_code == 422


def test_a_delayed_message_comes_later(started: Folder, http: httpx.Client) -> None:
    started.shell("spawn", "/bot/late")
    said = started.shell("send", "/bot/late", "by shell", "--after", "2s").stdout
    assert ", due in " in said
    body = {"payload": "by http", "after_seconds": 1.5}
    assert http.post("/v1/entities/bot/late/messages", json=body).json()["fire_at"]
    came: list[str] = []
    with http.stream("GET", "/v1/entities/bot/late/events", headers=EVENTS) as stream:
        for line in stream.iter_lines():
            came += [line for word in ("by shell", "by http") if word in line and '"inbox"' in line]
            if len(came) == 2:
                break
    assert "◷" in started.shell("view", "/bot/late").stdout


def test_an_entity_is_forked_looked_at_and_carried_by_shell_and_http(
    started: Folder, http: httpx.Client
) -> None:
    started.shell("spawn", "/bot/old")
    started.shell("ask", "/bot/old", "hello")
    tip = http.get("/v1/entities/bot/old").json()["events"]
    assert started.shell("fork", "/bot/old", "/bot/new").stdout.startswith("/bot/new is a fork")
    assert started.shell("ask", "/bot/new", "again").returncode == 0
    made = http.post("/v1/entities/bot/new/fork", json={"to": "/bot/newer", "at": tip})
    assert made.json()["forked_from"] == {"cause": "fork", "address": "/bot/new", "offset": tip}
    assert f"offset {tip} of" in started.shell("inspect", "/bot/new", "--at", str(tip)).stdout
    said = started.shell("export", "/bot/new", "new.arrow", "--children").stdout
    assert said.startswith("new.arrow: /bot/new, ")
    file = (started.path / "new.arrow").read_bytes()
    assert len(http.get("/v1/entities/bot/new/export").content) == len(file)
    assert "exists already" in started.shell("import", "new.arrow", check=False).stderr
    assert started.shell("import", "new.arrow", "--to", "/bot/copy").stdout == "/bot/copy\n"
    assert started.shell("ask", "/bot/copy", "there?").returncode == 0
    imported = http.post("/v1/imports", content=file, params={"to": "/bot/copy2"})
    assert imported.json()[0]["address"] == "/bot/copy2"


EVENTS = {"accept": "text/event-stream"}


def test_without_the_token_nothing_is_said(started: Folder, http: httpx.Client) -> None:
    assert httpx.get(f"{http.base_url}/v1/entities").status_code == 401
    refused = started.shell("--token", "wrong", "ps", check=False)
    assert refused.returncode == 4


def test_python_finds_what_the_shell_has_started(started: Folder) -> None:
    script = "from ray_agents import connect\nwith connect() as c: print(c.types()[0].type)"
    assert started.python("-c", script).stdout == "bot\n"


def test_a_changed_file_applies_with_the_next_start(started: Folder) -> None:
    started.shell("spawn", "/bot/three")
    started.shell("ask", "/bot/three", "x")
    (started.path / "bots.py").write_text(BOTS.format(answer="'changed'"))
    said = started.shell("start", "--app", "bots:registry")
    assert "bot (version 2)" in said.stdout
    assert "it was running already" in said.stderr
    assert started.shell("ask", "/bot/three", "x").stdout.strip() == "changed"
    wakes = [each for each in events(started, "/bot/three") if each["type"] == "wake"]
    handled = [each["value"] for each in wakes if each["value"]["status"] == "handled"]
    assert [each["definition_version"] for each in handled] == [1, 2]


def events(folder: Folder, address: str) -> list[dict[str, Any]]:
    said = folder.shell("observe", address, "--no-follow", "--json").stdout
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("spawn", "/nobody/x"), 3, "no definition of type 'nobody' is registered"),
        (("spawn", "bot"), 2, "'bot'"),
        (("send", "/bot/never", "x"), 3, "there is no entity at '/bot/never'"),
        (("retry", "/bot/calm"), 1, "no wake is parked at '/bot/calm'"),
        (("start", "--app", "no_bots:registry"), 2, "there is no module 'no_bots'"),
    ],
)
def test_what_is_wrong_is_named(
    words: tuple[str, ...], code: int, said: str, started: Folder
) -> None:
    started.shell("spawn", "/bot/calm", check=False)
    done = started.shell(*words, check=False)
    assert said in done.stderr, done
    assert done.returncode == code


def test_a_port_that_is_taken_is_named_with_its_holder(folder: Folder) -> None:
    with socket.create_server(("127.0.0.1", folder.port)):
        done = folder.shell("start", check=False)
    assert f"port {folder.port} on '127.0.0.1' is taken by" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert done.returncode == 5


def test_a_store_that_cannot_be_made_is_named(folder: Folder) -> None:
    (folder.path / "file").touch()
    done = folder.shell("--store", str(folder.path / "file" / "store"), "start", check=False)
    assert "cannot make the store" in done.stderr
    assert done.returncode == 5


def test_where_nothing_runs_stop_and_status_say_so(folder: Folder) -> None:
    for verb in ("stop", "status"):
        done = folder.shell(verb, check=False)
        assert "no runtime of the store" in done.stderr
        assert done.returncode == 5
