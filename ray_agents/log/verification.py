"""A whole store, verified: every file that is ours, so that no flipped bit goes unnoticed.

The kinds of file a store holds, and what proves each of them whole:

- ``FORMAT``, which has exactly one right content, and ``IDENTITY``, which carries a digest;
- ``entities/<type>/<shard>/<id>/``, ``hosts/<host>/``, ``index/<number>/`` (due times), and
  ``<name>/<name>/`` in general: logs;
- ``<log>/<epoch>.arrows``: a segment, live, sealed by a closing frame, never begun, or taken over.
  Two markers prove its schema message, and two each frame, which carries a digest;
- ``<log>/sealed/<range>-<epoch>-<digest>.arrow``: a sealed file; the digest of its bytes is in its
  name, and in the manifest once that lists it;
- ``types/<type>/<version>.json``: a definition, with a digest on its second line.

Definitions and an identity without a digest were written by an older version; they are noted, as
nothing proves them.

What else lies there is no part of the store and not verified: ``.tmp…`` in any folder and
``.probe-…`` (files in the making, or left by a death; nothing ever reads them), and what a machine
keeps beside its store of its own runtime (:data:`NOT_OF_THE_STORE`). Any other file is noted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from ray_agents.errors import CorruptLog, RayAgentsError
from ray_agents.findings import Fault, Finding, Verification, together
from ray_agents.log.documents import decode_document, is_protected
from ray_agents.log.examination import UPGRADE, InUse, examine_log
from ray_agents.log.store import (
    ENTITIES,
    FORMAT_FILE,
    HOSTS,
    IDENTITY_FILE,
    INDEX,
    TYPES,
    format_line,
    identity_line,
    read_identity,
)
from ray_agents.ports import Blobs

NOT_OF_THE_STORE = frozenset({"runtime.json", "token", "start.lock"})
THREADS_MAX = 4
Progress = Callable[[int, int], None]


def verify_store(
    blobs: Blobs, *, in_use: InUse, progress: Progress = lambda _done, _all: None
) -> Verification:
    """Everything that is wrong in a store; ``progress`` is told of logs done, and of all.

    It only reads, and may run while the store is in use. ``in_use`` tells whether anybody has a
    name open for appending.

    Raises:
        StoreUnavailable: the medium refuses to list a folder.
    """
    folders = list(log_folders(blobs))
    parts = [_format(blobs), _identity(blobs), *_types(blobs), _strays(blobs)]
    progress(0, len(folders))
    with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="verify") as threads:
        examine = partial(_examined, blobs, in_use=in_use)
        for done, part in enumerate(threads.map(examine, folders), start=1):
            parts.append(part)
            progress(done, len(folders))
    return together(parts)


def log_folders(blobs: Blobs) -> Iterator[str]:
    """The folder of every log of a store: entities first, then hosts and whatever else has one."""
    for type_name in blobs.names(ENTITIES):
        for shard in blobs.names(f"{ENTITIES}/{type_name}"):
            folder = f"{ENTITIES}/{type_name}/{shard}"
            yield from (f"{folder}/{name}" for name in blobs.names(folder))
    for folder in blobs.names(""):
        if folder not in (ENTITIES, TYPES):
            yield from (f"{folder}/{name}" for name in blobs.names(folder))


def _examined(blobs: Blobs, folder: str, *, in_use: InUse) -> Verification:
    """One log of many; what the medium refuses of it is a finding, and keeps no other from it."""
    try:
        return examine_log(blobs, folder, in_use=in_use)
    except RayAgentsError as error:
        return _one(Fault.UNREADABLE, folder, error.message, remedy=UPGRADE)


def _one(fault: Fault, file: str, what: str, *, remedy: str) -> Verification:
    return Verification(findings=(Finding(fault=fault, file=file, what=what, remedy=remedy),))


def _format(blobs: Blobs) -> Verification:
    data = blobs.read(FORMAT_FILE)
    right = format_line().decode().strip()
    if data is not None and data == format_line():
        return Verification(files=1, bytes=len(data))
    what = "it is gone" if data is None else f"it says {data[:64]!r}, not {right!r}"
    remedy = f"write {right!r} into it, unless a newer ray-agents made the store"
    return _one(Fault.MISSING if data is None else Fault.CORRUPT, FORMAT_FILE, what, remedy=remedy)


def _identity(blobs: Blobs) -> Verification:
    """It is made when it is first asked for."""
    data = blobs.read(IDENTITY_FILE)
    if data is None:
        return Verification()
    try:
        identity = read_identity(data)
    except CorruptLog:
        remedy = "restore the file from a backup; the store's actors are named by it"
        what = "it is not what its digest was made of"
        return _one(Fault.CORRUPT, IDENTITY_FILE, what, remedy=remedy)
    protected = data == identity_line(identity.encode())
    notes = () if protected else (f"{IDENTITY_FILE} was written before it had a digest",)
    return Verification(files=1, bytes=len(data), notes=notes)


def _types(blobs: Blobs) -> Iterator[Verification]:
    for type_name in blobs.names(TYPES):
        folder = f"{TYPES}/{type_name}"
        names = blobs.names(folder)
        yield from (_document(blobs, f"{folder}/{name}") for name in names)
        yield from (_gone(f"{folder}/{name}") for name in _gaps(names))


def _gaps(names: list[str]) -> list[str]:
    """The versions below the newest that are not there; they have no gaps and never go."""
    newest = names[-1].removesuffix(".json") if names else "0"
    count = int(newest) if newest.isdigit() else 0
    return [name for name in map("{:06d}.json".format, range(1, count + 1)) if name not in names]


def _gone(name: str) -> Verification:
    what = "it is gone, and a later version is there"
    remedy = "restore the file from a backup; a wake that began with this version needs it"
    return _one(Fault.MISSING, name, what, remedy=remedy)


def _document(blobs: Blobs, name: str) -> Verification:
    data = blobs.read(name) or b""
    try:
        version = decode_document(name, data)["view"]["version"]
    except (CorruptLog, KeyError, TypeError):
        remedy = "restore the file from a backup, or register the type again"
        return _one(Fault.CORRUPT, name, "it is not what was registered", remedy=remedy)
    if name.rpartition("/")[2] != f"{version:06d}.json":
        what = f"it holds version {version}"
        return _one(Fault.DISORDERED, name, what, remedy="restore the file from a backup")
    notes = () if is_protected(data) else (f"{name} was written before definitions had digests",)
    return Verification(files=1, bytes=len(data), notes=notes)


def _strays(blobs: Blobs) -> Verification:
    """Names at the top that nobody here has made: files, or folders without anything in them."""
    known = NOT_OF_THE_STORE | {FORMAT_FILE, IDENTITY_FILE, ENTITIES, HOSTS, TYPES, INDEX}
    strays = [
        name
        for name in blobs.names("")
        if name not in known and not name.startswith(".") and not blobs.names(name)
    ]
    return Verification(notes=tuple(f"{name} is no file of a store" for name in strays))
