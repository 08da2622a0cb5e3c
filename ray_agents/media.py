"""Images and documents for a model, as content blocks: made, told from other JSON, cut.

A message shows them to the agent by a payload ``{"content": [block, …]}``, a tool by returning a
block or a list of blocks and strings. Blocks are in the shape of the Messages API; what only
resembles one stays plain JSON, so that nothing a provider would refuse gets into a transcript. One
whose data is not what it says is refused where it comes in (:func:`check_media`).
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import a2b_base64
from collections.abc import Sequence
from typing import Any, cast

from ray_agents.errors import InvalidPayload
from ray_agents.model import Block

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
PDF = "application/pdf"
MEDIA_CHARS_MAX = 2_000_000  # of base64 in one result, 1.5 MB of data; the log carries every one
PLAIN = "text/plain"
BEGINNINGS = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF.{4}WEBP", re.DOTALL),
    PDF: re.compile(rb".{0,1020}%PDF", re.DOTALL),  # readers find it in the first 1,024 bytes
}
_CACHE = "cache_control"  # there are few marks in a prompt, and they are not for senders to set
_OPTIONS = {"image": frozenset[str](), "document": frozenset({"title", "context", "citations"})}
_BY_NAME = {"url": "url", "file": "file_id"}  # sources that only point somewhere


def image(data: bytes, media_type: str = "image/png") -> Block:
    """A picture for the model.

    Raises:
        InvalidPayload: it is empty, of a type that no model reads, or does not begin like it.
    """
    return _made("image", data, media_type, allowed=IMAGE_TYPES)


def document(data: bytes, *, title: str | None = None) -> Block:
    """A PDF for the model.

    Raises:
        InvalidPayload: it is empty, or no PDF.
    """
    block = _made("document", data, PDF, allowed=frozenset({PDF}))
    return block | {"title": title} if title else block


def is_media(value: Any) -> bool:
    """Whether it is an image or a document as the Messages API takes it."""
    if not isinstance(value, dict):
        return False
    block = cast("Block", value)
    kind, source = block.get("type"), block.get("source")
    if kind not in ("image", "document") or not isinstance(source, dict):
        return False
    options = {name: each for name, each in block.items() if name not in ("type", "source")}
    return _are_options(kind, options) and _is_source(kind, cast("dict[str, Any]", source))


def check_media(value: Any) -> None:
    """Refuse images and documents whose data is not what they say; a provider would, with the run.

    ``value`` is one block, or a sequence of blocks and whatever else.

    Raises:
        InvalidPayload: one is of no type that a model reads, not base64, or begins differently.
    """
    items = cast("Sequence[Any]", value) if isinstance(value, list | tuple) else [value]
    for item in items:
        block = cast("Block", item) if isinstance(item, dict) else {}
        kind, source = block.get("type"), block.get("source")
        if kind not in ("image", "document") or not _carries_data(source):
            continue
        fault = _fault_of(kind, cast("dict[str, str]", source))
        if fault is not None:
            raise InvalidPayload(f"this {kind} cannot be shown to a model: {fault}")


def is_block(value: Any) -> bool:
    """Whether it can stand among content blocks: media, a text block, or text."""
    return is_media(value) or _is_text(value)


def blocks_in(value: Any) -> list[Block] | None:
    """The content blocks that a payload or a result consists of; None if it is anything else.

    At least one of them is an image or a document, the others may be strings or text blocks.
    """
    items = cast("list[Any]", value) if isinstance(value, list) else [value]
    items = [_unmarked(item) for item in items]
    if not any(is_media(item) for item in items):
        return None
    blocks = [_text_block(item) if _is_text(item) else item for item in items]
    if not all(is_block(block) for block in blocks):
        return None
    return [block for block in blocks if block["type"] != "text" or block["text"].strip()]


def fitted(blocks: Sequence[Block], *, chars_max: int = MEDIA_CHARS_MAX) -> list[Block]:
    """The blocks; a line takes the place of every image or document beyond the bound."""
    left, kept = chars_max, list[Block]()
    for block in blocks:
        size = len(block["source"].get("data") or "") if block["type"] != "text" else 0
        if size <= left:
            left -= size
            kept.append(block)
        else:
            kind = block["type"]
            told = (
                f"[cut here: this {kind} has {size} characters, and {left} of {chars_max} are left]"
            )
            kept.append({"type": "text", "text": told})
    return kept


def text_in(content: str | Sequence[Block]) -> str:
    """What a result says without its images and documents, which are named."""
    if isinstance(content, str):
        return content
    return "\n".join(b["text"] if b["type"] == "text" else f"[{b['type']}]" for b in content)


def media_in(content: str | Sequence[Block]) -> list[Block]:
    """The images and documents of a result."""
    return [] if isinstance(content, str) else [b for b in content if b["type"] != "text"]


def _made(kind: str, data: bytes, media_type: str, *, allowed: frozenset[str]) -> Block:
    if not data or media_type not in allowed:
        message = (
            f"{len(data)} bytes of {media_type!r} cannot be shown to a model as {kind!r}; "
            f"give some bytes of {', '.join(sorted(allowed))}"
        )
        raise InvalidPayload(message, media_type=media_type)
    source = {"type": "base64", "media_type": media_type, "data": b64encode(data).decode()}
    block = {"type": kind, "source": source}
    check_media(block)
    return block


def _unmarked(item: Any) -> Any:
    """A block without its mark for the provider's cache."""
    if not isinstance(item, dict):
        return item
    return {name: each for name, each in cast("Block", item).items() if name != _CACHE}


def _are_options(kind: str, options: dict[str, Any]) -> bool:
    """Whether a block may have these fields beside its source; a provider refuses all others."""
    if not options.keys() <= _OPTIONS[kind]:
        return False
    cites = options.pop("citations", None)
    told = cites is None or cites in ({"enabled": True}, {"enabled": False})
    return told and all(_is_str(each) for each in options.values())


def _is_source(kind: str, source: dict[str, Any]) -> bool:
    form, data = source.get("type"), source.get("data")
    if not (_is_str(form) and _is_str(source.get("media_type", ""))):
        return False
    if form in _BY_NAME:
        name = _BY_NAME[form]
        return source.keys() == {"type", name} and _is_filled(source[name])
    if source.keys() != {"type", "media_type", "data"}:
        return False
    if form == "text":
        return kind == "document" and source["media_type"] == PLAIN and _is_filled(data)
    return _carries_data(source) and _fault_of(kind, source) is None


def _carries_data(source: Any) -> bool:
    if not isinstance(source, dict):
        return False
    fields = cast("dict[str, Any]", source)
    given = fields.keys() == {"type", "media_type", "data"} and fields["type"] == "base64"
    return given and _is_str(fields["media_type"]) and _is_str(fields["data"])


def _fault_of(kind: str, source: dict[str, str]) -> str | None:
    """Why a provider would refuse what a source carries; None if it would not."""
    media_type = source["media_type"]
    types = IMAGE_TYPES if kind == "image" else {PDF}
    if media_type not in types:
        known = ", ".join(sorted(types))
        return f"{media_type!r} is no type of {kind} that a model reads; give {known}"
    try:
        data = a2b_base64(source["data"], strict_mode=True)
    except ValueError as error:
        return f"its data is not base64, in one line and padded ({error})"
    if BEGINNINGS[media_type].match(data):
        return None
    others = (f", but like {name}" for name, begins in BEGINNINGS.items() if begins.match(data))
    return f"its data does not begin like {media_type}{next(others, '')}"


def _is_filled(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_text(value: Any) -> bool:
    if not isinstance(value, dict):
        return isinstance(value, str)
    block = cast("Block", value)
    return set(block) == {"type", "text"} and block["type"] == "text" and _is_str(block["text"])


def _is_str(value: Any) -> bool:
    return isinstance(value, str)


def _text_block(value: Any) -> Block:
    return {"type": "text", "text": value} if isinstance(value, str) else value
