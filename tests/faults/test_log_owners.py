"""Two owners at once, and an owner that dies between any two steps: one history."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import pytest

from ray_agents.errors import CorruptLog, Fenced, StoreUnavailable
from ray_agents.events import Event
from ray_agents.log.adoption import adopt
from ray_agents.log.claiming import take
from ray_agents.log.codec import encode_frame
from ray_agents.log.files import LogFiles, manifest_of
from ray_agents.log.listed import rows_of
from ray_agents.log.manifest import Manifest
from ray_agents.log.owner import Claim, ClaimLost, Head, LogIO, LogOwner, Upkeep, read_head
from ray_agents.log.reader import LogReader
from ray_agents.log.segment import epoch_of, new_preamble, segment_name
from ray_agents.log.threads import Kept
from ray_agents.ports import Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import FOLDER, Log, keys_of, message


def files(log: Log) -> LogFiles:
    """The files of the log as another process sees them."""
    return LogFiles(log.blobs, FOLDER, kept=Kept())


async def zombie_writes(owner: LogOwner, key: str) -> None:
    """An append that must fail, though its bytes reach the file."""
    with pytest.raises(Fenced):
        await owner.append([message(key)])


def rewrite(blobs: Blobs, name: str, change: Callable[[bytes], bytes]) -> None:
    """What a bad disk does."""
    data = blobs.read(name)
    assert data is not None
    blobs.delete(name)
    blobs.create(name, change(data))


async def read_afresh(log: Log) -> list[str]:
    with closing(LogIO(threads_max=1)) as io:
        return keys_of((await LogReader(log.blobs, FOLDER, io).read(0)).events)


async def test_a_row_written_between_claim_and_adoption_is_adopted_unacknowledged(
    log: Log,
) -> None:
    old = await log.claim()
    await old.append([message("a")])
    head = await read_head(log.blobs, FOLDER, io=log.io)
    take(files(log), head=head, claim=Claim(host="h", token="new"))
    await zombie_writes(old, "between")
    adopted = adopt(files(log), epoch=2, head=head)
    assert keys_of(rows_of(adopted.parts[-1]).between(0, 99, limit=None, types=None)) == [
        "a",
        "between",
    ]
    await old.abandon()


async def test_a_row_written_after_the_adoption_is_in_no_history(log: Log) -> None:
    old, reader = await log.claim(), log.reader()
    await old.append([message("a")])
    assert keys_of((await reader.read(0)).events) == ["a"]
    new = await log.claim()
    await zombie_writes(old, "late")
    for expected in (["a"], ["a", "b"]):
        assert keys_of((await reader.read(0)).events) == expected
        assert await read_afresh(log) in (expected, [])
        if expected == ["a"]:
            await new.append([message("b")])
    assert keys_of(new.history.read(0)) == await read_afresh(log) == ["a", "b"]
    await new.seal()
    assert keys_of((await log.claim()).history.read(0)) == ["a", "b"]
    await old.abandon()


@pytest.mark.parametrize("prompt", [True, False])
async def test_an_owner_that_is_followed_while_it_syncs_acknowledges_nothing(
    log: Log, prompt: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyBlobs, "prompt", prompt)
    log.blobs = blobs = FaultyBlobs(log.blobs)
    old = await log.claim()
    await old.append([message("a")])
    new, head = Claim(host="h", token="new"), files(log).head()
    blobs.meanwhile["sync"] = lambda: take(files(log), head=head, claim=new)
    await zombie_writes(old, "late")
    await old.abandon()


async def test_an_owner_whose_segment_was_deleted_acknowledges_nothing(log: Log) -> None:
    old = await log.claim()
    await old.append([message("a")])
    log.blobs.delete(segment_name(FOLDER, 1))
    await zombie_writes(old, "late")
    await old.abandon()


async def test_an_owner_stopped_for_long_finds_itself_merged_away(log: Log) -> None:
    stopped = await log.claim()
    await stopped.append([message("first")])
    for number in range(40):
        await log.wake(f"m{number}")
    assert not log.blobs.exists(segment_name(FOLDER, 1))
    assert not log.blobs.exists(segment_name(FOLDER, 2))
    await zombie_writes(stopped, "late")
    assert await read_afresh(log) == ["first"] + [f"m{number}" for number in range(40)]
    await stopped.seal()


async def test_a_sealed_log_is_read_in_full_while_a_new_owner_has_not_begun(log: Log) -> None:
    await log.wake("a", "b")
    new = await log.claim()
    assert await read_afresh(log) == ["a", "b"]
    await new.abandon()
    assert await read_afresh(log) == ["a", "b"]


async def test_a_reader_holds_what_it_confirmed_while_a_new_owner_has_not_begun(log: Log) -> None:
    reader = log.reader()
    old = await log.claim()
    await old.append([message("a")])
    tip = (await reader.read(0)).tip
    await old.append([message("b")])
    await log.claim_only()
    reading = await reader.read(0)
    assert (keys_of(reading.events), reading.tip) == (["a"], tip)
    new = await log.claim()
    await new.append([message("c")])
    assert keys_of((await reader.read(0)).events) == ["a", "b", "c"]
    assert keys_of((await reader.read(tip)).events) == ["b", "c"]
    await old.abandon()
    await new.seal()


async def test_a_reader_in_the_midst_of_merges_reads_on(log: Log) -> None:
    reader, seen = log.reader(), list[str]()
    offset = 0
    for number in range(60):
        await log.wake(f"m{number}")
        if number % 7 == 0:
            reading = await reader.read(offset)
            offset, seen = reading.tip, seen + keys_of(reading.events)
    seen += keys_of((await reader.read(offset)).events)
    assert seen == [f"m{number}" for number in range(60)]


async def test_frames_out_of_order_are_not_taken_over(log: Log) -> None:
    owner = await log.claim()
    await owner.append([message("a")])
    await owner.abandon()
    file = log.blobs.append(segment_name(FOLDER, 1))
    file.write(encode_frame([Event.at(0, 1, message("again"))]).data)
    file.close()
    with pytest.raises(CorruptLog, match="out of order"):
        await log.claim()
    assert log.blobs.names(f"{FOLDER}/sealed") == []


async def test_what_was_replaced_is_gone_when_its_owner_has_left(log: Log, blobs: Blobs) -> None:
    for number in range(18):
        await log.wake(f"m{number}")
    assert not blobs.exists(segment_name(FOLDER, 17))
    listed = [name for name in blobs.names(f"{FOLDER}/sealed") if name.endswith(".arrow")]
    assert len(listed) == 1
    assert await read_afresh(log) == [f"m{number}" for number in range(18)]


async def test_an_owner_that_was_replaced_while_it_tidied_deletes_nothing(log: Log) -> None:
    for number in range(17):
        await log.wake(f"m{number}")
    stale = await log.claim()
    await stale.append([message("m17")])
    await stale.tidy_up()
    new = await log.claim()
    with pytest.raises(Fenced):
        await stale.seal()
    assert isinstance(stale.cause, Fenced)
    assert log.blobs.exists(segment_name(FOLDER, 1))
    await new.append([message("m18")])
    await new.seal()
    assert await read_afresh(log) == [f"m{number}" for number in range(19)]


async def test_a_damaged_listed_file_is_reported_and_never_served(log: Log, blobs: Blobs) -> None:
    await log.wake("a")
    await log.wake("b")
    rewrite(blobs, segment_name(FOLDER, 1), lambda data: data[:1000] + b"?" + data[1001:])
    with pytest.raises(CorruptLog, match="0000000001"):
        await read_afresh(log)
    await claimed_in_spite_of(blobs)


async def claimed_in_spite_of(blobs: Blobs) -> None:
    """Damage in what is past keeps nobody from going on; what is damaged is not served."""
    with closing(Log(blobs)) as afresh:
        owner = await afresh.claim()
        await owner.append([message("c")])
        with pytest.raises(CorruptLog, match="0000000001"):
            await owner.ready()
        with pytest.raises(CorruptLog, match="0000000001"):
            owner.history.read(0)
        assert keys_of(owner.history.read(2)) == ["b", "c"]
        await owner.abandon()


async def test_a_listed_file_that_is_gone_is_reported(log: Log, blobs: Blobs) -> None:
    await log.wake("a")
    await log.wake("b")
    blobs.delete(segment_name(FOLDER, 1))
    with pytest.raises(CorruptLog, match="0000000001"):
        await read_afresh(log)
    await claimed_in_spite_of(blobs)


async def test_damage_in_the_newest_segment_prevents_the_next_claim(log: Log, blobs: Blobs) -> None:
    await log.wake("a", "b")
    rewrite(blobs, segment_name(FOLDER, 1), lambda data: data[:-300] + b"?" + data[-299:])
    with closing(Log(blobs)) as afresh, pytest.raises(CorruptLog, match="after offset"):
        await afresh.claim()
    with pytest.raises(CorruptLog, match="after offset"):
        await read_afresh(log)
    assert blobs.names(FOLDER) == ["0000000001.arrows"]


async def test_a_reader_serves_no_row_written_while_somebody_else_took_over(log: Log) -> None:
    blobs = FaultyBlobs(log.blobs)
    old = await log.claim()
    await old.append([message("a")])
    head = await read_head(log.blobs, FOLDER, io=log.io)
    late = encode_frame([Event.at(old.tip, old.tip, message("zombie"))]).data

    def take_over() -> None:
        take(files(log), head=head, claim=Claim(host="h", token="new"))
        adopt(files(log), epoch=2, head=head)
        file = log.blobs.append(segment_name(FOLDER, 1))
        file.write(late)
        file.close()

    blobs.meanwhile["read"] = take_over
    with closing(LogIO(threads_max=1)) as io:
        assert "zombie" not in keys_of((await LogReader(blobs, FOLDER, io).read(0)).events)
    await old.abandon()


async def test_segments_are_deleted_in_ascending_order_and_the_newest_stays(log: Log) -> None:
    log.blobs = blobs = FaultyBlobs(log.blobs)
    for number in range(60):
        await log.wake(f"m{number}")
    epochs = [epoch for name in blobs.deleted if (epoch := epoch_of(name.rpartition("/")[2]))]
    epochs = list(dict.fromkeys(epochs))  # the next owner makes sure of it
    assert epochs == list(range(1, len(epochs) + 1))
    assert 40 < len(epochs) < 60


async def test_damage_below_a_segment_that_never_began_is_reported(log: Log, blobs: Blobs) -> None:
    await log.wake("a")
    await (await log.claim()).abandon()
    rewrite(blobs, segment_name(FOLDER, 1), lambda data: data[:-300] + b"?" + data[-299:])
    with closing(Log(blobs)) as afresh, pytest.raises(CorruptLog, match="after offset"):
        await afresh.claim()
    with pytest.raises(CorruptLog, match="after offset"):
        await read_afresh(log)


async def test_intact_frames_that_are_not_the_listed_ones_are_reported(
    log: Log, blobs: Blobs
) -> None:
    await log.wake("a")
    await log.wake("b")
    owner = Claim(host="host-1", token="token-1")
    rows = [Event.at(offset, 1, message(f"forged-{offset}")) for offset in range(2)]
    forged = new_preamble(1, owner).data + encode_frame(rows).data
    rewrite(blobs, segment_name(FOLDER, 1), lambda _: forged)
    with pytest.raises(CorruptLog, match="manifest lists"):
        await read_afresh(log)


async def test_a_reader_whose_file_is_merged_away_under_it_reads_on(log: Log) -> None:
    blobs = FaultyBlobs(log.blobs)
    owner = await log.claim()
    await owner.append([message("a")])
    blobs.meanwhile["append"] = lambda: log.blobs.delete(segment_name(FOLDER, 1))
    with closing(LogIO(threads_max=1)) as io:
        assert (await LogReader(blobs, FOLDER, io).read(0)).events == []
    await owner.abandon()


async def test_a_claim_that_was_followed_before_it_looked_harms_nobody(log: Log) -> None:
    """The first epoch: that a newer one exists does not mean that it was deleted long ago."""
    blobs = FaultyBlobs(log.blobs)

    def follow() -> None:
        take(files(log), head=files(log).head(), claim=Claim(host="h", token="second"))

    blobs.meanwhile["names"] = follow
    with closing(Log(blobs)) as slow, pytest.raises(ClaimLost) as lost:
        await slow.claim_after(None)
    assert lost.value.head.epoch == 2
    assert keys_of((await log.wake("third")).history.read(0)) == ["third"]


async def test_a_claim_that_is_overtaken_while_it_adopts_is_lost_and_not_corrupt(log: Log) -> None:
    for number in range(16):
        await log.wake(f"m{number}")
    blobs = FaultyBlobs(log.blobs)
    head = await read_head(log.blobs, FOLDER, io=log.io)

    async def overtake() -> None:
        with closing(Log(log.blobs)) as other:
            for number in range(2):
                await other.wake(f"n{number}")

    blobs.meanwhile["read"] = lambda: asyncio.run(overtake())
    with closing(Log(blobs)) as slow, pytest.raises(ClaimLost) as lost:
        await slow.claim_after(head)
    assert lost.value.head.epoch == 19
    assert len(await read_afresh(log)) == 18


async def test_an_owner_whose_segment_was_deleted_before_its_first_append_is_fenced(
    log: Log,
) -> None:
    slow = await log.claim()
    for number in range(18):
        await log.wake(f"m{number}")
    await zombie_writes(slow, "late")
    await slow.abandon()


async def test_a_reader_believes_no_manifest_that_the_newest_owner_may_have_missed(
    log: Log,
) -> None:
    """Three owners: the first writes when the third has looked, and the second looks after that."""
    blobs = FaultyBlobs(log.blobs)
    first = take(files(log), head=None, claim=Claim(host="h", token="first"))
    head = Head(epoch=1, host="h", token="first", sealed=False)
    rows = [Manifest(epoch=1, files=(), dropped=()).draft(), message("zombie")]

    def overtake() -> None:
        take(files(log), head=replace(head, epoch=2), claim=Claim(host="h", token="third"))
        adopt(files(log), epoch=3, head=replace(head, epoch=2))
        file = log.blobs.append(segment_name(FOLDER, first.epoch))
        file.write(encode_frame([Event.at(n, 1, row) for n, row in enumerate(rows)]).data)
        file.close()

    blobs.meanwhile["read"] = overtake
    with closing(Log(blobs)) as late, pytest.raises(ClaimLost):
        await late.claim_after(head)
    second = files(log).segment(2)
    assert second is not None
    assert manifest_of(second).files[0].rows == 2
    assert await read_afresh(log) == []


async def test_what_an_owner_deleted_before_it_died_is_not_missed_while_the_next_has_not_begun(
    log: Log,
) -> None:
    log.blobs = blobs = FaultyBlobs(log.blobs)
    for key in "ab":
        await log.wake(key)
    owner = await log.claim(upkeep=Upkeep(latest_only=True))
    await owner.append([message("c")])
    blobs.meanwhile["delete"] = lambda: blobs.meanwhile.update(delete=die)
    with pytest.raises(StoreUnavailable, match="dies"):
        await owner.seal()
    assert blobs.deleted == [segment_name(FOLDER, 1)]
    await log.claim_only()
    with pytest.raises(StoreUnavailable, match="try again"):
        await read_afresh(log)
    assert keys_of((await log.wake("d")).history.read(0)) == ["a", "b", "c", "d"]
    assert await read_afresh(log) == ["a", "b", "c", "d"]


def die() -> None:
    raise StoreUnavailable("the process dies here", path="")


async def test_an_idle_owner_that_tidied_leaves_the_deletion_to_the_next(log: Log) -> None:
    await log.wake("a")
    idle = await log.claim()
    await idle.tidy_up()
    await idle.seal()
    await log.claim_only()
    assert await read_afresh(log) == ["a"]
    assert log.blobs.exists(segment_name(FOLDER, 1))
    await log.wake("b")
    assert not log.blobs.exists(segment_name(FOLDER, 1))
    assert await read_afresh(log) == ["a", "b"]


async def test_each_row_is_rewritten_a_logarithm_of_times(log: Log) -> None:
    blobs = FaultyBlobs(log.blobs)
    log.blobs = blobs
    for number in range(300):
        await log.wake(f"m{number}")
    assert blobs.bytes_created < 300 * 5_000
    assert len(await read_afresh(log)) == 300
