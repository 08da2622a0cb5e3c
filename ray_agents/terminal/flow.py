"""Streamed text broken into indented lines as it arrives, a word at a time.

A terminal breaks long lines at its own edge, in the middle of words and without indentation.
:class:`Flow` holds the unfinished word back until it knows whether the word still fits; so what
has been printed never has to be taken back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from rich.cells import cell_len

# Scripts that are written without spaces break between any two characters, but not before the
# marks that end something.
_IDEOGRAPH = r"\u2e80-\u3000\u3004-\u3007\u3012-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_ENDING = r"\u3001-\u3003\u3009\u300b\u300d\u300f\u3011\uff01\uff09\uff0c\uff0e\uff1a\uff1b\uff1f"
_PIECE = re.compile(rf"\n|[^\S\n]+|[{_IDEOGRAPH}][{_ENDING}]*|[^\s{_IDEOGRAPH}]+")
_ALONE = re.compile(rf"[{_IDEOGRAPH}]")
_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\n"): "\n",
    ord("\t"): "    ",
    ord("\r"): "",
}


def visible(text: str) -> str:
    r"""``text`` with control characters spelled out, so that a log cannot drive the terminal."""
    return text.translate(_CONTROL)


@dataclass(slots=True, kw_only=True)
class Flow:
    """Text set between ``indent`` and ``width`` columns; no width means that lines never break."""

    indent: int
    width: int | None
    column: int = field(init=False)
    _word: str = ""
    _space: str = ""

    def __post_init__(self) -> None:
        self.column = self.indent

    def feed(self, text: str) -> str:
        """What can be printed now that ``text`` has arrived."""
        out: list[str] = []
        for piece in _PIECE.findall(visible(text)):
            if piece == "\n":
                out += [self._set_word(), "\n" + " " * self.indent]
                self._space, self.column = "", self.indent
            elif piece.isspace():
                out.append(self._set_word())
                self._space += piece
            else:
                if _ALONE.match(piece) or _ALONE.match(self._word):
                    out.append(self._set_word())
                self._word += piece
                if self.width is None:
                    out.append(self._set_word())
        return "".join(out)

    def close(self) -> str:
        """What was held back."""
        return self._set_word()

    def _set_word(self) -> str:
        word, space = self._word, self._space
        if not word:
            return ""
        self._word = self._space = ""
        size = cell_len(word)
        at_start = self.column == self.indent
        fits = self.width is None or self.column + len(space) + size <= self.width
        if fits or (at_start and not space):
            self.column += len(space) + size
            return space + word
        self.column = self.indent + size
        return "\n" + " " * self.indent + word


def set_text(text: str, *, indent: int, width: int | None) -> str:
    """All of a text at once, its first line unindented."""
    flow = Flow(indent=indent, width=width)
    return flow.feed(text.strip()) + flow.close()
