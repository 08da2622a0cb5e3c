"""The demo on a terminal, by itself and interrupted: it leaves no process behind."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from ray_agents.cluster.processes import trees_of
from ray_agents.cluster.running import recorded
from ray_agents.settings import Settings

pytestmark = [pytest.mark.ray, pytest.mark.timeout(150)]
ROOT = Path(__file__).parents[2]
CTRL_C = b"\x03"
PROGRAM = "from ray_agents.cli import main; raise SystemExit(main())"
Block = Callable[..., object]


class Terminal:
    """``ray-agents demo`` on a terminal of its own; ``text`` is what it has shown so far."""

    def __init__(self, folder: Path) -> None:
        self.text = ""
        self.seen: dict[int, psutil.Process] = {}
        self._settings = Settings(store=str(folder / "store" / "demo"))
        self._ours, theirs = pty.openpty()
        environment = {k: v for k, v in os.environ.items() if not k.startswith("ANTHROPIC")}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "--store", str(folder / "store"), "demo"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "200"},
            start_new_session=True,
            preexec_fn=_own_the_terminal,  # noqa: PLW1509 - so that Ctrl-C on it is a signal
        )
        os.close(theirs)

    def read(self) -> bool:
        """Take what is there; False when the program has ended."""
        try:
            self.text += os.read(self._ours, 65_536).decode(errors="replace")
        except OSError:
            return False
        self._look()
        return True

    def read_until(self, words: str) -> None:
        while words not in self.text:
            assert self.read(), f"{words!r} is not in:\n{self.text}"

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def read_to_the_end(self) -> int:
        while self.read():
            pass
        os.close(self._ours)
        return self.process.wait()

    def _look(self) -> None:
        """Remember every process that belongs to it."""
        roots = [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        children = [child for root in roots for child in root.children(recursive=True)]
        running = recorded(self._settings)
        runtime = trees_of(running.processes) if running else []
        self.seen |= {each.pid: each for each in [*roots, *children, *runtime]}

    def left(self) -> list[str]:
        return [str(each) for each in self.seen.values() if _lives(each)]


def _own_the_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    opened = Terminal(tmp_path)
    yield opened
    for process in opened.seen.values():
        if _lives(process):
            process.kill()
    opened.process.wait()


def test_the_demo_tells_its_story_and_ends_what_it_started(
    terminal: Terminal, block_until: Block
) -> None:
    assert terminal.read_to_the_end() == 0
    story = ["No ANTHROPIC_API_KEY", "1. An agent", "calculator", "is 42", "sleeping", "gone"]
    story += ["3. kill -9", "4. The next message", "Your name is Ada", "Its log stays in"]
    places = [terminal.text.find(words) for words in story]
    assert -1 not in places, terminal.text
    assert places == sorted(places), terminal.text
    block_until(lambda: not terminal.left())


@pytest.mark.parametrize("moment", ["starting a local Ray", "calculator("])
def test_ctrl_c_leaves_no_process_behind(
    moment: str, terminal: Terminal, block_until: Block
) -> None:
    terminal.read_until(moment)
    terminal.press(CTRL_C)
    assert terminal.read_to_the_end() == 130, terminal.text
    assert "Traceback" not in terminal.text
    block_until(lambda: not terminal.left())
