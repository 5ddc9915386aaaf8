"""What a connection asks for at its start, and what is objected where a server does not have it."""

from typing import Any

import pytest

from poold.config.model import EndpointConfig, GroupConfig
from poold.postgres import startup
from poold.postgres.startup import Setting

HAS = {
    "statement_timeout": ("5000", "ms"),
    "temp_buffers": ("16384", "8kB"),
    "standard_conforming_strings": ("on", None),
    "intervalstyle": ("postgres", None),
    "client_encoding": ("UTF8", None),
    "client_connection_check_interval": ("5000", "ms"),
    "datestyle": ("ISO, MDY", None),
}


def endpoint(**over: Any) -> EndpointConfig:
    return EndpointConfig(**{"host": "x", "dbname": "x", "user": "app", **over})


def settings(**over: Setting | str | None) -> list[Setting]:
    """What a server in good order answers, but for these values; None leaves the setting out."""
    found = {name: Setting(name, value, unit, value, "client", None) for name, (value, unit) in HAS.items()}
    for name, each in over.items():
        if isinstance(each, str):
            each = Setting(name, each, HAS.get(name, ("", None))[1], each, "default", None)
        if each is None:
            del found[name]
        else:
            found[name] = each
    return list(found.values())


def objections(config: EndpointConfig, found: list[Setting], **group: Any) -> list[str]:
    return startup.objections(found, config, GroupConfig(**group))


def test_a_server_that_has_all_is_taken() -> None:
    assert objections(endpoint(), settings()) == []


@pytest.mark.parametrize(
    ("over", "named"),
    [
        ({"standard_conforming_strings": "off"}, "standard_conforming_strings is 'off', expected 'on'"),
        ({"client_encoding": "SQL_ASCII"}, "client_encoding is 'SQL_ASCII'"),
        ({"datestyle": "German, DMY"}, "datestyle is 'German, DMY'"),
        ({"datestyle": None}, "datestyle"),
        ({"intervalstyle": "iso_8601"}, "intervalstyle"),
        ({"statement_timeout": "0"}, "statement_timeout is '0', expected '5000ms'"),
        ({"statement_timeout": "4999"}, "statement_timeout"),
        ({"temp_buffers": "1024"}, "temp_buffers"),
        ({"temp_buffers": None}, "the server does not tell temp_buffers"),
    ],
)
def test_what_is_not_as_asked_is_named(over: dict[str, Any], named: str) -> None:
    (wrong,) = objections(endpoint(), settings(**over))
    assert named in wrong


def test_what_reset_would_take_away_is_not_there() -> None:
    odd = Setting("standard_conforming_strings", "on", None, "off", "session", None)
    (wrong,) = objections(endpoint(), settings(standard_conforming_strings=odd))
    assert "'off' after RESET" in wrong


def test_a_read_only_group_wants_its_default() -> None:
    writes = settings(default_transaction_read_only="off")
    assert objections(endpoint(), writes) == []
    (wrong,) = objections(endpoint(), writes, read_only=True)
    assert "default_transaction_read_only is 'off'" in wrong


@pytest.mark.parametrize("order", ["ISO, DMY", "ISO, MDY", "ISO, YMD"])
def test_any_order_of_day_and_month_will_do(order: str) -> None:
    assert objections(endpoint(), settings(datestyle=order)) == []
    assert startup.iso_for(settings(datestyle=order)) == ""


@pytest.mark.parametrize(
    ("own", "asked"),
    [("German, DMY", "ISO,DMY"), ("SQL, MDY", "ISO,MDY"), ("Postgres, YMD", "ISO,YMD"), ("?", "ISO")],
)
def test_another_format_is_asked_for_with_the_servers_own_order(own: str, asked: str) -> None:
    assert startup.iso_for(settings(datestyle=own)) == asked


@pytest.mark.parametrize(
    ("value", "written", "unit"),
    [
        ("65536", "64MB", "kB"),
        ("65536", "65536", "kB"),
        ("on", "TRUE", None),
        ("0", "0", None),
        ("2000", "2s", "ms"),
        ("3600", "1h", "s"),
        ("0.2", "0.2", None),
    ],
)
def test_options_of_the_configuration_are_found_however_they_are_written(
    value: str, written: str, unit: str | None
) -> None:
    config = endpoint(options=f"-c some.thing={written}")
    found = Setting("some.thing", value, unit, value, "database", None)
    assert objections(config, settings(**{"some.thing": found})) == []
    other = found._replace(value="7")
    assert "some.thing is '7'" in objections(config, settings(**{"some.thing": other}))[0]


def test_what_the_server_took_from_the_startup_is_as_asked() -> None:
    found = Setting("search_path", '"$user", public', None, "x", "client", None)
    assert objections(endpoint(options=r"-c search_path=\"$user\",\ public"), settings(search_path=found)) == []


def test_a_setting_that_the_server_does_not_list_is_compared_by_its_value() -> None:
    config = endpoint(options="-c app.tenant=seven")
    found = Setting("app.tenant", None, None, None, None, "seven")
    assert objections(config, settings(**{"app.tenant": found})) == []
    assert objections(config, settings(**{"app.tenant": found._replace(hidden=None)})) != []


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ("", {}),
        ("-c work_mem=1MB -cjit=off --enable-seqscan=on", {"work_mem": "1MB", "jit": "off", "enable_seqscan": "on"}),
        ("-c A=1 -c a=2", {"a": "2"}),
        (r"-c a=b\ c\\d", {"a": r"b c\d"}),
        ("-c", {}),
        ("-e -c a", {}),
        ("  -c  a=1  ", {"a": "1"}),
    ],
)
def test_options_are_read_as_postgresql_reads_them(options: str, given: dict[str, str]) -> None:
    assert startup.given(options) == given


def test_the_advice_says_what_to_do() -> None:
    text = startup.advice(objections(endpoint(), settings(statement_timeout="0")), "app")
    for word in ("statement_timeout", "ignore_startup_parameters", "ALTER ROLE", "'app'"):
        assert word in text
