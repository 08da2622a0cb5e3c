"""How many tokens something is, about: for decisions that are not worth a call to the provider.

A token is taken for four bytes of UTF-8, and every block for a few more. An image is
:data:`IMAGE_TOKENS` whatever its size (the provider scales larger ones down to about as many), a
document one token for forty characters of its base64. Thinking counts by its text, not by its
signature. English prose comes out within a fifth, code and other scripts up to two fifths too low;
so where the provider has told what a prompt really was, estimates are scaled to it
(:meth:`ray_agents.contextreport.ContextReport.scaled`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ray_agents.events import encode
from ray_agents.model import Block, ToolSpec

BYTES_PER_TOKEN = 4
BLOCK_TOKENS = 4  # what stands around a block: its role, its kind
IMAGE_TOKENS = 1_600
DOCUMENT_CHARS_PER_TOKEN = 40


def tokens_in_text(text: str) -> int:
    """Tokens of a text; none if it is empty."""
    size = len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))
    return -(-size // BYTES_PER_TOKEN)


def tokens_in_blocks(content: Iterable[Block]) -> int:
    """Tokens of content blocks."""
    return sum(BLOCK_TOKENS + _tokens_in(block) for block in content)


def tokens_in_tools(tools: Iterable[ToolSpec]) -> int:
    """Tokens of what a model is told of its tools."""
    return sum(BLOCK_TOKENS + tokens_in_text(encode(each.as_json())) for each in tools)


def _tokens_in(block: Block) -> int:
    match block.get("type"):
        case "text":
            return tokens_in_text(block["text"])
        case "thinking":
            return tokens_in_text(block["thinking"])
        case "image":
            return IMAGE_TOKENS
        case "document":
            data, told = block["source"].get("data") or "", block["source"]["type"] == "text"
            return tokens_in_text(data) if told else len(data) // DOCUMENT_CHARS_PER_TOKEN
        case "tool_result":
            return _tokens_in_result(block.get("content") or "")
        case _:
            return tokens_in_text(encode(block))


def _tokens_in_result(content: Any) -> int:
    return tokens_in_text(content) if isinstance(content, str) else tokens_in_blocks(content)
