"""The commands on logs as they lie in the store, without a runtime: log verify."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_agents.errors import InvalidPayload
from ray_agents.terminal import options as typed
from ray_agents.terminal import tables
from ray_agents.terminal.failures import ExitCode
from ray_agents.terminal.installation import Target
from ray_agents.terminal.runtime_commands import RUNTIME
from ray_agents.terminal.session import session_of

commands = typer.Typer()
log = typer.Typer()
commands.add_typer(log, name="log", rich_help_panel=RUNTIME)


@log.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Look after the store itself; no runtime is needed, and none is disturbed.

    $ ray-agents log verify --all
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@log.command()
def verify(
    context: typer.Context,
    address: Annotated[
        str | None,
        typer.Argument(metavar="ADDRESS", help="One entity's log.", show_default=False),
    ] = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="The whole store.")] = False,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Which store; else as for every command.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Cut torn tails of logs that nobody writes.")
    ] = False,
    as_json: typed.AsJson = False,
) -> None:
    """Read every byte of a log, or of the whole store, and say what is wrong.

    Exit code 1 if anything is. It only reads, wakes nobody, and works while a runtime is running.
    A crash may leave a torn tail, which was never acknowledged: that is all
    --repair cuts; corruption it never touches. If a store was copied, compare
    with the original first: a file that a copy has cut short looks the same.
    Nothing tells of a newest segment that is gone as a whole, or was cut
    exactly between two appends: keep backups apart.

    $ ray-agents log verify /assistant/ada
    $ ray-agents log verify --all --store /mnt/backup
    """
    session = session_of(context)
    if every == (address is not None):
        raise InvalidPayload("give the ADDRESS of an entity, or --all for the whole store")
    installation, screen, target = session.installation, session.screen, session.target
    wanted = Target(url=target.url, token=target.token, store=store or target.store)
    begun = installation.now()
    with screen.counting("verifying", "logs", silent=as_json) as progress:
        found = installation.verify(wanted, address=address, repair=repair, progress=progress)
    if as_json:
        screen.json(found.as_json())
    else:
        for note in found.notes:
            screen.note(note)
        screen.show(tables.verification(found, micros=installation.now() - begun))
    raise typer.Exit(ExitCode.DONE if found.sound else ExitCode.FAILED)
