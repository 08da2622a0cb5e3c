"""The README's examples are run, also while an owner merges; the format is as it is written."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ray_agents import log
from ray_agents.address import Address
from ray_agents.cluster.folders import entity_folder
from ray_agents.log.arrow import ipc, pa
from ray_agents.log.codec import SCHEMA, to_events
from ray_agents.log.posix import DirectoryBlobs
from ray_agents.log.store import FORMAT_FILE, open_blobs
from ray_agents.ports import Blobs
from ray_agents.tables.query import query
from ray_agents.tables.views import VIEWS
from ray_agents.testing.scan_suite import ADA, BOB, log_of, read_all, work

PAGE = log.__doc__ or ""
README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
SECTION = README.partition("## Open format\n")[2].partition("\n## ")[0]
EXAMPLES = [
    code
    for code in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    if "ray.data" not in code
]


@pytest.fixture
def blobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    """The store of whoever works in this folder, as the README has it."""
    monkeypatch.chdir(tmp_path)
    return open_blobs(".ray-agents")


def run(code: str) -> dict[str, Any]:
    """Run an example; what it defines."""
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own README
    return names


async def fill(blobs: Blobs) -> None:
    """Two entities: one with merged history, one that a crash left behind."""
    with closing(log_of(blobs, ADA)) as ada, closing(log_of(blobs, BOB)) as bob:
        await work(ada, [], wakes=40, crashing=True)
        await work(bob, [], wakes=1, crashing=True)


@pytest.mark.parametrize("code", EXAMPLES)
async def test_an_example_runs(code: str, blobs: Blobs, capsys: pytest.CaptureFixture[str]) -> None:
    await fill(blobs)
    run(code)
    assert capsys.readouterr().out


def test_all_tools_have_an_example() -> None:
    assert len(EXAMPLES) == 4
    assert all(f"import {tool}" in SECTION for tool in ("polars", "duckdb", "ray", "pyarrow"))


@pytest.mark.slow
@pytest.mark.parametrize("code", [each for each in EXAMPLES if "ray_agents.scan" in each])
async def test_an_example_with_scan_runs_while_an_owner_merges(code: str, blobs: Blobs) -> None:
    with closing(log_of(blobs, ADA)) as ada:
        await work(ada, [], wakes=1, crashing=False)
        working = asyncio.create_task(work(ada, [], wakes=40, crashing=True))
        while not working.done():
            await asyncio.to_thread(run, code)
        await working


async def test_the_last_example_reads_a_log_as_we_do(blobs: Blobs) -> None:
    await fill(blobs)
    read_log: Callable[[Path], Any] = run(EXAMPLES[-1])["read_log"]
    for address in (ADA, BOB):
        folder = Path(".ray-agents", entity_folder(Address.parse(address)))
        rows = [event for batch in read_log(folder).to_batches() for event in to_events(batch)]
        if rows[-1].type == "log_sealed":
            rows.pop()
        assert rows == await read_all(blobs, address)


@pytest.mark.parametrize("sql", re.findall(r'ray-agents query "(.*?)"', SECTION, re.DOTALL))
def test_the_questions_in_the_readme_have_answers(sql: str, blobs: Blobs) -> None:
    assert query(blobs, sql).column_names


def test_the_readme_names_columns_that_there_are(blobs: Blobs) -> None:
    listed = re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", SECTION, re.MULTILINE)
    assert [name for name, _ in listed] == list(VIEWS)
    for name, columns in listed:
        named = {column.strip('"') for column in re.findall(r"`([^`]+)`", columns)}
        assert named <= set(query(blobs, f"from {name}").column_names)


async def test_every_file_is_arrow_of_the_schema_that_is_written_down(
    blobs: Blobs, tmp_path: Path
) -> None:
    await fill(blobs)
    assert isinstance(blobs, DirectoryBlobs)
    root = tmp_path / ".ray-agents"
    segments, sealed = list(root.rglob("*.arrows")), list(root.rglob("sealed/*.arrow"))
    assert segments
    assert sealed
    for path in segments:
        schema = ipc.open_stream(path.read_bytes()).schema
        assert schema.remove_metadata() == SCHEMA
        assert all(f"``{name.decode()}``" in PAGE for name in schema.metadata)
    for path in sealed:
        with pa.memory_map(str(path)) as source:
            assert ipc.open_file(source).schema.equals(SCHEMA, check_metadata=True)
    assert f"``{(root / FORMAT_FILE).read_text().strip()}``" in PAGE


def test_the_page_lists_the_columns_in_their_order() -> None:
    listed = re.findall(r"^    (\w+) +(int64|timestamp|string)", PAGE, re.MULTILINE)
    assert [name for name, _ in listed] == SCHEMA.names
