"""Verification finds what is wrong in every kind of file, says where, and disturbs nobody."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from pydantic_core import to_json

from ray_agents.address import Address
from ray_agents.cli import main
from ray_agents.cluster.folders import entity_folder
from ray_agents.events import Event
from ray_agents.findings import Fault, Finding, Verification
from ray_agents.log.codec import encode_frame
from ray_agents.log.documents import decode_document
from ray_agents.log.examination import CUT, HARMLESS, RESTORE, SCARRED, STALE, examine_log
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.segment import Claim, new_preamble, parse_segment
from ray_agents.log.verification import log_folders, verify_store
from ray_agents.ports import Blobs
from ray_agents.testing.faulty_blobs import FaultyBlobs
from ray_agents.testing.log_suite import Log, message
from tests.log.trees import (
    CLAIMED,
    FENCED,
    HOST,
    INDEX,
    LIVE,
    LOGS,
    MERGED,
    MERGING,
    REWRITTEN,
    SEALED,
    all_files,
    copied,
    make_store,
    rewrite,
)


def nobody(name: str) -> bool:
    """No process has any file open."""
    return False


def verify(blobs: Blobs) -> Verification:
    return verify_store(blobs, in_use=nobody)


def only(blobs: Blobs) -> Finding:
    """The one thing that is wrong."""
    found = verify(blobs).findings
    assert len(found) == 1, found
    return found[0]


def segment(folder: str, epoch: int) -> str:
    return f"{folder}/{epoch:010d}.arrows"


@pytest.fixture(scope="module")
def made() -> MemoryBlobs:
    """A store with every kind of file; nobody changes it."""
    made = MemoryBlobs()
    asyncio.run(make_store(made))
    return made


@pytest.fixture
def blobs(made: MemoryBlobs) -> MemoryBlobs:
    return copied(made, MemoryBlobs())


def test_in_a_sound_store_nothing_is_wrong_and_every_file_is_known(blobs: MemoryBlobs) -> None:
    found = verify(blobs)
    assert (found.findings, found.notes) == ((), ())
    assert found.files == len(all_files(blobs))
    assert sorted(log_folders(blobs)) == sorted(LOGS)


async def test_the_rows_it_counts_are_those_that_are_served(blobs: MemoryBlobs) -> None:
    for folder in (SEALED, MERGED, FENCED):
        with closing(Log(blobs, folder=folder)) as log:
            served = (await log.reader().read(0, limit=10**6)).events
        assert examine_log(blobs, folder, in_use=nobody).rows == len(served)


def test_it_only_reads(blobs: MemoryBlobs) -> None:
    watched = FaultyBlobs(blobs)
    verify(watched)
    assert set(watched.calls) <= {"read", "names"}


def test_progress_tells_of_every_log(blobs: MemoryBlobs) -> None:
    told: list[tuple[int, int]] = []
    verify_store(blobs, in_use=nobody, progress=lambda done, total: told.append((done, total)))
    assert told == [(done, len(LOGS)) for done in range(len(LOGS) + 1)]


# -- damage -------------------------------------------------------------------------------------


def flip(at: int) -> Callable[[bytes], bytes]:
    """What changes one bit of the byte ``at``."""

    def change(data: bytes) -> bytes:
        damaged = bytearray(data)
        damaged[at] ^= 4
        return bytes(damaged)

    return change


def test_damage_in_a_frame_is_told_with_its_byte_and_the_offset_before_it(
    blobs: MemoryBlobs,
) -> None:
    name = segment(LIVE, 3)
    intact = parse_segment(name, blobs.read(name) or b"")
    rewrite(blobs, name, flip(intact.position - 9))
    cut = parse_segment(name, blobs.read(name) or b"")
    expected = Finding(
        fault=Fault.CORRUPT,
        file=name,
        what="what stands there is no frame, neither whole nor torn",
        remedy=RESTORE,
        byte=cut.position,
        after_offset=cut.batches[-1].column(0)[-1].as_py(),
    )
    assert only(blobs) == expected


def test_a_damaged_marker_is_found_though_every_row_can_be_read(blobs: MemoryBlobs) -> None:
    name = segment(SEALED, 2)
    preamble = parse_segment(name, blobs.read(name) or b"").preamble
    places = preamble.layout.places
    for place in (places.first, places.second):
        rewrite(blobs, name, flip(len(preamble.data) + place + 20))
        found = only(blobs)
        assert (found.byte, found.remedy) == (len(preamble.data), SCARRED)
        rewrite(blobs, name, flip(len(preamble.data) + place + 20))
    assert verify(blobs).sound


@pytest.mark.parametrize("folder", [SEALED, HOST])
def test_a_damaged_schema_message_is_found(blobs: MemoryBlobs, folder: str) -> None:
    newest = [name for name in blobs.names(folder) if name != "sealed"][-1]
    rewrite(blobs, f"{folder}/{newest}", flip(100))
    found = only(blobs)
    assert (found.fault, found.byte, found.remedy) == (Fault.CORRUPT, 0, RESTORE)


@pytest.mark.parametrize("at", [100, 1500, -9], ids=["schema", "frame", "closing frame"])
def test_damage_that_takes_no_row_says_so(blobs: MemoryBlobs, at: int) -> None:
    taken_over = {100: segment(REWRITTEN, 3), 1500: segment(INDEX, 1), -9: segment(SEALED, 1)}
    rewrite(blobs, taken_over[at], flip(at))
    assert (only(blobs).file, only(blobs).remedy) == (taken_over[at], HARMLESS)


def test_damage_in_a_row_that_a_manifest_lists_says_so(blobs: MemoryBlobs) -> None:
    rewrite(blobs, segment(SEALED, 1), flip(1500))
    assert only(blobs).remedy == RESTORE


@pytest.mark.parametrize(("folder", "remedy"), [(MERGED, RESTORE), (MERGING, RESTORE)])
def test_any_byte_of_a_sealed_file_counts(blobs: MemoryBlobs, folder: str, remedy: str) -> None:
    name = next(name for name in all_files(blobs, (folder,)) if name.endswith(".arrow"))
    for at in (0, 7, 1000, -1):
        rewrite(blobs, name, flip(at))
        found = only(blobs)
        assert (found.fault, found.file, found.remedy) == (Fault.CORRUPT, name, remedy)
        rewrite(blobs, name, flip(at))


async def test_a_sealed_file_that_nothing_lists_is_verified_too(blobs: MemoryBlobs) -> None:
    orphan = f"{CLAIMED}/sealed/{blobs.names(f'{CLAIMED}/sealed')[0]}"
    rewrite(blobs, orphan, flip(99))
    assert only(blobs).remedy == RESTORE  # whoever claimed the log may be about to list it
    with closing(Log(blobs, folder=CLAIMED)) as log:
        await log.wake("after")
    assert only(blobs).remedy == STALE


def test_a_damaged_definition_and_a_damaged_format_are_found(blobs: MemoryBlobs) -> None:
    for name in ("types/note/000001.json", "FORMAT"):
        rewrite(blobs, name, flip(11))
        assert (only(blobs).fault, only(blobs).file) == (Fault.CORRUPT, name)
        rewrite(blobs, name, flip(11))


def test_a_definition_without_a_digest_is_noted(blobs: MemoryBlobs) -> None:
    name = "types/note/000002.json"
    rewrite(blobs, name, lambda data: to_json(decode_document(name, data)))
    assert verify(blobs).notes == (f"{name} was written before definitions had digests",)
    assert verify(blobs).sound


# -- files that are gone, or not what they should be ---------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        segment(SEALED, 1),
        segment(MERGED, 19),
        segment(CLAIMED, 3),
        "types/note/000001.json",
        "FORMAT",
    ],
)
def test_a_file_that_is_gone_is_missed(blobs: MemoryBlobs, name: str) -> None:
    blobs.delete(name)
    assert (only(blobs).fault, only(blobs).file) == (Fault.MISSING, name)


def test_a_sealed_file_that_is_gone_is_missed(blobs: MemoryBlobs) -> None:
    name = f"{HOST}/sealed/{blobs.names(f'{HOST}/sealed')[0]}"
    blobs.delete(name)
    assert (only(blobs).fault, only(blobs).file) == (Fault.MISSING, name)


def test_whole_frames_that_are_not_the_listed_ones_are_found(blobs: MemoryBlobs) -> None:
    name = segment(SEALED, 1)
    rows = [Event.at(offset, 1, message(f"forged-{offset}")) for offset in range(4)]
    forged = new_preamble(1, Claim(host="host-1", token="t")).data + encode_frame(rows).data
    rewrite(blobs, name, lambda _: forged)
    found = verify(blobs).findings
    assert {(each.fault, each.file) for each in found} == {(Fault.DISORDERED, name)}


def test_an_offset_used_twice_is_found(blobs: MemoryBlobs) -> None:
    name = segment(LIVE, 3)
    intact = parse_segment(name, blobs.read(name) or b"")
    again = intact.batches[-1].column(0)[-1].as_py()
    frame = encode_frame([Event.at(again, 1, message("again"))]).data
    rewrite(blobs, name, lambda data: data + frame)
    assert "do not rise" in only(blobs).what


def test_a_frame_behind_a_closing_frame_is_found(blobs: MemoryBlobs) -> None:
    late = encode_frame([Event.at(10**6, 1, message("late"))]).data
    rewrite(blobs, segment(SEALED, 1), lambda data: data + late)
    assert "behind its closing frame" in only(blobs).what


def test_files_of_nobody_are_noted(blobs: MemoryBlobs) -> None:
    for name in (f"{LIVE}/notes.txt", f"{MERGED}/sealed/x.parquet", "README"):
        blobs.create(name, b"?")
    found = verify(blobs)
    assert found.sound
    assert len(found.notes) == 3


def test_one_log_that_cannot_be_listed_keeps_no_other_from_being_verified(
    tmp_path: Path,
) -> None:
    blobs = DirectoryBlobs(tmp_path)
    (tmp_path / "hosts" / "a" / "0000000001.arrows").mkdir(parents=True)
    (tmp_path / "FORMAT").write_bytes(b"ray-agents store 1\n")
    finding = only(blobs)
    assert (finding.fault, finding.file) == (Fault.UNREADABLE, "hosts/a/0000000001.arrows")


# -- a store in use ------------------------------------------------------------------------------


def torn(data: bytes) -> bytes:
    return data[:-100]


def test_a_torn_tail_is_a_fault_only_if_nobody_is_writing_it(blobs: MemoryBlobs) -> None:
    name = segment(LIVE, 3)
    rewrite(blobs, name, torn)
    assert (only(blobs).fault, only(blobs).remedy) == (Fault.TORN, CUT)
    assert verify_store(blobs, in_use=name.__eq__).sound


def test_a_torn_tail_that_was_taken_over_is_none(blobs: MemoryBlobs) -> None:
    for epoch, folder in ((3, REWRITTEN), (3, FENCED)):
        rewrite(blobs, segment(folder, epoch), torn)
    assert verify(blobs).sound


async def test_an_owner_at_work_is_no_fault(tmp_path: Path) -> None:
    blobs = DirectoryBlobs(tmp_path)
    with closing(Log(blobs)) as log:
        owner = await log.claim()
        for number in range(20):
            await owner.append([message(f"m{number}")])
            assert examine_log(blobs, log.folder, in_use=blobs.in_use).sound
        name = segment(log.folder, 1)
        with (tmp_path / name).open("ab") as file:
            file.write(b"\xff\xff\xff\xff")
        assert examine_log(blobs, log.folder, in_use=blobs.in_use).sound
        await owner.abandon()
        found = examine_log(blobs, log.folder, in_use=blobs.in_use)
        assert [each.fault for each in found.findings] == [Fault.TORN]


async def test_files_that_come_and_go_meanwhile_are_no_fault(blobs: MemoryBlobs) -> None:
    """A whole wake, with a merge, happens between listing the log and reading it."""
    watched = FaultyBlobs(blobs)
    with closing(Log(blobs, folder=LIVE)) as log:
        for number in range(15):
            await log.wake(f"m{number}")
        merging = await log.claim()
        await merging.append([message("last")])
        dropped = [f"{LIVE}/{name}" for name in blobs.names(LIVE) if name.endswith(".arrows")][:-2]
        watched.meanwhile["read"] = lambda: [blobs.delete(name) for name in dropped]
        assert examine_log(watched, LIVE, in_use=nobody).sound
        await merging.seal()


# -- the command ---------------------------------------------------------------------------------


Answer = tuple[int, dict[str, object]]


@pytest.fixture
def store(made: MemoryBlobs, tmp_path: Path) -> Path:
    copied(made, DirectoryBlobs(tmp_path))
    return tmp_path


@pytest.fixture
def shell(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run ``log verify`` with words on the store; the exit code and its answer."""

    def run(*words: str) -> Answer:
        code = main(["log", "verify", *words, "--store", str(store), "--json"])
        return code, json.loads(capsys.readouterr().out or "{}")

    return run


def test_the_command_reads_a_store_without_a_runtime(
    shell: Callable[..., Answer], store: Path
) -> None:
    before = sorted(store.rglob("*"))
    assert shell("--all")[0] == 0
    assert sorted(store.rglob("*")) == before
    path = store / segment(LIVE, 3)
    path.write_bytes(path.read_bytes()[:-50] + b"?" + path.read_bytes()[-49:])
    code, answer = shell("--all", "--repair")
    assert (code, answer["sound"], answer["repaired"]) == (1, False, [])


async def test_the_command_reads_the_log_of_one_entity(
    shell: Callable[..., Answer], store: Path
) -> None:
    with closing(Log(DirectoryBlobs(store), folder=entity_folder(Address("note", "ada")))) as log:
        await log.wake("m")
    code, answer = await asyncio.to_thread(shell, "/note/ada")
    assert (code, answer["logs"], answer["rows"]) == (0, 1, 2)
    assert shell("/note/nobody")[0] == 3


def test_the_command_repairs_a_torn_tail(shell: Callable[..., Answer], store: Path) -> None:
    path = store / segment(LIVE, 3)
    path.write_bytes(torn(path.read_bytes()))
    assert shell("--all")[0] == 1
    code, answer = shell("--all", "--repair")
    assert (code, answer["repaired"]) == (0, [segment(LIVE, 3)])
    assert shell("--all")[0] == 0


def test_a_store_of_an_unknown_format_is_not_repaired(
    shell: Callable[..., Answer], store: Path
) -> None:
    path = store / segment(LIVE, 3)
    path.write_bytes(torn(path.read_bytes()))
    for damage in ((store / "FORMAT").unlink, lambda: (store / "FORMAT").write_text("newer")):
        damage()
        before = {each: each.read_bytes() for each in store.rglob("*") if each.is_file()}
        assert shell("--all", "--repair")[0] == 5
        assert {each: each.read_bytes() for each in store.rglob("*") if each.is_file()} == before
