"""A handler killed at every append between its first event and ``handled`` leaves no trace of it.

The handler inserts a row, sends to another entity, runs the agent with one tool, inserts again. Its
host dies, by SIGKILL, once before each frame is written and once after it is durable but not yet
acknowledged. ``POINTS`` bounds how many of these are tried (all by default).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.events import Event
from ray_agents.testing.messages_api import MessagesApi
from ray_agents.testing.script import Answer, Body, Step
from tests.cluster.rig import Driver, Rig, closed_covers, eventually, ids, rows, wakes
from tests.faults.kinds import PLAN
from tests.faults.serving import serving

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]
POINTS = int(os.environ.get("POINTS", "1000"))
OTHER = "/note/other"


def script(body: Body) -> Step:
    """Call the tool first; answer when its result is there."""
    if "tool_result" in str(body["messages"][-1]):
        return "It is 42."
    return Answer(text="Let me see.", calls=[("double", {"number": 21})])


def test_a_handler_killed_at_every_append_happens_once(
    make_rig: Callable[..., Rig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, points = tmp_path / "plan", list[str]()
    monkeypatch.setenv(PLAN, str(plan))
    with serving(MessagesApi(script)) as api:
        rig = make_rig(pool_size=0, anthropic_base_url=api.url, anthropic_api_key="stand-in")
        with rig.driver() as driver:
            driver.spawn(OTHER)
            for number in range(1, POINTS + 1):
                for point in (f"{number} before", f"{number} after"):
                    calls = len(api.calls)
                    if torn(rig, driver, plan, point=point):
                        points.append(point)
                    made = [str(call.body["messages"]) for call in api.calls[calls:]]
                    assert_once(rig, name_of(point), made)
                if not any(point.startswith(f"{number} ") for point in points):
                    break  # how many frames there are varies a little: appends gather in groups
        received = Counter(e.value["payload"]["from"] for e in inbox(rig.log(OTHER)))
    print(f"killed at {len(points)} points: {', '.join(points)}")
    assert len(points) >= min(8, 2 * POINTS)
    assert set(received.values()) == {1}
    assert {name_of(point) for point in points} <= set(received)


def name_of(point: str) -> str:
    return f"at-{point.replace(' ', '-')}"


def inbox(events: list[Event]) -> list[Event]:
    return [event for event in events if event.type == "inbox"]


def torn(rig: Rig, driver: Driver, plan: Path, *, point: str) -> bool:
    """Let a fresh entity's handler die at ``point`` and recover; False if it has no such point."""
    address = f"/worker/{name_of(point)}"
    driver.spawn(address)
    eventually(lambda: rig.sealed(address))
    plan.with_suffix(".count").unlink(missing_ok=True)
    plan.write_text(f"{entity_folder(Address.parse(address))} {point}")
    driver.send(address, "What is twice 21?", id=name_of(point))
    eventually(lambda: 1 in closed_covers(rig.log(address)).values(), within=timedelta(seconds=60))
    died = not plan.exists()
    plan.unlink(missing_ok=True)
    return died


def assert_once(rig: Rig, name: str, calls: list[str]) -> None:
    """One message, one closed wake, two rows, one run; no recorded model call made again."""
    events = rig.log(f"/worker/{name}")
    assert ids(events) == [name]
    assert closed_covers(events) == {name: 1}
    assert rows(events) == [f"{name}-before", f"{name}-after"]
    assert len({event.key for event in events if event.type == "run"}) == 1
    last = wakes(events)[-1]
    assert last.reply == "It is 42."
    starts = [e.offset for e in events if e.type == "wake" and e.value["status"] == "started"]
    recorded = sum(
        event.offset < starts[-1] and event.value.get("status") == "completed"
        for event in events
        if event.type == "step"
    )
    repeated = sum(Counter(calls).values()) - len(set(calls))
    assert len(set(calls)) == 2
    assert repeated <= 1
    for call in list(dict.fromkeys(calls))[:recorded]:
        assert calls.count(call) == 1, f"{name}: a recorded call was made again"
