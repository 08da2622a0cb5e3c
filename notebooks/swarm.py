"""A swarm from one script: a type defined here, fifty entities, a message to each, and goodbye.

    python notebooks/swarm.py                   spawn, send, show progress, end
    python notebooks/swarm.py answers           in another process: what became of it
    python notebooks/swarm.py --entities 500

The type lives in this file only, so it travels to its hosts by value. After `ray-agents start`
the swarm lives in that runtime and goes on when this script has gone. Without one the script
brings its own, which ends with it; what was not handled by then, the next one takes up.

It needs no key: without ANTHROPIC_API_KEY the scouts answer from a script.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

from rich.progress import Progress

from ray_agents import Client, Context, Packed, RayAgentsError, Registry, Wake, connect

CITIES = ("Aarhus", "Bergen", "Cusco", "Delft", "Esbjerg")
LINES_PER_RUN = 10  # of progress, where there is no terminal to draw a bar on
registry = Registry()


@registry.entity("scout", description="Says one thing about a place", placement=Packed(hosts=2))
async def scout(ctx: Context, wake: Wake) -> None:
    """Answer the message with one line."""
    scripted = None if os.environ.get("ANTHROPIC_API_KEY") else [f"{wake.payload} is worth a visit"]
    ctx.use_agent(system_prompt="Say one thing about the place.", test_responses=scripted)
    await ctx.agent.run()


def addresses(run: str, count: int) -> list[str]:
    """The swarm's addresses."""
    return [f"/scout/{run}-{number:03d}" for number in range(count)]


def send_them_out(client: Client, run: str, count: int) -> None:
    """Spawn the swarm, each scout with its message; durable when this returns."""
    client.register(registry)
    with progress("sent", count) as step:
        for number, address in enumerate(addresses(run, count)):
            message = f"{CITIES[number % len(CITIES)]} {number}"
            client.spawn(address, message=message, tags={"run": run})
            step()


def answers(client: Client, run: str) -> Iterator[tuple[str, str]]:
    """What each scout has answered, from its log; looking wakes nobody."""
    cursor: str | None = None
    while True:
        page = client.list(type="scout", tag=f"run={run}", cursor=cursor)
        for entity in page.items:
            for event in client.observe(entity.address, live=False):
                if event.type == "wake" and event.value["status"] == "handled":
                    yield entity.address, event.value["text"]
        cursor = page.cursor
        if cursor is None:
            return


def wait_for_all(client: Client, run: str, count: int) -> None:
    """Follow the logs until every scout has answered."""
    with progress("answered", count) as step:
        for address in addresses(run, count):
            for event in client.observe(address):
                if event.type == "wake" and event.value["status"] == "handled":
                    break
            step()


@contextmanager
def progress(word: str, total: int) -> Generator[Callable[[], None]]:
    """A bar on a terminal, plain lines elsewhere."""
    begun, done, every = time.monotonic(), 0, max(1, total // LINES_PER_RUN)
    with Progress(disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(word, total=total)

        def step() -> None:
            nonlocal done
            done += 1
            bar.advance(task)
            if bar.disable and (done % every == 0 or done == total):
                print(f"{word} {done} of {total}, {time.monotonic() - begun:.1f} s", flush=True)

        yield step


def main() -> None:
    """Send a swarm out, or read its answers."""
    raw = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("verb", nargs="?", default="send", choices=["send", "answers"])
    parser.add_argument("--entities", type=int, default=50, metavar="N")
    parser.add_argument("--run", default="first", metavar="NAME", help="names the swarm")
    parser.add_argument("--wait", action="store_true", help="for the answers, before it ends")
    chosen = parser.parse_args()
    try:
        with connect() as client:
            if chosen.verb == "send":
                send_them_out(client, chosen.run, chosen.entities)
                if chosen.wait:
                    wait_for_all(client, chosen.run, chosen.entities)
            else:
                found = list(answers(client, chosen.run))
                for address, text in found:
                    print(f"{address}: {text}")
                print(f"{len(found)} answers")
    except RayAgentsError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
