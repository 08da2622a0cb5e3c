"""Counts of prompts that a provider has made, kept so that none is asked for twice."""

from __future__ import annotations

from collections import OrderedDict

from ray_agents.events import digest_of
from ray_agents.model import ModelRequest

COUNTS_MAX = 4_096
_counts: OrderedDict[str, int] = OrderedDict()


def digest_of_prompt(request: ModelRequest, base_url: str) -> str:
    """What makes two prompts count the same."""
    tools = [each.as_json() for each in request.tools]
    return digest_of([base_url, request.model, request.system, tools, list(request.messages)])


def known(digest: str) -> int | None:
    """The count of a prompt; None if nobody in this process has asked for it lately."""
    if digest in _counts:
        _counts.move_to_end(digest)
    return _counts.get(digest)


def keep(digest: str, tokens: int) -> None:
    """Keep a count; the one not asked for longest goes if there are too many."""
    _counts[digest] = tokens
    if len(_counts) > COUNTS_MAX:
        _counts.popitem(last=False)
