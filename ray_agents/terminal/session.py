"""One call of the program: what it talks to, and where it writes."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import typer

from ray_agents.terminal.installation import Client, Installation, Target
from ray_agents.terminal.screen import Screen


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What every command is given."""

    installation: Installation
    target: Target
    screen: Screen

    def connect(self) -> AbstractContextManager[Client]:
        """A client of the runtime that the options name."""
        return self.installation.connect(self.target)


def session_of(context: typer.Context) -> Session:
    """The session that the program's entry put into typer's context."""
    return cast("Session", context.obj)
