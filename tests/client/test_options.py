"""Options of wrong types and texts that cannot be sent are refused by name, before anybody is asked."""

from collections.abc import Callable
from typing import Any

import pytest

from client import Handler, dbapi

IPC = "ipc:///tmp/poold-nobody-is-here"
MAKERS: list[Callable[..., Any]] = [Handler, dbapi.connect]


@pytest.mark.parametrize("name", ["autocommit", "session"])
@pytest.mark.parametrize("wrong", ["False", "", 1, 0, None])
def test_a_flag_is_no_word(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {wrong!r}; expected True or False"):
        dbapi.connect(address=IPC, **{name: wrong})


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("wrong", [False, 0, "", [], ()])
def test_settings_are_a_mapping_or_none(make: Callable[..., Any], wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"settings is .*; expected a mapping"):
        make(address=IPC, settings=wrong)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"group": "\ud800"}, "group"),
        ({"tag": "\ud800"}, "tag"),
        ({"settings": {"\ud800": 1}}, "a setting's name"),
        ({"settings": {"a": "\ud800"}}, r"settings\['a'\]"),
    ],
)
def test_a_text_that_cannot_be_sent_is_named(make: Callable[..., Any], options: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is '\\ud800'; expected text that UTF-8 has"):
        make(address=IPC, **options)


@pytest.mark.parametrize("name", ["connection_factory", "cursor_factory"])
@pytest.mark.parametrize("wrong", [5, "cursor", False])
def test_a_factory_is_called(name: str, wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is {wrong!r}; expected a class"):
        dbapi.connect(address=IPC, **{name: wrong})


@pytest.mark.parametrize("wrong", [None, 5])
def test_run_wants_statements(wrong: Any) -> None:
    with pytest.raises(TypeError, match=f"run wants a list of statements, got {wrong}"):
        Handler(address=IPC, connect_wait=0).run(wrong)
