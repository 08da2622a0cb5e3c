"""The commands on the runtime as a whole: demo, start, stop, status, types, version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version as version_of
from typing import Annotated, cast

import typer

from ray_agents.terminal import options as typed
from ray_agents.terminal import tables
from ray_agents.terminal.installation import Description
from ray_agents.terminal.session import Session, session_of

RUNTIME = "The runtime"
STANDS_ON = ("ray-agents", "ray", "pyarrow", "anthropic", "pydantic")

NO_KEY = (
    "no ANTHROPIC_API_KEY or OPENAI_API_KEY: agents that call a model will fail. Stop and set it, "
    "or let the stand-in answer: python -m ray_agents.testing.messages_api --port 4438 & "
    "ANTHROPIC_API_KEY=none ANTHROPIC_BASE_URL=http://127.0.0.1:4438 ray-agents start"
)

commands = typer.Typer()


@commands.command(rich_help_panel=RUNTIME)
def demo(context: typer.Context) -> None:
    """Show it all, on a runtime of its own.

    An agent takes a message, thinks, calls a tool, answers and goes to sleep; everything is
    killed; the next message wakes it with its memory. It needs no key: without
    ANTHROPIC_API_KEY it says so and talks to a stand-in for the model.

    $ ray-agents demo
    """
    session = session_of(context)
    session.installation.demo(session.target, screen=session.screen)


@commands.command(rich_help_panel=RUNTIME)
def start(
    context: typer.Context,
    *,
    app: Annotated[
        str | None,
        typer.Option(metavar="MODULE:NAME", help="The registry of definitions to serve."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=65535, help="The control API's port.")
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Start a runtime here; return when it is ready.

    It says what was started and where. The control API answers this machine only; its token
    lies in a file that client and command line find by themselves.

    $ ray-agents start --app my_agents:registry
    $ ray-agents --store /mnt/shared/agents start --port 9000
    """
    session = session_of(context)
    with session.screen.steps(silent=as_json) as report:
        description = session.installation.start(
            session.target, app=app, http_port=port, report=report
        )
    _describe(session, description, as_json=as_json)
    if not as_json:
        _say_what_next(session, description)


@commands.command(rich_help_panel=RUNTIME)
def stop(
    context: typer.Context,
    *,
    within: Annotated[
        timedelta | None,
        typer.Option(
            parser=typed.parse_duration, metavar="DURATION", help="How long sealing may take."
        ),
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Let awake entities seal their logs, then stop the runtime.

    What is unfinished after that is taken up again by the next start; nothing is lost.

    $ ray-agents stop --within 1m
    """
    session = session_of(context)
    with session.screen.busy("sealing and stopping"):
        description = session.installation.stop(session.target, within=within)
    _describe(session, description, as_json=as_json)


@commands.command(rich_help_panel=RUNTIME)
def status(context: typer.Context, *, as_json: typed.AsJson = False) -> None:
    """Say what runs, and where; exit code 5 if nothing does.

    Of each model: the calls under way and the limit now, who waits, pauses, the minute's budgets.

    $ ray-agents status
    """
    session = session_of(context)
    description = session.installation.status(session.target)
    if as_json:
        session.screen.json(dict(description))
    else:
        session.screen.show(tables.runtime(description))


@commands.command(rich_help_panel=RUNTIME)
def types(context: typer.Context, *, as_json: typed.AsJson = False) -> None:
    """List the entity types; --json shows their schemas too.

    $ ray-agents types
    """
    session = session_of(context)
    with session.connect() as client:
        known = client.types()
    if as_json:
        session.screen.json([item.model_dump(mode="json") for item in known])
    elif known:
        session.screen.show(tables.types(known))
    else:
        session.screen.note("no types yet: ray-agents start --app MODULE:NAME registers some")


@commands.command(rich_help_panel=RUNTIME)
def version(context: typer.Context, *, as_json: typed.AsJson = False) -> None:
    """Print the versions of ray-agents and its foundations.

    $ ray-agents version
    """
    versions = {name: version_of(name) for name in STANDS_ON}
    _describe(session_of(context), versions, as_json=as_json)


def _say_what_next(session: Session, description: Description) -> None:
    """What a newcomer does after ``start``, and what will keep it from working."""
    types = cast("Sequence[str]", description.get("types") or ())
    example = f"/{types[0].partition(' ')[0]}/ada" if types else "/assistant/ada"
    say = session.screen.note
    if description.get("was running"):
        say("it was running already, and keeps the settings it was started with")
    elif "model API" in description and description["model API"] is None:
        say(NO_KEY)
    if not types:
        say("next: ray-agents start --app MODULE:NAME (or ray_agents.demo:registry, to try it)")
    say(f'next: ray-agents spawn {example} "Hello"')
    say(f"      ray-agents observe {example}      ray-agents ps      ray-agents stop")


def _describe(session: Session, description: Description, *, as_json: bool) -> None:
    if as_json:
        session.screen.json(dict(description))
    else:
        session.screen.show(tables.description(description))
