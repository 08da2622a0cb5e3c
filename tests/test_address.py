"""Addresses: what parses, what does not, and that printing is the inverse of parsing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_agents.address import Address, check_type
from ray_agents.errors import InvalidAddress

types = st.from_regex(r"[a-z][a-z0-9_-]{0,63}", fullmatch=True)
ids = st.from_regex(r"[A-Za-z0-9_~@:+=-][A-Za-z0-9._~@:+=-]{0,127}", fullmatch=True)


@given(type_name=types, entity_id=ids)
def test_an_address_prints_as_it_is_parsed(type_name: str, entity_id: str) -> None:
    text = f"/{type_name}/{entity_id}"
    address = Address.parse(text)
    assert (address.type, address.id, str(address)) == (type_name, entity_id, text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a/b",
        "/a",
        "/a/",
        "//b",
        "/a/b/",
        "/a/b/c",
        "/a/..",
        "/a/.",
        "/../b",
        "/A/b",
        "/1a/b",
        "/a/b c",
        "/a/b\n",
        "/a/b\x00",
        "/a/%2e%2e",
        "/a/\u00e4",
        "/\u0430/b",
        "/a/b\\c",
        "/" + "a" * 65 + "/b",
        "/a/" + "b" * 129,
        "x" * 300,
    ],
)
def test_anything_else_is_refused_and_shown(text: str) -> None:
    with pytest.raises(InvalidAddress) as raised:
        Address.parse(text)
    assert len(str(raised.value)) < 300


@given(st.text())
def test_whatever_parses_is_safe_as_a_path(text: str) -> None:
    try:
        address = Address.parse(text)
    except InvalidAddress:
        return
    assert address.id not in (".", "..")
    assert "/" not in address.type + address.id


def test_a_type_is_checked_by_itself() -> None:
    assert check_type("notes") == "notes"
    with pytest.raises(InvalidAddress, match="type"):
        check_type("Notes")
