"""What every test gets: patience without sleeping, and a check that nothing outlives it.

A run that leaves out the marker ``ray`` (plain ``pytest`` does) is *pure*: importing Ray in it is
a failure that shows who did it. Modules that say ``pytestmark = pytest.mark.ray`` are then not
even imported. Random order comes from pytest-randomly, which prints its seed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.abc
import inspect
import os
import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import timedelta
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import hypothesis
import psutil
import pytest

if TYPE_CHECKING:
    from tests.buckets import BucketServer

PATIENCE = timedelta(seconds=10)
POLL = timedelta(milliseconds=5)
LAST_TURNS_OF_A_CANCELLED_TASK = 10
GARBAGE_OBJECTS = 10_000  # looked for when so many more have come than gone, not Python's 700
RAY_MODULE = re.compile(r"^pytestmark = .*\bpytest\.mark\.(ray|benchmark)\b", re.MULTILINE)

# No deadline: other work shares the machine. `.ci/run` asks for the full number of examples.
hypothesis.settings.register_profile("full", deadline=None)
hypothesis.settings.register_profile("quick", deadline=None, max_examples=40)
hypothesis.settings.load_profile("quick")  # unless the command line says --hypothesis-profile

Answer = Callable[[], object]
Wait = Callable[..., Awaitable[object]]
Block = Callable[..., object]


# -- a pure run does not import Ray ------------------------------------------------------------


class RayForbidden(importlib.abc.MetaPathFinder):
    """Fails the test, or the collection, that imports Ray in a pure run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse ``ray``; leave everything else to the finders after this one."""
        if fullname == "ray":
            pytest.fail("a pure test imported ray; mark its module `pytestmark = pytest.mark.ray`")
        return None


def is_pure(config: pytest.Config) -> bool:
    """Whether this run leaves the tests out that need Ray."""
    return "not ray" in str(config.option.markexpr)


def pytest_configure(config: pytest.Config) -> None:
    if is_pure(config):
        sys.meta_path.insert(0, RayForbidden())


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if collection_path.suffix != ".py" or not is_pure(config):
        return None
    return True if RAY_MODULE.search(collection_path.read_text("utf-8")) else None


def pytest_collection() -> None:
    """All that a collection makes is kept: to look for garbage in it is a quarter of its time."""
    gc.disable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was made so far is kept to the end: full collections need not look through it."""
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])
    gc.enable()


# -- nothing outlives a test -------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nothing_outlives_the_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """No child process, no open file under the test's folders and no asyncio task stays behind."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("no_task_outlives_the_test")
    scratch = str(tmp_path_factory.getbasetemp())
    files, children = open_files(scratch), living_children(request)
    yield
    left = sorted(open_files(scratch) - files)
    assert not left, f"files left open: {left}"
    left = sorted(living_children(request) - children)
    assert not left, f"processes left running: {left}"


@pytest.fixture
async def no_task_outlives_the_test() -> AsyncIterator[None]:
    """The asyncio part of the check; it runs in the test's own loop."""
    before = asyncio.all_tasks()
    yield
    for _ in range(LAST_TURNS_OF_A_CANCELLED_TASK):
        await asyncio.sleep(0)
    ours = {task for task in (asyncio.current_task(),) if task}
    left = asyncio.all_tasks() - before - ours
    assert not left, f"asyncio tasks left running: {left}"


def open_files(folder: str) -> set[str]:
    """Regular files below ``folder`` that this process holds open."""
    if sys.platform != "linux":
        found = {file.path for file in psutil.Process().open_files()}
    else:  # psutil looks at each file's mode and position too, which takes three times as long
        with os.scandir("/proc/self/fd") as entries:
            found = {link_of(entry.path) for entry in entries}
    return {path for path in found if path.startswith(folder) and Path(path).is_file()}


def link_of(path: str) -> str:
    """What a link leads to; nothing if it is gone, as the one to the folder that is read is."""
    try:
        return os.readlink(path)  # noqa: PTH115 - twice for each file and test
    except FileNotFoundError:
        return ""


def living_children(request: pytest.FixtureRequest) -> set[str]:
    """Child processes, by id and name; a test of Ray shares the session's cluster and is exempt."""
    item = cast("pytest.Item", request.node)
    if item.get_closest_marker("ray") or item.get_closest_marker("benchmark") or is_childless():
        return set()
    return {f"{child.pid} {child.name()}" for child in psutil.Process().children(recursive=True)}


def is_childless() -> bool:
    """Whether the kernel knows no child of ours, not even an ended one; asking reaps none.

    psutil reads the state of every process of the machine instead, 5 ms for each test.
    """
    if sys.platform == "darwin":  # has no waitid before Python 3.13
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


# -- a server of buckets -----------------------------------------------------------------------


@pytest.fixture(scope="session")
def session_bucket_server() -> Iterator[BucketServer]:
    """An S3 server in this process, for all tests that want one; it takes 0.5 s to begin."""
    from tests.buckets import BucketServer

    with BucketServer() as server:
        yield server


@pytest.fixture
def bucket_server(
    session_bucket_server: BucketServer, monkeypatch: pytest.MonkeyPatch
) -> BucketServer:
    """The same, without faults and where the environment says that buckets are."""
    for name, value in session_bucket_server.environ.items():
        monkeypatch.setenv(name, value)
    session_bucket_server.heal()
    return session_bucket_server


# -- patience ----------------------------------------------------------------------------------


@pytest.fixture
def wait_until() -> Wait:
    """Patience for asyncio: await it with a predicate, get the predicate's first true answer."""

    async def wait(predicate: Answer, *, within: timedelta = PATIENCE) -> object:
        deadline = time.monotonic() + within.total_seconds()
        while True:
            answer = predicate()
            if inspect.isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not within {within}: {source_of(predicate)}"
            await asyncio.sleep(POLL.total_seconds())

    return wait


@pytest.fixture
def block_until() -> Block:
    """The same for a test without a loop."""

    def block(predicate: Answer, *, within: timedelta = PATIENCE) -> object:
        deadline = time.monotonic() + within.total_seconds()
        while not (answer := predicate()):
            assert time.monotonic() < deadline, f"not within {within}: {source_of(predicate)}"
            threading.Event().wait(POLL.total_seconds())
        return answer

    return block


def source_of(predicate: Answer) -> str:
    """The predicate as written, for the message of a wait that was in vain."""
    try:
        return inspect.getsource(predicate).strip()
    except (OSError, TypeError):
        return repr(predicate)
