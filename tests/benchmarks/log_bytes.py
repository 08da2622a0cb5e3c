"""How many bytes a log takes for each byte it was given, once it is merged.

Payload is the JSON text of the values, as given; offsets, times, types, keys, headers, the log's
own rows and every byte of framing count only as stored. The deltas are the rows an agent run
writes, whose JSON names run and text besides the words: they are held against the words, too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from ray_agents.events import Draft
from ray_agents.runs import RunRecord
from tests.benchmarks.figures import Figure, Printout
from tests.benchmarks.logs import Text, files_of, merge, noise, payloads, prose, size_of, write

EVENT_BYTES = 1024
EVENT_BAR = 1.3
DELTA_BYTES = 100
DELTA_BAR = 2.0
DELTAS_OF_A_TEXT = 25


async def print_bytes(out: Printout, store: str, *, rows: int) -> None:
    """Bytes of all files over bytes of payload, for words and for pure chance."""
    out.head(f"log: bytes stored over bytes of payload, {rows:,} rows, merged")
    for kind, text in (("words", prose), ("noise", noise)):
        events = payloads(rows, size=EVENT_BYTES, text=text)
        stored = await _stored(store, f"kilobyte-{kind}", events)
        _print_share(out, f"{EVENT_BYTES}-byte events of {kind}", stored, events, bar=EVENT_BAR)
        deltas = _deltas(rows, text=text)
        stored = await _stored(store, f"delta-{kind}", deltas)
        name = f"deltas of {DELTA_BYTES} bytes of {kind}"
        _print_share(out, f"{name}, over their JSON", stored, deltas, bar=DELTA_BAR)
        value = stored / (rows * DELTA_BYTES)
        out.add(Figure(name=f"{name}, over the {kind}", value=value, unit="x", bar=DELTA_BAR))


def _print_share(
    out: Printout, name: str, stored: int, given: Sequence[Draft], *, bar: float
) -> None:
    payload = sum(len(draft.text.encode()) for draft in given)
    note = f"{stored / len(given):.0f} of {payload / len(given):.0f} bytes a row"
    out.add(Figure(name=name, value=stored / payload, unit="x", bar=bar, note=note))


def _deltas(count: int, *, text: Text) -> list[Draft]:
    """Rows as an agent's run writes them while the model speaks."""
    chance = random.Random(0)
    rows: list[Draft] = []
    for number in range(count):
        wake, piece = divmod(number, DELTAS_OF_A_TEXT)
        record = RunRecord(f"run-{3 * wake + 3}", [])
        key = f"{record.step_key(1)}:text:0"
        delta = text(DELTA_BYTES, chance)
        row = {"text_id": key, "run_id": record.key, "delta": delta}
        rows.append(record.put("text_delta", f"{key}:{piece}", row))
    return rows


async def _stored(store: str, name: str, drafts: Sequence[Draft]) -> int:
    folder = f"entities/bench/02/{name}"
    await write(store, folder, drafts)
    await merge(store, folder)
    return size_of(files_of(store, folder))
