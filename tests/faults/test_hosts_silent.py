"""A host that is stopped, or whose loop is blocked: another takes over, and it cannot write."""

from __future__ import annotations

import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.cluster.rig import (
    KEEPER_TITLE,
    Rig,
    closed_covers,
    eventually,
    ids,
    pause,
    rows,
    wakes,
)

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]
SILENCE = timedelta(seconds=1.5)


def test_a_stopped_host_that_goes_on_after_a_take_over_cannot_append(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig, gate, entity = make_rig(host_silence_max=SILENCE, pool_size=0), tmp_path / "g", "/note/x"
    with rig.driver() as driver:
        driver.spawn(entity)
        driver.send(entity, {"do": "hang once", "gate": str(gate)}, id="a")
        pid = int(eventually(lambda: [*tmp_path.glob("g.[0-9]*")])[0].suffix[1:])
        [keeper] = rig.titled(KEEPER_TITLE)
        keeper.suspend()  # it would end the silent host for good
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        driver.send(entity, {}, id="b")
        eventually(lambda: closed_covers(rig.log(entity)).get("b"))
        before = rig.log(entity)
        psutil.Process(pid).send_signal(signal.SIGCONT)
        eventually((tmp_path / "g.cancelled").exists)
        driver.send(entity, {}, id="c")
        eventually(lambda: closed_covers(rig.log(entity)).get("c"))
        keeper.resume()
    after = rig.log(entity)
    assert after[: len(before)] == before
    assert ids(after) == rows(after) == ["a", "b", "c"]
    assert closed_covers(after) == {"a": 1, "b": 1, "c": 1}
    assert [wake.attempt for wake in wakes(after) if wake.closed] == [2, 1, 1]


def test_the_work_of_a_stopped_host_is_resumed_though_nobody_sends(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig, gate, entity = make_rig(host_silence_max=SILENCE, pool_size=0), tmp_path / "g", "/note/x"
    with rig.driver() as driver:
        driver.spawn(entity)
        driver.send(entity, {"do": "hang once", "gate": str(gate)}, id="a")
        pid = int(eventually(lambda: [*tmp_path.glob("g.[0-9]*")])[0].suffix[1:])
        psutil.Process(pid).send_signal(signal.SIGSTOP)
        eventually(lambda: closed_covers(rig.log(entity)).get("a"))
        eventually(lambda: not psutil.pid_exists(pid))
    assert rows(rig.log(entity)) == ["a"]


def test_a_handler_that_blocks_the_loop_is_named_and_the_others_go_on(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = make_rig(blocked_loop_max=timedelta(seconds=1.5), packed_hosts=1, pool_size=0)
    with rig.driver() as driver:
        for name in ("culprit", "other"):
            driver.spawn(f"/note/{name}")
        driver.send("/note/culprit", {"do": "block", "seconds": 60}, id="bad")
        pause(0.1)
        driver.send("/note/other", {}, id="good")
        eventually(lambda: driver.inspect("/note/culprit")["parked"])
        eventually(lambda: closed_covers(rig.log("/note/other")) == {"good": 1})
        [parked] = driver.inspect("/note/culprit")["parked"]
        assert parked["attempts"] == 3
    said = rig.said()
    assert said.count("wake:/note/culprit blocks host") == 3
    assert "wake:/note/other blocks" not in said
