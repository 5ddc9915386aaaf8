"""Conversion of pgdbpool's configurations: what it means in poold's terms, and what is refused."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poold.config.file import ConfigError, parse
from poold.config.model import Config, EndpointConfig
from poold.config.pgdbpool import LegacyConfigError, convert

SECRET = "hunter2-sentinel"
DB = {"host": "db.example.com", "name": "shop", "user": "web", "pass": SECRET}
CONFIG = {"db": DB, "groups": {"default": {"connection_count": 4}}}

README_TWO_ENDPOINTS = """
config = {
    'db': [
        {
            'host': 'postgres-server-1.example.com',
            'name': 'mydb',
            'user': 'dbuser',
            'pass': 'dbpass'
        },
        {
            'host': 'postgres-server-2.example.com',
            'name': 'mydb',
            'user': 'dbuser',
            'pass': 'dbpass'
        }
    ],
    'groups': {
        'default': {
            'connection_count': 20,
            'autocommit': True
        }
    }
}
"""

README_THREADING_MODEL = """
# for non-threaded applications (e.g., FalconAS)
config = {
    'type': 'non-threaded',
    'db': { ... },
    'groups': { ... }
}
"""

README_MANUAL_TRANSACTIONS = (
    README_TWO_ENDPOINTS
    + """
import pgdbpool as dbpool

dbpool.Connection.init(config)

# for autocommit=False connections
with dbpool.Handler('group1') as db:
    db.query('INSERT INTO table1 VALUES (%s)', ('value1',))
    db.query('INSERT INTO table2 VALUES (%s)', ('value2',))
    db.commit()  # Manual commit
"""
)


def changed(*, db: dict[str, Any] | None = None, group: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    """A usable configuration with further or other keys."""
    return {"db": DB | (db or {}), "groups": {"default": {"connection_count": 4} | (group or {})}} | top


def toml_of(config: object) -> str:
    return convert(json.dumps(config), "pool.json")


def converted(config: object) -> Config:
    return parse(toml_of(config), "poold.toml")


def problems_of(source: object, filename: str = "pool.json") -> list[str]:
    with pytest.raises(LegacyConfigError) as caught:
        convert(source if isinstance(source, str) else json.dumps(source), filename)
    assert SECRET not in str(caught.value) + repr(caught.value)
    assert str(caught.value).startswith(f"{filename}: problems found: ")
    return caught.value.problems


# What the values become


def test_the_readmes_example_becomes_two_endpoints_and_a_group_over_both() -> None:
    config = parse(convert(README_TWO_ENDPOINTS, "settings.py"), "poold.toml")
    expected = EndpointConfig(
        host="postgres-server-1.example.com", dbname="mydb", user="dbuser", password="dbpass", sslmode="disable"
    )
    assert config.endpoints["db1"] == expected
    assert list(config.endpoints) == ["db1", "db2"]
    assert config.endpoints["db2"].host == "postgres-server-2.example.com"
    group = config.groups["default"]
    assert (group.endpoints, group.min_size, group.max_size) == (("db1", "db2"), 20, 20)
    assert (group.autocommit, group.sqlprepare) == (True, False)


def test_code_below_the_definition_that_only_uses_config_is_ignored() -> None:
    body = convert(README_MANUAL_TRANSACTIONS, "app.py")
    assert body == convert(README_TWO_ENDPOINTS, "app.py")


def test_the_readmes_placeholders_are_reported_where_they_stand() -> None:
    found = problems_of(README_THREADING_MODEL, "settings.py")
    assert found == [f"line {line}: found the placeholder ..., expected a value" for line in (5, 6)]


def test_defaults_are_pgdbpools_and_not_poolds() -> None:
    config = converted(CONFIG)
    endpoint, group = config.endpoints["db1"], config.groups["default"]
    assert (endpoint.sslmode, endpoint.connect_timeout, endpoint.query_timeout) == ("disable", 10.0, 5.0)
    assert (endpoint.temp_buffers, endpoint.port) == ("128MB", 5432)
    assert (group.autocommit, group.sqlprepare) == (False, False)


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ({"host": "/run/postgresql"}, "host", "/run/postgresql"),
        ({"port": 6000}, "port", 6000),
        ({"name": "other"}, "dbname", "other"),
        ({"user": "other"}, "user", "other"),
        ({"pass": ""}, "password", ""),
        ({"pass": None}, "password", None),
        ({"ssl": "require"}, "sslmode", "require"),
        ({"connect_timeout": 3}, "connect_timeout", 3.0),
        ({"query_timeout": 1}, "query_timeout", 0.001),
        ({"query_timeout": 0}, "query_timeout", 0.0),
        ({"query_timeout": 90_500}, "query_timeout", 90.5),
        ({"query_timeout": 2**31 - 1}, "query_timeout", 2147483.647),
        ({"session_tmp_buffer": 1}, "temp_buffers", "1MB"),
    ],
)
def test_a_key_of_a_db_entry_is_translated(old: dict[str, Any], key: str, value: object) -> None:
    assert getattr(converted(changed(db=old)).endpoints["db1"], key) == value


@pytest.mark.parametrize(
    ("old", "key", "value"),
    [
        ({"connection_count": 1}, "min_size", 1),
        ({"connection_count": 7}, "max_size", 7),
        ({"autocommit": True}, "autocommit", True),
        ({"sqlprepare": True}, "sqlprepare", True),
    ],
)
def test_a_key_of_a_group_is_translated(old: dict[str, Any], key: str, value: object) -> None:
    assert getattr(converted(changed(group=old)).groups["default"], key) == value


def test_the_first_entrys_timeout_and_buffers_hold_for_all_as_in_pgdbpool() -> None:
    first = DB | {"query_timeout": 1000, "session_tmp_buffer": 16}
    second = DB | {"query_timeout": 9000, "session_tmp_buffer": 64}
    text = toml_of(changed(db={}) | {"db": [first, second, DB]})
    for endpoint in parse(text, "x").endpoints.values():
        assert (endpoint.query_timeout, endpoint.temp_buffers) == (1.0, "16MB")
    db1, db2, db3 = text.split("\n[")[1:4]
    assert "# query_timeout = 9000 had no effect: pgdbpool took the first entry's, 1000, for all." in db2
    assert "# session_tmp_buffer = 64 had no effect: pgdbpool took the first entry's, 16, for all." in db2
    assert "had no effect" not in db1 + db3


def test_a_later_entry_differs_from_the_first_ones_default_too() -> None:
    text = toml_of(CONFIG | {"db": [DB, DB | {"query_timeout": 9000}]})
    assert "# query_timeout = 9000 had no effect: pgdbpool took the first entry's, 5000, for all." in text
    assert parse(text, "x").endpoints["db2"].query_timeout == 5.0


def test_a_later_entry_that_says_the_same_gets_no_comment() -> None:
    assert "had no effect" not in toml_of(CONFIG | {"db": [DB, DB | {"query_timeout": 5000}]})


def test_each_entry_keeps_its_own_connect_timeout() -> None:
    config = converted(CONFIG | {"db": [DB, DB | {"connect_timeout": 3}]})
    assert [endpoint.connect_timeout for endpoint in config.endpoints.values()] == [10.0, 3.0]


# The text around the values


def test_the_header_says_where_it_came_from_and_what_to_do() -> None:
    text = toml_of(CONFIG)
    assert text.startswith("# poold's configuration, converted from pgdbpool's in \"pool.json\".\n")
    assert "# What to do next:" in text
    assert "poold check-config" in text
    assert text.endswith("\n")


@pytest.mark.parametrize("filename", ["a\nb = 1.json", 'q"uote.json', "nul\0.json", "not-utf8-\udcff.json"])
def test_a_strange_filename_stays_inside_its_comment(filename: str) -> None:
    text = convert(json.dumps(CONFIG), filename)
    assert text.splitlines()[0].startswith("# poold's configuration, converted from pgdbpool's in ")
    assert set(tomllib.loads(text)) == {"endpoints", "groups"}
    text.encode()


@pytest.mark.parametrize(("top", "model"), [({}, "threaded"), ({"type": "non-threaded"}, "non-threaded")])
def test_the_threading_model_is_kept_as_a_comment_for_the_clients(top: dict[str, str], model: str) -> None:
    line = next(line for line in toml_of(CONFIG | top).splitlines() if "Connection.init" in line)
    assert line.startswith("# ")
    assert f'"{model}"' in line


def test_connection_retry_sleep_becomes_a_comment() -> None:
    text = toml_of(changed(db={"connection_retry_sleep": 2}))
    assert "# connection_retry_sleep = 2.0 is left out: poold uses exponential backoff by itself." in text
    assert "backoff" not in toml_of(CONFIG)


def test_a_port_that_pgdbpool_ignored_is_pointed_out() -> None:
    assert "# pgdbpool 1.0.2 ignored the port and used 5432" in toml_of(changed(db={"port": 6000}))
    assert "ignored the port" not in toml_of(changed(db={"port": 5432}))


def test_a_password_comes_with_the_advice_to_move_it() -> None:
    lines = toml_of(CONFIG).splitlines()
    position = lines.index(f'password = "{SECRET}"')
    assert lines[position - 1].startswith("# ")
    assert "password_file" in lines[position - 1]


def test_without_a_password_there_is_no_password_line() -> None:
    assert "\npassword" not in toml_of(changed(db={"pass": None}))


def test_a_group_name_with_a_dot_is_quoted() -> None:
    assert list(converted(CONFIG | {"groups": {"eu.read": {"connection_count": 1}}}).groups) == ["eu.read"]


# Sources


def test_python_and_json_give_the_same_result() -> None:
    assert convert(f"config = {CONFIG!r}", "pool.py").splitlines()[1:] == toml_of(CONFIG).splitlines()[1:]


@pytest.mark.parametrize(
    ("text", "filename"),
    [
        (json.dumps(CONFIG), "-"),
        ("\ufeff  \n" + json.dumps(CONFIG), "pool.conf"),
        (f"import os\nconfig = {CONFIG!r}", "-"),
        (f"'''doc'''\nconfig: dict = {CONFIG!r}", "settings.py"),
        (f"config = other = {CONFIG!r}", "settings.py"),
        (f"x = 1; y: int\nconfig: dict[str, object] = {CONFIG!r}", "settings.py"),
        (f"config = make()\nconfig = {CONFIG!r}", "settings.py"),
        (f"{{}}\nconfig = {CONFIG!r}", "settings.py"),
        (f"config = {dict(CONFIG, db=(DB,))!r}", "settings.py"),
    ],
)
def test_the_source_may_have_several_forms(text: str, filename: str) -> None:
    assert parse(convert(text, filename), "x") == converted(CONFIG)


def test_nothing_in_the_python_file_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    convert(f"open({str(trap)!r}, 'w')\nconfig = {CONFIG!r}\nraise SystemExit(1)", "settings.py")
    problems_of(f"config = {{'db': open({str(trap)!r}, 'w')}}", "settings.py")
    assert not trap.exists()


def test_an_odd_escape_in_a_password_prints_no_warning() -> None:
    # pytest is told to make warnings errors; Python's would quote the line.
    text = "config = " + repr(changed(db={"pass": "X"})).replace("'X'", r"'a\dc'")
    assert parse(convert(text, "settings.py"), "x").endpoints["db1"].password == r"a\dc"


@pytest.mark.parametrize(
    ("expression", "named"),
    [
        ("os.environ['DB_HOST']", "os.environ[...]"),
        ("os.environ.get('DB_HOST', 'hunter2-sentinel')", "os.environ.get(...)"),
        ("HOST", "HOST"),
        ("f'db.{DOMAIN}'", "an f-string"),
        ("'db' + DOMAIN", "a calculation"),
        ("HOST or 'x'", "(BoolOp)"),
        ("HOSTS[0].name", "HOSTS[...].name"),
        ("'hunter2-sentinel'.lower()", "(Constant).lower(...)"),
    ],
)
def test_an_expression_is_named_with_its_line(expression: str, named: str) -> None:
    text = f"import os\n\nconfig = {{\n  'db': {{\n    'host': {expression},\n  }},\n}}\n"
    assert problems_of(text, "settings.py") == [
        f"line 5: found {named}, expected a literal, because the file is not run; write the value"
    ]


def test_all_expressions_are_reported_together() -> None:
    text = "config = {\n'db': [HOST1,\n{'port': int('5')}],\n'groups': {**base},\n'type': MODEL}"
    found = [problem.partition(",")[0] for problem in problems_of(text, "settings.py")]
    assert found == ["line 2: found HOST1", "line 3: found int(...)", "line 4: found base", "line 5: found MODEL"]


@pytest.mark.parametrize("key", ["pass", "password", "pw"])
def test_an_expression_for_a_password_is_not_named_because_it_may_be_one_without_quotes(key: str) -> None:
    (problem,) = problems_of(f"config = {{'db': {{'{key}': hunter2}}}}", "settings.py")
    assert problem.startswith(f'line 1: found an expression for "{key}" (not shown), expected a literal')
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("config = dict(db=1)", "dict(...)"),
        ("config = BASE | {}", "a calculation"),
        ("config = CONFIG", "CONFIG"),
        ("config = {DB: 1}", "DB"),
        ("config = {'db': {}}\nconfig = load()", "load(...)"),
    ],
)
def test_a_config_that_is_no_literal_at_all_is_reported(text: str, named: str) -> None:
    (problem,) = problems_of(text, "settings.py")
    assert problem.startswith(f"line {text.count(chr(10)) + 1}: found {named}, expected a literal")


@pytest.mark.parametrize(
    "change",
    [
        "config['type'] = 'threaded'",
        "config['db']['pass'] = 'hunter2-sentinel'",
        "config['db'][0]['pass'] += 'hunter2-sentinel'",
        "config |= more",
        "config.update(more)",
        "config['groups'].update(more)",
        "config.get('groups').pop('x')",
        "del config['type']",
        "if DEBUG:\n    config = {}",
        "for config in configs: pass",
    ],
)
def test_a_config_that_is_changed_below_its_definition_is_reported(change: str) -> None:
    found = problems_of(f"config = {CONFIG!r}\n{change}", "settings.py")
    line = 3 if change.startswith("if") else 2
    assert found == [f"line {line}: config is changed after its definition; write the values there"]


@pytest.mark.parametrize(
    "code",
    [
        "def f(config):\n    config['x'] = 1",
        "print(config['db'], config.get('type'), config.copy())",
        "other['x'] = config",
        "settings.config = 1",
        "a, b = [1, 2]",
        "Connection.init(config)",
    ],
)
def test_code_that_leaves_config_alone_is_no_problem(code: str) -> None:
    convert(f"config = {CONFIG!r}\n{code}", "settings.py")


@pytest.mark.parametrize("name", ["config1", "db_config", "CONFIG"])
def test_the_only_dict_that_looks_like_it_is_taken_under_any_name(name: str) -> None:
    assert convert(f"others = {{'a': 1}}\n{name} = {CONFIG!r}", "DBConfig.py") == convert(
        f"config = {CONFIG!r}", "DBConfig.py"
    )


def test_what_it_is_called_is_in_the_advice() -> None:
    with pytest.raises(LegacyConfigError, match=r"json\.dumps\(DBConfig\.config1\)"):
        convert("config1 = {'db': made(), 'groups': {'a': {'connection_count': 1}}}", "DBConfig.py")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", ""),
        ("x = 1", ""),
        ("def f():\n    config = {}", ""),
        ("config: dict", ""),
        ("POOL = {}\nDB = {}", "; rename POOL, DB to config"),
        (f"other = {{}}\na = {CONFIG!r}\nb = {CONFIG!r}", "; rename a, b to config"),
    ],
)
def test_a_python_file_without_config_is_reported(text: str, hint: str) -> None:
    (problem,) = problems_of(text, "settings.py")
    assert problem == f"found no top-level config = {{...}}, expected pgdbpool's dict{hint}"


@pytest.mark.parametrize(
    ("text", "filename", "start"),
    [
        (f'{{"db": "{SECRET}",\n "groups": }}', "pool.json", "line 2: not valid JSON: "),
        (f'{{"pass": "{SECRET}', "pool.json", "line 1: not valid JSON: "),
        ("[" * 100_000, "pool.json", "not usable JSON: "),
        ('{"db": ' + "1" * 5000 + "}", "pool.json", "not usable JSON: "),
        (f"x = 1\nconfig = {{'pass': '{SECRET}}}", "pool.py", "line 2: not valid Python: "),
        (f"config = {{'pass': {SECRET} x}}", "pool.py", "line 1: not valid Python: "),
        ("config = '\0'", "pool.py", ""),
        # Python 3.13 reads it, and the minus of a minus is no literal.
        (
            "config = " + "-" * 5_000 + "1",
            "pool.py",
            ("not usable Python: maximum recursion depth", "line 1: found (Un"),
        ),
        ("config = " + "-" * 100_000 + "1", "pool.py", "not usable Python: "),
        ("config = {[1]: 2}", "pool.py", "line 1: config cannot be built from its literals"),
        (f"config = {{'pass': -'{SECRET}'}}", "pool.py", "line 1: config cannot be built from its literals"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_problem(text: str, filename: str, start: str | tuple[str, ...]) -> None:
    (problem,) = problems_of(text, filename)
    assert problem.startswith(start)


# Python that is no literal, and is understood all the same


def python(password: str = repr(SECRET), before: str = "import os", **top: str) -> str:
    """A Python file with an expression for the password, or for other keys at the top."""
    db = f"{{'host': 'db.example.com', 'name': 'shop', 'user': 'web', 'pass': {password}}}"
    given = {"db": db, "groups": "{'default': {'connection_count': 4}}", **top}
    return f"{before}\nconfig = {{{', '.join(f'{key!r}: {value}' for key, value in given.items())}}}\n"


@pytest.mark.parametrize(
    ("expression", "before"),
    [
        ("os.environ['APP_PASSWORD']", "import os"),
        ("os.environ.get('APP_PASSWORD')", "import logging, os"),
        ("os.environ.get('APP_PASSWORD', '')", "import os.path"),
        ("os.getenv('APP_PASSWORD')", "import os"),
        ("os.getenv('APP_PASSWORD', default=None)", "import os"),
        ("environ['APP_PASSWORD']", "from os import environ"),
        ("getenv('APP_PASSWORD')", "from os import getenv, path"),
        ("PASSWORD", "import os\nPASSWORD = os.environ['APP_PASSWORD']"),
    ],
)
def test_a_password_of_the_environment_becomes_password_env(
    expression: str, before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APP_PASSWORD", raising=False)
    made = convert(python(expression, before), "settings.py")
    endpoint = tomllib.loads(made)["endpoints"]["db1"]
    assert endpoint["password_env"] == "APP_PASSWORD"
    assert "password" not in endpoint
    assert "default" not in made.partition("[endpoints.db1]")[2].partition("[groups")[0]
    # The broker wants it to be set, as pgdbpool's program did.
    with pytest.raises(ConfigError, match="expected a variable that is set and not empty"):
        parse(made, "poold.toml")
    monkeypatch.setenv("APP_PASSWORD", SECRET)
    assert parse(made, "poold.toml").endpoints["db1"].password == SECRET


def test_a_variables_default_is_left_out_and_that_is_said() -> None:
    made = convert(python(f"os.environ.get('APP_PASSWORD', {SECRET!r})"), "settings.py")
    assert "The default beside it is left out" in made
    assert 'password_env = "APP_PASSWORD"' in made
    assert SECRET not in made


@pytest.mark.parametrize(
    ("expression", "before"),
    [
        ("os.environ['APP_PASSWORD']", ""),
        ("environ['APP_PASSWORD']", "from somewhere import environ"),
        ("os.environ[NAME]", "import os"),
        ("os.environ['hunter2-sentinel is no name']", "import os"),
        ("os.environ['A'] + os.environ['B']", "import os"),
        ("os.environ.pop('APP_PASSWORD')", "import os"),
        ("PASSWORD", "PASSWORD = read('hunter2-sentinel')"),
        ("PASSWORD", "from secrets_of_app import PASSWORD"),
    ],
)
def test_another_expression_for_a_password_is_refused_without_being_shown(expression: str, before: str) -> None:
    (problem,) = problems_of(python(expression, before), "settings.py")
    assert 'found an expression for "pass" (not shown), expected a literal' in problem


def test_constants_of_the_module_are_what_they_are() -> None:
    before = """
HOST: str = "db.example.com"
COUNT = 4
DB = {"host": HOST, "name": "shop", "user": "web"}
BASE = {"connection_count": COUNT}
def get():
    HOST = "another variable"
NAME = "default"
"""
    text = python(before=before, db=f"{{**DB, 'pass': {SECRET!r}}}", groups="{NAME: BASE}")
    assert parse(convert(text, "settings.py"), "x") == converted(CONFIG)


@pytest.mark.parametrize(
    "change",
    [
        "HOST = 'other'",
        "HOST += 'other'",
        "if DEBUG:\n    HOST = 'other'",
        "from local_settings import *",
        "from local_settings import HOST",
        "import hosts as HOST",
        "def HOST(): pass",
        "for HOST in hosts: pass",
    ],
)
@pytest.mark.parametrize("is_above", [True, False], ids=["above config", "below config"])
def test_a_constant_that_may_change_is_reported_where_it_does(change: str, is_above: bool) -> None:
    text = python(before=f"HOST = 'db.example.com'\n{change if is_above else ''}", db="{'host': HOST, 'name': 'shop'}")
    found = problems_of(text if is_above else text + change, "settings.py")
    if is_above and change == "HOST = 'other'":
        assert found[0].startswith("db user: missing")  # it is the last one that counts
    else:
        assert any("HOST is changed after its definition" in problem for problem in found)


def test_a_constant_that_is_changed_inside_is_reported() -> None:
    text = python(before="DB = {'host': 'h'}\nDB['pass'] = 'hunter2-sentinel'\nDB.update(x=1)", db="DB")
    assert problems_of(text, "settings.py") == [
        f"line {line}: DB is changed after its definition; write the values there" for line in (2, 3)
    ]


def test_names_that_refer_to_themselves_or_to_what_comes_later_have_no_value() -> None:
    for before in ("A = B\nB = A", "A = A", ""):
        (problem,) = problems_of(python(before=before, type="A") + "A = 'threaded'\n" * (not before), "settings.py")
        assert "expected a literal" in problem


def test_no_encryption_is_said_in_two_ways() -> None:
    assert converted(changed(db={"ssl": False})) == converted(changed(db={"ssl": "disable"}))


@pytest.mark.parametrize(
    "text", ["config = make()", "config = dict(db=DB)", "def get():\n    return {}", python("F()")]
)
def test_what_cannot_be_read_can_be_printed_by_python(text: str) -> None:
    with pytest.raises(LegacyConfigError) as caught:
        convert(text, "conf/app settings/pool_config.py")
    name = "config" if "config" in text else "NAME"  # the file does not tell
    program = f"import json, pool_config; print(json.dumps(pool_config.{name}))"
    assert str(caught.value).endswith(f"(cd 'conf/app settings' && python -c '{program}') | poold import-config -")


def test_what_python_cannot_read_either_comes_without_that_advice() -> None:
    with pytest.raises(LegacyConfigError) as caught:
        convert("config = {", "settings.py")
    assert "import-config" not in str(caught.value)


# Values that are refused


@pytest.mark.parametrize(
    ("config", "start"),
    [
        ([], "found no dict, expected one with db and groups"),
        (json.dumps(f"user=web password={SECRET}"), "found no dict"),
        (CONFIG | {"grups": 1}, "top level grups: unknown key; did you mean groups?"),
        (CONFIG | {"type": "asyncio"}, 'top level type: found "asyncio", expected one of threaded, non-threaded'),
        (CONFIG | {"type": 1}, "top level type: found 1, expected one of"),
        ({"groups": CONFIG["groups"]}, "top level db: missing, expected an array"),
        ({"db": DB}, "top level groups: missing, expected a table"),
        (CONFIG | {"db": []}, "top level db: found a secret (not shown), expected an array that is not empty"),
        (CONFIG | {"db": f"password={SECRET}"}, "top level db: found a secret (not shown), expected an array"),
        (CONFIG | {"groups": {}}, "top level groups: found a table, expected a table that is not empty"),
        (CONFIG | {"groups": 4}, "top level groups: found 4, expected a table"),
        (CONFIG | {"db": [DB, SECRET]}, "db[1]: found no dict, expected one with host, port, name, user, pass"),
        (CONFIG | {"groups": {"x": 4}}, 'groups["x"]: found no dict, expected one with connection_count'),
        (changed(db={"password": SECRET}), "db password: unknown key; did you mean pass?"),
        (changed(db={"prot": 1}), "db prot: unknown key; did you mean port?"),
        (CONFIG | {"db": [DB, DB | {"port": 0}]}, "db[1] port: found 0, expected an integer from 1 to 65535"),
        (changed(db={"host": 1}), "db host: found 1, expected a string"),
        (changed(db={"host": ""}), 'db host: found "", expected a string that is not empty'),
        (changed(db={"host": None}), "db host: found none, expected a string"),
        (changed(db={"name": ["x"]}), "db name: found an array, expected a string"),
        (changed(db={"user": {}}), "db user: found a table, expected a string"),
        (changed(db={"user": "\ud800"}), "db user: found "),
        (changed(db={"pass": 5}), "db pass: found a secret (not shown), expected a string"),
        (changed(db={"pass": SECRET + "\0"}), "db pass: found a secret (not shown), expected text without NUL"),
        (changed(db={"pass": SECRET + "\udcff"}), "db pass: found a secret (not shown), expected text without NUL"),
        (changed(db={"ssl": True}), "db ssl: found true, expected one of disable, allow"),
        (changed(db={"connect_timeout": 0}), "db connect_timeout: found 0, expected a number from 0.1 up"),
        (changed(db={"connect_timeout": "10"}), 'db connect_timeout: found "10", expected a number'),
        (changed(db={"query_timeout": 1.5}), "db query_timeout: found 1.5, expected an integer"),
        (changed(db={"query_timeout": -1}), "db query_timeout: found -1, expected an integer from 0 to 2147483647"),
        (changed(db={"query_timeout": 2**31}), "db query_timeout: found 2147483648, expected an integer from 0"),
        (changed(db={"session_tmp_buffer": 0}), "db session_tmp_buffer: found 0, expected an integer from 1 up"),
        (changed(db={"session_tmp_buffer": "128MB"}), 'db session_tmp_buffer: found "128MB", expected an integer'),
        (changed(db={"connection_retry_sleep": -1}), "db connection_retry_sleep: found -1, expected a number from 0"),
        (changed(group={"connection_count": 0}), 'groups["default"] connection_count: found 0, expected an integer'),
        (changed(group={"connection_count": True}), 'groups["default"] connection_count: found true'),
        (changed(group={"autocommit": 1}), 'groups["default"] autocommit: found 1, expected true or false'),
        (changed(group={"sqlprepare": "yes"}), 'groups["default"] sqlprepare: found "yes", expected true or false'),
        (changed(group={"connections": []}), 'groups["default"] connections: unknown key; did you mean'),
        (changed(group={"connection_iter": 1}), 'groups["default"] connection_iter: unknown key; did you mean'),
        (CONFIG | {"groups": {"a b": {"connection_count": 1}}}, 'groups["a b"]: expected a name of 1 to 64'),
        (CONFIG | {"groups": {"x" * 65: {"connection_count": 1}}}, f'groups["{"x" * 65}"]: expected a name of 1'),
    ],
)
def test_a_wrong_configuration_is_reported(config: object, start: str) -> None:
    (problem,) = problems_of(config)
    assert problem.startswith(start)


@pytest.mark.parametrize("key", ["host", "name", "user", "pass"])
def test_a_db_entry_needs_all_that_pgdbpool_needs(key: str) -> None:
    (problem,) = problems_of(CONFIG | {"db": {other: value for other, value in DB.items() if other != key}})
    assert problem.startswith(f"db {key}: missing, expected a string")


def test_a_group_needs_its_connection_count() -> None:
    (problem,) = problems_of(CONFIG | {"groups": {"default": {}}})
    assert problem.startswith('groups["default"] connection_count: missing, expected an integer')


def test_a_group_name_that_is_no_string_is_reported() -> None:
    (problem,) = problems_of(f"config = {CONFIG | {'groups': {5: {'connection_count': 1}}}!r}", "settings.py")
    assert problem.startswith("groups[5]: expected a name")


@pytest.mark.parametrize("value", ["{1, 2}", "b'x'", "(1, 2)", "1j", "None"])
def test_values_that_only_python_has_are_reported_and_break_nothing(value: str) -> None:
    text = f"config = {CONFIG!r}".replace("'db.example.com'", value)
    (problem,) = problems_of(text, "settings.py")
    assert problem.startswith("db host: ")


def test_all_problems_are_reported_together() -> None:
    config = {"db": [DB | {"port": 0, "prot": 1}, {}], "groups": {"a": {"autocommit": 1}}, "typ": "threaded"}
    starts = {problem.partition(":")[0] for problem in problems_of(config)}
    assert starts == {
        "top level typ", "db[0] prot", "db[0] port", "db[1] host", "db[1] name", "db[1] user", "db[1] pass",
        'groups["a"] connection_count', 'groups["a"] autocommit',
    }  # fmt: skip


def test_what_poold_refuses_in_the_result_is_raised_and_not_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, source_name: str) -> None:
        assert source.startswith("# poold's configuration")
        raise ConfigError(["refused"], source_name)

    monkeypatch.setattr("poold.config.pgdbpool.parse", refuse)
    with pytest.raises(ConfigError, match=r"pool\.json: problems found: 1\n  refused"):
        toml_of(CONFIG)


def test_a_legacy_error_can_be_caught_as_a_config_error() -> None:
    with pytest.raises(ConfigError):
        convert("{}", "pool.json")


# Whatever the strings are

text = st.text(st.characters(exclude_characters="\0,", exclude_categories=["Cs"]), min_size=1, max_size=20)
names = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)
entry = st.fixed_dictionaries(
    {"host": text, "name": text, "user": text, "pass": text | st.none()},
    optional={
        "port": st.integers(1, 65535),
        "ssl": st.sampled_from(["disable", "require", "verify-full"]),
        "connect_timeout": st.integers(1, 100) | st.floats(0.1, 1e30),
        "query_timeout": st.integers(0, 2**31 - 1),
        "session_tmp_buffer": st.integers(1, 10_000),
        "connection_retry_sleep": st.floats(0, 1e300),
    },
)
group = st.fixed_dictionaries(
    {"connection_count": st.integers(1, 1000)}, optional={"autocommit": st.booleans(), "sqlprepare": st.booleans()}
)
pgdbpool_config = st.fixed_dictionaries(
    {"db": entry | st.lists(entry, min_size=1, max_size=3), "groups": st.dictionaries(names, group, min_size=1)},
    optional={"type": st.sampled_from(["threaded", "non-threaded"])},
)


@given(pgdbpool_config, st.text(max_size=10), st.booleans())
def test_every_valid_configuration_is_carried_over(config: dict[str, Any], filename: str, as_python: bool) -> None:
    source = f"config = {config!r}" if as_python else json.dumps(config)
    result = parse(convert(source, filename + (".py" if as_python else ".json")), "poold.toml")
    entries = config["db"] if isinstance(config["db"], list) else [config["db"]]
    for old, new in zip(entries, result.endpoints.values(), strict=True):
        assert (new.host, new.dbname, new.user) == (old["host"], old["name"], old["user"])
        assert new.password == old["pass"]
        assert new.connect_timeout == old.get("connect_timeout", 10)
        assert round(new.query_timeout * 1000) == entries[0].get("query_timeout", 5000)
    assert list(result.groups) == list(config["groups"])
    for old, made in zip(config["groups"].values(), result.groups.values(), strict=True):
        assert made.min_size == made.max_size == old["connection_count"]
        assert made.autocommit is old.get("autocommit", False)


@given(st.text(), st.sampled_from([".py", ".json", ""]))
def test_any_text_is_converted_or_refused(source: str, suffix: str) -> None:
    with pytest.raises(LegacyConfigError):
        convert(source, "file" + suffix)
