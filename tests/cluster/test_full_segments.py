"""A segment that one wake fills is left for a new one, in the middle of that wake."""

from __future__ import annotations

from typing import Any

import pytest

from ray_agents.cluster.local import LocalRuntime
from ray_agents.definition import Limits, Registry
from ray_agents.log import owner
from ray_agents.ports import Blobs
from tests.cluster import gates
from tests.cluster.conftest import ask, log_of, spawned

registry = Registry()


@registry.entity("endless", limits=Limits(attempts_max=1))
async def endless(ctx: Any, wake: Any) -> int:
    """Write, and go on until all is written."""
    gates.times["attempts"] += 1
    for number in range(60):
        ctx.insert_context(f"{number}", name=f"{number}", content="x" * 500)
        await ctx.commit()
    return wake.attempt


async def test_one_wake_does_not_fill_a_segment_beyond_what_can_be_read(
    store: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "SEGMENT_BYTES_MAX", 10_000)
    monkeypatch.setattr(owner, "WAKE_BYTES_MAX", 20_000)
    async with LocalRuntime(store) as runtime:
        await runtime.register(registry)
        e = await spawned(runtime, "/endless/e")
        assert (await ask(runtime, e, "go")).value == 1
        rows = [row.key for row in await log_of(runtime, e) if row.type == "context_inserted"]
        assert (await runtime.inspect(e)).epoch > 2
    assert rows == [f"{number}" for number in range(60)]
    assert gates.times["attempts"] > 2
