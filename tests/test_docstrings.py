"""The arguments' section of a docstring."""

from ray_agents.docstrings import argument_docs, without_arguments

DOC = """Do a thing.

With care.

Args:
    first: what comes first
    second (int): what comes
        after it
    third:

Returns:
    nothing"""


def test_arguments_are_found_with_their_continuations() -> None:
    assert argument_docs(DOC) == {"first": "what comes first", "second": "what comes after it"}


def test_the_rest_of_the_docstring_stays() -> None:
    assert without_arguments(DOC) == "Do a thing.\n\nWith care.\n\nReturns:\n    nothing"


def test_a_docstring_without_arguments_is_left_alone() -> None:
    assert argument_docs("Do: it.") == {}
    assert without_arguments("Do: it.") == "Do: it."
