"""Opening a store by its URL: which medium, which format, and whether it can be written."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

from ray_agents.errors import StoreFull, StoreUnavailable
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.mounts import caching_mount, is_local
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.ports import Blobs

STORE_VERSION = 1
FORMAT_FILE = "FORMAT"
IDENTITY_FILE = "IDENTITY"
MOUNT_TABLE = Path("/proc/self/mounts")


def open_blobs(url: str) -> Blobs:
    """Open ``memory:`` (a fresh one) or a directory, which is made if it is not there.

    Raises:
        StoreUnavailable: the directory cannot be written, the scheme is not known, or the store
            was made by a newer version, or it is on an NFS mount that caches names.
    """
    if url == "memory:":
        return MemoryBlobs()
    scheme, separator, _ = url.partition("://")
    if separator:
        message = (
            f"store {url!r}: scheme {scheme!r} is not supported; give a directory or 'memory:'"
        )
        raise StoreUnavailable(message, path=url)
    return _open_directory(Path(url).expanduser().absolute())


def store_identity(blobs: Blobs) -> str:
    """What tells this store from every other, wherever it is mounted: 16 hex digits, for good.

    Raises:
        StoreUnavailable, StoreFull: it was never asked for before, and cannot be recorded.
    """
    found = blobs.read(IDENTITY_FILE)
    if found is None:
        blobs.create(IDENTITY_FILE, uuid4().hex[:16].encode())  # or somebody else just did
        blobs.sync_names(IDENTITY_FILE)
        found = blobs.read(IDENTITY_FILE) or b""
    return found.decode("ascii")


def _open_directory(root: Path) -> Blobs:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"store {str(root)!r} cannot be made ({error.strerror}); choose another directory"
        raise StoreUnavailable(message, path=str(root)) from error
    table = _mount_table()
    _check_mount(root, table)
    blobs = DirectoryBlobs(root, prompt=is_local(str(root.resolve()), table))
    _check_format(blobs, root)
    _check_writable(blobs, root)
    return blobs


def _mount_table() -> str:
    try:
        return MOUNT_TABLE.read_text("utf-8", "surrogateescape")
    except FileNotFoundError:
        return ""  # not Linux


def _check_mount(root: Path, table: str) -> None:
    found = caching_mount(str(root.resolve()), table)
    if found is not None:
        message = (
            f"store {str(root)!r} is on an NFS mount that caches names, so an owner that was "
            f"replaced might not notice: mount it with lookupcache=none,actimeo=0; it is {found!r}"
        )
        raise StoreUnavailable(message, path=str(root), mount=found)


def _check_format(blobs: Blobs, root: Path) -> None:
    found = blobs.read(FORMAT_FILE)
    if found is None:
        blobs.create(FORMAT_FILE, b"ray-agents store %d\n" % STORE_VERSION)
        blobs.sync_names(FORMAT_FILE)
        found = blobs.read(FORMAT_FILE) or b""
    if found != b"ray-agents store %d\n" % STORE_VERSION:
        text = found[:64].decode(errors="replace").strip()
        message = (
            f"store {str(root)!r} has format {text!r}; this version of ray-agents reads "
            f"version {STORE_VERSION}: upgrade it, or choose another directory"
        )
        raise StoreUnavailable(message, path=str(root), format=text)


def _check_writable(blobs: Blobs, root: Path) -> None:
    probe = f".probe-{os.getpid()}-{uuid4().hex}"
    try:
        blobs.create(probe, b"")
    except StoreFull:
        return
    except StoreUnavailable as error:
        message = f"store {str(root)!r} cannot be written; check its owner and mode"
        raise StoreUnavailable(message, path=str(root)) from error
    blobs.delete(probe)
