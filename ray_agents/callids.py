"""Ids of tool calls, told apart: providers want them unique, and some servers number from 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ray_agents.model import Block
from ray_agents.transcript import Turn, replaced


class CallIds:
    """Which id each call of a transcript is told under; the first of its name keeps its own."""

    def __init__(self) -> None:
        self._given: dict[str, str] = {}  # by what they are told under
        self._now: dict[str, str] = {}  # what the calls of turns told again are told under

    def told(self, content: Sequence[Block]) -> list[Block]:
        """The blocks of an answer, its calls under ids that no call before them has."""
        return [self._tell(block) if block["type"] == "tool_use" else block for block in content]

    def given(self, told: str) -> str:
        """The id that the provider gave."""
        return self._given[told]

    def apart(self, content: Sequence[Block], given: Callable[[str], str] = str) -> list[Block]:
        """The blocks of a turn, its calls as :meth:`told`, and its results under those ids.

        ``given`` tells the provider's id of a call from the one it stands under.
        """
        found: list[Block] = []
        for block in content:
            again = block
            if block["type"] == "tool_use":
                again = self._tell(block | {"id": given(block["id"])})
                self._now[block["id"]] = again["id"]
            elif block["type"] == "tool_result":
                again = block | {"tool_use_id": self._now[block["tool_use_id"]]}
            found.append(again)
        return found

    def of(self, turns: Iterable[Turn]) -> list[Turn]:
        """These turns, told again as if there had been none before them."""
        before, self._given, self._now = self._given, {}, {}
        return [replaced(each, self.apart(each.content, before.__getitem__)) for each in turns]

    def _tell(self, call: Block) -> Block:
        given = told = call["id"]
        number = 1
        while told in self._given:
            number += 1
            told = f"{given}_{number}"
        self._given[told] = given
        return call | {"id": told}
