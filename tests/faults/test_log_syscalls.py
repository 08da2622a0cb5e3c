"""Every system call below a log fails in turn: a clear error, nothing lost, and on it goes.

``SYSCALL_FAULTS=all .venv/bin/pytest -n 0 -m slow tests/faults/test_log_syscalls.py`` tries every
failure of every call. A failure of the test names the one, as ``call:error:way:lasting``.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable
from pathlib import Path
from random import Random

import pytest

from ray_agents.errors import Fenced, RayAgentsError, StoreFull, StoreUnavailable
from ray_agents.log import posix
from ray_agents.log.owner import LogOwner
from ray_agents.log.posix import TEMPORARY, DirectoryBlobs
from ray_agents.testing.log_suite import Log, message
from tests.faults.promises import Promises
from tests.faults.stage import StageIO
from tests.faults.system import FULL, SHORT, FailingSystem, Failure, failures_at

HOW_MANY = os.environ.get("SYSCALL_FAULTS", "300")
HOW_MANY_IN_SHORT = "40"
WAKES_BEFORE = 17


class Story:
    """Some wakes of one log, in one process that goes on whatever happens."""

    def __init__(self, root: Path, *, kept_bytes_max: int) -> None:
        self.log = Log(
            DirectoryBlobs(root, prompt=True),
            io=StageIO(prompt=True, kept_bytes_max=kept_bytes_max),
        )
        self.reader = self.log.reader()
        self.promises = Promises()
        self.errors: list[RayAgentsError] = []
        self._names = 0

    async def tell(self) -> None:
        """Wakes that end well and badly, a merge and what it deletes, a take-over, a reader."""
        await self._tried(self._read())
        await self._tried(self._wake(tidy=True))
        await self._tried(self._read())
        await self._tried(self._wake())
        await self._tried(self._taken_over())
        await self._tried(self._read())
        await self._tried(self._wake(appends=0))
        await self._tried(self._read())

    async def _tried(self, step: Awaitable[None]) -> None:
        try:
            await step
        except RayAgentsError as error:
            self.errors.append(error)

    async def _read(self) -> None:
        self.promises.serve(await self.reader.read(self.promises.served_tip, limit=10**6))

    async def _append(self, owner: LogOwner) -> None:
        self._names += 1
        self.promises.acknowledge(await owner.append([message(f"m{self._names}")]))

    async def _wake(self, *, appends: int = 2, tidy: bool = False) -> None:
        owner = await self.log.claim()
        try:
            for _ in range(appends):
                await self._append(owner)
            if tidy:
                await owner.tidy_up()
            await owner.seal()
        finally:
            await owner.abandon()

    async def _taken_over(self) -> None:
        """An owner that is thought dead, and whoever follows it."""
        old = await self.log.claim()
        try:
            await self._append(old)
            new = await self.log.claim()
            try:
                with pytest.raises(RayAgentsError) as refused:
                    await self._append(old)
                self.errors += [refused.value] if refused.type is not Fenced else []
                await self._append(new)
            finally:
                await new.abandon()
        finally:
            await old.abandon()

    async def go_on(self) -> None:
        """In the same process, nothing failing any more."""
        owner = await self.log.claim()
        await self._append(owner)
        await self._read()
        history = owner.history.read(0)
        self.promises.check(history)
        await owner.seal()
        await self._read()
        assert (await self.log.reader().read(0, limit=10**6)).events == history


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log whose small files are due to be merged."""
    root = tmp_path_factory.mktemp("before")

    async def wakes() -> None:
        log = Log(DirectoryBlobs(root), io=StageIO(prompt=True))
        for number in range(WAKES_BEFORE):
            owner = await log.claim()
            await owner.append([message(f"before-{number}")])
            await owner.seal()

    asyncio.run(wakes())
    return root


class Trial:
    """One story after another, each in a copy of the same log, and each with a failure."""

    def __init__(
        self,
        before: Path,
        root: Path,
        *,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        kept: int,
    ) -> None:
        self._before = before
        self._root = root
        self._monkeypatch = monkeypatch
        self._caplog = caplog
        self._kept = kept

    async def run(self, how_many: str) -> None:
        """Try so many failures, by chance, or ``all``."""
        calls = await self._calls()
        every = [each for at, call in enumerate(calls, 1) for each in failures_at(at, call)]
        some = every if how_many == "all" else Random(7).sample(every, int(how_many) // 2)
        for failure in some:
            try:
                await self._try(failure, calls[failure.at - 1])
            except Exception as error:
                raise AssertionError(f"{failure} in {calls[failure.at - 1]}") from error
        print(f"{len(some)} of {len(every)} failures of {len(calls)} calls")

    async def _told(self, root: Path, system: FailingSystem) -> Story:
        shutil.copytree(self._before, root)
        story = Story(root, kept_bytes_max=self._kept)
        with self._monkeypatch.context() as patch:
            patch.setattr(posix, "os", system)
            await story.tell()
        return story

    async def _calls(self) -> list[str]:
        """The system calls of the story when nothing fails."""
        system = FailingSystem()
        story = await self._told(self._root / "whole", system)
        assert not story.errors
        return system.calls

    async def _try(self, failure: Failure, call: str) -> None:
        self._caplog.clear()
        system, root = FailingSystem(failure), self._root / str(failure)
        story = await self._told(root, system)
        assert system.failed
        self._check_errors(story, failure)
        await story.go_on()
        left = [path for path in root.rglob("*") if path.name.startswith(TEMPORARY)]
        assert not left or call in ("unlink", "close") or failure.lasting
        shutil.rmtree(root)

    def _check_errors(self, story: Story, failure: Failure) -> None:
        """It is told of, as what it is; what fails beside the work, in the process's log."""
        kinds = {type(error) for error in story.errors}
        right = StoreFull if failure.error in FULL else StoreUnavailable
        if failure.way == SHORT:
            assert not kinds
        else:
            assert right in kinds or os.strerror(failure.error) in self._caplog.text
            assert kinds <= {right, Fenced}


@pytest.fixture(params=[0, 1 << 20], ids=["read each time", "kept in memory"])
def trial(
    before: Path,
    tmp_path: Path,
    *,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> Trial:
    return Trial(before, tmp_path, monkeypatch=monkeypatch, caplog=caplog, kept=request.param)


async def test_any_system_call_may_fail(trial: Trial) -> None:
    await trial.run(HOW_MANY_IN_SHORT)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_many_of_them_in_turn(trial: Trial) -> None:
    await trial.run(HOW_MANY)
