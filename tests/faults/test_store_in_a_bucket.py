"""A runtime whose store is a bucket, and which loses a host, and then everything.

The server of the bucket is moto's and lives in the test's process: see :mod:`tests.buckets`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from tests.buckets import BucketServer
from tests.cluster.rig import Rig, closed_covers, eventually, ids, kill, rows, wakes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
SOON = timedelta(seconds=60)


def waiting_pid(gate: Path) -> int:
    """The process in which a handler waits at the gate; 0 if there is none yet."""
    found = [int(path.suffix[1:]) for path in gate.parent.glob(f"{gate.stem}.*")]
    return next((pid for pid in found if psutil.pid_exists(pid)), 0)


def test_work_goes_on_after_the_loss_of_a_host_and_of_everything(
    bucket_server: BucketServer,
    monkeypatch: pytest.MonkeyPatch,
    make_rig: Callable[..., Rig],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where a machine keeps what it runs
    rig = make_rig(store=bucket_server.new_store())
    entities = ["/note/a", "/lone/b"]
    with rig.driver() as driver:
        for entity in entities:
            driver.spawn(entity)
            assert driver.ask(entity, {}, id="asked")["value"]["attempt"] == 1
            assert "asked" in driver.observe(entity, live=False)
            gate = tmp_path / entity[-1]
            driver.send(entity, {"do": "await", "gate": str(gate)}, id="waits")
            kill(eventually(lambda gate=gate: waiting_pid(gate)))
            gate.touch()
            eventually(lambda entity=entity: handled(rig, entity, "waits"), within=SOON)
        for entity in entities:
            driver.send(entity, {"do": "pause", "seconds": 2}, id="pauses")
    rig.kill_everything()
    rig.start()
    with rig.driver() as driver:
        for entity in entities:
            driver.send(entity, {}, id="last")
            eventually(lambda entity=entity: handled(rig, entity, "last"), within=SOON)
    for entity in entities:
        events = rig.log(entity)
        assert ids(events) == rows(events) == ["asked", "waits", "pauses", "last"]
        assert set(closed_covers(events).values()) == {1}
        assert max(wake.attempt for wake in wakes(events)) > 1


def handled(rig: Rig, entity: str, message: str) -> bool:
    """Whether one closed wake covers the message."""
    return closed_covers(rig.log(entity)).get(message) == 1
