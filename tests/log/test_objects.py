"""Blobs in a bucket obey the suites: in obstore's own memory here, on a server in test_buckets."""

from __future__ import annotations

import pytest
from obstore.store import MemoryStore

from ray_agents.log.bucket import Bucket
from ray_agents.log.objects import ObjectBlobs
from ray_agents.ports import Blobs
from ray_agents.testing.log_suite import BlobsSuite, LogSuite


class TestInMemory(BlobsSuite, LogSuite):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return ObjectBlobs(Bucket(MemoryStore(), url="memory://test"))
