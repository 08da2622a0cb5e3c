"""The commands by which people decide on tool calls that wait for approval: approve, deny."""

from __future__ import annotations

from typing import Annotated

import typer

from ray_agents.errors import InvalidPayload, UnknownApproval
from ray_agents.terminal import options as typed
from ray_agents.terminal import wording
from ray_agents.terminal.installation import Client
from ray_agents.terminal.session import Session, session_of
from ray_agents.views import ApprovalView

ENTITIES = "Entities"
CallId = Annotated[
    str | None,
    typer.Argument(metavar="[ID]", help="The call, as inspect shows it; if only one waits, that."),
]
By = Annotated[str | None, typer.Option("--by", metavar="NAME", help="Who decides.")]
Reason = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Why; a model is told it if denied.")
]

commands = typer.Typer()


@commands.command(rich_help_panel=ENTITIES)
def approve(
    context: typer.Context,
    address: typed.Address,
    call: CallId = None,
    *,
    by: By = None,
    reason: Reason = None,
    as_json: typed.AsJson = False,
) -> None:
    """Have a tool call run that waits for approval; the entity wakes and goes on.

    What waits: ray-agents ps --status waiting, then ray-agents inspect ADDRESS.

    $ ray-agents approve /assistant/ada
    $ ray-agents approve /assistant/ada toolu_01 --by ann
    """
    session = session_of(context)
    with session.connect() as client:
        chosen = call or _only_one(client, address)
        decided = client.approve(address, chosen, by=by, reason=reason)
    _tell(session, decided, address=address, by=by, as_json=as_json)


@commands.command(rich_help_panel=ENTITIES)
def deny(
    context: typer.Context,
    address: typed.Address,
    call: CallId = None,
    *,
    by: By = None,
    reason: Reason = None,
    as_json: typed.AsJson = False,
) -> None:
    """Have a tool call that waits for approval not run; the model is told, and goes on.

    $ ray-agents deny /assistant/ada --reason "not on a Friday"
    """
    session = session_of(context)
    with session.connect() as client:
        chosen = call or _only_one(client, address)
        decided = client.deny(address, chosen, by=by, reason=reason)
    _tell(session, decided, address=address, by=by, as_json=as_json)


def _only_one(client: Client, address: str) -> str:
    """The call that waits, if it is the only one.

    Raises:
        UnknownApproval, InvalidPayload: none does, or more than one.
    """
    waiting = client.inspect(address).approvals
    match waiting:
        case (only,):
            return only.key
        case ():
            message = f"no tool call of {address!r} waits for approval"
            raise UnknownApproval(message, address=address)
        case several:
            named = wording.told_apart(several)
            calls = "; ".join(f"{name}: {wording.call(c.tool, c.args)}" for name, c in named)
            message = f"{len(several)} tool calls of {address!r} wait; name one of them: {calls}"
            raise InvalidPayload(message, field="id")


def _tell(
    session: Session, decided: ApprovalView, *, address: str, by: str | None, as_json: bool
) -> None:
    if as_json:
        session.screen.json(decided.model_dump(mode="json"))
        return
    called = wording.call(decided.tool, decided.args)
    told = f"is {decided.status.value}"
    if decided.by and decided.by != by:  # the first decision stands
        told = f"was {decided.status.value} by {decided.by} already"
    session.screen.show(f"{address}: {called} {told}")
