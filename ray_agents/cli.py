"""The door for a shell: ``ray-agents``, its global options, its errors, its exit codes.

The commands stand in ``ray_agents.terminal``; they know the client and the launcher only through
:class:`Installed`. Answers go to standard output, notes and errors to standard error.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Annotated, cast

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ray_agents.errors import CorruptLog, InvalidPayload, RayAgentsError
from ray_agents.terminal import (
    approval_commands,
    carry_commands,
    entity_commands,
    log_commands,
    query_commands,
    runtime_commands,
)
from ray_agents.terminal.failures import EXIT_CODES_HELP, ExitCode
from ray_agents.terminal.installation import (
    Answer,
    Client,
    Description,
    Installation,
    Target,
)
from ray_agents.terminal.screen import Screen
from ray_agents.terminal.session import Session

if TYPE_CHECKING:
    from ray_agents.findings import Verification
    from ray_agents.settings import Settings
    from ray_agents.views import CostBy, CostLine

PROGRAM = "ray-agents"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

app = typer.Typer(
    name=PROGRAM,
    epilog=EXIT_CODES_HELP,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(runtime_commands.commands)
app.add_typer(entity_commands.commands)
app.add_typer(approval_commands.commands)
app.add_typer(carry_commands.commands)
app.add_typer(log_commands.commands)
app.add_typer(query_commands.commands)


class Installed:
    """The real :class:`Installation`: the only place where the commands meet the package."""

    def connect(self, target: Target) -> AbstractContextManager[Client]:
        """A client of a running runtime."""
        from ray_agents.client import connect
        from ray_agents.cluster.head import absolute_store
        from ray_agents.cluster.running import find_running
        from ray_agents.errors import RuntimeUnavailable

        settings = self._settings(target)
        running = find_running(settings)
        url = target.url or settings.url or (running.url if running else None)
        if url is None:
            message = f"no runtime of the store {absolute_store(settings)!r} runs here"
            raise RuntimeUnavailable(message, store=settings.store)
        return connect(url, settings=settings)

    def start(
        self,
        target: Target,
        *,
        app: str | None,
        http_port: int | None,
        report: Callable[[str], None],
    ) -> Description:
        """Start a runtime here."""
        from ray_agents.cluster import upkeep

        settings = self._settings(target)
        chosen = replace(settings, app=app or settings.app)
        return upkeep.start(chosen, http_port=http_port, report=report)

    def stop(self, target: Target, *, within: timedelta | None) -> Description:
        """Seal everything and stop."""
        from ray_agents.cluster import upkeep

        settings = self._settings(target)
        return upkeep.stop(replace(settings, stop_deadline=within or settings.stop_deadline))

    def status(self, target: Target) -> Description:
        """What runs, and where."""
        from ray_agents.cluster import upkeep

        return upkeep.status(self._settings(target))

    def demo(self, target: Target, *, screen: Screen) -> None:
        """Show the main job from end to end."""
        from ray_agents.cluster.demonstration import run_demo

        run_demo(self._settings(target), screen=screen)

    def verify(
        self,
        target: Target,
        *,
        address: str | None,
        repair: bool,
        progress: Callable[[int, int], None],
    ) -> Verification:
        """Read every file of an entity's log, or of the whole store."""
        from ray_agents.cluster.storekeeping import verify

        return verify(self._settings(target), address=address, repair=repair, progress=progress)

    def query(
        self, target: Target, sql: str, *, on_corrupt: Callable[[str], None] | None
    ) -> Answer:
        """Ask the logs of the store."""
        from ray_agents.tables.query import query

        def report(_: str, error: CorruptLog) -> None:
            if on_corrupt is not None:
                on_corrupt(f"left out, from the damaged file on: {error.message}")

        store = self._settings(target).store
        table = query(store, sql, on_corrupt=report if on_corrupt is not None else None)
        columns = [column.to_pylist() for column in table.columns]
        return Answer(columns=table.column_names, rows=list(zip(*columns, strict=True)))

    def cost(
        self,
        target: Target,
        *,
        by: CostBy,
        since: timedelta | None,
        on_corrupt: Callable[[str], None] | None,
    ) -> list[CostLine]:
        """What was spent in the store, or in that of the control API that was named."""
        from ray_agents.tables.cost import cost

        now = datetime.now(UTC)
        begin = None if since is None else now - min(since, now - EPOCH)
        settings = self._settings(target)
        if (url := target.url or settings.url) is not None:
            if on_corrupt is not None:
                message = "damaged logs can be left out only where the store is, without --url"
                raise InvalidPayload(message, field="skip_corrupt")
            return self._cost_at(url, settings, by=by, since=begin)

        def report(_: str, error: CorruptLog) -> None:
            if on_corrupt is not None:
                on_corrupt(f"left out: {error.message}")

        told = report if on_corrupt is not None else None
        return cost(settings.store, by=by, since=begin, on_corrupt=told)

    def _cost_at(
        self, url: str, settings: Settings, *, by: CostBy, since: datetime | None
    ) -> list[CostLine]:
        from ray_agents.client import connect

        with connect(url, settings=settings) as client:
            return client.cost(by=by, since=since)

    def now(self) -> int:
        """Microseconds since the epoch."""
        return time.time_ns() // 1000

    def _settings(self, target: Target) -> Settings:
        from ray_agents.settings import from_env

        typed = {"RAY_AGENTS_TOKEN": target.token, "RAY_AGENTS_STORE": target.store}
        given = {name: value for name, value in typed.items() if value is not None}
        return from_env({**os.environ, **given})


@cache
def program() -> TyperGroup:
    """The commands and their options, worked out once."""
    return cast("TyperGroup", get_command(app))


def main(arguments: Sequence[str] | None = None, installation: Installation | None = None) -> int:
    """Run one command; its exit code. The console script calls this."""
    screen = Screen()
    try:
        code = program().main(
            args=arguments,
            prog_name=PROGRAM,
            standalone_mode=False,
            obj=installation or Installed(),
        )
        return int(code or 0)
    except typer.TyperException as error:
        screen.error(error.format_message(), hint=_help_for(error))
        return error.exit_code
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except RayAgentsError as error:
        return screen.failure(error)


def _help_for(error: typer.TyperException) -> str | None:
    context = cast("typer.Context | None", getattr(error, "ctx", None))
    return f"{context.command_path} --help" if context else None


@app.callback(invoke_without_command=True)
def options(
    context: typer.Context,
    *,
    url: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_AGENTS_URL", help="A control API, http://…; else the runtime found here."
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_AGENTS_TOKEN", help="The bearer token; else the one that start made here."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(envvar="RAY_AGENTS_STORE", help="Where logs are kept; else ./.ray-agents."),
    ] = None,
) -> None:
    """Durable agents on Ray: they sleep, wake, work, and survive.

    $ ray-agents demo                              see it all in a minute
    $ ray-agents start --app my_agents:registry    start a runtime here
    $ ray-agents spawn /assistant/ada "Hello"      create an entity
    $ ray-agents observe /assistant/ada            watch it think and answer
    $ ray-agents ps                                who is there, who is awake
    $ ray-agents query "from tool_calls"           ask all logs, in SQL
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        return
    target = Target(url=url, token=token, store=store)
    installation = cast("Installation", context.obj)
    context.obj = Session(installation=installation, target=target, screen=Screen())
