"""Runtimes to be ruined, each trial has its own; and a log on both media."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ray_agents.cluster.sockets import free_ports
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.ports import Blobs
from ray_agents.settings import Settings
from ray_agents.testing.log_suite import Log

if TYPE_CHECKING:
    from tests.cluster.rig import Rig


@pytest.fixture
def make_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Rig]]:
    """A function that starts a runtime of its own store; keywords are settings."""
    from tests.cluster.rig import Rig

    made: list[Rig] = []
    plain = Settings(
        http_port=free_ports(1)[0],
        num_cpus=2,
        pool_size=1,
        packed_linger=timedelta(seconds=5),
    )

    def make(**changes: Any) -> Rig:
        store = {"store": str(tmp_path_factory.mktemp("ruin") / "store")}
        made.append(Rig(replace(plain, **(store | changes))))
        made[-1].start()
        return made[-1]

    yield make
    for rig in made:
        rig.stop()


@pytest.fixture(params=["memory", "directory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    return MemoryBlobs() if request.param == "memory" else DirectoryBlobs(tmp_path)


@pytest.fixture
def log(blobs: Blobs) -> Iterator[Log]:
    with closing(Log(blobs)) as log:
        yield log
