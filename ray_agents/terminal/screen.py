"""The two streams of a command: answers on standard output, everything else on standard error.

Colour, breaking of lines and spinners belong to terminals; a pipe gets plain whole lines.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import tzinfo

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from ray_agents.errors import RayAgentsError
from ray_agents.events import JSON
from ray_agents.terminal import failures
from ray_agents.terminal.flow import visible
from ray_agents.terminal.transcript import Stroke, Transcript

PIPE_WIDTH = 100_000  # wide enough that no table is ever cut
PIPE_STEPS = 10  # so many lines tell a pipe how far something long has come
COUNTED_IN_A_PIPE_MIN = 1_000


def _stream(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    return console


@dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """Where a command writes; ``zone`` is that of clock times, None for the machine's own."""

    out: Console = field(default_factory=lambda: _stream(stderr=False))
    err: Console = field(default_factory=lambda: _stream(stderr=True))
    zone: tzinfo | None = None

    def show(self, answer: RenderableType) -> None:
        """Print an answer; lines of text are left to the terminal to break, so they copy whole.

        A pipe gets a text as it is.
        """
        if isinstance(answer, str) and self.out.is_terminal:
            answer = visible(answer)
        self.out.print(answer, soft_wrap=isinstance(answer, str | Text))

    def json(self, document: JSON) -> None:
        """Print one JSON document, for programs."""
        self._raw(json.dumps(document, indent=2, ensure_ascii=False))

    def json_line(self, document: JSON) -> None:
        """Print one JSON document on one line, at once."""
        self._raw(json.dumps(document, ensure_ascii=False))

    def csv(self, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
        """Print rows as CSV (RFC 4180, lines end as on this system), for programs."""
        writer = csv.writer(self.out.file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        self.out.file.flush()

    def _raw(self, text: str) -> None:
        self.out.file.write(text + "\n")
        self.out.file.flush()

    def transcript(self, address: str) -> Transcript:
        """A new transcript, set to this screen's width."""
        width = self.out.width if self.out.is_terminal else None
        return Transcript(address=address, zone=self.zone, width=width)

    def write(self, strokes: Iterable[Stroke]) -> None:
        """Write pieces of a transcript, at once."""
        for stroke in strokes:
            self.out.print(Text(stroke.text, style=stroke.style), end="", soft_wrap=True)
        self.out.file.flush()

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        self.err.print(Text(visible(text), style="dim"), soft_wrap=True)

    def error(self, message: str, *, hint: str | None = None) -> None:
        """Say what is wrong, and what to do."""
        self.err.print(Text("error: ", style="bold red") + Text(visible(message)), soft_wrap=True)
        if hint:
            self.err.print(Text("hint: ", style="bold") + Text(visible(hint)), soft_wrap=True)

    def failure(self, error: RayAgentsError) -> failures.ExitCode:
        """Explain an error; the exit code that goes with it."""
        self.error(error.message, hint=failures.hint(error))
        return failures.exit_code(error)

    @contextmanager
    def busy(self, doing: str) -> Generator[None]:
        """Show on a terminal that something takes its time."""
        if self.err.is_terminal:
            with self.err.status(Text(doing, style="dim")):
                yield
        else:
            yield

    @contextmanager
    def steps(self, *, silent: bool = False) -> Generator[Callable[[str], None]]:
        """Give what tells of the steps of something: in place on a terminal, else line by line.

        ``silent``, for programs, keeps it to terminals.
        """
        if self.err.is_terminal:
            with self.err.status("") as status:
                yield lambda doing: status.update(Text(doing, style="dim"))
        else:
            yield (lambda _: None) if silent else self.note

    @contextmanager
    def counting(
        self, doing: str, what: str, *, silent: bool = False
    ) -> Generator[Callable[[int, int], None]]:
        """Give what is told how many are done, of how many: a bar, or some lines in a pipe."""
        if not self.err.is_terminal:
            yield (lambda _done, _all: None) if silent else _Steps(self, what).tell
            return
        columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), _Rate(what))
        with Progress(*columns, console=self.err, transient=True) as progress:
            task = progress.add_task(doing, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)


class _Rate(ProgressColumn):
    """How many a second."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def render(self, task: Task) -> Text:
        """See :class:`rich.progress.ProgressColumn`."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self._what}/s", style="dim")


@dataclass(slots=True)
class _Steps:
    """Tells a pipe of every tenth of something long."""

    screen: Screen
    what: str
    told: int = 0

    def tell(self, done: int, total: int) -> None:
        """A line, if another step is reached."""
        step = done * PIPE_STEPS // max(total, 1)
        if total >= COUNTED_IN_A_PIPE_MIN and step > self.told:
            self.told = step
            self.screen.note(f"{done:,} of {total:,} {self.what}")
