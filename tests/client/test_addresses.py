"""Addresses that are none, or where something else than a broker is: each says what is wrong and what helps."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from client import Connection, DBConnectionError, Handler, dbapi
from client.channels.registry import CONNECT_WAIT_VARIABLE

WAYS: tuple[Callable[[Any], Any], ...] = (
    lambda address: Handler(address=address),
    lambda address: dbapi.connect(address),
    lambda address: Connection.init({"address": address}),
)
every_way = pytest.mark.parametrize("way", WAYS, ids=["handler", "dbapi", "init"])


@every_way
@pytest.mark.parametrize("address", [5, b"ipc:///tmp/x", 1.5, True, ["ipc:///tmp/x"]])
def test_an_address_that_is_no_text_is_a_type_error(way: Callable[[Any], Any], address: Any) -> None:
    with pytest.raises(TypeError, match=r"address is .*; expected text, ipc:///absolute/path or tcp://HOST:PORT"):
        way(address)


@every_way
def test_a_path_is_told_how_to_become_an_address(way: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"write f'ipc://\{path\}'"):
        way(Path("/tmp/x"))


@every_way
@pytest.mark.parametrize("address", ["", " ", "/tmp/x", "ipc://x", "ipc:///tmp/a\0b", "tcp://host", "http://h:1"])
def test_a_text_that_is_no_address_is_a_value_error(way: Callable[[Any], Any], address: str) -> None:
    with pytest.raises(ValueError, match=r"address .*(ipc|tcp)://"):
        way(address)


def test_an_empty_variable_is_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POOLD_ADDRESS", "")
    assert Handler()._address == Handler(address=None)._address


@pytest.mark.parametrize("group", [5, None, b"default", ["default"], True])
def test_a_group_that_is_no_text_is_a_type_error(group: Any) -> None:
    with pytest.raises(TypeError, match=r"group is .*; expected the name of a group"):
        Handler(group)


@pytest.mark.parametrize("group", ["", "x" * 129, "a\0b"])
def test_a_group_that_cannot_be_one_is_a_value_error(group: Any) -> None:
    with pytest.raises(ValueError, match=r"group is .*; expected a name of 1 to 128 characters"):
        Handler(group)


def refused(path: Path, wait: float = 60.0) -> str:
    """What a call says where nobody can answer at this path; it does not wait for anybody."""
    with pytest.raises(DBConnectionError) as caught:
        Handler(address=f"ipc://{path}", connect_wait=wait).query("SELECT 1")
    assert caught.value.outcome == "not executed"
    return str(caught.value)


def test_what_else_is_at_the_address_is_told(tmp_path: Path) -> None:
    file, folder, pipe = tmp_path / "file", tmp_path / "folder", tmp_path / "pipe"
    file.write_text("text")
    folder.mkdir()
    os.mkfifo(pipe)
    assert f"{file} is an ordinary file, and a broker's address is that of its socket" in refused(file)
    said = refused(folder)
    assert f"{folder} is a folder" in said
    assert f"as ipc://{folder}/poold.sock may be" in said
    assert f"{pipe} is a device or a pipe" in refused(pipe)
    assert f"{file} is an ordinary file and no folder" in refused(file / "poold.sock")
    assert "poold start" not in refused(file) + said + refused(pipe) + refused(file / "poold.sock")
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert f"{link} is a folder" in refused(link)


def test_where_nothing_is_a_broker_may_be_started(tmp_path: Path) -> None:
    for missing in (tmp_path / "none", tmp_path / "no" / "folder" / "s"):
        assert f"start one there with: poold start --address ipc://{missing}" in refused(missing, 0.0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert "poold start" in refused(tmp_path / "left", 0.0)


@pytest.mark.parametrize("wrong", ["nan", "inf", "-1", "1e12", "soon", "True"])
def test_a_wait_in_a_url_names_its_limits(wrong: str, tmp_path: Path) -> None:
    engine = create_engine(f"postgresql+poold:///default?address=ipc://{tmp_path}/s&connect_wait={wrong}")
    with pytest.raises(ValueError, match=r"connect_wait is .*; expected seconds, from 0 to 31622400"):
        engine.connect()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, 1e12, True, "soon", [], b"x"])
def test_a_wait_names_its_limits_everywhere(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = "; expected seconds, from 0 to 31622400"
    for call in (
        lambda: Handler(connect_wait=wrong),
        lambda: dbapi.connect(connect_wait=wrong),
        lambda: Connection.init({"connect_wait": wrong}),
    ):
        with pytest.raises(ValueError, match=f"connect_wait.* is .*{limits}"):
            call()
    monkeypatch.setenv(CONNECT_WAIT_VARIABLE, str(wrong))
    with pytest.raises(ValueError, match=f"{CONNECT_WAIT_VARIABLE} is .*{limits}"):
        Handler()
