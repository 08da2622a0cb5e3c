"""Whether a path is on an NFS mount whose client caches what names there are.

Such a client may not see the next epoch's segment for a minute, and an owner that was replaced
would go on acknowledging. The table is /proc/self/mounts, see fstab(5) and nfs(5).
"""

from __future__ import annotations

import re

_UNCACHED_ATTRIBUTES = ("acregmin=0", "acregmax=0", "acdirmin=0", "acdirmax=0")


def caching_mount(path: str, table: str) -> str | None:
    """The line of the mount ``path`` is on, if that is NFS with caches; else None."""
    best, found = "", None
    for line in table.splitlines():
        _, place, kind, options = (_unescape(field) for field in line.split(" ")[:4])
        if len(place) >= len(best) and f"{path}/".startswith(place.rstrip("/") + "/"):
            best, found = place, line if _caches(kind, options) else None
    return found


def _caches(kind: str, options: str) -> bool:
    if kind not in ("nfs", "nfs4"):
        return False
    chosen = set(options.split(","))
    attributes = chosen & {"noac", "actimeo=0"} or chosen.issuperset(_UNCACHED_ATTRIBUTES)
    return not attributes or "lookupcache=none" not in chosen


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)
