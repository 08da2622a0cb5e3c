"""The in-memory twin obeys the suites."""

from __future__ import annotations

import pytest

from ray_agents.log.memory import MemoryBlobs
from ray_agents.ports import Blobs
from ray_agents.testing.blobs_suite import BlobsSuite
from ray_agents.testing.log_suite import LogSuite


class TestMemoryBlobs(BlobsSuite, LogSuite):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return MemoryBlobs()
