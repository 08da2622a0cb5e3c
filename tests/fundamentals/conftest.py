"""What the fundamentals share: a runtime in this process, with its store in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ray_agents.cluster.local import LocalRuntime


@pytest.fixture
async def runtime() -> AsyncIterator[LocalRuntime]:
    """The whole runtime, without Ray; it seals everything at the end."""
    async with LocalRuntime("memory:") as runtime:
        yield runtime
