"""A file that a manifest lists, read when its rows are first asked for, and not before.

That is what keeps the cost of a wake apart from the length of the log: the wake state comes from a
snapshot, a fresh message id is denied by an index, and old rows stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable

from ray_agents.log.keyindex import INDEXED_TYPE, KeyIndex
from ray_agents.log.manifest import FileEntry
from ray_agents.log.rows import Rows


class Listed:
    """The rows of one file; ``read`` blocks and gives them, or raises what is wrong with them.

    ``rows`` are what it would give, if that is known.
    """

    def __init__(
        self,
        entry: FileEntry,
        *,
        read: Callable[[FileEntry], Rows],
        keys: KeyIndex | None = None,
        rows: Rows | None = None,
    ) -> None:
        self.entry = entry
        self.first = entry.first
        self.end = entry.end
        self.count = entry.rows
        self._read = read
        self._keys = keys
        self._rows = rows

    @property
    def loaded(self) -> bool:
        """Whether the rows are in memory."""
        return self._rows is not None

    @property
    def rows(self) -> Rows:
        """The rows; blocks the first time.

        Raises:
            CorruptLog, Fenced, StoreUnavailable: they cannot be had.
        """
        if self._rows is None:
            self._rows = self._read(self.entry)
        return self._rows

    def may_hold(self, type_name: str, key: str) -> bool:
        """Whether a row of (type, key) may be here; answered without reading if that can be."""
        if self._keys is not None and type_name == INDEXED_TYPE:
            return self._keys.may_hold(key)
        return True


Part = Rows | Listed


def rows_of(part: Part) -> Rows:
    """The rows of a part, read if they are not yet."""
    return part if isinstance(part, Rows) else part.rows
