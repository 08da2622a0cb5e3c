"""Which message ids a file may hold, four bytes each: a fresh id is looked up in no file.

An index is the sorted xxh32 digests of the keys, little-endian. It never denies a key that is
there; of those that are not, it denies all but one in 40,000 with 100,000 keys. It lies beside its
sealed file as ``<the same name>.<xxh3_64 of the content>.keys`` and tells nothing that is not in
that file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest, xxh32_intdigest

from ray_agents.errors import CorruptLog
from ray_agents.events import MessageReceived
from ray_agents.log.arrow import Batch, pc

INDEXED_TYPE = MessageReceived.TYPE
SUFFIX = ".keys"
_DIGEST: Any = np.dtype("<u4")


class KeyIndex:
    """The keys of some messages, as sorted runs of digests; immutable but for :meth:`add`."""

    def __init__(self, runs: Iterable[Any] = ()) -> None:
        self._runs = [run for run in runs if len(run)]

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def may_hold(self, key: str) -> bool:
        """Whether ``key`` may be among them; if not, it is certain."""
        digest = np.uint32(xxh32_intdigest(key.encode()))
        for run in self._runs:
            place = int(run.searchsorted(digest))
            if place < len(run) and run[place] == digest:
                return True
        return False

    def add(self, keys: list[str]) -> None:
        """Add keys; runs of like length are merged, so that there are few."""
        if not keys:
            return
        digests = (xxh32_intdigest(key.encode()) for key in keys)
        self._runs.append(np.sort(np.fromiter(digests, _DIGEST, len(keys))))
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))

    def encode(self) -> bytes:
        """The content of its file; empty without keys."""
        return np.sort(np.concatenate(self._runs)).tobytes() if self._runs else b""


def index_of(batch: Batch) -> KeyIndex:
    """The index of the messages among the rows of ``batch``."""
    index = KeyIndex()
    index.add(batch.column(3).filter(pc.equal(batch.column(2), INDEXED_TYPE)).to_pylist())
    return index


def digest_of(data: bytes) -> str:
    """The digest of an index's content, as a manifest lists it; empty without keys."""
    return xxh3_64_hexdigest(data) if data else ""


def decode_index(name: str, data: bytes, *, digest: str) -> KeyIndex:
    """The index in a file's content.

    Raises:
        CorruptLog: the content is not what ``digest`` was made of.
    """
    if digest_of(data) != digest:
        message = f"key index {name!r} is corrupt; restore it from a backup"
        raise CorruptLog(message, segment=name, byte=0, after_offset=None)
    return KeyIndex([np.frombuffer(data, _DIGEST)])
