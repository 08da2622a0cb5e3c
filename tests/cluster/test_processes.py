"""Processes are found by their directory and ended by pid and start time."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from ray_agents.cluster.processes import ProcessMark, marks_in, terminate, trees_of

STAY = "import signal; signal.alarm(60); print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + STAY
PARENT = (
    "import subprocess, sys; "
    f"child = subprocess.Popen([sys.executable, '-c', {STAY!r}]); child.wait()"
)
SOON = timedelta(milliseconds=200)
Block = Callable[..., object]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with start(STAY, f"--temp-dir={tmp_path}") as process:
        yield process
        process.kill()


def start(script: str, *words: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", script, *words], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_process_is_found_by_the_directory_it_was_given(
    started: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    assert [mark.pid for mark in marks_in(tmp_path)] == [started.pid]
    assert marks_in(tmp_path / "sub") == []
    assert marks_in(tmp_path.with_name(tmp_path.name[:-1])) == []


def test_a_mark_finds_its_process_and_no_other(started: subprocess.Popen[bytes]) -> None:
    mark = ProcessMark.of(psutil.Process(started.pid))
    assert mark.find() is not None
    assert replace(mark, started=mark.started - 10).find() is None
    started.kill()
    started.wait()
    assert mark.find() is None


def test_a_dead_process_that_nobody_has_reaped_is_dead(
    started: subprocess.Popen[bytes], block_until: Block
) -> None:
    process = psutil.Process(started.pid)
    mark = ProcessMark.of(process)
    started.kill()
    block_until(lambda: process.status() == psutil.STATUS_ZOMBIE)  # waiting for it would reap it
    assert mark.find() is None


@pytest.mark.slow
def test_descendants_belong_to_the_tree() -> None:
    with start(PARENT) as parent:
        tree = trees_of([ProcessMark.of(psutil.Process(parent.pid))])
        assert len(tree) == 2
        assert tree[0].pid == parent.pid
        assert terminate(tree, within=timedelta(seconds=5)) == []


def test_who_does_not_heed_a_sigterm_is_handed_back() -> None:
    with start(DEAF) as deaf:
        process = psutil.Process(deaf.pid)
        assert terminate([process], within=SOON) == [process]
        assert terminate([process], within=timedelta(seconds=5), by=signal.SIGKILL) == []
        assert terminate([process], within=SOON) == []
