"""``connect()`` on Ray: embedded, shared, in a notebook's loop, and in somebody else's cluster."""

from __future__ import annotations

import psutil
import pytest

from ray_agents.cluster.running import recorded
from tests.doors.conftest import Folder

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

CELLS = """
import asyncio, os
from dataclasses import replace
from ray_agents import Packed, RayAgentsError, Registry, Settings, connect, connect_async

registry = Registry()

@registry.entity("echo", placement=Packed())
async def echo(ctx, wake):
    return wake.payload
"""

SHARED = (
    CELLS
    + """
async def cell():
    first = connect()
    first.register(registry)
    first.spawn("/echo/a")
    async with connect_async() as second:
        print((await second.ask("/echo/a", "two")).value)
    print(first.ask("/echo/a", "one").value)
    try:
        connect(settings=Settings(store="elsewhere"))
    except RayAgentsError as error:
        print(error)
    first.close()
    first = connect()
    print(first.ask("/echo/a", "again").value)

asyncio.run(cell())
print("the interpreter ends with a client that is open")
"""
)

IN_ANOTHERS = (
    CELLS
    + """
import ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
with connect() as client:
    client.register(registry)
    client.spawn("/echo/a")
    print(client.ask("/echo/a", "hello").value)
print("still there:", ray.is_initialized())
ray.shutdown()
"""
)


def test_clients_of_a_process_share_its_ray_and_nothing_is_left(folder: Folder) -> None:
    said = folder.python("-c", SHARED).stdout.splitlines()
    assert said[:2] == ["two", "one"]
    assert "a process can be in one only" in said[2]
    assert said[3:] == ["again", "the interpreter ends with a client that is open"]
    assert recorded(folder.settings) is None
    named = [word for each in psutil.process_iter() for word in cmdline(each)]
    assert not [word for word in named if str(folder.path) in word]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_a_process_that_has_called_ray_init_uses_its_own_cluster(folder: Folder) -> None:
    done = folder.python("-c", IN_ANOTHERS)
    assert done.stdout.splitlines() == ["hello", "still there: True"], done.stderr
