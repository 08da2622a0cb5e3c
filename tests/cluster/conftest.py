"""One runtime on Ray for all the tests here that leave it whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from ray_agents.cluster.sockets import free_ports
from ray_agents.settings import Settings

if TYPE_CHECKING:
    from ray_agents.client import Client
    from tests.cluster.rig import Rig


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A runtime with a pool of one; it may lose hosts, never its daemons."""
    from tests.cluster.rig import Rig

    settings = Settings(
        store=str(tmp_path_factory.mktemp("rig") / "store"),
        http_port=free_ports(1)[0],
        num_cpus=2,
        pool_size=1,
    )
    rig = Rig(settings)
    rig.start()
    yield rig
    rig.stop()


@pytest.fixture(scope="session")
def client(rig: Rig) -> Iterator[Client]:
    """A client of it."""
    with rig.joined() as client:
        yield client
