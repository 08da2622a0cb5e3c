"""``start`` where something stands in its way: another port, a store that cannot be written."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from ray_agents.cluster.launch import clear_leftovers
from ray_agents.cluster.processes import ProcessMark
from ray_agents.cluster.running import RunningRay, write_running
from ray_agents.cluster.upkeep import start
from ray_agents.errors import InvalidSetting, RayAgentsError, StoreUnavailable
from ray_agents.settings import Settings


@pytest.fixture
def running(tmp_path: Path) -> Settings:
    """The settings of a runtime that seems to run, with its control API on port 5001."""
    settings = Settings(store=str(tmp_path))
    record = RunningRay(
        store=settings.store,
        namespace=settings.namespace,
        address="127.0.0.1:1",
        directory=str(tmp_path / "none"),
        token_file=str(tmp_path / "token"),
        processes=(ProcessMark.of(psutil.Process()),),
        machine=socket.gethostname(),
        url="http://127.0.0.1:5001",
    )
    write_running(settings, record)
    return settings


def test_another_port_than_that_of_a_running_runtime_is_refused(running: Settings) -> None:
    with pytest.raises(InvalidSetting, match=r"5001.*`ray-agents stop` first.*--port 5002"):
        start(running, http_port=5002)
    with pytest.raises(InvalidSetting, match="cannot change to port 5003"):
        start(replace(running, http_port=5003))
    with pytest.raises(InvalidSetting, match="cannot change to port 4437"):
        start(running, http_port=4437)


def test_the_same_port_or_none_is_not(running: Settings) -> None:
    nowhere = replace(running, app="there_is_no:such_app")
    for port in (None, 5001):
        with pytest.raises(RayAgentsError, match="there_is_no"):
            start(nowhere, http_port=port)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "start.lock").mkdir()
    with pytest.raises(StoreUnavailable, match=r"cannot write '.*start\.lock'.*--store"):
        clear_leftovers(Settings(store=str(tmp_path)))
