"""An author's own modules travel as text and are executed as that version."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ray_agents.cluster.sources import (
    digest_of,
    is_own,
    load,
    load_fresh,
    own_modules,
    sources_of,
)

MINE = ("bots", "prices", "shop")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is imported from; what it brought is forgotten after the test."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [each for each in sys.modules if each.partition(".")[0] in MINE]:
        del sys.modules[name]


def write(folder: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = folder / (name.replace("__in__", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def answer(module: ModuleType) -> object:
    return module.answer()


def test_a_module_travels_with_the_own_modules_it_imports(folder: Path) -> None:
    write(folder, bots="import json\nfrom prices import APPLE\n", prices="APPLE = 3\n")
    assert set(sources_of("bots")) == {"bots", "prices"}


def test_an_import_inside_a_function_is_followed_too(folder: Path) -> None:
    write(folder, bots="def answer():\n    import prices\n", prices="")
    assert set(sources_of("bots")) == {"bots", "prices"}


def test_a_package_travels_with_its_parents_and_relative_imports(folder: Path) -> None:
    write(folder, shop__in____init__="", shop__in__till="from . import menu", shop__in__menu="")
    assert set(sources_of("shop.till")) == {"shop", "shop.till", "shop.menu"}


def test_a_folder_without_an_init_file_travels_as_a_package(folder: Path) -> None:
    write(folder, shop__in__till="from .menu import APPLE\n", shop__in__menu="APPLE = 3\n")
    found = sources_of("shop.till")
    assert found["shop"].text == ""
    assert vars(load("shop.till", found))["APPLE"] == 3


@pytest.mark.parametrize("name", ["json", "pydantic", "ray_agents.demo", "no_such_module"])
def test_what_is_installed_does_not_travel(name: str) -> None:
    assert sources_of(name) == {}


def test_nothing_is_executed_to_find_the_sources(folder: Path) -> None:
    write(folder, shop__in____init__="raise SystemExit", shop__in__till="raise SystemExit")
    assert set(sources_of("shop.till")) == {"shop", "shop.till"}


def test_an_older_text_runs_though_the_file_has_changed(folder: Path) -> None:
    write(folder, bots="def answer(): return 1\n")
    old = sources_of("bots")
    write(folder, bots="def answer(): return 2\n")
    assert answer(load("bots", old)) == 1
    assert answer(load_fresh("bots")) == 2


def test_a_changed_text_leaves_the_loaded_module_as_it_is(folder: Path) -> None:
    write(folder, bots="import prices\ndef answer(): return prices.APPLE\n", prices="APPLE = 1\n")
    old = load_fresh("bots")
    write(folder, prices="APPLE = 2\n")
    new = load_fresh("bots")
    assert (answer(old), answer(new)) == (1, 2)


def test_the_same_text_is_loaded_once(folder: Path) -> None:
    write(folder, bots="")
    assert load_fresh("bots") is load("bots", sources_of("bots"))


def test_a_text_runs_where_its_file_never_was(folder: Path) -> None:
    write(folder, bots="def answer(): return __file__\n")
    texts = sources_of("bots")
    (folder / "bots.py").unlink()
    assert answer(load("bots", texts)) == str(folder / "bots.py")


def test_the_digest_follows_the_texts_and_not_the_place(folder: Path) -> None:
    write(folder, bots="import prices", prices="APPLE = 1")
    first = digest_of(sources_of("bots"))
    write(folder, prices="APPLE = 2")
    second = digest_of(sources_of("bots"))
    write(folder, prices="APPLE = 1")
    assert first == digest_of(sources_of("bots")) != second


def test_own_is_what_is_neither_installed_nor_ours(tmp_path: Path) -> None:
    assert is_own("bots", str(tmp_path / "bots.py"))
    assert not is_own("bots", str(tmp_path / "lib" / "site-packages" / "bots.py"))
    assert not is_own("pytest", pytest.__file__)
    assert not is_own("ray_agents.demo", str(tmp_path / "ray_agents" / "demo.py"))
    assert not is_own("builtins", None)


def test_modules_that_others_import_meanwhile_do_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = dict(sys.modules)

    def imported(*_: object) -> None:
        loaded[f"module_{len(loaded)}"] = ModuleType("late")

    monkeypatch.setattr(sys, "modules", loaded)
    before = gc.get_threshold()
    gc.callbacks.append(imported)  # what another thread may do at any instant, done in the worst
    gc.set_threshold(1)
    try:
        own_modules()
    finally:
        gc.set_threshold(*before)
        gc.callbacks.remove(imported)
