"""The configuration file: what it accepts, and that every mistake is reported at once, readably and without secrets."""

import dataclasses
import json
import os
import pwd
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from client.wire.address import default_address
from poold.config.file import ConfigError, Rule, check_table, describe, load, parse, rules_of, shown, toml_string
from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.operations.keygen import make_pair

ENDPOINT = 'host = "db.example.com"\ndbname = "shop"\nuser = "web"\n'
MINIMAL = f"[endpoints.main]\n{ENDPOINT}[groups.default]\n"
SECRET = "hunter2-sentinel"


def problems_of(source: str | dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(source, "poold.toml")
    return caught.value.problems


def outcome(source: str | dict[str, Any]) -> str:
    """What an operator gets to see: the checked configuration or the error."""
    try:
        return json.dumps(describe(parse(source, "poold.toml")))
    except ConfigError as error:
        return str(error)


def with_lines(broker: str = "", endpoint: str = "", group: str = "") -> str:
    """The minimal configuration with further lines in its tables."""
    return f"[broker]\n{broker}\n[endpoints.main]\n{ENDPOINT}{endpoint}\n[groups.default]\n{group}\n"


def without(key: str) -> str:
    return "".join(line for line in MINIMAL.splitlines(keepends=True) if not line.startswith(key))


# What is accepted


def test_a_minimal_file_gets_every_default() -> None:
    config = parse(MINIMAL, "poold.toml")
    assert config == Config(
        broker=BrokerConfig(),
        endpoints={"main": EndpointConfig(host="db.example.com", dbname="shop", user="web")},
        groups={"default": GroupConfig(endpoints=("main",))},
    )
    assert config.broker.address == default_address()


def test_every_key_can_be_set(tmp_path: Path) -> None:
    for name in ("root.crt", "client.crt", "client.key", "root.crl"):
        (tmp_path / name).write_text("x")
    secret, public = make_pair(tmp_path / "pair")
    text = f"""
        [broker]
        address = "tcp://127.0.0.1:6543"
        key_file = "{secret}"
        client_keys = "{public}"
        metrics_address = "[::1]:9127"
        max_request_bytes = 4096
        max_result_bytes = 8192
        drain_timeout = 0
        max_clients = 0
        client_buffer_bytes = 65536
        max_buffered_bytes = 1048576
        max_client_requests = 0
        max_client_bytes = 0
        client_write_timeout = 0.1
        client_idle_timeout = 0
        allow_uids = [1000]
        allow_gids = [100, 101]
        admin_uids = [1001]
        role_check_interval = 0.05
        state_dir = "/var/lib/poold"
        log_format = "json"
        [endpoints.main]
        host = "/run/postgresql"
        port = 65535
        dbname = "shop"
        user = "web"
        password = "geheim"
        sslmode = "verify-full"
        sslrootcert = "{tmp_path}/root.crt"
        sslcert = "{tmp_path}/client.crt"
        sslkey = "{tmp_path}/client.key"
        sslcrl = "{tmp_path}/root.crl"
        channel_binding = "require"
        connect_timeout = 0.1
        query_timeout = 0
        temp_buffers = "8kB"
        options = "-c work_mem=64MB"
        application_name = "shop"
        weight = 0.5
        [groups.default]
        endpoints = ["main"]
        role = "prefer-replica"
        route_reads = true
        max_lag = "16MB"
        catch_up = 0
        min_size = 0
        max_size = 1
        autocommit = false
        max_waiting = 0
        queue_timeout = 0.001
        weights = {{ interactive = 1000, normal = 3, batch = 2 }}
        batch_share = 0
        max_idle = 0.1
        max_lifetime = 0
        idle_in_transaction_timeout = 0
        lease_timeout = 0
        read_only = true
        prepare = "off"
        plans = "auto"
        proofs = false
        pipeline_depth = 1
        track_outcome = true
        show_tags = "comment"
        log_slow = 0.5
        log_long_wait = 0.1
        allow_users = ["key:pair"]
        sqlprepare = true

        [groups.legacy]
        legacy_session = true
    """
    config = parse(text, "poold.toml")
    table = tomllib.loads(text)
    described = describe(config)
    assert described["broker"] == table["broker"]
    assert described["groups"]["default"] == table["groups"]["default"] | {"legacy_session": False}
    assert described["groups"]["legacy"]["legacy_session"] is True
    left_out = {"password": "***", "password_file": None, "password_env": None}
    assert described["endpoints"]["main"] == table["endpoints"]["main"] | left_out


def test_the_table_of_the_test_above_knows_every_key() -> None:
    keys = {field.name for cls in (BrokerConfig, EndpointConfig, GroupConfig) for field in dataclasses.fields(cls)}
    assert len(keys) == 67, "a key was added to poold.config.model: set it in test_every_key_can_be_set"


def users_of(*users: str) -> tuple[str, ...]:
    return parse(with_lines(group=f"allow_users = {json.dumps(users)}"), "poold.toml").groups["default"].allow_users


def test_users_of_a_group_become_numbers() -> None:
    assert users_of("root", "0", "01001", "1001", "nobody") == ("0", "1001", str(pwd.getpwnam("nobody").pw_uid))


@pytest.mark.parametrize(
    ("user", "problem"),
    [
        ("no-such-user", "found 'no-such-user', which is no user of this machine, expected the name of a user"),
        ("", "found '', which is no user of this machine"),
        ("-1", "found '-1', which is no user of this machine"),
        ("4294967295", "found '4294967295', expected a number up to 4294967294"),
        ("key:x", "found 'key:x' without client_keys in [broker]"),
    ],
)
def test_a_user_that_is_none_is_a_problem(user: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"[groups.default] allow_users: {problem}")):
        users_of("root", user)


def test_an_integer_is_accepted_for_a_number_and_becomes_a_float() -> None:
    config = parse(with_lines(endpoint="connect_timeout = 3"), "poold.toml")
    assert config.endpoints["main"].connect_timeout == 3.0
    assert type(config.endpoints["main"].connect_timeout) is float


def test_a_table_is_parsed_like_the_text_it_came_from() -> None:
    text = with_lines(group='endpoints = ["main"]')
    assert parse(tomllib.loads(text), "defaults") == parse(text, "defaults")


def test_none_in_a_table_means_that_the_optional_key_is_left_out() -> None:
    table = tomllib.loads(MINIMAL)
    table["endpoints"]["main"] |= {"password": None, "password_env": None, "sslcert": None}
    assert parse(table, "defaults") == parse(MINIMAL, "defaults")


def test_parsing_leaves_the_given_table_as_it_was() -> None:
    table = tomllib.loads(with_lines(group='endpoints = ["main"]'))
    before = json.dumps(table)
    parse(table, "defaults")
    assert json.dumps(table) == before


def test_a_group_without_endpoints_has_all_of_them_in_the_order_of_the_file() -> None:
    config = parse(f"[endpoints.b]\n{ENDPOINT}[endpoints.a]\n{ENDPOINT}[groups.all]\n", "poold.toml")
    assert config.groups["all"].endpoints == ("b", "a")


def test_a_group_with_endpoints_has_those_in_its_own_order() -> None:
    text = f"[endpoints.a]\n{ENDPOINT}[endpoints.b]\n{ENDPOINT}[endpoints.c]\n{ENDPOINT}"
    config = parse(text + '[groups.some]\nendpoints = ["c", "a"]', "poold.toml")
    assert config.groups["some"].endpoints == ("c", "a")


@pytest.mark.parametrize("name", ["a", "a" * 64, "read_only-1.eu", "0"])
def test_names_may_have_letters_digits_and_some_marks(name: str) -> None:
    assert list(parse(f'[endpoints.m]\n{ENDPOINT}[groups."{name}"]', "poold.toml").groups) == [name]


def test_a_refused_value_is_not_judged_together_with_others() -> None:
    assert len(problems_of(with_lines(group='min_size = 20\nmax_size = "many"'))) == 1


def test_sslrootcert_may_be_the_operating_systems() -> None:
    assert parse(with_lines(endpoint='sslrootcert = "system"'), "x").endpoints["main"].sslrootcert == "system"


# Values that are refused: the table it is in, the line, what must be said

WRONG_TYPES = [
    ("broker", "address = 6543", "[broker] address: found 6543, expected a string"),
    ("broker", "max_request_bytes = 4096.0", "[broker] max_request_bytes: found 4096.0, expected an integer"),
    ("broker", 'drain_timeout = "30s"', '[broker] drain_timeout: found "30s", expected a number'),
    ("endpoint", "port = true", "[endpoints.main] port: found true, expected an integer"),
    ("endpoint", 'port = "5432"', '[endpoints.main] port: found "5432", expected an integer'),
    ("endpoint", "port = 2024-01-01", "[endpoints.main] port: found a date, expected an integer"),
    ("endpoint", "port = [5432]", "[endpoints.main] port: found an array, expected an integer"),
    ("endpoint", "connect_timeout = false", "[endpoints.main] connect_timeout: found false, expected a number"),
    ("endpoint", "connect_timeout = nan", "[endpoints.main] connect_timeout: found nan, expected a number"),
    ("endpoint", "connect_timeout = inf", "[endpoints.main] connect_timeout: found inf, expected a number"),
    ("endpoint", "query_timeout = -inf", "[endpoints.main] query_timeout: found -inf, expected a number"),
    ("endpoint", "sslcert = 1", "[endpoints.main] sslcert: found 1, expected a string"),
    ("endpoint", "options = {a = 1}", "[endpoints.main] options: found a table, expected a string"),
    ("group", "autocommit = 1", "[groups.default] autocommit: found 1, expected true or false"),
    ("group", 'sqlprepare = "no"', '[groups.default] sqlprepare: found "no", expected true or false'),
    ("group", 'endpoints = "main"', '[groups.default] endpoints: found "main", expected an array of strings'),
    ("group", "endpoints = [1]", "[groups.default] endpoints: found 1 in an array, expected an array of strings"),
    ("group", "min_size = 1e0", "[groups.default] min_size: found 1.0, expected an integer"),
]


def test_sessions_of_with_blocks_are_for_groups_whose_statements_commit_by_themselves() -> None:
    assert problems_of(with_lines(group="legacy_session = true\nautocommit = false")) == [
        "[groups.default] legacy_session: found true with autocommit = false, expected autocommit with it"
    ]


IMPOSSIBLE = [
    ("broker", "max_request_bytes = 4095", "found 4095, expected an integer from 4096 up"),
    ("broker", "max_result_bytes = 4095", "found 4095, expected an integer from 4096 up"),
    ("broker", "drain_timeout = -1", "found -1, expected a number from 0 up"),
    ("broker", "role_check_interval = 0.01", "found 0.01, expected a number from 0.05 up"),
    ("endpoint", "weight = 0", "found 0, expected a number from 0.001 up"),
    ("group", "catch_up = -1", "found -1, expected a number from 0 up"),
    (
        "group",
        "max_lag = -1",
        "found -1, expected a number of seconds from 0 up, or a size in kB, MB, GB, as in '16MB'",
    ),
    ("group", 'max_lag = "16"', "expected a number of seconds from 0 up, or a size in kB, MB, GB, as in '16MB'"),
    ("group", 'role = "leader"', "expected one of auto, primary, replica, prefer-replica, any"),
    ("broker", "max_clients = -1", "found -1, expected an integer from 0 up"),
    ("broker", "client_buffer_bytes = 65535", "found 65535, expected an integer from 65536 up"),
    ("broker", "max_buffered_bytes = 1048575", "found 1048575, expected an integer from 1048576 up"),
    ("broker", "client_write_timeout = 0.09", "found 0.09, expected a number from 0.1 up"),
    ("broker", "max_client_requests = -1", "found -1, expected an integer from 0 up"),
    ("broker", "max_client_bytes = -1", "found -1, expected an integer from 0 up"),
    ("broker", "client_idle_timeout = -1", "found -1, expected a number from 0 up"),
    ("broker", 'allow_uids = ["root"]', "expected an array of whole numbers"),
    ("broker", 'metrics_address = "9127"', 'found "9127", expected HOST:PORT, as in 127.0.0.1:9127 or [::1]:9127'),
    ("broker", "metrics_address = 9127", "found 9127, expected a string"),
    ("broker", 'metrics_address = ""', 'found "", expected HOST:PORT'),
    ("broker", 'metrics_address = "localhost:0"', "expected HOST:PORT"),
    ("group", "pipeline_depth = 0", "found 0, expected an integer from 1 up"),
    ("group", 'prepare = "on"', 'found "on", expected one of auto, off'),
    ("endpoint", "port = 0", "found 0, expected an integer from 1 to 65535"),
    ("endpoint", "port = 65536", "found 65536, expected an integer from 1 to 65535"),
    ("endpoint", "connect_timeout = 0.09", "found 0.09, expected a number from 0.1 up"),
    ("endpoint", "query_timeout = -0.5", "found -0.5, expected a number from 0 up"),
    (
        "endpoint",
        'sslmode = "on"',
        'found "on", expected one of disable, allow, prefer, require, verify-ca, verify-full',
    ),
    ("endpoint", 'temp_buffers = "128"', r'found "128", expected a string that matches \d+(kB|MB|GB)'),
    ("endpoint", 'temp_buffers = "128MB "', r"expected a string that matches \d+(kB|MB|GB)"),
    ("endpoint", 'temp_buffers = "\uff11MB"', r"expected a string that matches \d+(kB|MB|GB)"),
    ("endpoint", 'options = "a\\u0000b"', r'found "a\u0000b", expected text without NUL'),
    ("group", "min_size = -1", "found -1, expected an integer from 0 up"),
    ("group", "max_size = 0", "found 0, expected an integer from 1 up"),
    ("group", "max_waiting = -1", "found -1, expected an integer from 0 up"),
    ("group", "queue_timeout = 0", "found 0, expected a number from 0.001 up"),
    (
        "group",
        "weights = 3",
        "found 3, expected a table of interactive, normal, batch with whole numbers from 1 ",
    ),
    ("group", "weights = { batch = 0 }", "found a table, expected a table of interactive"),
    ("group", "weights = { batch = 1001 }", "found a table, expected a table of interactive"),
    ("group", "weights = { slow = 1 }", "found a table, expected a table of interactive"),
    ("group", "batch_share = -0.1", "found -0.1, expected a number from 0 to 1"),
    ("group", "batch_share = 1.1", "found 1.1, expected a number from 0 to 1"),
    ("group", "max_idle = 0", "found 0, expected a number from 0.1 up"),
    ("group", "log_slow = -1", "found -1, expected a number from 0 up"),
    ("group", "log_long_wait = -1", "found -1, expected a number from 0 up"),
    ("group", "max_lifetime = -1", "found -1, expected a number from 0 up"),
    ("group", "idle_in_transaction_timeout = -1", "found -1, expected a number from 0 up"),
    ("group", "lease_timeout = -1", "found -1, expected a number from 0 up"),
    ("group", "endpoints = []", "found an array, expected an array of strings that is not empty"),
    ("group", f"max_size = {2**63}", "found an integer of over 64 bits, expected an integer"),
    ("group", f"max_lifetime = 0x{'f' * 5000}", "found an integer of over 64 bits, expected a number"),
    ("group", f"max_lifetime = 0x{'f' * 300}", "found an integer of over 64 bits, expected a number"),
]


@pytest.mark.parametrize(("table", "line", "said"), WRONG_TYPES + IMPOSSIBLE, ids=lambda value: str(value)[:40])
def test_a_wrong_value_is_the_one_problem_and_its_help_is_given(table: str, line: str, said: str) -> None:
    found = [problem for problem in problems_of(with_lines(**{table: line})) if "max_size, which is" not in problem]
    assert len(found) == 1
    key = line.partition(" ")[0]
    cls = {"broker": BrokerConfig, "endpoint": EndpointConfig, "group": GroupConfig}[table]
    path = {"broker": "[broker]", "endpoint": "[endpoints.main]", "group": "[groups.default]"}[table]
    assert found[0].startswith(f"{path} {key}: found ")
    assert said in found[0]
    assert found[0].endswith(f"({rules_of(cls)[key].help})")


def test_every_minimum_in_the_configuration_has_a_case_above() -> None:
    limited = {
        field.name
        for cls in (BrokerConfig, EndpointConfig, GroupConfig)
        for field in dataclasses.fields(cls)
        if field.metadata["minimum"] is not None
    }
    assert limited <= {line.partition(" ")[0] for _, line, _ in IMPOSSIBLE}


def test_several_hosts_in_one_endpoint_are_refused_with_what_to_do() -> None:
    (problem,) = problems_of(MINIMAL.replace('"db.example.com"', '"db1,db2"'))
    assert problem.startswith('[endpoints.main] host: found "db1,db2", expected one host; make an endpoint for each')


@pytest.mark.parametrize("key", ["host", "dbname", "user"])
def test_a_required_key_that_is_missing_is_reported(key: str) -> None:
    (problem,) = problems_of(without(key))
    assert problem.startswith(f"[endpoints.main] {key}: missing, expected a string")
    assert rules_of(EndpointConfig)[key].help in problem


@pytest.mark.parametrize("key", ["host", "dbname", "user"])
def test_a_required_string_may_not_be_empty(key: str) -> None:
    (problem,) = problems_of(without(key).replace("[endpoints.main]", f'[endpoints.main]\n{key} = ""'))
    assert problem.startswith(f'[endpoints.main] {key}: found "", expected a string that is not empty')


@pytest.mark.parametrize(
    "address", ["", "poold.sock", "ipc://relative", "ipc:///" + "x" * 107, "tcp://host", "tcp://:1"]
)
def test_an_address_that_poold_does_not_speak_is_reported(address: str) -> None:
    (problem,) = problems_of(with_lines(broker=f'address = "{address}"'))
    assert problem.startswith(f"[broker] address '{address}': ")


def test_min_size_above_max_size_is_reported_with_both_numbers() -> None:
    assert problems_of(with_lines(group="min_size = 3\nmax_size = 2")) == [
        "[groups.default] min_size: found 3, expected at most max_size, which is 2"
    ]


def test_min_size_is_held_against_the_default_max_size() -> None:
    (problem,) = problems_of(with_lines(group="min_size = 9"))
    assert problem.endswith("which is 8")


def test_min_size_equal_to_max_size_is_fine() -> None:
    assert parse(with_lines(group="min_size = 3\nmax_size = 3"), "x").groups["default"].min_size == 3


@pytest.mark.parametrize("key", ["sslrootcert", "sslcert", "sslkey", "sslcrl"])
@pytest.mark.parametrize("path", ["/nowhere/at/all", "", "/"])
def test_a_tls_file_that_does_not_exist_is_reported(key: str, path: str) -> None:
    (problem,) = problems_of(with_lines(endpoint=f'{key} = "{path}"'))
    assert problem.startswith(f'[endpoints.main] {key}: found "{path}", which does not exist, expected a file with ')


def test_only_sslrootcert_may_be_the_operating_systems() -> None:
    (problem,) = problems_of(with_lines(endpoint='sslcert = "system"'))
    assert problem.startswith('[endpoints.main] sslcert: found "system", which does not exist')


# Keys, tables and names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (with_lines(group="max_sise = 3"), "[groups.default] max_sise: unknown key; did you mean max_size?"),
        (with_lines(endpoint="pasword = 3"), "[endpoints.main] pasword: unknown key; did you mean password?"),
        (with_lines(broker="adress = 3"), "[broker] adress: unknown key; did you mean address?"),
        (MINIMAL + "[brokers]", "[brokers]: unknown table; did you mean broker?"),
        (MINIMAL + "[xyz]", "[xyz]: unknown table; expected one of broker, endpoints, groups"),
        (
            with_lines(broker='"a b" = 1'),
            '[broker] "a b": unknown key; expected one of address, key_file, client_keys,',
        ),
        ("max_size = 3\n" + MINIMAL, "[max_size]: unknown table; expected one of broker"),
    ],
)
def test_an_unknown_key_comes_with_a_suggestion(text: str, said: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(said)


def test_no_endpoints_and_no_groups_are_two_problems() -> None:
    for empty in ("", "[endpoints]\n[groups]\n"):
        endpoints, groups = problems_of(empty)
        assert endpoints.startswith("[endpoints]: ")
        assert groups.startswith("[groups]: ")


def test_without_any_endpoint_a_groups_endpoints_are_not_called_unknown() -> None:
    assert len(problems_of('[groups.default]\nendpoints = ["main"]')) == 1


def test_a_missing_table_is_named_with_its_purpose() -> None:
    assert problems_of(f"[endpoints.main]\n{ENDPOINT}") == [
        "[groups]: missing, expected a table that is not empty ([groups.NAME]: what clients ask for by name)"
    ]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("broker = 1\n" + MINIMAL, "[broker]: found 1, expected a table"),
        (f"groups = 1\n[endpoints.main]\n{ENDPOINT}", "[groups]: found 1, expected a table"),
        (f"[[endpoints]]\n{ENDPOINT}\n[groups.default]", "[endpoints]: found a secret (not shown), expected a table"),
        (MINIMAL + "[[groups.more]]", "[groups.more]: found a single value, expected a table ([groups.NAME]"),
        (
            "groups.more = 1\n" + f"[endpoints.main]\n{ENDPOINT}",
            "[groups.more]: found a single value, expected a table",
        ),
    ],
)
def test_something_else_in_the_place_of_a_table_is_reported(text: str, start: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(start)


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "{}", "%s", "x" * 65, "a\\n"])
@pytest.mark.parametrize("kind", ["endpoints", "groups"])
def test_names_with_other_characters_or_lengths_are_reported(kind: str, name: str) -> None:
    text = f'{MINIMAL}[{kind}."{name}"]\n' + (ENDPOINT if kind == "endpoints" else "")
    (problem,) = problems_of(text)
    assert problem.startswith(f'[{kind}."') or len(name) == 65
    assert problem.endswith("expected 1 to 64 characters of A-Z a-z 0-9 _ . -")


def test_a_name_with_a_dot_is_quoted_in_paths() -> None:
    (problem,) = problems_of(f'[endpoints."db.eu"]\n{ENDPOINT}port = 0\n[groups.default]')
    assert problem.startswith('[endpoints."db.eu"] port: ')


def test_a_group_may_not_name_an_unknown_endpoint() -> None:
    assert problems_of(with_lines(group='endpoints = ["mian", "main", "zzz"]')) == [
        '[groups.default] endpoints: found "mian", which is no endpoint; did you mean main?',
        '[groups.default] endpoints: found "zzz", which is no endpoint; expected one of main',
    ]


def test_a_group_may_not_name_an_endpoint_twice() -> None:
    assert problems_of(with_lines(group='endpoints = ["main", "main"]')) == [
        '[groups.default] endpoints: found "main" more than once, expected it once'
    ]


def test_an_endpoint_with_a_mistake_is_still_an_endpoint_for_groups() -> None:
    assert len(problems_of(with_lines(endpoint="port = 0", group='endpoints = ["main"]'))) == 1


# Passwords


def test_the_password_is_the_first_line_of_its_file_without_the_newline(tmp_path: Path) -> None:
    for content in (b"  p\xc3\xa4ss word \nsecond line\n", b"  p\xc3\xa4ss word \r\n", b"  p\xc3\xa4ss word "):
        (tmp_path / "pw").write_bytes(content)
        endpoint = parse(with_lines(endpoint=f'password_file = "{tmp_path}/pw"'), "x").endpoints["main"]
        assert endpoint.password == "  päss word "
        assert endpoint.password_file == f"{tmp_path}/pw"


def test_the_password_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    endpoint = parse(with_lines(endpoint='password_env = "SHOP_PASSWORD"'), "x").endpoints["main"]
    assert (endpoint.password, endpoint.password_env) == (SECRET, "SHOP_PASSWORD")


def test_an_empty_password_can_be_written_down() -> None:
    assert parse(with_lines(endpoint='password = ""'), "x").endpoints["main"].password == ""


@pytest.mark.parametrize(
    "keys",
    [("password", "password_file"), ("password_file", "password_env"), ("password", "password_file", "password_env")],
)
def test_more_than_one_way_to_give_the_password_is_reported(keys: tuple[str, ...]) -> None:
    (problem,) = problems_of(with_lines(endpoint="\n".join(f'{key} = "{SECRET}"' for key in keys)))
    expected = f"[endpoints.main] {' and '.join(keys)}: found {len(keys)} ways to give the password, expected one"
    assert problem == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "expected the password in its first line, which is empty"),
        (b"\nsecond", "expected the password in its first line, which is empty"),
        (b"hunter2\xff", "expected UTF-8 without NUL"),
        (b"hunter2\0", "expected UTF-8 without NUL"),
    ],
)
def test_a_password_file_without_a_usable_first_line_is_reported(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "pw").write_bytes(content)
    (problem,) = problems_of(with_lines(endpoint=f'password_file = "{tmp_path}/pw"'))
    assert problem.startswith(f'[endpoints.main] password_file: found "{tmp_path}/pw", {said}')
    assert problem.endswith("(a file whose first line is the password)")
    assert "hunter2" not in problem


@pytest.mark.parametrize("path", ["", "nowhere/at/all", ".", "/dev/zero"])
def test_a_password_file_that_cannot_be_read_is_reported(path: str) -> None:
    (problem,) = problems_of(with_lines(endpoint=f'password_file = "{path}"'))
    assert problem.startswith(f'[endpoints.main] password_file: found "{path}", expected a file that can be read: ')


@pytest.mark.parametrize("value", [None, ""])
def test_a_password_variable_that_is_not_set_is_reported(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("SHOP_PASSWORD", raising=False)
    if value is not None:
        monkeypatch.setenv("SHOP_PASSWORD", value)
    (problem,) = problems_of(with_lines(endpoint='password_env = "SHOP_PASSWORD"'))
    assert problem.startswith('[endpoints.main] password_env: found "SHOP_PASSWORD", expected a variable that is set')


def test_a_password_variable_that_is_not_utf8_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", os.fsdecode(b"hunter2\xff"))
    (problem,) = problems_of(with_lines(endpoint='password_env = "SHOP_PASSWORD"'))
    assert "expected UTF-8 without NUL" in problem
    assert "hunter2" not in problem


# Text and files


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL + "max_size 3", "at line 6"),
        (MINIMAL + 'x = "open', "at line 6, the end of the text"),
        ("[broker]\n[broker]\n", "at line 2"),
        ("a = " + "[" * 5000, "recursion"),
        ("a = " + "1" * 5000, "4300 digits"),
    ],
)
def test_a_syntax_error_is_one_problem_with_its_line(text: str, said: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith("not valid TOML: ")
    assert said in problem


def test_load_reads_a_file_and_errors_begin_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "poold.toml"
    path.write_text(MINIMAL)
    assert load(path) == load(str(path)) == parse(MINIMAL, "x")
    path.write_text(with_lines(endpoint="port = 0", group="max_sise = 1"))
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert str(caught.value).splitlines() == [
        f"{path}: problems found: 2",
        "  [endpoints.main] port: found 0, expected an integer from 1 to 65535 (the port)",
        "  [groups.default] max_sise: unknown key; did you mean max_size?",
    ]


def test_load_reports_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "no.toml")
    assert str(caught.value).startswith(f"{tmp_path}/no.toml: ")
    assert caught.value.problems == [f"cannot read the file: there is no {tmp_path}/no.toml"]


def test_a_mark_that_an_editor_has_put_ahead_is_none_of_the_text(tmp_path: Path) -> None:
    file = tmp_path / "marked.toml"
    file.write_text("\ufeff[endpoints.main]\ndbname = 'd'\nuser = 'u'\nhost = 'h'\n[groups.default]\n", "utf-8")
    assert list(load(file).groups) == ["default"]


def test_a_wrong_address_hides_no_other_problem(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(
            "[broker]\naddress = 'ipc://rel'\nmetrics_address = 'x'\nkey_file = '/nonexistent/k'\n"
            "[endpoints.main]\n[groups.default]\n",
            "wrong.toml",
        )
    found = "\n".join(caught.value.problems)
    assert all(f"[broker] {each}" in found for each in ("address", "metrics_address", "client_keys"))


def test_load_reports_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the file: .* is a folder, expected a file"):
        load(tmp_path)


def test_a_file_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the file: /dev/zero: more than \d+ bytes"):
        load("/dev/zero")


def test_load_reports_the_line_that_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "latin1.toml").write_bytes(f"\n[endpoints.main]\npassword = '{SECRET}".encode() + b"\xe4'\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "latin1.toml")
    assert caught.value.problems == ["not valid TOML: the text is not UTF-8 (at line 3)"]


def test_a_file_with_windows_line_ends_is_read(tmp_path: Path) -> None:
    (tmp_path / "dos.toml").write_bytes(MINIMAL.replace("\n", "\r\n").encode())
    assert load(tmp_path / "dos.toml") == parse(MINIMAL, "x")


def test_all_problems_are_reported_together() -> None:
    text = """
        [broker]
        drain_timeout = -1
        adress = "x"
        [endpoints.main]
        port = 0
        [groups.default]
        endpoints = ["mian"]
        min_size = 9
        autocommit = "yes"
        [cache]
    """
    starts = {problem.partition(":")[0] for problem in problems_of(text)}
    assert starts == {
        "[broker] drain_timeout", "[broker] adress", "[endpoints.main] port", "[endpoints.main] host",
        "[endpoints.main] dbname", "[endpoints.main] user", "[groups.default] endpoints", "[groups.default] min_size",
        "[groups.default] autocommit", "[cache]",
    }  # fmt: skip


def test_each_problem_is_one_line() -> None:
    text = with_lines(endpoint='sslmode = """a\nb"""\ntemp_buffers = "x\\r\\n"', group='endpoints = ["""m\nn"""]')
    found = problems_of(text)
    assert len(found) == 3
    assert all(len(problem.splitlines()) == 1 for problem in found)


def test_a_long_value_is_cut() -> None:
    (problem,) = problems_of(with_lines(endpoint=f'sslmode = "{"x" * 5000}"'))
    assert len(problem) < 300


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        with_lines(endpoint=f'password = "{SECRET}"\nport = 0'),
        with_lines(endpoint=f'password = ["{SECRET}"]'),
        with_lines(endpoint=f'password = "{SECRET}\\u0000"'),
        with_lines(endpoint=f'password = {{ value = "{SECRET}" }}'),
        with_lines(endpoint=f'pasword = "{SECRET}"'),
        with_lines(endpoint=f"password = {SECRET}"),
        with_lines(endpoint=f'password = "{SECRET}'),
        with_lines(endpoint=f'password = "{SECRET}"\npassword = "{SECRET}"'),
        with_lines(endpoint=f'[endpoints.main.host]\npassword = "{SECRET}"'),
        f'password = "{SECRET}"\n{MINIMAL}',
        f'[endpoints]\npassword = "{SECRET}"\n[groups.default]',
        f'endpoints = "postgresql://web:{SECRET}@db/shop"\n[groups.default]',
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "poold.toml")
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_a_numeric_password_is_not_shown_either() -> None:
    (problem,) = problems_of(with_lines(endpoint="password = 271828"))
    assert problem.startswith("[endpoints.main] password: found a secret (not shown), expected a string")
    assert "271828" not in problem


@given(st.data())
def test_no_accident_with_the_keyboard_makes_an_error_show_the_password(data: st.DataObject) -> None:
    text = with_lines(endpoint=f'password = "{SECRET}"')
    start = text.index("password")
    position = data.draw(st.integers(start, start + len(f'password = "{SECRET}"')))
    typed = data.draw(st.text("\"'=#[]{}\\\n\t ,.ax1\0", max_size=3))
    erased = data.draw(st.integers(0, 3))
    assert SECRET not in outcome(text[:position] + typed + text[position + erased :])


def test_describe_masks_passwords_from_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pw").write_text(SECRET)
    monkeypatch.setenv("SHOP_PASSWORD", SECRET)
    lines = (f'password = "{SECRET}"', f'password_file = "{tmp_path}/pw"', 'password_env = "SHOP_PASSWORD"')
    for line in lines:
        config = parse(with_lines(endpoint=line), "x")
        assert config.endpoints["main"].password == SECRET
        text = json.dumps(describe(config))
        assert SECRET not in text
        assert json.loads(text)["endpoints"]["main"]["password"] == "***"


def test_describe_tells_an_empty_password_from_none() -> None:
    assert describe(parse(MINIMAL, "x"))["endpoints"]["main"]["password"] is None
    assert describe(parse(with_lines(endpoint='password = ""'), "x"))["endpoints"]["main"]["password"] == "***"


def test_describe_gives_plain_values_that_survive_json() -> None:
    described = describe(parse(with_lines(group='endpoints = ["main"]'), "x"))
    assert json.loads(json.dumps(described)) == described
    assert list(described) == ["broker", "endpoints", "groups"]


# The machinery


def test_a_config_error_says_what_is_wrong_without_a_file() -> None:
    assert str(ConfigError(["a", "b"])) == "configuration: problems found: 2\n  a\n  b"


def test_check_table_leaves_refused_values_out_and_fills_in_defaults() -> None:
    rules = {"a": Rule(type=int, help="h"), "b": Rule(type=int, help="h", default=7), "c": Rule(type=str, help="h")}
    problems: list[str] = []
    assert check_table(rules, "{t}", {"a": "x", "c": "y"}, problems) == {"b": 7, "c": "y"}
    assert problems == ['{t} a: found "x", expected an integer (h)']


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@example("\x7f")
@example('a"b\\c\r\n\t\x1b\u2028\U0001f418')
def test_toml_string_is_read_back_by_tomllib(text: str) -> None:
    assert tomllib.loads(f"key = {toml_string(text)}") == {"key": text}
    assert "\n" not in toml_string(text)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
key = st.sampled_from([f.name for cls in (BrokerConfig, EndpointConfig, GroupConfig) for f in dataclasses.fields(cls)])
some_table = st.dictionaries(key | st.text(max_size=5), anything, max_size=6)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "broker": some_table | anything,
            "endpoints": st.dictionaries(st.text(max_size=5), some_table | anything, max_size=3) | anything,
            "groups": st.dictionaries(st.text(max_size=5), some_table | anything, max_size=3) | anything,
            "other": anything,
        },
    )
)
def test_whatever_a_table_holds_it_is_a_config_or_a_config_error(table: dict[str, Any]) -> None:
    outcome(table).encode()


@pytest.mark.parametrize("value", [2**63 - 1, -(2**63)])
def test_integers_have_64_bits_like_tomls(value: int) -> None:
    beyond = value + (1 if value > 0 else -1)
    assert shown(value) == str(value)
    assert shown(beyond) == "an integer of over 64 bits"
    rules = {"a": Rule(type=int, help="h")}
    assert check_table(rules, "t", {"a": value}, []) == {"a": value}
    assert check_table(rules, "t", {"a": beyond}, []) == {}


@given(anything)
def test_any_refused_value_can_be_shown_in_one_short_line(value: Any) -> None:
    text = shown(value)
    assert len(text) < 1000
    assert "\n" not in text
    text.encode()
