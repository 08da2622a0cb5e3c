"""Blobs in a bucket obey the suites on a server that speaks S3, and a store in one is opened.

The server is moto's: see :mod:`tests.buckets` for what that proves and what not.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing

import pytest

import ray_agents
from ray_agents.cluster.storekeeping import verify
from ray_agents.errors import StoreUnavailable
from ray_agents.log.bucket import Bucket, Patience
from ray_agents.log.store import FORMAT_FILE, look_into, open_blobs, store_identity
from ray_agents.ports import Blobs
from ray_agents.settings import Settings
from ray_agents.testing.blobs_suite import BlobsSuite
from ray_agents.testing.log_suite import LogSuite
from ray_agents.testing.scan_suite import ADA, log_of
from tests.buckets import BucketServer, Fate

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
RACES = 5


class TestOnAServer(BlobsSuite, LogSuite):
    @pytest.fixture
    def blobs(self, bucket_server: BucketServer) -> Blobs:
        return bucket_server.blobs(patience=Patience())


def race(bucket: Bucket, key: str, *, racers: int) -> list[int]:
    """The numbers of those whose put said that it was made, of so many at once."""
    go, won = threading.Barrier(racers), list[int]()

    def put(number: int) -> None:
        go.wait()
        if bucket.put_new(key, b"%d" % number):
            won.append(number)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_of_a_hundred_racing_puts_one_wins(bucket_server: BucketServer) -> None:
    """On moto's server with our lock around its puts; no real S3 or GCS was ever asked."""
    bucket = bucket_server.bucket(bucket_server.new_store(), patience=Patience())
    for number in range(RACES):
        won = race(bucket, f"k{number}", racers=100)
        assert len(won) == 1
        assert bucket.get(f"k{number}") == b"%d" % won[0]


def test_a_store_is_opened_looked_into_and_opened_again(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    with pytest.raises(StoreUnavailable, match="there is no store"):
        look_into(url)
    first = open_blobs(url)
    identity = store_identity(first)
    assert first.create("f", b"x")
    assert open_blobs(url).read("f") == look_into(url).read("f") == b"x"
    assert store_identity(open_blobs(f"{url}/")) == identity
    assert store_identity(open_blobs(f"{url}/below")) != identity
    assert open_blobs(url).names("") == [FORMAT_FILE, "IDENTITY", "below", "f"]


def test_looking_into_a_store_writes_nothing(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    open_blobs(url)
    bucket_server.requests.clear()
    look_into(url).names("")
    ray_agents.scan(url)
    assert set(bucket_server.requests) <= {"GET", "HEAD"}


async def test_logs_in_a_bucket_are_verified_and_not_repaired(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    with closing(log_of(open_blobs(url), ADA)) as log:
        await log.wake("a")
    settings = Settings(store=url)
    for address in (None, ADA):
        found = verify(settings, address=address, repair=False, progress=lambda _, __: None)
        assert (found.sound, found.logs) == (True, 1)
    with pytest.raises(StoreUnavailable, match="--repair"):
        verify(settings, address=None, repair=True, progress=lambda _, __: None)


def test_a_server_that_ignores_conditions_is_refused(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    bucket_server.script = lambda _method, _path: Fate.UNCONDITIONAL
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="conditional puts"):
            open_blobs(url)


def test_a_store_of_an_unknown_format_is_refused(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    bucket_server.blobs(url).create(FORMAT_FILE, b"ray-agents store 99\n")
    for opened in (open_blobs, ray_agents.scan):
        with pytest.raises(StoreUnavailable, match="99"):
            opened(url)


@pytest.mark.parametrize("url", ["s3://no-such-bucket", "s3://no-such-bucket/prefix"])
def test_a_bucket_that_is_not_there_is_named(bucket_server: BucketServer, url: str) -> None:
    with pytest.raises(StoreUnavailable, match=r"no-such-bucket.*NoSuchBucket"):
        open_blobs(url)


def test_a_bucket_that_may_not_be_written_is_refused(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    open_blobs(url)
    bucket_server.script = lambda method, _path: Fate.FORBIDDEN if method == "PUT" else Fate.SERVED
    with pytest.raises(StoreUnavailable, match="credentials"):
        open_blobs(url)
    assert look_into(url).exists(FORMAT_FILE)


def test_a_server_that_does_not_answer_is_an_error_within_a_bound(
    monkeypatch: pytest.MonkeyPatch, bucket_server: BucketServer
) -> None:
    url = bucket_server.new_store()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="server's address"):
        open_blobs(url)
    assert time.monotonic() - begun < 20


async def test_the_whole_fleet_is_scanned_by_its_url(bucket_server: BucketServer) -> None:
    url = bucket_server.new_store()
    with closing(log_of(open_blobs(url), ADA)) as log:
        await log.wake("a", "b")
    table = await asyncio.to_thread(ray_agents.scan, url, types=["inbox"])
    assert table["key"].to_pylist() == ["a", "b"]
