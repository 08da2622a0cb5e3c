"""The prompt cache of the stand-in, by the documentation's rules."""

from typing import Any

from ray_agents.model import Usage
from ray_agents.testing.prompt_cache import LOOK_BACK, PromptCache, tokens_in

MARK = {"cache_control": {"type": "ephemeral"}}


def said(words: str, *, marked: bool = False) -> dict[str, Any]:
    return {"type": "text", "text": words * 40} | (MARK if marked else {})


def prompt(*blocks: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": list(blocks)}]} | more


def all_of(usage: Usage) -> int:
    return usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens


def test_what_stands_before_a_breakpoint_is_written_then_read() -> None:
    cache = PromptCache(tokens_min=1)
    body = prompt(said("a", marked=True), said("b"))
    first, second = cache.charge(body), cache.charge(body)
    assert (first.cache_read_tokens, second.cache_write_tokens) == (0, 0)
    assert first.cache_write_tokens == second.cache_read_tokens > 0
    assert first.input_tokens == second.input_tokens > 0
    assert all_of(first) == all_of(second) == tokens_in(body)


def test_a_breakpoint_at_the_top_is_at_the_end_and_the_next_turn_reads_it() -> None:
    cache = PromptCache(tokens_min=1)
    first = cache.charge(prompt(said("a"), **MARK))
    second = cache.charge(prompt(said("a"), said("b"), **MARK))
    assert (first.input_tokens, second.input_tokens) == (0, 0)
    assert second.cache_read_tokens == first.cache_write_tokens
    assert second.cache_write_tokens > 0


def test_another_prefix_or_model_is_not_read() -> None:
    cache = PromptCache(tokens_min=1)
    cache.charge(prompt(said("a", marked=True), said("b", marked=True)))
    assert cache.charge(prompt(said("c", marked=True))).cache_read_tokens == 0
    assert cache.charge(prompt(said("a", marked=True), model="n")).cache_read_tokens == 0
    assert cache.charge(prompt(said("a", marked=True))).cache_read_tokens > 0
    assert cache.charge(prompt(said("a", marked=True), system="s")).cache_read_tokens == 0


def test_nothing_is_cached_without_a_breakpoint_or_below_the_least() -> None:
    cache = PromptCache(tokens_min=1000)
    for body in (prompt(said("a")), prompt(said("a", marked=True))):
        assert cache.charge(body) == cache.charge(body) == Usage(input_tokens=tokens_in(body))


def test_a_place_too_far_before_a_breakpoint_is_not_found() -> None:
    cache = PromptCache(tokens_min=1)
    cache.charge(prompt(said("a", marked=True)))
    near = [said("a"), *[said("b")] * (LOOK_BACK - 1), said("c", marked=True)]
    far = [said("a"), *[said("d")] * LOOK_BACK, said("c", marked=True)]
    assert cache.charge(prompt(*near)).cache_read_tokens > 0
    assert cache.charge(prompt(*far)).cache_read_tokens == 0
