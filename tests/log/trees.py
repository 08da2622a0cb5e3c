"""A store with every kind of file in every state, made by owners as they make them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from ray_agents.cluster.definitions import Definitions
from ray_agents.definition import Definition
from ray_agents.errors import Fenced
from ray_agents.log.adoption import adopt
from ray_agents.log.claiming import take
from ray_agents.log.files import LogFiles
from ray_agents.log.owner import PLAIN, Claim, History, LogIO, Upkeep, read_head
from ray_agents.log.store import FORMAT_FILE, IDENTITY_FILE, format_line, store_identity
from ray_agents.log.threads import Kept
from ray_agents.log.tidying import Essence
from ray_agents.ports import Blobs
from ray_agents.testing.log_suite import Log, message

B = TypeVar("B", bound=Blobs)
SEALED = "entities/note/00/sealed"
LIVE = "entities/note/00/live"
REWRITTEN = "entities/note/01/rewritten"
MERGED = "entities/note/01/merged"
MERGING = "entities/note/02/merging"
CLAIMED = "entities/note/02/claimed"
FENCED = "entities/note/03/fenced"
HOST = "hosts/host-1"
INDEX = "index/0001"
LOGS = (SEALED, LIVE, REWRITTEN, MERGED, MERGING, CLAIMED, FENCED, HOST, INDEX)


async def handler(ctx: Any, wake: Any) -> None:
    """The definitions' own."""


async def make_store(blobs: Blobs) -> None:
    """Every log of :data:`LOGS`, two versions of a definition, and the format."""
    blobs.create(FORMAT_FILE, format_line())
    store_identity(blobs)
    for words in ("first", "second"):
        Definitions(blobs).register(Definition(type="note", handler=handler, description=words))
    with closing(LogIO(threads_max=2)) as io:
        for folder in LOGS:
            upkeep = Upkeep(essential=_messages) if folder == MERGING else PLAIN
            await _make(Log(blobs, folder=folder, io=io, upkeep=upkeep), folder)


def _messages(history: History) -> Essence:
    return Essence(offsets=history.offsets({"inbox"}), held_from=0)


async def _make(log: Log, folder: str) -> None:
    """A log in the state that its folder is named for."""
    await _work(log, wakes=20 if folder in (MERGED, HOST) else 18 if folder == MERGING else 2)
    if folder == INDEX:
        await _keep_latest(log)
    elif folder in (LIVE, MERGED, HOST):
        await _die(log)
    elif folder == REWRITTEN:
        await _die(log)
        await log.wake("after")
    elif folder == MERGING:
        await _die(log)
    elif folder == CLAIMED:
        await _die(log)
        await _claim_and_adopt_only(log)
    elif folder == FENCED:
        await _be_fenced(log)


async def _work(log: Log, *, wakes: int) -> None:
    for number in range(wakes):
        keys = "abcdefghijklmnop" if log.upkeep is not PLAIN else "ab"
        await log.wake(*(f"{number}-{key}" for key in keys))


async def _die(log: Log) -> None:
    """An owner that acknowledges some appends and never leaves."""
    owner = await log.claim()
    for key in ("x", "y", "z"):
        await owner.append([message(key), message(f"{key}2")])
    await owner.abandon()


async def _keep_latest(log: Log) -> None:
    """An owner that drops every row but the newest of each key."""
    owner = await log.claim(upkeep=Upkeep(latest_only=True))
    await owner.append([message("0-a"), message("last")])
    await owner.abandon()


async def _claim_and_adopt_only(log: Log) -> None:
    """An owner that dies before its first frame; the sealed file it wrote is in no manifest."""
    head = await read_head(log.blobs, log.folder, io=log.io)
    assert head is not None
    files = LogFiles(log.blobs, log.folder, kept=Kept())
    take(files, head=head, claim=Claim(host="host-1", token="dies"))
    adopt(files, epoch=head.epoch + 1, head=head)


async def _be_fenced(log: Log) -> None:
    """A stale owner's late frame stands in a segment that was taken over."""
    old = await log.claim()
    await old.append([message("in time")])
    new = await log.claim()
    try:
        await old.append([message("late")])
    except Fenced:
        await old.abandon()
    await new.append([message("new")])
    await new.seal()


def copied(blobs: Blobs, into: B) -> B:
    """The same files in another place."""
    for name in all_files(blobs):
        into.create(name, blobs.read(name) or b"")
    return into


def rewrite(blobs: Blobs, name: str, change: Callable[[bytes], bytes]) -> None:
    """What a bad disk does."""
    data = blobs.read(name)
    assert data is not None
    blobs.delete(name)
    blobs.create(name, change(data))


def all_files(blobs: Blobs, folders: tuple[str, ...] = LOGS) -> list[str]:
    """The names of all files of such a store."""
    found = [
        FORMAT_FILE,
        IDENTITY_FILE,
        *(f"types/note/{name}" for name in blobs.names("types/note")),
    ]
    for folder in folders:
        within = ("sealed", "snapshots")
        found += [f"{folder}/{name}" for name in blobs.names(folder) if name not in within]
        for inner in within:
            found += [f"{folder}/{inner}/{name}" for name in blobs.names(f"{folder}/{inner}")]
    return found
