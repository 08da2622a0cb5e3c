"""A process that has imported everything once and forks a new one for each order, in milliseconds.

    python -m tests.faults.zygote <module>:<function>

The module's ``preload`` is called first. An order is a line of JSON, which the function gets in a
fork of its own. Two lines answer it: the fork's process id when it is born, and how it ended, as
``subprocess`` tells it.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, Self

ROOT = Path(__file__).parents[2]


class Zygote:
    """The process, seen from the one that gives the orders; ``said`` is where forks complain."""

    def __init__(self, target: str, *, said: Path) -> None:
        self._target = target
        self._said = said
        self._process: asyncio.subprocess.Process | None = None
        self._living: int | None = None

    async def __aenter__(self) -> Self:
        with self._said.open("ab") as said:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.faults.zygote", self._target),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=said,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        await self._answer()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._living is not None:  # something has gone wrong, and it may never end
            os.kill(self._living, signal.SIGKILL)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            await self._process.stdin.wait_closed()
            await self._process.wait()

    async def bear(self, order: dict[str, Any]) -> int:
        """Give an order; the process id of the one who carries it out."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        await self._process.stdin.drain()
        self._living = await self._answer()
        return self._living

    async def end(self) -> int:
        """How that one ended: its exit code, or less than 0, the signal that killed it."""
        status = await self._answer()
        self._living = None
        return status

    async def _answer(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, f"the zygote has ended; see {self._said}"
        return int(line)


def _say(number: int) -> None:
    os.write(1, f"{number}\n".encode())


def _live(function: Callable[[dict[str, Any]], None], order: dict[str, Any]) -> NoReturn:
    code = 1
    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        function(order)
        code = 0
    except BaseException:  # noqa: BLE001 - a fork must not go on as its parent, whatever happens
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def main() -> None:
    """Import, and fork until there are no more orders."""
    module, _, name = sys.argv[1].partition(":")
    kinds = importlib.import_module(module)
    function = getattr(kinds, name)
    kinds.preload()
    gc.freeze()
    _say(os.getpid())
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _live(function, json.loads(line))
        _say(pid)
        _, status = os.waitpid(pid, 0)
        _say(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
