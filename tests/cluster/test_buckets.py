"""Entities whose logs are in a bucket: they wake, work, sleep, crash and go on as anywhere else."""

from __future__ import annotations

from typing import Any

import pytest
from obstore.store import MemoryStore
from pydantic import BaseModel

from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Registry
from ray_agents.log.bucket import Bucket
from ray_agents.log.objects import ObjectBlobs
from ray_agents.log.store import open_blobs
from ray_agents.ports import Blobs
from tests.buckets import BucketServer
from tests.cluster.conftest import ask, inbox_of, log_of, spawned

registry = Registry()


class Word(BaseModel):
    """One word that was said."""

    key: str


@registry.entity("listener", state={"words": Word})
async def listener(ctx: Any, wake: Any) -> list[str]:
    """Keep what is said; all of it."""
    for event in ctx.events:
        ctx.state.words.insert({"key": event.value["payload"]})
    return [word.key for word in ctx.state.words.list()]


@pytest.fixture(
    params=[
        "memory",
        pytest.param("server", marks=[pytest.mark.slow, pytest.mark.timeout(120)]),
    ]
)
def bucket(request: pytest.FixtureRequest) -> Blobs:
    if request.param == "memory":
        return ObjectBlobs(Bucket(MemoryStore(), url="memory://test"))
    server: BucketServer = request.getfixturevalue("bucket_server")
    return open_blobs(server.new_store())


async def test_an_entity_survives_the_crash_of_its_process(bucket: Blobs) -> None:
    first = LocalRuntime(bucket)
    async with first:
        await first.register(registry)
        ada = await spawned(first, "/listener/ada")
        assert (await ask(first, ada, "one", id="1")).value == ["one"]
        assert (await ask(first, ada, "two", id="2")).value == ["one", "two"]
        await first.crash()
    async with LocalRuntime(bucket) as second:
        await second.register(registry)
        assert (await ask(second, ada, "two", id="2")).value == ["one", "two"]
        assert (await ask(second, ada, "three", id="3")).value == ["one", "two", "three"]
        assert await inbox_of(second, ada) == ["one", "two", "three"]
        offsets = [event.offset for event in await log_of(second, ada)]
        assert sorted(set(offsets)) == offsets
