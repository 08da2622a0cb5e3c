"""What a manifest lists is served as it is listed, or not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ray_agents.errors import CorruptLog
from ray_agents.events import Event
from ray_agents.log.codec import to_batch
from ray_agents.log.files import LogFiles
from ray_agents.log.manifest import FileEntry
from ray_agents.log.memory import MemoryBlobs
from ray_agents.log.rows import Rows
from ray_agents.log.sealed import write_sealed, write_snapshot
from ray_agents.log.threads import Kept
from ray_agents.testing.log_suite import FOLDER, message
from ray_agents.testing.lossy_blobs import LossyBlobs
from tests.faults.test_log_unsynced import Worst


def sealed(*offsets: int) -> tuple[LogFiles, FileEntry]:
    """A sealed file with these rows, and how it is listed."""
    files = LogFiles(MemoryBlobs(), FOLDER, kept=Kept())
    rows = Rows([to_batch([Event.at(offset, 1, message("m")) for offset in offsets])])
    return files, write_sealed(files.blobs, FOLDER, rows=rows, epoch=1)


@pytest.mark.parametrize("wrong", [{"rows": 3}, {"first": 3}, {"end": 9}, {"rows": 1}])
def test_a_sealed_file_that_is_not_as_listed_is_not_served(wrong: dict[str, Any]) -> None:
    files, entry = sealed(4, 5)
    with pytest.raises(CorruptLog, match="the manifest lists"):
        files.listed(replace(entry, **wrong))
    rows = files.listed(entry)
    assert rows is not None
    assert (rows.first, rows.end) == (4, 6)


def test_a_sealed_file_whose_offsets_do_not_rise_is_not_served() -> None:
    files, entry = sealed(4, 6, 5)
    with pytest.raises(CorruptLog, match="out of order"):
        files.listed(entry)


def test_a_file_is_durable_when_it_is_written_and_so_is_its_index() -> None:
    blobs, rows = LossyBlobs(), Rows([to_batch([Event.at(0, 1, message("m"))])])
    entries = [
        write_sealed(blobs, FOLDER, rows=rows, epoch=1, indexed=True),
        write_snapshot(blobs, FOLDER, rows=rows, end=1, epoch=1),
    ]
    names = [f"{FOLDER}/{name}" for entry in entries for name in entry.names]
    assert len(names) == 3
    after = blobs.after_power_loss(Worst())
    assert [name for name in names if not after.exists(name)] == []
