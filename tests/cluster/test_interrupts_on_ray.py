"""Interrupts on Ray: a host answers them while its handler runs, and a crash resumes nothing."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import psutil
import pytest

from ray_agents.views import Status
from tests.cluster.rig import Rig, eventually, kill, rows, wakes

if TYPE_CHECKING:
    from ray_agents.client import Client

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]
SOON = timedelta(seconds=30)


def waiting_pid(gate: Path) -> int:
    """The process in which a handler waits at the gate."""

    def look() -> int:
        found = [int(path.suffix[1:]) for path in gate.parent.glob(f"{gate.stem}.*")]
        return next((pid for pid in found if psutil.pid_exists(pid)), 0)

    return eventually(look)


@pytest.mark.parametrize("kind", ["note", "lone"])
def test_a_handler_that_waits_is_stopped(client: Client, tmp_path: Path, kind: str) -> None:
    address = f"/{kind}/{tmp_path.name}"
    client.spawn(address)
    client.send(address, {"do": "await", "gate": str(tmp_path / "gate")})
    waiting_pid(tmp_path / "gate")
    begun = monotonic()
    answer = client.interrupt(address, reason="enough")
    print(f"{kind}: acknowledged after {1000 * (monotonic() - begun):.0f} ms")
    assert answer.interrupted
    assert client.ask(address, None, within=SOON).value["attempt"] == 1
    assert monotonic() - begun < 10


def test_a_host_that_dies_right_after_the_answer_resumes_nothing(
    rig: Rig, client: Client, tmp_path: Path
) -> None:
    address = f"/note/{tmp_path.name}"
    client.spawn(address)
    client.send(address, {"do": "await", "gate": str(tmp_path / "gate")})
    pid = waiting_pid(tmp_path / "gate")
    answer = client.interrupt(address)
    kill(pid)
    client.send(address, None, id="next")
    eventually(lambda: rows(rig.log(address)) == ["next"])
    first = [wake for wake in wakes(rig.log(address)) if wake.key == answer.wake]
    assert (first[-1].closed, first[-1].interrupted, first[-1].attempt) == (True, True, 1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_sleeper_sleeps_on(client: Client, tmp_path: Path) -> None:
    address = f"/note/{tmp_path.name}"
    client.spawn(address)
    eventually(lambda: client.inspect(address).status is Status.SLEEPING)
    epoch = client.inspect(address).epoch
    assert not client.interrupt(address).interrupted
    assert client.inspect(address).epoch == epoch
