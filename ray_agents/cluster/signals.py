"""SIGTERM in a host's process: heard, so that the host can seal what it holds and leave.

Ray runs an actor with concurrency groups, its constructor included, in threads of its own, and
Python takes a signal handler from the main thread only. That thread sits in Ray's C++, which looks
for signals every ten milliseconds and then runs Python's handler: Ray's, which refuses further
calls and waits for those under way, for ever if one of them is a handler's. ``__ray_shutdown__``
comes after that wait, so it is of no use either (all as of Ray 2.60.0). But it is the main thread
that loads the actor's class. A :class:`Loading` among the attributes of the class is made there,
and so sets a handler of ours in Ray's place.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from datetime import timedelta
from types import FrameType
from typing import Any

from ray_agents.cluster.untyped import import_ray
from ray_agents.cluster.watchdog import EXIT_STATUS

LOGGER = logging.getLogger("ray_agents.host")
_listeners: list[Callable[[], None]] = []
_told = threading.Event()


class Loading:
    """An attribute of an actor's class; in the worker that is to run the actor, SIGTERM is heard.

    Others load the class, too, to call it: drivers, and workers in other threads.
    """

    def __reduce__(self) -> tuple[Callable[[], Loading], tuple[()]]:
        return _loaded, ()


def when_told_to_end(tell: Callable[[], object], *, within: timedelta) -> None:
    """Have ``tell`` called at SIGTERM, in another thread; after ``within`` the process ends."""
    if getattr(signal.getsignal(signal.SIGTERM), "__module__", None) != __name__:
        LOGGER.warning("a SIGTERM will not be heard: Ray has loaded the class in another way")

    def told() -> None:
        last = threading.Timer(within.total_seconds(), os._exit, [EXIT_STATUS])
        last.daemon = True
        last.start()
        tell()

    _listeners[:] = [told]


def _loaded() -> Loading:
    ray = import_ray()
    in_worker = ray.get_runtime_context().worker.mode == ray.WORKER_MODE
    if in_worker and threading.current_thread() is threading.main_thread():
        _listen(signal.getsignal(signal.SIGTERM))
    return Loading()


def _listen(before: Any) -> None:
    def heard(number: int, frame: FrameType | None) -> None:
        if _listeners:
            _listeners.pop()()
        elif not _told.is_set() and callable(before):  # nothing has begun that could be sealed
            before(number, frame)
        _told.set()

    signal.signal(signal.SIGTERM, heard)
