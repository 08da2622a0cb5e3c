"""The commands on the fleet's logs as tables: query, cost."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from ray_agents.errors import InvalidPayload
from ray_agents.terminal import cells, tables, wording
from ray_agents.terminal import options as typed
from ray_agents.terminal.session import session_of

FLEET = "The fleet"

commands = typer.Typer()


class By(StrEnum):
    """What a line of ``cost`` stands for."""

    TYPE = "type"
    ENTITY = "entity"
    MODEL = "model"
    DAY = "day"
    TREE = "tree"


@commands.command(rich_help_panel=FLEET)
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(metavar="SQL", help="What to ask.", show_default=False)],
    *,
    store: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where logs are kept, in place of --store.")
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Report damaged logs and go on without them.")
    ] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: typed.AsJson = False,
) -> None:
    """Ask the logs of all entities, in SQL (DuckDB).

    There are: events, runs, steps, tool_calls, inbox, entities; "describe runs"
    lists columns. It reads the store itself: no runtime is needed, nobody wakes.
    offset is a word of SQL: write it in double quotes.

    $ ray-agents query "select entity_type, sum(input_tokens) from steps group by all"
    $ ray-agents query "from inbox where status = 'pending'" --json
    """
    if as_csv and as_json:
        raise InvalidPayload("give --csv or --json, not both")
    session = session_of(context)
    target = replace(session.target, store=store) if store else session.target
    report = session.screen.note if skip_corrupt else None
    with session.screen.busy("reading the logs"):
        answer = session.installation.query(target, sql, on_corrupt=report)
    if as_json:
        rows = [[cells.plain(value) for value in row] for row in answer.rows]
        session.screen.json([dict(zip(answer.columns, row, strict=True)) for row in rows])
    elif as_csv:
        session.screen.csv(answer.columns, [map(cells.text, row) for row in answer.rows])
    elif answer.columns:
        session.screen.show(tables.rows(answer.columns, answer.rows))


@commands.command(rich_help_panel=FLEET)
def cost(
    context: typer.Context,
    *,
    by: Annotated[By, typer.Option(help="What a line stands for.")] = By.TYPE,
    since: Annotated[
        timedelta | None,
        typer.Option(
            parser=typed.parse_duration, metavar="DURATION", help="Only that far back: 12h, 7d."
        ),
    ] = None,
    skip_corrupt: Annotated[
        bool, typer.Option("--skip-corrupt", help="Report damaged logs and go on without them.")
    ] = False,
    as_json: typed.AsJson = False,
) -> None:
    """Say what the agents have spent: tokens by kind, and dollars.

    It sums the steps in the logs of all entities, at the prices of when they ran;
    a model without a price is unknown, not free. Forks count only what is theirs;
    a tree is an entity that nobody spawned, with all that descend from it.
    It reads the store itself (with --url the control API's): nobody wakes.

    $ ray-agents cost
    $ ray-agents cost --by day --since 7d
    """
    session = session_of(context)
    report = session.screen.note if skip_corrupt else None
    with session.screen.busy("reading the logs"):
        lines = session.installation.cost(
            session.target, by=by.value, since=since, on_corrupt=report
        )
    if as_json:
        session.screen.json([line.model_dump(mode="json") for line in lines])
    elif lines:
        session.screen.show(tables.costs(lines, by=by.value))
        if uncounted := sum(line.uncounted for line in lines):
            session.screen.note(wording.missed(uncounted))
    else:
        session.screen.note("nothing was spent")
