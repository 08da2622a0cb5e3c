"""How far a tool has come, told to the log while it runs, for whoever watches.

The first word is posted at once; then at most one every :data:`INTERVAL`, the newest. A tool in a
thread may speak, too. What is said once the tool has ended is not heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta

from ray_agents.errors import AuthorError
from ray_agents.events import JSON, Draft, Operation
from ray_agents.injected import Injected
from ray_agents.loopside import running_loop

PROGRESS_TYPE = "tool_progress"
INTERVAL = timedelta(milliseconds=250)
WORDS_CHARS_MAX = 500
_channel: ContextVar[Channel | None] = ContextVar("ray_agents_progress", default=None)


class ToolProgress(Injected):
    """What a tool's parameter of this annotation is given: a function that tells how far it is.

    With ``def download(url: str, progress: ToolProgress)`` the tool calls
    ``progress("downloading", done=3, total=10)``, from a thread, too.
    """

    def __call__(
        self, words: str = "", *, done: float | None = None, total: float | None = None
    ) -> None:
        """Tell observers how far the tool has come; at most four times a second.

        Raises:
            AuthorError: no tool runs here.
            InvalidPayload: no log can hold it.
        """
        channel = _channel.get()
        if channel is None:
            message = "progress can be told only while a tool runs, from the tool itself"
            raise AuthorError(message)
        channel.say({"message": words[:WORDS_CHARS_MAX], "done": done, "total": total})


class Channel:
    """The progress of one tool call on its way into the log; ``post`` appends without waiting."""

    def __init__(
        self,
        post: Callable[[Sequence[Draft]], None],
        key: str,
        call: Mapping[str, JSON],
        *,
        interval: timedelta = INTERVAL,
    ) -> None:
        self._post = post
        self._key = f"{key}:progress"
        self._call = call
        self._interval = interval.total_seconds()
        self._loop = asyncio.get_running_loop()
        self._unsaid: Draft | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._failure: Exception | None = None

    @contextmanager
    def listening(self) -> Generator[None]:
        """While inside, what is said here goes into the log; at the end the last word does."""
        token = _channel.set(self)
        try:
            yield
            self._tell()
        finally:
            _channel.reset(token)
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
        if self._failure is not None:
            raise self._failure

    def say(self, told: Mapping[str, JSON]) -> None:
        """Take one word in, on the loop or in a thread.

        Raises:
            InvalidPayload: no log can hold it.
        """
        row = {"key": self._key, **self._call, **told}
        draft = Draft.of(PROGRESS_TYPE, self._key, value=row, operation=Operation.UPSERT)
        if running_loop() is self._loop:
            self._take(draft)
        else:
            self._loop.call_soon_threadsafe(self._take, draft)

    def _take(self, draft: Draft) -> None:
        if not self._closed:
            self._unsaid = draft
            if self._timer is None:
                self._tell()

    def _tell(self) -> None:
        """Post the newest word, if it was not; then nothing for the length of the interval."""
        self._timer = None
        draft, self._unsaid = self._unsaid, None
        if draft is None or self._failure is not None:
            return
        try:
            self._post([draft])
        except Exception as error:  # noqa: BLE001 -- raised where the run can see it
            self._failure = error
            return
        self._timer = self._loop.call_later(self._interval, self._tell)
