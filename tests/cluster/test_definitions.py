"""Definitions in the store: by value and by import path, their versions, and what cannot travel."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.shipping import PYTHON, import_registry
from ray_agents.definition import Definition, Packed, Registry
from ray_agents.errors import CorruptLog, InvalidDefinition, UnknownType
from ray_agents.log.documents import decode_document, encode_document
from ray_agents.log.memory import MemoryBlobs

SOURCE = """
from ray_agents.definition import Registry
registry = Registry()
@registry.entity("notes", description="{words}")
async def notes(ctx, wake):
    return "{words}"
"""


async def handler(ctx: Any, wake: Any) -> str:
    return "from here"


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


def run(definition: Definition) -> object:
    async def call() -> object:
        return await definition.handler(None, None)

    return asyncio.run(call())


def from_main(code: str) -> Definition:
    """A definition as a script's ``__main__`` makes it."""
    main = ModuleType("__main__")
    exec(code, main.__dict__)  # noqa: S102 - a fake script
    registry: Registry = main.__dict__["registry"]
    return registry.get("notes")


def test_a_type_of_a_scripts_main_runs_elsewhere(
    blobs: MemoryBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    Definitions(blobs).register(from_main(SOURCE.format(words="main")))
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    loaded = Definitions(blobs).load("notes")
    assert loaded.version == 1
    assert run(loaded.definition) == "main"


def test_a_redefinition_is_a_new_version_and_the_old_one_stays(blobs: MemoryBlobs) -> None:
    first, elsewhere = Definitions(blobs), Definitions(blobs)
    first.register(from_main(SOURCE.format(words="one")))
    assert elsewhere.newest_version("notes") == 1
    view = first.register(from_main(SOURCE.format(words="two")))
    assert (view.version, view.description) == (2, "two")
    assert run(elsewhere.load("notes").definition) == "two"
    assert run(elsewhere.load("notes", 1).definition) == "one"


def test_the_same_again_is_no_new_version(blobs: MemoryBlobs) -> None:
    definition = Definition(type="notes", handler=handler, placement=Packed(hosts=2))
    views = [Definitions(blobs).register(definition) for _ in range(3)]
    assert [view.version for view in views] == [1, 1, 1]
    assert Definitions(blobs).types() == [views[0]]
    assert Definitions(blobs).placement("notes") == Packed(hosts=2)


def test_what_lives_in_this_process_only_is_refused_by_name(blobs: MemoryBlobs) -> None:
    lock = threading.Lock()

    async def locked(ctx: Any, wake: Any) -> None:
        lock.acquire()

    with pytest.raises(InvalidDefinition, match="'notes' cannot be shipped"):
        Definitions(blobs).register(Definition(type="notes", handler=locked))
    assert Definitions(blobs).types() == []


def test_another_python_is_refused_by_name(blobs: MemoryBlobs) -> None:
    Definitions(blobs).register(Definition(type="notes", handler=handler))
    record = decode_document("notes", blobs.read("types/notes/000001.json") or b"")
    other = record | {"python": "3.99", "digest": "another"}
    blobs.create("types/notes/000002.json", encode_document(other))
    with pytest.raises(InvalidDefinition, match=f"Python 3.99, and this host runs Python {PYTHON}"):
        Definitions(blobs).load("notes")


def test_a_damaged_definition_is_told_and_mended_by_registering_again(blobs: MemoryBlobs) -> None:
    definition = Definition(type="notes", handler=handler, description="words")
    Definitions(blobs).register(definition)
    data = blobs.read("types/notes/000001.json") or b""
    blobs.delete("types/notes/000001.json")
    blobs.create("types/notes/000001.json", data.replace(b"words", b"wards"))
    with pytest.raises(CorruptLog, match=r"types/notes/000001\.json"):
        Definitions(blobs).load("notes")
    assert Definitions(blobs).register(definition).version == 2
    assert Definitions(blobs).load("notes").definition.description == "words"


def test_an_unknown_type_names_the_known_ones(blobs: MemoryBlobs) -> None:
    Definitions(blobs).register(Definition(type="notes", handler=handler))
    with pytest.raises(UnknownType, match="registered types: notes"):
        Definitions(blobs).load("nodes")
    with pytest.raises(UnknownType, match="version 7"):
        Definitions(blobs).load("notes", 7)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module on the path that defines a type; forgotten afterwards."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "some_app", raising=False)
    path = tmp_path / "some_app.py"
    path.write_text(SOURCE.format(words="one"))
    return path


def test_a_type_by_import_path_is_imported_where_it_runs(blobs: MemoryBlobs, app: Path) -> None:
    registry = import_registry("some_app:registry")
    view = Definitions(blobs).register(registry.get("notes"), source="some_app:registry")
    assert view.source == "some_app:registry"
    del sys.modules["some_app"]
    assert run(Definitions(blobs).load("notes").definition) == "one"


def test_changed_code_at_an_import_path_is_a_new_version_that_runs(
    blobs: MemoryBlobs, app: Path
) -> None:
    host = Definitions(blobs)
    one = import_registry("some_app")
    Definitions(blobs).register(one.get("notes"), source="some_app")
    assert run(host.load("notes").definition) == "one"
    app.write_text(SOURCE.format(words="another"))
    module = sys.modules.pop("some_app")
    two = import_registry("some_app")
    assert Definitions(blobs).register(two.get("notes"), source="some_app").version == 2
    sys.modules["some_app"] = module  # the host has not seen the new code yet
    assert run(host.load("notes").definition) == "another"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no_such_module:registry", "cannot be imported"),
        ("json:loads", "a function, not a Registry"),
    ],
)
def test_a_path_that_leads_nowhere_is_named(source: str, message: str) -> None:
    with pytest.raises(InvalidDefinition, match=message):
        import_registry(source)


def test_a_registry_is_named_registry_by_default(app: Path) -> None:
    assert isinstance(import_registry("some_app"), Registry)
