"""A document is what was written, or is told to be damaged, whatever bit is flipped."""

from __future__ import annotations

import pytest
from pydantic_core import to_json

from ray_agents.errors import CorruptLog
from ray_agents.log.documents import decode_document, encode_document, is_protected

VALUE = {"digest": "0f" * 8, "view": {"version": 3, "text": "line\nbreak ✓"}, "list": [1, None]}


def test_a_document_is_read_back() -> None:
    assert decode_document("d", encode_document(VALUE)) == VALUE
    assert is_protected(encode_document(VALUE))


def test_a_document_of_an_older_version_is_read_too() -> None:
    assert decode_document("d", to_json(VALUE)) == VALUE
    assert not is_protected(to_json(VALUE))


def test_every_flipped_bit_is_found() -> None:
    data = encode_document(VALUE)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptLog, match="'d'"):
            decode_document("d", bytes(damaged))


def test_a_document_cut_anywhere_is_damaged() -> None:
    data = encode_document(VALUE)
    whole = len(to_json(VALUE))
    for length in set(range(len(data))) - {whole}:
        with pytest.raises(CorruptLog):
            decode_document("d", data[:length])
