"""The stand-in server's default script: a small assistant that is believable enough for a demo.

It calls a tool when one fits the question, says what came of it, and remembers: its answers about
earlier messages come from the transcript it is sent, so they show what the log has kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ray_agents.testing.script import Answer, Body

_NUMBER = r"-?\d+(?:\.\d+)?"
_THAT = r"(?:that|it|this|the (?:last |previous )?(?:result|answer|sum|product|number))"
_SPOKEN = (
    (r"(?<=\d),(?=\d{3})", ""),
    (r"\bmultiplied by\b|\btimes\b|\u00d7|(?<=[\d)]) ?x ?(?=[\d(])", " * "),
    (r"\bdivided by\b|\u00f7", " / "),
    (r"\bplus\b", " + "),
    (r"\bminus\b|\u2212", " - "),
    (r"\bto the power of\b|\^", " ** "),
    (r"\bsquared\b", " ** 2"),
)
_PHRASES = (
    (r"\bmultiply (\S+) (?:by|with) (\S+)", r"\1 * \2"),
    (r"\bdivide (\S+) by (\S+)", r"\1 / \2"),
    (r"\badd (\S+) to (\S+)", r"\2 + \1"),
    (r"\bsubtract (\S+) from (\S+)", r"\2 - \1"),
)
_ARITHMETIC = re.compile(r"[(\s]*\d[\d.\s()]*(?:(?:\*\*|//|[-+*/%])[\s(-]*\d[\d.\s()]*)+")
_NAME_IS = re.compile(r"\b(?i:my name is|call me|I am|I'm) ([A-Z][\w-]*)")
_CALCULATORS = re.compile(r"calc|math|arith|eval|comput")


def assistant(body: Body) -> Answer:
    """What the assistant answers to a request's body."""
    talk = _Talk(body["messages"])
    thinks = bool(body.get("thinking")) and body["thinking"]["type"] != "disabled"
    if talk.results:
        return Answer(text=_report(talk))
    call = _call_for(talk, body.get("tools") or [])
    if call is not None:
        thinking = f"The user wants me to use {call[0]}." if thinks else ""
        return Answer(text="Let me work that out. ", calls=[call], thinking=thinking)
    thinking = "I can answer this from what was said." if thinks else ""
    return Answer(text=_remember(talk) or _small_talk(talk), thinking=thinking)


class _Talk:
    """The conversation, as far as the assistant understands it."""

    def __init__(self, messages: Sequence[Mapping[str, Any]]) -> None:
        self.said: list[str] = []  # by the user, oldest first; the question is the last
        self.numbers: list[str] = []  # results of tools
        self.calls: dict[str, Mapping[str, Any]] = {}
        self.results: list[tuple[Mapping[str, Any], str, bool]] = []  # just now
        for message in messages:
            self.results = []
            for block in _blocks(message):
                self._take(block, message["role"])
        self.question = self.said[-1] if self.said else ""
        self.earlier = self.said[:-1]

    def _take(self, block: Mapping[str, Any], role: str) -> None:
        if block["type"] == "tool_use":
            self.calls[block["id"]] = block
        elif block["type"] == "tool_result":
            text, failed = _plain(block.get("content", "")), bool(block.get("is_error"))
            self.results.append((self.calls.get(block["tool_use_id"], {}), text, failed))
            if not failed and re.fullmatch(_NUMBER, text.strip()):
                self.numbers.append(text.strip())
        elif block["type"] == "text" and role == "user":
            self.said.append(block["text"])
            self.results = []


def _blocks(message: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    blocks = cast("list[Mapping[str, Any]]", content)
    return " ".join(str(block.get("text", "")) for block in blocks)


def _report(talk: _Talk) -> str:
    told = [_sentence(call, text, failed=failed) for call, text, failed in talk.results]
    return " ".join([*told, _remember(talk)]).strip()


def _sentence(call: Mapping[str, Any], text: str, *, failed: bool) -> str:
    asked = ", ".join(str(value) for value in call.get("input", {}).values())
    if failed:
        return f"I tried {asked}, but {call.get('name', 'the tool')} failed: {text}"
    return f"{asked} is {text}." if re.fullmatch(_NUMBER, text) else f"For {asked} I found: {text}"


def _remember(talk: _Talk) -> str:
    """What the question asks of earlier messages; empty if it asks nothing."""
    question = talk.question.lower()
    recalled = [recall(talk) for asked, recall in _RECALLS if re.search(asked, question)]
    return " ".join(recalled)


def _name(talk: _Talk) -> str:
    names = [name for text in talk.said for name in _NAME_IS.findall(text)]
    return f"Your name is {names[-1]}." if names else "You have not told me your name."


def _first_number(talk: _Talk) -> str:
    numbers = [number for text in talk.earlier for number in re.findall(_NUMBER, text)]
    return f"The first number was {numbers[0]}." if numbers else "There was no number yet."


def _message(talk: _Talk) -> str:
    if not talk.earlier:
        return "This is the first thing you have said to me."
    first = "first" in talk.question.lower()
    which = talk.earlier[0] if first else talk.earlier[-1]
    return f"Your {'first' if first else 'last'} message was: “{which}”"


def _result(talk: _Talk) -> str:
    return f"The last result was {talk.numbers[-1]}." if talk.numbers else "There is no result yet."


_RECALLS = (
    (r"did i (ask|say|tell|write)|my (first|last|previous) (question|message)", _message),
    (r"what(?:'s| is| was) my name|who am i|(?:remember|know) my name", _name),
    (r"first number", _first_number),
    (r"what (?:was|is) (?:the |my )?(?:last |previous )?(?:result|answer)\b", _result),
)


def _small_talk(talk: _Talk) -> str:
    name = _NAME_IS.search(talk.question)
    if name:
        return f"Nice to meet you, {name[1]}. I will remember that."
    before = f" We have exchanged {len(talk.earlier)} before." if talk.earlier else ""
    return f"I have read your message: “{talk.question}”{before}"


def _call_for(talk: _Talk, tools: Sequence[Mapping[str, Any]]) -> tuple[str, dict[str, Any]] | None:
    """The call that fits the question, if any."""
    expression = _expression_in(talk)
    for each in tools:
        argument = _only_text_argument(each)
        if argument is None:
            continue
        if _CALCULATORS.search(each["name"]):
            if expression:
                return each["name"], {argument: expression}
        elif each["name"].split("_")[-1] in talk.question.lower():
            names = re.findall(r"(?<=\s)[A-Z][\w-]+", talk.question)
            return each["name"], {argument: names[-1] if names else talk.question}
    return None


def _only_text_argument(each: Mapping[str, Any]) -> str | None:
    schema = each["input_schema"]
    required = schema.get("required", [])
    if len(required) != 1 or schema["properties"][required[0]].get("type") != "string":
        return None
    return required[0]


def _expression_in(talk: _Talk) -> str | None:
    text = talk.question
    for spoken, written in _SPOKEN:
        text = re.sub(spoken, written, text)
    if talk.numbers:
        text = re.sub(rf"\b{_THAT}\b", talk.numbers[-1], text, flags=re.IGNORECASE)
    for phrase, written in _PHRASES:
        text = re.sub(phrase, written, text, flags=re.IGNORECASE)
    found = _ARITHMETIC.search(re.sub(r"[?!.,;](?=\s|$)", " ", text))
    return " ".join(found[0].split()) if found else None
