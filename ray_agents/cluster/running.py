"""What is known of a local runtime while it runs: ``runtime.json`` beside the store, mode 0600.

``start`` writes it, ``connect()``, the CLI and ``stop`` read it. It says nothing that could not
have become untrue, so every reader checks it against the live processes: a file whose processes
are gone is stale and counts as none.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ray_agents.cluster.processes import ProcessMark
from ray_agents.cluster.tokens import PRIVATE_FOLDER, private_file, token_of
from ray_agents.errors import StoreUnavailable
from ray_agents.settings import Settings

RECORD_NAME = "runtime.json"
TOKEN_NAME = "token"  # noqa: S105 - the name of a file
RECORD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningRay:
    """A local Ray head that we started, and what is needed to reach and to end it.

    ``processes`` are its daemons (or, if ``embedded``, the Python process it lives and dies
    with); ``url`` is the control API's, once it is deployed.
    """

    store: str
    namespace: str
    address: str
    directory: str
    token_file: str
    processes: tuple[ProcessMark, ...]
    machine: str
    embedded: bool = False
    url: str | None = None
    version: int = RECORD_VERSION

    @property
    def is_alive(self) -> bool:
        """Whether every daemon of it still runs, on this machine."""
        here = self.machine == socket.gethostname()
        return here and all(mark.find() is not None for mark in self.processes)

    def with_url(self, url: str) -> RunningRay:
        """The same, with its control API deployed at ``url``."""
        return replace(self, url=url)

    def with_processes(self, more: Iterable[ProcessMark]) -> RunningRay:
        """The same, with more processes that live and end with it."""
        return replace(self, processes=tuple(dict.fromkeys((*self.processes, *more))))


def state_folder(settings: Settings) -> Path:
    """Where this machine keeps what concerns the store: the store itself if it is a directory.

    For a store behind a URL it is a folder of the user's home named by the URL's digest.
    """
    if "://" in settings.store:
        digest = sha256(settings.store.encode()).hexdigest()[:16]
        return Path.home() / ".ray-agents" / "stores" / digest
    return Path(settings.store).expanduser().absolute()


def open_state_folder(settings: Settings) -> Path:
    """:func:`state_folder`, made if it is not there.

    Raises:
        StoreUnavailable: it cannot be made; the message names it.
    """
    folder = state_folder(settings)
    try:
        folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailable(
            f"cannot make the store {str(folder)!r}: {error.strerror}; choose another with "
            "RAY_AGENTS_STORE or --store",
            path=str(folder),
        ) from error
    return folder


def write_running(settings: Settings, running: RunningRay) -> None:
    """Record ``running`` beside the store.

    Raises:
        StoreUnavailable: the file cannot be written.
    """
    private_file(state_folder(settings) / RECORD_NAME, json.dumps(asdict(running), indent=2))


def recorded(settings: Settings) -> RunningRay | None:
    """The record beside the store, alive or stale; None if there is none.

    Raises:
        StoreUnavailable: there is one, and it cannot be read.
    """
    try:
        text = (state_folder(settings) / RECORD_NAME).read_text()
        return _parsed(json.loads(text))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        path = state_folder(settings) / RECORD_NAME
        raise StoreUnavailable(
            f"{str(path)!r} cannot be read ({error}); delete it if no runtime of this store runs",
            path=str(path),
        ) from error


def find_running(settings: Settings) -> RunningRay | None:
    """The live local runtime of this store; None if there is none, or only a stale record."""
    found = recorded(settings)
    return found if found is not None and found.is_alive else None


def token_for(settings: Settings, url: str) -> str | None:
    """The bearer token for ``url``: as set, else the one that ``start`` made for this store.

    Raises:
        InvalidSetting: a token file is named and cannot be read.
    """
    given = token_of(settings)
    if given is not None:
        return given
    running = recorded(settings)
    if running is None or running.url is None or running.url.rstrip("/") != url.rstrip("/"):
        return None
    return token_of(replace(settings, token_file=running.token_file))


def forget_running(settings: Settings) -> None:
    """Remove the record; absent is fine."""
    (state_folder(settings) / RECORD_NAME).unlink(missing_ok=True)


def _parsed(fields: dict[str, Any]) -> RunningRay:
    if fields["version"] != RECORD_VERSION:
        raise ValueError(f"it is of version {fields['version']!r}, not {RECORD_VERSION!r}")
    marks = tuple(ProcessMark(**mark) for mark in fields.pop("processes"))
    return RunningRay(processes=marks, **fields)
