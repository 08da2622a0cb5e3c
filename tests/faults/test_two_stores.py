"""Two stores on one cluster that somebody else runs: each has its own keeper and hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ray_agents.cluster.loopback import driver_environment
from ray_agents.cluster.running import find_running
from tests.cluster.rig import Rig, closed_covers, eventually

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


def test_two_stores_on_one_cluster_do_not_meet(
    make_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    ours = make_rig(pool_size=0)
    running = find_running(ours.settings)
    assert running is not None
    elsewhere = {"store": str(tmp_path / "theirs"), "ray_address": running.address}
    theirs = Rig(replace(ours.settings, **elsewhere))
    environment = driver_environment(Path(running.token_file))
    with ours.driver() as one, theirs.driver(environment) as other:
        for driver, message in ((one, "a"), (other, "b")):
            for address in ("/note/x", "/lone/x"):
                driver.spawn(address)
                driver.send(address, {}, id=message)
        for rig, message in ((ours, "a"), (theirs, "b")):
            for address in ("/note/x", "/lone/x"):
                eventually(lambda r=rig, e=address, m=message: closed_covers(r.log(e)) == {m: 1})
        assert not {*one.hosts()} & {*other.hosts()}
