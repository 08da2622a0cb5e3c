"""Opening a store by its URL: which medium, which format, and whether it can be written."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from xxhash import xxh3_64_hexdigest

from ray_agents.errors import CorruptLog, MissingPackage, StoreFull, StoreUnavailable
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.mounts import caching_mount, is_local
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.ports import Blobs

if TYPE_CHECKING:  # obstore is an extra
    from ray_agents.log.objects import ObjectBlobs

STORE_VERSION = 1
FORMAT_FILE = "FORMAT"
ENTITIES = "entities"
HOSTS = "hosts"
TYPES = "types"
INDEX = "index"
IDENTITY_FILE = "IDENTITY"
_BUCKET = re.compile(r"(s3|gs)://[^/?#]+(/[^?#]*)?")
_BARE_IDENTITY = re.compile(rb"[0-9a-f]{16}")
MOUNT_TABLE = Path("/proc/self/mounts")


def open_blobs(url: str) -> Blobs:
    """Open ``memory:`` (a fresh one), a directory, which is made if it is not there, or a bucket.

    A bucket, ``s3://bucket/prefix`` or ``gs://bucket/prefix``, must be there already.

    Raises:
        StoreUnavailable: the store cannot be read or written, the scheme is not known, or it was
            made by a newer version, or it is on an NFS mount that caches names, or in a bucket
            that does not honour conditional puts.
        MissingPackage: it is in a bucket, and the package for that is not installed.
    """
    if url == "memory:":
        return MemoryBlobs()
    if "://" in url:
        return _open_objects(url)
    return _open_directory(Path(url).expanduser().absolute())


def look_into(url: str) -> DirectoryBlobs | ObjectBlobs:
    """Open an existing store to look at it: nothing is made, written or checked.

    Raises:
        StoreUnavailable: there is no such store, or it cannot be read.
        MissingPackage: it is in a bucket, and the package for that is not installed.
    """
    if "://" in url:
        blobs = _objects(url)
        if blobs.exists(FORMAT_FILE):
            return blobs
        message = f"there is no store {url!r}: nothing is at {url.rstrip('/')}/{FORMAT_FILE}"
        raise StoreUnavailable(message, path=url)
    root = Path(url).expanduser().absolute()
    if not root.is_dir():
        message = f"there is no store {url!r}; name its directory with --store or RAY_AGENTS_STORE"
        raise StoreUnavailable(message, path=url)
    return DirectoryBlobs(root)


def format_line(version: int = STORE_VERSION) -> bytes:
    """The whole content of the file that says which format a store has."""
    return b"ray-agents store %d\n" % version


def check_format(blobs: Blobs, place: str) -> None:
    """Make sure that a store has our format, which one that is new is given.

    Raises:
        StoreUnavailable: it has another one.
    """
    found = blobs.read(FORMAT_FILE)
    if found is None:
        blobs.create(FORMAT_FILE, format_line())
        blobs.sync_names(FORMAT_FILE)
        found = blobs.read(FORMAT_FILE) or b""
    if found != format_line():
        text = found[:64].decode(errors="replace").strip()
        right = format_line().decode().strip()
        message = (
            f"store {place!r} has format {text!r}; this version of ray-agents reads {right!r}: "
            f"upgrade it, or choose another place, or mend {FORMAT_FILE} if that was damaged"
        )
        raise StoreUnavailable(message, path=place, format=text)


def store_identity(blobs: Blobs) -> str:
    """What tells this store from every other, wherever it is mounted: 16 hex digits, for good.

    Raises:
        StoreUnavailable, StoreFull: it was never asked for before, and cannot be recorded.
        CorruptLog: it is damaged.
    """
    found = blobs.read(IDENTITY_FILE)
    if found is None:
        fresh = identity_line(uuid4().hex[:16].encode())
        blobs.create(IDENTITY_FILE, fresh)  # or somebody else just did
        blobs.sync_names(IDENTITY_FILE)
        found = blobs.read(IDENTITY_FILE) or b""
    return read_identity(found)


def identity_line(identity: bytes) -> bytes:
    """The whole content of the file that holds a store's identity: that, and its digest."""
    return b"%s %s\n" % (identity, xxh3_64_hexdigest(identity).encode())


def read_identity(data: bytes) -> str:
    """The identity in the content of its file; the first ones carried no digest.

    Raises:
        CorruptLog: it is damaged.
    """
    identity = data[:16]
    if data != identity_line(identity) and not _BARE_IDENTITY.fullmatch(data):
        message = f"{IDENTITY_FILE!r}, the store's identity, is damaged; restore it from a backup"
        raise CorruptLog(message, segment=IDENTITY_FILE, byte=0, after_offset=None)
    return identity.decode("ascii")


def _objects(url: str) -> ObjectBlobs:
    if _BUCKET.fullmatch(url) is None:
        message = (
            f"store {url!r} is not supported; give a directory, s3://bucket/prefix or "
            "gs://bucket/prefix"
        )
        raise StoreUnavailable(message, path=url)
    try:
        from ray_agents.log.bucket import open_bucket
        from ray_agents.log.objects import ObjectBlobs
    except ModuleNotFoundError as error:
        message = f"the store {url!r} needs obstore: pip install 'ray-agents[objects]'"
        raise MissingPackage(message, package="obstore") from error
    return ObjectBlobs(open_bucket(url, os.environ))


def _open_objects(url: str) -> Blobs:
    blobs = _objects(url)
    check_format(blobs, url)
    _check_conditional(blobs, url)
    return blobs


def _check_conditional(blobs: Blobs, url: str) -> None:
    """Make sure that a name is created once: all that protects a log in a bucket.

    The same line is put where it is known to stand, so a bucket that ignores the condition is left
    as it was; and one that may not be written refuses.
    """
    if blobs.create(FORMAT_FILE, format_line()):
        message = (
            f"store {url!r} does not honour conditional puts (If-None-Match: *), so two owners "
            "could write one log: use a server that does"
        )
        raise StoreUnavailable(message, path=url)


def _open_directory(root: Path) -> Blobs:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"store {str(root)!r} cannot be made ({error.strerror}); choose another directory"
        raise StoreUnavailable(message, path=str(root)) from error
    table = _mount_table()
    _check_mount(root, table)
    blobs = DirectoryBlobs(root, prompt=is_local(str(root.resolve()), table))
    check_format(blobs, str(root))
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
