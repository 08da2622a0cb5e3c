"""The ``Args:`` section of a docstring, read for the descriptions of a tool's arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SECTION = re.compile(r"^(Args|Arguments|Parameters):\s*$")
_ITEM = re.compile(r"^(\s+)\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")


def argument_docs(doc: str) -> dict[str, str]:
    """Descriptions by argument name; ``doc`` is a cleaned docstring."""
    found: dict[str, str] = {}
    indent: str | None = None
    name = ""
    for line, inside in _lines(doc):
        if not inside or not line.strip() or _SECTION.match(line):
            continue
        item = _ITEM.match(line)
        if item and (indent is None or item[1] == indent):
            indent, name = item[1], item[2]
            found[name] = item[3].strip()
        elif name:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return {name: text for name, text in found.items() if text}


def without_arguments(doc: str) -> str:
    """``doc`` without its ``Args:`` section."""
    kept = "\n".join(line for line, inside in _lines(doc) if not inside)
    return re.sub(r"\n{3,}", "\n\n", kept).strip()


def _lines(doc: str) -> Iterator[tuple[str, bool]]:
    """Each line, and whether it belongs to the section of the arguments."""
    inside = False
    for line in doc.splitlines():
        if _SECTION.match(line):
            inside = True
        elif inside and line.strip() and not line.startswith(" "):
            inside = False
        yield line, inside
