"""Blobs in a bucket obey the suites, and a segment in it is a series of objects without a gap.

In obstore's own memory here; on a server in ``test_objects_on_a_server.py``.
"""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import Any

import pytest
from obstore.store import MemoryStore

from ray_agents.errors import CorruptLog, StoreUnavailable
from ray_agents.log.bucket import Bucket, Stored
from ray_agents.log.examination import examine_log
from ray_agents.log.objects import ObjectBlobs, part_name
from ray_agents.ports import Blobs
from ray_agents.testing.blobs_suite import BlobsSuite
from ray_agents.testing.log_suite import Log, LogSuite, keys_of, message


class CountedBucket(Bucket):
    """A bucket in memory that notes what it is asked for; ``die_after`` so many deletions."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), url="memory://test")
        self.asked: list[tuple[str, str]] = []
        self.die_after = 1 << 30

    def put_new(self, key: str, data: bytes) -> bool:
        self.asked.append(("put", key))
        return super().put_new(key, data)

    def get(self, key: str, start: int = 0) -> bytes | None:
        self.asked.append(("get", key))
        return super().get(key, start)

    def size(self, key: str) -> int | None:
        self.asked.append(("size", key))
        return super().size(key)

    def listed(self, folder: str, *, after: str | None = None) -> list[Stored]:
        self.asked.append(("list", folder))
        return super().listed(folder, after=after)

    def delete(self, *keys: str) -> None:
        for key in keys:
            if self.die_after == 0:
                raise StoreUnavailable("whoever deletes has died", path=key)
            self.die_after -= 1
            self.asked.append(("delete", key))
            super().delete(key)

    def damage(self, key: str, data: bytes) -> None:
        """Overwrite an object, as nobody of ours ever does."""
        self._store.put(key, data)

    def all_keys(self) -> list[str]:
        """All of them."""
        return [each.key for each in super().listed("")]


@pytest.fixture
def bucket() -> CountedBucket:
    return CountedBucket()


@pytest.fixture
def blobs(bucket: CountedBucket) -> ObjectBlobs:
    return ObjectBlobs(bucket)


class TestInMemory(BlobsSuite, LogSuite):
    @pytest.fixture
    def blobs(self) -> Blobs:
        return ObjectBlobs(Bucket(MemoryStore(), url="memory://test"))


def grown(blobs: ObjectBlobs, name: str, *parts: bytes) -> None:
    """A name with a base and some parts."""
    blobs.create(name, b"base")
    with closing(blobs.append(name)) as file:
        for part in parts:
            file.write(part)


def test_each_append_is_an_object_behind_its_base(
    bucket: CountedBucket, blobs: ObjectBlobs
) -> None:
    grown(blobs, "f/s", b"one", b"two")
    assert bucket.all_keys() == ["f/s", f"f/s.parts/{0:020d}", f"f/s.parts/{1:020d}"]
    assert blobs.names("f") == ["s"]
    assert bucket.asked == [("put", key) for key in bucket.all_keys()]


def test_who_opens_a_name_to_sync_it_writes_nothing(
    bucket: CountedBucket, blobs: ObjectBlobs
) -> None:
    grown(blobs, "s", b"one")
    bucket.asked.clear()
    with closing(ObjectBlobs(bucket).append("s")) as file:
        file.sync()
    assert bucket.asked == [("size", "s")]


def test_an_appender_goes_on_behind_what_is_there(
    bucket: CountedBucket, blobs: ObjectBlobs
) -> None:
    grown(blobs, "s", b"1", b"2")
    with closing(ObjectBlobs(bucket).append("s")) as file:
        file.write(b"3")
    assert blobs.read("s") == b"base123"


def test_an_appender_that_meets_somebody_elses_part_takes_nothing_more(blobs: ObjectBlobs) -> None:
    blobs.create("s", b"base")
    mine, theirs = blobs.append("s"), blobs.append("s")
    theirs.write(b"theirs")
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match=r"memory://test/s|takes nothing"):
            mine.write(b"mine")
    with pytest.raises(StoreUnavailable):
        mine.sync()
    mine.close()
    theirs.write(b"!")
    assert blobs.read("s") == b"basetheirs!"


async def test_a_part_that_cannot_be_written_ends_the_ownership_and_the_next_owner_goes_on(
    bucket: CountedBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Log(ObjectBlobs(bucket))) as log:
        owner = await log.claim()
        await owner.append([message("a")])
        with monkeypatch.context() as patch:
            patch.setattr(bucket, "put_new", _refuse)
            with pytest.raises(StoreUnavailable):
                await owner.append([message("b")])
        with pytest.raises(StoreUnavailable):
            await owner.append([message("c")])
        await owner.seal()
        following = await log.wake("d")
        assert keys_of(following.history.read(0)) == ["a", "d"]


def _refuse(key: str, _data: bytes) -> bool:
    raise StoreUnavailable("no answer", path=key)


def test_a_missing_part_is_corruption_and_nothing_behind_it_is_served(
    bucket: CountedBucket, blobs: ObjectBlobs
) -> None:
    grown(blobs, "s", b"1", b"2", b"3")
    bucket.delete(part_name("s", 1))
    for reader in (blobs, ObjectBlobs(bucket)):
        with pytest.raises(CorruptLog, match=part_name("s", 1)):
            reader.read("s")
    with closing(ObjectBlobs(bucket).append("s")) as file, pytest.raises(StoreUnavailable):
        file.write(b"4")


@pytest.mark.parametrize("deletions", range(5))
def test_a_deletion_cut_short_leaves_all_or_nothing(
    bucket: CountedBucket, blobs: ObjectBlobs, deletions: int
) -> None:
    grown(blobs, "f/s", b"1", b"2", b"3")
    bucket.die_after = deletions
    try:
        blobs.delete("f/s")
    except StoreUnavailable:
        assert deletions < 4
    there = deletions == 0
    assert blobs.read("f/s") == (b"base123" if there else None)
    assert blobs.read("f/s", 5) == (b"23" if there else None)
    assert blobs.exists("f/s") == there
    assert blobs.names("f") == (["s"] if there else [])
    bucket.die_after = 10
    blobs.delete("f/s")
    assert bucket.all_keys() == []


def test_a_name_that_is_deleted_while_it_is_read_is_not_read_in_part(
    bucket: CountedBucket, blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(blobs, "s", b"1", b"2")
    listed = bucket.listed

    def list_and_delete(folder: str, *, after: str | None = None) -> list[Stored]:
        found = listed(folder, after=after)
        monkeypatch.undo()
        ObjectBlobs(bucket).delete("s")
        return found

    monkeypatch.setattr(bucket, "listed", list_and_delete)
    assert blobs.read("s") is None


def test_what_follows_is_read_without_what_was_read_before(
    bucket: CountedBucket, blobs: ObjectBlobs
) -> None:
    grown(blobs, "s", *[b"x"] * 100)
    reader = ObjectBlobs(bucket)
    assert reader.read("s") == b"base" + b"x" * 100
    bucket.asked.clear()
    assert reader.read("s", 104) == b""
    with closing(ObjectBlobs(bucket).append("s")) as file:
        file.write(b"more")
    bucket.asked.clear()
    assert reader.read("s", 104) == b"more"
    assert bucket.asked == [
        ("list", "s.parts"),
        ("size", "s"),
        ("get", part_name("s", 100)),
    ]


@pytest.mark.parametrize("start", range(12))
def test_any_byte_may_be_the_first(blobs: ObjectBlobs, start: int) -> None:
    grown(blobs, "s", b"123", b"", b"4", b"56")
    assert blobs.read("s", start) == b"base123456"[start:]


def test_a_sealed_file_is_one_request(bucket: CountedBucket, blobs: ObjectBlobs) -> None:
    blobs.create("sealed/a.arrow", b"rows")
    bucket.asked.clear()
    assert blobs.read("sealed/a.arrow") == b"rows"
    assert bucket.asked == [("get", "sealed/a.arrow")]


async def test_a_flipped_bit_in_any_part_is_found_and_never_served(bucket: CountedBucket) -> None:
    with closing(Log(ObjectBlobs(bucket))) as log:
        await log.wake("a", "b")
        name = log.blobs.names(log.folder)[0]
        assert examine_log(log.blobs, log.folder, in_use=lambda _: False).sound
        for key in bucket.all_keys():
            data = bucket.get(key) or b""
            bucket.damage(key, data[:60] + bytes([data[60] ^ 1]) + data[61:])
            [finding] = examine_log(log.blobs, log.folder, in_use=lambda _: False).findings
            assert finding.file == f"{log.folder}/{name}"
            bucket.damage(key, data)
        assert keys_of((await log.reader().read(0)).events) == ["a", "b"]


async def test_posts_gather_until_somebody_waits(
    bucket: CountedBucket, blobs: ObjectBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(Log(blobs)) as log:
        owner = await log.claim()
        await owner.append([message("first")])
        posted = _parts(bucket)
        for number in range(5):
            owner.enqueue([message(f"delta-{number}")])
            await asyncio.sleep(0)
        assert _parts(bucket) == posted
        await owner.append([message("last")])
        assert _parts(bucket) == posted + 1
        owner.enqueue([message("after")])
        await owner.seal()
        keys = keys_of((await log.reader().read(0)).events)
    assert keys == ["first", *(f"delta-{number}" for number in range(5)), "last", "after"]


async def test_posts_that_nobody_waits_for_are_written_all_the_same(blobs: ObjectBlobs) -> None:
    with closing(Log(blobs)) as log:
        owner = await log.claim()
        posted = owner.enqueue([message("a")])
        await owner.wait_beyond(posted.events[0].offset)
        assert owner.durable_tip == owner.tip
        owner.enqueue([message("b")])
        await owner.abandon()
        assert keys_of((await log.reader().read(0)).events) == ["a"]


def _parts(bucket: CountedBucket) -> int:
    asked: Any = [key for what, key in bucket.asked if what == "put" and ".parts/" in key]
    return len(asked)
