"""An exported file holds whole logs, is open to any Arrow tool, and no bit of it may change."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.errors import InvalidPayload, StoreUnavailable
from ray_agents.events import Draft, Event
from ray_agents.log import export
from ray_agents.log.arrow import ipc
from ray_agents.log.codec import COLUMNS, to_batch
from ray_agents.log.export import Exported, ExportFile, write_export
from ray_agents.log.exportpath import pieces, save

texts = st.text(st.characters(codec="utf-8"), max_size=20)
logs = st.lists(st.lists(st.tuples(texts, texts), min_size=1, max_size=20), max_size=5)


def events_of(rows: list[tuple[str, str]]) -> list[Event]:
    return [
        Event.at(2 * n, n, Draft.of("note", key, value=text, headers={"h": text}))
        for n, (key, text) in enumerate(rows)
    ]


def exported(all_events: list[list[Event]], *, portions: int = 3) -> bytes:
    file = BytesIO()
    facts = [
        Exported(address=f"/t/{n}", first=0, since=0, tip=100, epoch=n, life=0, parent=None)
        for n, _ in enumerate(all_events)
    ]
    batches = [
        [to_batch(events[at : at + portions]) for at in range(0, len(events), portions)]
        for events in all_events
    ]
    write_export(file, zip(facts, batches, strict=True))
    return file.getvalue()


def opened(data: bytes) -> ExportFile:
    return ExportFile(BytesIO(data), name="x.arrow")


def read(data: bytes) -> list[list[Event]]:
    file = opened(data)
    return [
        [event for rows in file.rows(log) for event in rows.between(0, 999, limit=None, types=None)]
        for log in file.logs
    ]


@given(logs)
def test_what_was_written_is_read(all_rows: list[list[tuple[str, str]]]) -> None:
    all_events = [events_of(rows) for rows in all_rows]
    assert read(exported(all_events)) == all_events


def test_any_arrow_tool_opens_it(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    path.write_bytes(exported([events_of([("a", "1"), ("b", "2")]), events_of([("c", "3")])]))
    table: Any = ipc.open_file(path).read_all()
    assert table.column_names == ["entity", *COLUMNS]
    assert table["entity"].to_pylist() == ["/t/0", "/t/0", "/t/1"]
    assert table["key"].to_pylist() == ["a", "b", "c"]
    assert table.schema.metadata[b"ray_agents_export"] == b"1"


def test_every_flipped_bit_is_found() -> None:
    data = exported([events_of([("a", "hello"), ("b", "there")])])
    chance = Random(0)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << chance.randrange(8)
        with pytest.raises(InvalidPayload, match=r"'x.arrow' is no export, or is damaged"):
            opened(bytes(flipped))


def test_a_file_cut_short_or_of_something_else_is_refused() -> None:
    data = exported([events_of([("a", "hello")])])
    for wrong in (b"", b"ARROW1", data[:-1], data[: len(data) // 2], b"x" * 100, data + b"\0"):
        with pytest.raises(InvalidPayload):
            opened(wrong)


def test_a_file_of_a_later_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "VERSION", "2")
    data = exported([])
    monkeypatch.undo()
    with pytest.raises(InvalidPayload, match="version 2"):
        opened(data)


def test_large_files_of_a_log_are_written_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "BATCH_ROWS", 7)
    events = events_of([(str(n), "x") for n in range(50)])
    data = exported([events], portions=25)
    file = opened(data)
    assert [rows.count for rows in file.rows(file.logs[0])] == [7, 7, 7, 11, 7, 7, 4]
    assert read(data) == [events]


async def test_a_saved_export_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    data = exported([events_of([("a", "hello")])])

    async def arriving(*chunks: bytes) -> AsyncGenerator[bytes]:
        for chunk in chunks:
            yield chunk

    path = tmp_path / "x.arrow"
    path.write_bytes(b"an older one")
    with pytest.raises(InvalidPayload):
        await save(arriving(data[:100]), path)
    assert path.read_bytes() == b"an older one"
    view = await save(arriving(data[:100], data[100:]), path)
    assert path.read_bytes() == data == b"".join([chunk async for chunk in pieces(path)])
    assert (view.bytes, view.addresses) == (len(data), ("/t/0",))
    assert not path.with_name("x.arrow.part").exists()
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await save(arriving(data), tmp_path / "no folder" / "x.arrow")
    with pytest.raises(StoreUnavailable, match="cannot be read"):
        _ = [chunk async for chunk in pieces(tmp_path / "nothing")]
