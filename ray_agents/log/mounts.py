"""What kind of mount a path is on: a disk of this machine, or an NFS whose client caches names.

Such a client may not see the next epoch's segment for a minute, and an owner that was replaced
would go on acknowledging. The table is /proc/self/mounts, see fstab(5) and nfs(5).
"""

from __future__ import annotations

import re

_UNCACHED_ATTRIBUTES = ("acregmin=0", "acregmax=0", "acdirmin=0", "acdirmax=0")


LOCAL_KINDS = frozenset("ext2 ext3 ext4 xfs btrfs zfs f2fs tmpfs overlay".split())


def caching_mount(path: str, table: str) -> str | None:
    """The line of the mount ``path`` is on, if that is NFS with caches; else None."""
    line = _mount_of(path, table)
    if line is None:
        return None
    _, _, kind, options = _fields(line)
    return line if _caches(kind, options) else None


def is_local(path: str, table: str) -> bool:
    """Whether ``path`` is on a disk (or in the memory) of this machine."""
    line = _mount_of(path, table)
    return line is not None and _fields(line)[2] in LOCAL_KINDS


def _mount_of(path: str, table: str) -> str | None:
    """The line of the innermost mount that holds ``path``; of two in one place the later."""
    best, found = "", None
    for line in table.splitlines():
        place = _fields(line)[1]
        if len(place) >= len(best) and f"{path}/".startswith(place.rstrip("/") + "/"):
            best, found = place, line
    return found


def _fields(line: str) -> list[str]:
    return [_unescape(field) for field in line.split(" ")[:4]]


def _caches(kind: str, options: str) -> bool:
    if kind not in ("nfs", "nfs4"):
        return False
    chosen = set(options.split(","))
    attributes = chosen & {"noac", "actimeo=0"} or chosen.issuperset(_UNCACHED_ATTRIBUTES)
    return not attributes or "lookupcache=none" not in chosen


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
