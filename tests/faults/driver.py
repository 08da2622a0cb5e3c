"""A user's program in a process of its own, told by lines of JSON what to do.

    python -m tests.faults.driver <settings as JSON>

Each line is ``[verb, args, options]`` and is answered by ``{"ok": …}`` or ``{"error": …}``. The
verb ``flood`` begins to send for ever, to the entities given, and appends a line for each message
to the file given once it is acknowledged. Whatever the trial kills, this process is not part of it.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from ray_agents.client import Client
from ray_agents.cluster.attach import ClusterRuntime, attach
from ray_agents.cluster.untyped import import_ray
from ray_agents.cluster.upkeep import stop
from ray_agents.errors import RayAgentsError
from ray_agents.settings import Settings, from_env
from tests.faults.kinds import SOURCE, registry


def serve(settings: Settings, lines: Iterable[str], answers: IO[str]) -> None:
    """Join, say so, and answer line by line."""
    attachment = attach(settings)
    runtime = ClusterRuntime(settings, attachment)
    with Client(runtime, attachment.detach) as client:
        client.register(registry, source=SOURCE)
        driver = Driver(client, runtime)
        _say(answers, {"ok": time.time()})
        for line in lines:
            verb, args, options = json.loads(line)
            _say(answers, driver.do(verb, args, options))


class Driver:
    """Does what a line says."""

    def __init__(self, client: Client, runtime: ClusterRuntime) -> None:
        self._client = client
        self._runtime = runtime

    def do(self, verb: str, args: list[Any], options: dict[str, Any]) -> dict[str, Any]:
        """The answer to one line."""
        ray, keeper = import_ray(), self._runtime.directory.keeper
        if verb == "hosts":
            return {"ok": ray.get(keeper().status.remote())["hosts"]}
        if verb == "stop_hosts":
            return {"ok": ray.get(keeper().stop.remote(timedelta(seconds=args[0])))}
        if verb == "kill_keeper":  # for good: Ray does not bring it back
            return {"ok": ray.kill(keeper())}
        if verb == "flood":
            for number in range(options["senders"]):
                seed = f"{options['seed']}-{number}"
                flood = threading.Thread(
                    target=self._flood, args=(args[0], Path(args[1]), seed), daemon=True
                )
                flood.start()
            return {"ok": None}
        if verb == "observe":
            return {"ok": [event.key for event in self._client.observe(*args, **options)]}
        if "after_seconds" in options:  # JSON has no word for a timedelta
            options["after"] = timedelta(seconds=options.pop("after_seconds"))
        try:
            answer: Any = getattr(self._client, verb)(*args, **options)
        except RayAgentsError as error:
            return {"error": f"{type(error).__name__}: {error}"}
        return {"ok": answer.model_dump(mode="json") if hasattr(answer, "model_dump") else answer}

    def _flood(self, addresses: list[str], acknowledged: Path, seed: str) -> None:
        chance = random.Random(seed)
        for number in range(1_000_000):
            address = chance.choice(addresses)
            begun = time.time()
            try:
                self._client.send(address, {}, id=f"{seed}-{number}")
            except RayAgentsError as error:
                line = f"! {address} {type(error).__name__}: {error}"
            else:
                line = f"{address} {seed}-{number} {begun:.4f} {time.time() - begun:.4f}"
            with acknowledged.open("a") as file:
                file.write(line + "\n")


def _say(answers: IO[str], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


if __name__ == "__main__":
    chosen = from_env(json.loads(sys.argv[1]))
    if sys.argv[2:] == ["stop"]:
        _say(sys.stdout, dict(stop(chosen)))
    else:
        serve(chosen, sys.stdin, sys.stdout)
