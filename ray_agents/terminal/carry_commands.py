"""The commands that make entities of others, or carry them away: fork, export, import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ray_agents.terminal import options as typed
from ray_agents.terminal.session import session_of

CARRYING = "Forks and files"

commands = typer.Typer()


@commands.command(rich_help_panel=CARRYING)
def fork(
    context: typer.Context,
    address: typed.Address,
    to: Annotated[
        str, typer.Argument(metavar="TO", help="The new entity, as /type/id.", show_default=False)
    ],
    *,
    at: Annotated[
        int | None,
        typer.Option(metavar="OFFSET", min=0, help="Only what stands before it; else everything."),
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Make a new entity that begins with the log of another.

    It has the state and the conversation, and goes on by itself; what the
    other has left to do stays with the other. It copies no merged file,
    however long the log, and wakes neither.

    $ ray-agents fork /assistant/ada /assistant/ada-2
    $ ray-agents fork /assistant/ada /assistant/before --at 17
    """
    session = session_of(context)
    with session.connect() as client:
        entity = client.fork(address, to, at=at)
    if as_json:
        session.screen.json(entity.model_dump(mode="json"))
        return
    origin = entity.forked_from
    end = f" as of offset {origin.offset}" if origin else ""
    session.screen.show(f"{entity.address} is a fork of {address}{end}")


@commands.command(rich_help_panel=CARRYING)
def export(
    context: typer.Context,
    address: typed.Address,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it.", show_default=False)
    ],
    *,
    children: Annotated[
        bool, typer.Option("--children", help="With all that descend from it.")
    ] = False,
    as_json: typed.AsJson = False,
) -> None:
    """Write an entity into one Arrow file, which any Arrow tool opens.

    The file is whole and checked when the command ends; it wakes nobody.

    $ ray-agents export /assistant/ada ada.arrow --children
    """
    session = session_of(context)
    with session.connect() as client, session.screen.busy(f"exporting {address}"):
        done = client.export(address, file, children=children)
    if as_json:
        session.screen.json(done.model_dump(mode="json"))
        return
    count = len(done.addresses)
    who = done.addresses[0] if count == 1 else f"{count} entities"
    session.screen.show(f"{done.file}: {who}, {done.bytes:,} bytes, xxh3 {done.digest}")


@commands.command("import", rich_help_panel=CARRYING)
def import_(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An exported file.", show_default=False)
    ],
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Another name, if the file holds one entity."),
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Make the entities of an exported file, at their addresses.

    Nothing is made if an address is taken. What they had left to do is not
    taken over; the same file again goes on where an import broke off.

    $ ray-agents import ada.arrow
    $ ray-agents import ada.arrow --to /assistant/ada-restored
    """
    session = session_of(context)
    with session.connect() as client, session.screen.busy(f"importing {file}"):
        made = client.import_(file, to=to)
    if as_json:
        session.screen.json([entity.model_dump(mode="json") for entity in made])
        return
    for entity in made:
        session.screen.show(entity.address)
