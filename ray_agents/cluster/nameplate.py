"""Whom a host's process is there for, where people look: in ``ps`` and at the head of a log line.

The title keeps Ray's ``ray::``, by which ``ray stop`` and our own ``stop`` know a worker. Ray puts
its own title back after every call (as of 2.60.0), so that is switched off, in this process.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

TITLE = "ray::ray-agents host"


class Nameplate:
    """The name of one host process; make one per process, in it."""

    def __init__(self, name: str) -> None:
        self._name = self._text = name
        raylet: Any = import_module("ray._raylet")
        self._entitle = raylet.setproctitle
        worker: Any = import_module("ray._private.worker")
        worker._changeproctitle = _title_stays  # noqa: SLF001 - the only switch there is
        lines = logging.StreamHandler()
        lines.setFormatter(_Headed(self))
        logging.getLogger().addHandler(lines)
        self._entitle(f"{TITLE} {name}")

    @property
    def text(self) -> str:
        """What it says now."""
        return self._text

    def say(self, whom: str) -> None:
        """The host is there for ``whom``: an address, or how many entities."""
        text = f"{self._name} {whom}"
        if text != self._text:
            self._text = text
            self._entitle(f"{TITLE} {text}")


class _Headed(logging.Formatter):
    """Lines with the time and the name of the host in front."""

    def __init__(self, plate: Nameplate) -> None:
        super().__init__("%(asctime)s %(levelname)s host %(host)s: %(message)s")
        self._plate = plate

    def format(self, record: logging.LogRecord) -> str:
        record.host = self._plate.text
        return super().format(record)


@contextmanager
def _title_stays(title: str, next_title: str) -> Generator[None]:  # noqa: ARG001 - Ray's signature
    yield
