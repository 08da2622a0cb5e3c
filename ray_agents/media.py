"""Images and documents for a model, as content blocks: made, told from other JSON, cut.

A message shows them to the agent by a payload ``{"content": [block, …]}``, a tool by returning a
block or a list of blocks and strings. Blocks are in the shape of the Messages API; what only
resembles one stays plain JSON, so that nothing a provider would refuse gets into a transcript.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from typing import Any, cast

from ray_agents.errors import InvalidPayload
from ray_agents.model import Block

IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
PDF = "application/pdf"
MEDIA_CHARS_MAX = 2_000_000  # of base64 in one result, 1.5 MB of data; the log carries every one
PLAIN = "text/plain"
_CACHE = "cache_control"  # there are few marks in a prompt, and they are not for senders to set
_OPTIONS = {"image": frozenset[str](), "document": frozenset({"title", "context", "citations"})}
_BY_NAME = {"url": "url", "file": "file_id"}  # sources that only point somewhere


def image(data: bytes, media_type: str = "image/png") -> Block:
    """A picture for the model.

    Raises:
        InvalidPayload: it is empty, or of a type that no model reads.
    """
    return _made("image", data, media_type, allowed=IMAGE_TYPES)


def document(data: bytes, *, title: str | None = None) -> Block:
    """A PDF for the model.

    Raises:
        InvalidPayload: it is empty.
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
    return {"type": kind, "source": source}


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
    types = IMAGE_TYPES if kind == "image" else {PDF}
    whole = isinstance(data, str) and data.isascii() and len(data) % 4 == 0
    return form == "base64" and source.get("media_type") in types and whole and _is_filled(data)


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
