"""Definitions leave one process and run in another, or say why they cannot."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import from_json, to_json

from ray_agents.cluster import shipping
from ray_agents.cluster.definitions import Definitions
from ray_agents.cluster.shipping import import_registry, shipped_by_value, unpacked
from ray_agents.definition import Definition, Packed, Registry
from ray_agents.errors import InvalidDefinition
from ray_agents.log.memory import MemoryBlobs

BOTS = """
from ray_agents.definition import Registry
registry = Registry()
nothing = 3

@registry.entity("bot")
async def bot(ctx, wake):
    return {answer}
"""


@pytest.fixture
def bots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module ``bots`` with a registry."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    path = tmp_path / "bots.py"
    path.write_text(BOTS.format(answer=1))
    yield path
    for name in ("bots", "helper"):
        sys.modules.pop(name, None)


@pytest.fixture
def definitions() -> Definitions:
    return Definitions(MemoryBlobs())


def register(definitions: Definitions, source: str = "bots:registry") -> int:
    return definitions.register(import_registry(source).get("bot"), source=source).version


def run(definition: Definition) -> Any:
    async def handled() -> Any:
        return await definition.handler(None, None)

    return asyncio.run(handled())


def test_a_changed_file_is_a_new_version_and_the_old_one_still_runs(bots: Path) -> None:
    blobs = MemoryBlobs()
    definitions = Definitions(blobs)
    assert [register(definitions), register(definitions)] == [1, 1]
    bots.write_text(BOTS.format(answer=2))
    assert register(definitions) == 2
    host = Definitions(blobs)
    answers = [run(host.load("bot", version).definition) for version in (1, 2, 1)]
    assert answers == [1, 2, 1]


def test_a_changed_helper_module_is_a_new_version_too(bots: Path, definitions: Definitions) -> None:
    bots.write_text(BOTS.format(answer="helper()") + "\nfrom helper import helper\n")
    (bots.parent / "helper.py").write_text("def helper(): return 1\n")
    assert register(definitions) == 1
    (bots.parent / "helper.py").write_text("def helper(): return 2\n")
    assert register(definitions) == 2
    assert run(definitions.load("bot").definition) == 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no_such_bots:registry", "there is no module 'no_such_bots'"),
        ("bots:missing", "'missing' is not there; registries in 'bots': 'registry'"),
        ("bots:nothing", "'nothing' is a int, not a Registry"),
        ("./bots.py", "'./bots.py' is no import path"),
        ("__main__:registry", "leave `source` out"),
    ],
)
def test_a_wrong_import_path_says_what_is_wrong(bots: Path, source: str, words: str) -> None:
    assert bots.exists()
    with pytest.raises(InvalidDefinition, match=words.replace("(", "\\(")):
        import_registry(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_thing", "there is no module 'no_such_thing'"),
        ("def broken(:", "'bots:registry' cannot be imported: SyntaxError"),
        ("1 / 0", "'bots:registry' cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(bots: Path, text: str, words: str) -> None:
    bots.write_text(text)
    with pytest.raises(InvalidDefinition, match=words):
        import_registry("bots:registry")


def test_a_path_that_does_not_lead_to_the_registered_type_is_refused(
    bots: Path, definitions: Definitions
) -> None:
    assert bots.exists()
    registry = Registry()
    registry.entity("stranger")(_nothing)
    with pytest.raises(InvalidDefinition, match="'stranger'"):
        definitions.register(registry.get("stranger"), source="bots:registry")


async def _nothing(ctx: Any, wake: Any) -> None: ...


# -- by value ----------------------------------------------------------------------------------

SCRIPT = """
import sys
from pydantic import BaseModel
from pydantic_core import to_json
from helper import PRICE, price_of
from ray_agents.cluster.shipping import shipped_by_value
from ray_agents.definition import Definition

class Apple(BaseModel):
    key: str
    price: int = PRICE

async def bot(ctx, wake):
    from ray_agents.address import Address
    return [price_of(Apple(key="a")), str(Address("a", "b"))]

record = shipped_by_value(Definition(type="bot", handler=bot, state={"apples": Apple}))
sys.stdout.buffer.write(to_json(record))
"""


def test_a_type_of_a_script_runs_elsewhere_with_its_helper_module(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "helper.py").write_text("PRICE = 3\ndef price_of(apple): return apple.price\n")
    done = subprocess.run(
        [sys.executable, "script.py"], check=True, capture_output=True, cwd=tmp_path, env=_here()
    )
    record = from_json(done.stdout) | {"folders": []}
    definition = unpacked("bot", record)
    assert run(definition) == [3, "/a/b"]
    assert definition.state["apples"](key="b").model_dump() == {"key": "b", "price": 3}


def _here() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(shipping.__file__).parents[2])}


def test_what_cannot_be_pickled_is_named() -> None:
    lock = threading.Lock()

    def guarded() -> None:
        lock.acquire()

    async def handler(ctx: Any, wake: Any) -> None:
        guarded()

    with pytest.raises(InvalidDefinition, match=r"'handler\.guarded\.lock', a lock, cannot be"):
        shipped_by_value(Definition(type="bot", handler=handler))


def test_another_python_is_refused_by_name() -> None:
    record = shipped_by_value(Definition(type="bot", handler=_nothing)) | {"python": "3.9"}
    with pytest.raises(InvalidDefinition, match=r"from Python 3\.9, and this host runs Python"):
        unpacked("bot", record)


def test_a_definition_that_takes_too_much_along_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shipping, "SHIPPED_BYTES_MAX", 100)
    with pytest.raises(InvalidDefinition, match=r"'bot' takes .* bytes along, at most 100"):
        shipped_by_value(Definition(type="bot", handler=_nothing))


def test_a_redefined_cell_is_a_new_version_and_the_same_one_is_not(
    definitions: Definitions,
) -> None:
    def cell(answer: int) -> Definition:
        async def bot(ctx: Any, wake: Any) -> int:
            return answer

        return Definition(type="bot", handler=bot)

    versions = [definitions.register(cell(answer)).version for answer in (1, 1, 2)]
    assert versions == [1, 1, 2]


def test_other_options_are_a_new_version(bots: Path, definitions: Definitions) -> None:
    assert register(definitions) == 1
    bots.write_text(BOTS.format(answer=1))
    packed = Definition(
        type="bot", handler=import_registry("bots").get("bot").handler, placement=Packed(hosts=2)
    )
    assert definitions.register(packed, source="bots:registry").version == 2
    assert definitions.placement("bot") == Packed(hosts=2)


class Row(BaseModel):
    key: str


def test_a_record_is_json() -> None:
    definition = Definition(type="bot", handler=_nothing, state={"rows": Row})
    assert from_json(to_json(shipped_by_value(definition)))["by"] == "value"
