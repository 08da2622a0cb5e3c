"""The pool of dedicated hosts: a cap, a fair queue, no host without its entity."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.cluster.rig import HOST_TITLE, Rig, closed_covers, eventually, wakes

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]


def test_more_entities_than_hosts_are_served_in_order_within_the_cap(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig(pool_size=0, pool_max=2)
    lone = [f"/lone/{number}" for number in range(6)]
    most = 0
    with rig.driver() as driver:
        for entity in lone:
            driver.spawn(entity, message={"do": "pause", "seconds": 0.3})

        def all_handled() -> bool:
            nonlocal most
            hosts = len([h for h in driver.hosts() if h.startswith("solo")])
            most = max(most, hosts)
            return all(1 in closed_covers(rig.log(entity)).values() for entity in lone)

        eventually(all_handled, within=timedelta(seconds=60))
        began = [wakes(rig.log(entity))[0].timestamp for entity in lone]
        eventually(lambda: len(rig.titled(HOST_TITLE)) == 1)  # the front stays
    print(f"at most {most} hosts at a time")
    assert most <= 2
    assert sorted(began)[::2] == sorted(began[::2]), "a later entity overtook an earlier pair"
