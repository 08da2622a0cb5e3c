"""The commands on entities: spawn, send, ask, observe, view, inspect, ps, kill and the like."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer

from ray_agents.errors import InvalidPayload
from ray_agents.events import JSON
from ray_agents.modes import Mode
from ray_agents.runs import LIMITS
from ray_agents.terminal import options as typed
from ray_agents.terminal import tables
from ray_agents.terminal.session import session_of
from ray_agents.terminal.spans import until
from ray_agents.views import Status

ASK_WITHIN = timedelta(minutes=2)
ENTITIES = "Entities"

commands = typer.Typer()


@commands.command(rich_help_panel=ENTITIES)
def spawn(
    context: typer.Context,
    address: typed.Address,
    *,
    text: typed.Words = None,
    args: Annotated[
        str | None, typer.Option(metavar="JSON", help="Arguments, a JSON object.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A tag; may be repeated.")
    ] = None,
    payload: typed.Payload = None,
    tokens_max: typed.TokensMax = None,
    cost_max: typed.CostMax = None,
    as_json: typed.AsJson = False,
) -> None:
    """Create an entity, with a first message if you give one.

    $ ray-agents spawn /assistant/ada "What is 17 times 23?"
    $ ray-agents spawn /assistant/bob --args '{"language": "de"}' --tag team=sales
    $ ray-agents spawn /boss/1 "Look around" --cost-max 5.00
    """
    session = session_of(context)
    message = typed.message_payload(text, payload)
    fields, tags = typed.parse_object(args, option="--args"), typed.parse_tags(tag or [])
    budget = typed.budget_of(tokens_max, cost_max)
    with session.connect() as client:
        entity = client.spawn(address, args=fields, tags=tags, message=message, budget=budget)
    if as_json:
        session.screen.json(entity.model_dump(mode="json"))
    else:
        session.screen.show(entity.address)


@commands.command(rich_help_panel=ENTITIES)
def send(
    context: typer.Context,
    address: typed.Address,
    *,
    text: typed.Words = None,
    payload: typed.Payload = None,
    type: typed.MessageType = "message",
    sender: typed.Sender = None,
    id: typed.MessageId = None,
    after: typed.After = None,
    mode: Annotated[Mode, typer.Option(help="How it meets a wake that runs.")] = Mode.QUEUED,
    as_json: typed.AsJson = False,
) -> None:
    """Put a message into an inbox, now or later; return once it cannot be lost.

    The entity may sleep until a delayed message is due. A queued message is
    for the next wake. One to steer is taken in by an agent that runs, before
    its next model call; an immediate one interrupts what runs.

    $ ray-agents send /assistant/ada and times three?
    $ ray-agents send /meter/7 --payload '{"reading": 42}' --type reading
    $ ray-agents send /meter/7 --payload 42 --id 2026-11-21   twice is harmless
    $ ray-agents send /assistant/ada "Any news?" --after 12h
    $ ray-agents send /assistant/ada "In French, please" --mode steer
    """
    session = session_of(context)
    message = _message(text, payload)
    with session.connect() as client:
        receipt = client.send(
            address, message, type=type, from_=sender, id=id, after=after, mode=mode
        )
    if as_json:
        session.screen.json(receipt.model_dump(mode="json"))
    else:
        again = ", sent before" if receipt.duplicate else ""
        told = f"{receipt.address} has it at offset {receipt.offset} ({receipt.durability}{again})"
        if receipt.fire_at is not None:
            told += f", due {until(receipt.fire_at, now=session.installation.now())}"
        session.screen.show(told)


@commands.command(rich_help_panel=ENTITIES)
def ask(
    context: typer.Context,
    address: typed.Address,
    *,
    text: typed.Words = None,
    payload: typed.Payload = None,
    within: Annotated[
        timedelta,
        typer.Option(
            parser=typed.parse_duration, metavar="DURATION", help="How long to wait for the reply."
        ),
    ] = ASK_WITHIN,
    mode: Annotated[Mode, typer.Option(help="How it meets a wake that runs.")] = Mode.QUEUED,
    as_json: typed.AsJson = False,
) -> None:
    """Send a message and print the reply to it.

    Exit code 6 if none comes in time; the message will still be handled. The
    modes are those of send.

    $ ray-agents ask /assistant/ada "What did I ask you first?" --within 30s
    """
    session = session_of(context)
    message = _message(text, payload)
    with session.connect() as client, session.screen.busy(f"waiting for {address}"):
        reply = client.ask(address, message, within=within, mode=mode)
    if as_json:
        session.screen.json(reply.model_dump(mode="json"))
        return
    if reply.interrupted:
        session.screen.note(f"{address} was interrupted; so far it had said:")
    elif not reply.text and reply.stop_reason in LIMITS:
        session.screen.note(f"{address} said nothing: its run stopped ({reply.stop_reason})")
    if reply.text or reply.value is None:
        session.screen.show(reply.text)
    elif isinstance(reply.value, str):
        session.screen.show(reply.value)
    else:
        session.screen.json(reply.value)


@commands.command(rich_help_panel=ENTITIES)
def observe(
    context: typer.Context,
    address: typed.Address,
    *,
    offset: Annotated[
        int, typer.Option("--from", metavar="OFFSET", min=-1, help="Where to begin; -1: now.")
    ] = 0,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", help="End with the log instead of waiting for more.")
    ] = False,
    as_json: typed.AsJson = False,
) -> None:
    """Watch an entity live: messages, thoughts, tool calls, text.

    Ctrl-C is its normal end, with exit code 0. Watching does not wake the
    entity. With --json each event is a line of JSON.

    $ ray-agents observe /assistant/ada
    $ ray-agents observe /assistant/ada --from -1 --json | jq .type
    """
    session = session_of(context)
    screen, transcript, seen = session.screen, session.screen.transcript(address), offset
    with session.connect() as client:
        try:
            for event in client.observe(address, offset=offset, live=not no_follow):
                seen = event.offset + 1
                if as_json:
                    screen.json_line(event.as_json())
                else:
                    screen.write(transcript.tell(event))
        except KeyboardInterrupt:
            screen.note(f"\ngo on with: ray-agents observe {address} --from {seen}")
        finally:
            screen.write(transcript.close())


@commands.command(rich_help_panel=ENTITIES)
def view(context: typer.Context, address: typed.Address, *, as_json: typed.AsJson = False) -> None:
    """Show the conversation so far, and what the entity does now.

    $ ray-agents view /assistant/ada
    """
    session = session_of(context)
    with session.connect() as client:
        entity = client.inspect(address)
        events = list(client.observe(address, offset=0, live=False))
    if as_json:
        rows = [event.as_json() for event in events]
        session.screen.json({"entity": entity.model_dump(mode="json"), "events": rows})
        return
    transcript = session.screen.transcript(address)
    for event in events:
        session.screen.write(transcript.tell(event))
    session.screen.write(transcript.close())
    session.screen.show(tables.summary(entity))


@commands.command(rich_help_panel=ENTITIES)
def inspect(
    context: typer.Context,
    address: typed.Address,
    *,
    at: Annotated[
        int | None,
        typer.Option(
            metavar="OFFSET", min=-1, help="As of then, with its collections; -1: as of now."
        ),
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Show one entity: status, host, log, parked wakes; or its state in the past.

    $ ray-agents inspect /assistant/ada
    $ ray-agents inspect /assistant/ada --at 17
    """
    session = session_of(context)
    if at is not None:
        with session.connect() as client:
            state = client.state(address, at=None if at < 0 else at)
        if as_json:
            session.screen.json(state.model_dump(mode="json"))
        else:
            session.screen.show(tables.state(state, now=session.installation.now()))
        return
    with session.connect() as client:
        entity = client.inspect(address)
    if as_json:
        session.screen.json(entity.model_dump(mode="json"))
    else:
        session.screen.show(tables.entity(entity, now=session.installation.now()))


@commands.command(rich_help_panel=ENTITIES)
def ps(
    context: typer.Context,
    *,
    type: Annotated[str | None, typer.Option(metavar="TYPE", help="Only of this type.")] = None,
    status: Annotated[Status | None, typer.Option(help="Only with this status.")] = None,
    parent: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Only children of this entity.")
    ] = None,
    tag: Annotated[
        str | None, typer.Option(metavar="KEY[=VALUE]", help="Only with this tag.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where a list ended.")
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """List entities, awake and asleep.

    $ ray-agents ps --status running
    $ ray-agents ps --tag team=sales --json | jq -r '.items[].address'
    """
    session = session_of(context)
    with session.connect() as client:
        page = client.list(
            type=type, status=status, parent=parent, tag=tag, limit=limit, cursor=cursor
        )
    if as_json:
        session.screen.json(page.model_dump(mode="json"))
        return
    session.screen.show(tables.entities(page.items, now=session.installation.now()))
    if page.cursor:
        session.screen.note(f"there are more: add --cursor {page.cursor}")


@commands.command(rich_help_panel=ENTITIES)
def kill(
    context: typer.Context,
    address: typed.Address,
    *,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; it stands in the log.")
    ] = None,
) -> None:
    """End an entity's life; its log remains readable.

    $ ray-agents kill /assistant/ada --reason "no longer needed"
    """
    session = session_of(context)
    with session.connect() as client:
        client.kill(address, reason=reason)
    session.screen.note(f"{address} is stopped; its log remains: ray-agents view {address}")


@commands.command(rich_help_panel=ENTITIES)
def interrupt(
    context: typer.Context,
    address: typed.Address,
    *,
    wake: Annotated[
        str | None, typer.Option(metavar="WAKE", help="Only if it is this one that runs.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Why; it stands in the log.")
    ] = None,
    as_json: typed.AsJson = False,
) -> None:
    """Stop what runs: the model call, the tools, the handler.

    What was said until then stands, and the wake counts as handled. An entity
    that does nothing is left alone.

    $ ray-agents interrupt /assistant/ada --reason "wrong question"
    """
    session = session_of(context)
    with session.connect() as client:
        answer = client.interrupt(address, wake=wake, reason=reason)
    if as_json:
        session.screen.json(answer.model_dump(mode="json"))
    elif answer.interrupted:
        session.screen.note(f"{address} stops {answer.wake}")
    elif wake and answer.running:
        session.screen.note(f"{address} does not run {wake}; what it does is {answer.running}")
    elif wake:
        session.screen.note(f"{address} does not run {wake}; nothing runs that could be stopped")
    else:
        session.screen.note(f"{address} does nothing that could be stopped")


@commands.command(rich_help_panel=ENTITIES)
def retry(context: typer.Context, address: typed.Address, *, wake: typed.Wake = None) -> None:
    """Run parked wakes again.

    A wake is parked when it has failed as often as it may.

    $ ray-agents retry /assistant/ada
    """
    session = session_of(context)
    with session.connect() as client:
        count = client.retry(address, wake=wake)
    session.screen.note(f"{address} tries {_wakes(count, wake)} again")


@commands.command(rich_help_panel=ENTITIES)
def skip(context: typer.Context, address: typed.Address, *, wake: typed.Wake = None) -> None:
    """Give parked wakes up; their messages count as handled.

    One that waits for approval is given up if it is named.

    $ ray-agents skip /assistant/ada --wake wake-17
    """
    session = session_of(context)
    with session.connect() as client:
        count = client.skip(address, wake=wake)
    session.screen.note(f"{address} leaves {_wakes(count, wake)} unhandled")


def _message(words: list[str] | None, payload: str | None) -> JSON:
    if not words and payload is None:
        raise InvalidPayload("give the message as TEXT or as --payload JSON")
    return typed.message_payload(words, payload)


def _wakes(count: int, wake: str | None) -> str:
    return wake or f"{count} parked wake{'' if count == 1 else 's'}"
