"""``stop`` seals everything within its deadline; what it interrupts goes on at the next start."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from time import monotonic

import psutil
import pytest

from ray_agents.events import WakeRecorded
from tests.cluster.rig import Rig, closed_covers, eventually, rows, wakes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]
ENTITIES = ["/note/a", "/note/b", "/lone/c", "/gpu/d"]


def test_stop_seals_and_the_interrupted_go_on_at_the_next_start(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig, gate = make_rig(), tmp_path / "gate"
    with rig.driver() as driver:
        for entity in ENTITIES:
            driver.spawn(entity)
            driver.send(entity, {"do": "await", "gate": str(gate)}, id="a")
        eventually(lambda: len([*tmp_path.glob("gate.*")]) >= 2)
        eventually(lambda: driver.inspect("/lone/c")["status"] == "running")
    begun = monotonic()
    stopped = rig.seal_and_stop()
    took = timedelta(seconds=monotonic() - begun)
    print(f"stopped in {took.total_seconds():.1f} s: {stopped}")
    assert took < rig.settings.stop_deadline
    assert [entity for entity in ENTITIES if not rig.sealed(entity)] == []
    gate.touch()
    rig.start()
    with rig.driver():
        for entity in ENTITIES[:3]:
            eventually(lambda e=entity: closed_covers(rig.log(e)) == {"a": 1})
            assert rows(rig.log(entity)) == ["a"]
            last = wakes(rig.log(entity))[-1]
            assert (last.attempt, last.deaths) == (1, 0)  # the interrupted attempt does not count


def test_a_host_that_cannot_stop_is_ended_and_a_new_keeper_has_its_work_done(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(pool_size=0, blocked_loop_max=timedelta(minutes=5))
    with rig.driver() as driver:
        driver.spawn("/note/x")
        order = {"do": "block once", "after": 0.5, "seconds": 200}
        driver.send("/note/x", order | {"gate": str(tmp_path / "gate")}, id="a")
        [mark] = eventually(lambda: [*tmp_path.glob("gate.*")])
        driver.stop_hosts(2)
        eventually(lambda: not psutil.pid_exists(int(mark.suffix[1:])))
        driver.kill_keeper()
        driver.spawn("/note/y")  # whoever comes first makes the front, and that a new keeper
        driver.spawn("/lone/z")
        driver.ask("/lone/z", {})
        eventually(lambda: closed_covers(rig.log("/note/x")) == {"a": 1})
        assert wakes(rig.log("/note/x"))[-1].deaths == 1


def test_a_front_outlives_the_end_of_the_keeper_it_knew(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(pool_size=0)
    with rig.driver() as driver:
        driver.spawn("/lone/a")
        driver.ask("/lone/a", {})
        driver.kill_keeper()
        driver.spawn("/lone/b")
        driver.ask("/lone/b", {})


@pytest.mark.parametrize(
    ("kind", "deed"), [("note", "await"), ("lone", "await"), ("lone", "await, a thread at work")]
)
def test_a_host_told_to_end_seals_hands_over_and_goes(
    make_rig: Callable[..., Rig], tmp_path: Path, kind: str, deed: str
) -> None:
    rig, gate, address = make_rig(), tmp_path / "gate", f"/{kind}/x"
    with rig.driver() as driver:
        driver.spawn(address)
        driver.send(address, {"do": deed, "gate": str(gate)}, id="a")
        [mark] = eventually(lambda: [*tmp_path.glob("gate.*")])
        host, begun = psutil.Process(int(mark.suffix[1:])), monotonic()
        host.send_signal(signal.SIGTERM)
        eventually(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)
        took = timedelta(seconds=monotonic() - begun)
        eventually(lambda: len([*tmp_path.glob("gate.*")]) == 2)
        gate.touch()
        eventually(lambda: closed_covers(rig.log(address)) == {"a": 1})
    print(f"{kind}, {deed}: gone {took.total_seconds():.2f} s after the SIGTERM")
    assert took < rig.settings.stop_deadline / 4
    events = rig.log(address)
    cut = next(e for e in events if e.type == "wake" and WakeRecorded.of(e).error)
    assert not any(e.offset == cut.offset + 1 for e in events)  # there stands the closing row
    last = wakes(events)[-1]
    assert (last.attempt, last.deaths) == (1, 0)  # the interrupted attempt does not count


def test_a_host_whose_loop_is_blocked_goes_within_the_deadline_all_the_same(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(stop_deadline=timedelta(seconds=4), blocked_loop_max=timedelta(minutes=5))
    with rig.driver() as driver:
        driver.spawn("/note/x")
        order = {"do": "block once", "after": 0.5, "seconds": 200, "gate": str(tmp_path / "g")}
        driver.send("/note/x", order, id="a")
        [mark] = eventually(lambda: [*tmp_path.glob("g.*")])
        host, begun = psutil.Process(int(mark.suffix[1:])), monotonic()
        host.send_signal(signal.SIGTERM)
        eventually(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)
        assert monotonic() - begun < 3
        eventually(lambda: closed_covers(rig.log("/note/x")) == {"a": 1})


def test_a_host_goes_though_the_centre_of_ray_is_away(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(stop_deadline=timedelta(minutes=2), blocked_loop_max=timedelta(minutes=2))
    with rig.driver() as driver:
        driver.spawn("/note/x")
        driver.send("/note/x", {"do": "await", "gate": str(tmp_path / "gate")}, id="a")
        [mark] = eventually(lambda: [*tmp_path.glob("gate.*")])
        host = psutil.Process(int(mark.suffix[1:]))
        [centre] = [each for each in rig.processes() if each.name() == "gcs_server"]
        centre.suspend()
        try:
            host.send_signal(signal.SIGTERM)
            eventually(lambda: not host.is_running() or host.status() == psutil.STATUS_ZOMBIE)
        finally:
            centre.resume()
    assert rig.sealed("/note/x")
