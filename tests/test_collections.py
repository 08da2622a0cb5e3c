"""State collections: typed rows by key, and every way to use them wrongly."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, Field

from ray_agents.collections import Collections
from ray_agents.effects import Effects
from ray_agents.errors import DuplicateKey, InvalidPayload, MissingKey


class Note(BaseModel):
    key: str
    text: str = ""
    stars: int = Field(default=0, le=5)


@pytest.fixture
def state() -> Collections:
    return Collections({"notes": Note}, Effects("wake-1", {}, {}))


def test_rows_are_inserted_read_updated_and_deleted(state: Collections) -> None:
    state.notes.insert({"key": "a", "text": "one"})
    state.notes.insert(Note(key="b"))
    state.notes.update("a", text="two")
    state.notes.update("b", lambda row: setattr(row, "stars", 3))
    assert [(row.key, row.text, row.stars) for row in state.notes.list()] == [
        ("a", "two", 0),
        ("b", "", 3),
    ]
    state.notes.delete("a")
    assert "a" not in state.notes
    assert len(state["notes"]) == 1


def test_an_upsert_keeps_the_place_of_a_row(state: Collections) -> None:
    for key in "aba":
        state.notes.upsert({"key": key})
    assert [row.key for row in state.notes.list()] == ["a", "b"]


def test_a_key_is_inserted_once(state: Collections) -> None:
    state.notes.insert({"key": "a"})
    with pytest.raises(DuplicateKey, match="'notes' already has a row 'a'"):
        state.notes.insert({"key": "a"})


def test_a_row_that_is_not_there_is_named(state: Collections) -> None:
    for wrong in (
        lambda: state.notes.get("x"),
        lambda: state.notes.update("x", text="y"),
        lambda: state.notes.delete("x"),
    ):
        with pytest.raises(MissingKey, match="'notes' has no row 'x'"):
            wrong()


@pytest.mark.parametrize(
    ("row", "field"),
    [({}, "key"), ({"key": 1}, "key"), ({"key": ""}, "key"), ({"key": "a", "stars": 6}, "stars")],
)
def test_a_row_that_does_not_fit_names_the_field(
    state: Collections, row: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidPayload, match=field):
        state.notes.insert(row)
    assert len(state.notes) == 0


def test_an_update_is_checked_and_cannot_move_a_row(state: Collections) -> None:
    state.notes.insert({"key": "a"})
    with pytest.raises(InvalidPayload, match="stars"):
        state.notes.update("a", stars=6)
    with pytest.raises(InvalidPayload, match="would change its key"):
        state.notes.update("a", key="b")
    assert state.notes.get("a") == Note(key="a")


def test_a_row_given_out_is_a_copy(state: Collections) -> None:
    row = state.notes.insert({"key": "a"})
    row.text = "changed behind its back"
    state.notes.get("a").text = "again"
    assert state.notes.get("a").text == ""


def test_text_that_json_cannot_say_is_refused(state: Collections) -> None:
    with pytest.raises(InvalidPayload):
        state.notes.insert(Note.model_construct(key="a", text="\ud800"))


def test_a_collection_that_was_not_declared_is_named(state: Collections) -> None:
    with pytest.raises(AttributeError, match="'nodes'; this type declares: notes"):
        _ = state.nodes
    assert dir(state) == ["notes"]
