"""`poold doctor` and `poold check-config --connect` on real servers: what is well, what is not, and what to do."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from brokers import ROOT, Broker, environment, poold, toml
from certificates import Authority
from clusters import Cluster, cluster
from postgres import Postgres, free_port

ROLE = "patient"
NOWHERE = {"host": "127.0.0.1", "port": 1, "dbname": "app", "user": "app"}

Examine = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture
def examine(tmp_path: Path) -> Examine:
    """Run the doctor on these tables; the exit code and the report."""

    def examine(
        endpoints: Mapping[str, Any],
        groups: Mapping[str, Any],
        broker: Mapping[str, Any] | None = None,
        command: tuple[str, ...] = ("doctor",),
    ) -> tuple[int, dict[str, Any]]:
        file = tmp_path / "poold.toml"
        own = {"address": f"ipc://{tmp_path}/s", "state_dir": str(tmp_path / "timelines")}
        file.write_text(toml({"broker": own | {**(broker or {})}, "endpoints": endpoints, "groups": groups}), "utf-8")
        file.chmod(0o600)
        done = poold(*command, str(file), "--json")
        assert done.stderr == ""
        report = json.loads(done.stdout)
        assert report["ok"] is (done.returncode == 0) is (not report["problems"])
        assert [path.name for path in tmp_path.iterdir()] == ["poold.toml"]  # nothing was made
        return done.returncode, report

    return examine


@pytest.fixture
def patient(postgres: Postgres) -> Iterator[dict[str, Any]]:
    """An endpoint with a plain role of its own."""
    postgres.execute(f"CREATE ROLE {ROLE} LOGIN")
    try:
        yield {**postgres.parameters, "user": ROLE}
    finally:
        postgres.execute(f"DROP ROLE {ROLE}")


@pytest.fixture(scope="module")
def servers(bindir: Callable[[], Path]) -> Iterator[Cluster]:
    """A primary "a" and a standby "b"."""
    with cluster(1, bindir=bindir()) as servers:
        yield servers


def advice(report: dict[str, Any], words: str) -> str:
    """What to do about the one finding that has these words."""
    [finding] = [each for each in report["findings"] if words in f"{each['subject']}: {each['text']}"]
    return str(finding["advice"])


def test_a_configuration_that_will_do_is_well_and_people_read_the_same(
    examine: Examine, patient: dict[str, Any], tmp_path: Path
) -> None:
    code, report = examine({"main": patient}, {"default": {}})
    assert (code, report["problems"], report["warnings"]) == (0, [], [])
    texts = " | ".join(f"{each['subject']}: {each['text']}" for each in report["findings"])
    for words in (
        "configuration: ",
        f"may write in {tmp_path}",
        "open files: the limit is ",
        f"lets in {ROLE} in postgres",
        "it is a primary",
        "may open up to 10 of",
        'group default: role = "auto" is met by main',
    ):
        assert words in texts
    said = poold("doctor", str(tmp_path / "poold.toml"))
    assert said.returncode == 0
    assert [line for line in said.stdout.splitlines() if not line.startswith("ok ")] == []
    assert len(said.stdout.splitlines()) == len(report["findings"])


def test_one_run_tells_every_problem(examine: Examine, patient: dict[str, Any], postgres: Postgres) -> None:
    endpoints = {
        "main": patient,
        "away": NOWHERE,
        "keyless": {**patient, "sslkey": "/nowhere/client.key"},
        "unlocked": {**patient, "password_file": "/nowhere/password"},
        "unknown": {**patient, "dbname": "nothing"},
        "stranger": {**patient, "user": "nobody-here"},
    }
    groups = {
        "default": {"endpoints": ["main"], "max_size": 5000},
        "reports": {"endpoints": ["main"], "role": "replica"},
        "lost": {"endpoints": ["away"]},
        "mixed": {"endpoints": ["main", "keyless"], "max_size": 1},
        "crossed": {"endpoints": ["unknown", "stranger", "unlocked"], "role": "any"},
        "typo": {"endpoints": ["main"], "max_sise": 3},
    }
    code, report = examine(endpoints, groups)
    assert code == 1
    for words, what_to_do in {
        "[endpoints.keyless] sslkey: found": "correct ",
        "[endpoints.unlocked] password_file: found": "correct ",
        "did you mean max_size?": "correct ",
        "endpoint away: no login for app": "start the server, or correct host and port",
        "endpoint unknown: no login": "create it on the server, or correct the endpoint",
        "endpoint stranger: no login": "create it on the server, or correct the endpoint",
        'group reports: role = "replica" needs a replica': "name a replica's endpoint",
        "connections (max_size, and 2 for questions), the server allows": "lower max_size, or raise max_connections",
    }.items():
        assert what_to_do in advice(report, words)
    assert len(report["problems"]) == 8
    assert not [each for each in report["findings"] if each["subject"] in ("endpoint keyless", "group typo")]
    [limits] = [each for each in report["problems"] if "max_size, and" in each]
    assert "may open up to 5011 connections" in limits  # 5000, 8, 1 and 2
    del postgres


def test_settings_of_the_role_that_end_what_the_broker_keeps_are_named(
    examine: Examine, patient: dict[str, Any], postgres: Postgres
) -> None:
    postgres.execute(f"ALTER ROLE {ROLE} SET idle_session_timeout = '2min'")
    postgres.execute(f"ALTER ROLE {ROLE} SET idle_in_transaction_session_timeout = '5s'")
    groups = {"default": {"idle_in_transaction_timeout": 4}, "slow": {"idle_in_transaction_timeout": 6}}
    code, report = examine({"main": patient}, groups)
    assert (code, report["problems"], len(report["warnings"])) == (0, [], 2)
    assert f"ALTER ROLE {ROLE} SET idle_session_timeout = 0" in advice(report, "sessions that idle for 120000 ms")
    words = "idle_in_transaction_session_timeout is 5000 ms: the server closes the connection before"
    assert f"ALTER ROLE {ROLE} SET idle_in_transaction_session_timeout = 0" in advice(report, words)
    code, report = examine({"main": patient}, {"default": {"idle_in_transaction_timeout": 4}})
    assert len(report["warnings"]) == 1


def test_limits_of_role_and_database_count(examine: Examine, patient: dict[str, Any], postgres: Postgres) -> None:
    postgres.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 9")
    code, report = examine({"main": patient}, {"default": {"max_size": 8}})
    assert code == 1
    assert "ALTER ROLE" in advice(report, f"connections (max_size, and 2 for questions), role {ROLE} allows 9")
    postgres.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 10")
    assert examine({"main": patient}, {"default": {"max_size": 8}})[0] == 0


def test_two_names_of_one_server_share_its_connections(
    examine: Examine, patient: dict[str, Any], postgres: Postgres
) -> None:
    ((limit,),) = postgres.execute("SELECT current_setting('max_connections')::int")
    size = limit // 2
    endpoints = {"main": patient, "same": {**patient, "host": "127.0.0.1"}}
    groups = {
        "default": {"endpoints": ["main"], "max_size": size},
        "other": {"endpoints": ["same"], "max_size": size},
    }
    code, report = examine(endpoints, groups)
    assert code == 1
    assert "lower max_size" in advice(
        report, f"endpoint main and same: groups may open up to {2 * size + 4} connections"
    )
    assert examine({"main": patient}, {"default": groups["default"]})[0] == 0


def test_connections_that_others_have_now_are_a_warning(
    examine: Examine, patient: dict[str, Any], postgres: Postgres
) -> None:
    ((limit,),) = postgres.execute(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    other = postgres.connect()
    try:
        code, report = examine({"main": patient}, {"default": {"max_size": limit - 2}})
        assert (code, len(report["warnings"])) == (0, 1)
        assert "others use the broker as well" in advice(report, "are reserved, others have")
    finally:
        other.close()


def test_roles_are_compared_with_what_the_groups_need(examine: Examine, servers: Cluster) -> None:
    endpoints = {name: dict(servers[name].parameters) for name in "ab"}
    groups = {
        "default": {"endpoints": ["a", "b"]},
        "reports": {"endpoints": ["a", "b"], "role": "replica"},
        "stuck": {"endpoints": ["b"], "role": "primary"},
        "writes": {"endpoints": ["b"]},
        "reads": {"endpoints": ["a"], "role": "primary", "route_reads": True},
    }
    code, report = examine(endpoints, groups)
    assert code == 1
    assert [each.partition(":")[0] for each in report["problems"]] == ["group stuck"]
    assert "promote a server" in advice(report, 'group stuck: role = "primary" needs a primary')
    assert 'set role = "primary"' in advice(report, "group writes: role")
    assert "name replicas' endpoints" in advice(report, "group reads: reads are to run on replicas")
    assert advice(report, 'group reports: role = "replica" is met by b') == ""
    assert "a role that may do what" in advice(report, "endpoint a: role")


def test_servers_that_have_nothing_to_do_with_each_other_are_no_group(
    examine: Examine, servers: Cluster, patient: dict[str, Any]
) -> None:
    endpoints = {"a": dict(servers["a"].parameters), "main": patient}
    code, report = examine(endpoints, {"default": {}, "any": {"role": "any"}})
    assert code == 1
    assert "make a group for each" in advice(
        report, "group default: endpoints a, main are of different database clusters"
    )
    assert len(report["problems"]) == 1


def test_the_sockets_folder_is_judged(examine: Examine, patient: dict[str, Any], tmp_path: Path) -> None:
    groups = {"default": {}}
    tmp_path.chmod(0o777)
    code, report = examine({"main": patient}, groups)
    assert code == 1
    assert "a folder of the broker's own" in advice(report, f"address: anybody may write in {tmp_path}, and pose")
    tmp_path.chmod(0o1777)
    assert examine({"main": patient}, groups)[0] == 0
    code, report = examine({"main": patient}, groups, {"address": f"ipc://{tmp_path}/poold.toml/s"})
    assert code == 1
    assert "poold.toml is no folder" in report["problems"][0]


def test_the_address_for_metrics_is_tried(
    examine: Examine, patient: dict[str, Any], start_broker: Callable[..., Broker]
) -> None:
    address, groups = f"127.0.0.1:{free_port()}", {"default": {}}
    code, report = examine({"main": patient}, groups, {"metrics_address": address})
    assert code == 0
    assert advice(report, f"metrics: metrics can be served at {address}") == ""
    broker = start_broker(broker={"metrics_address": address})
    code, report = examine({"main": patient}, groups, {"metrics_address": address})
    assert code == 1
    assert advice(report, f"metrics_address = '{address}' cannot be used: address already in use") == (
        "choose another one"
    )
    code, _ = examine({"main": patient}, groups, {"metrics_address": address, "address": broker.address})
    assert code == 0  # it is this broker that has it


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_a_folder_in_which_the_user_may_not_write_is_a_problem() -> None:
    program = (
        "import os\nfrom pathlib import Path\nfrom poold.operations.host_findings import _writable\n"
        "os.setgroups([]); os.setgid(4242); os.setuid(4242)\n"
        "print(_writable('address', Path('/etc/poold-not-there'), 'no socket'))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "PROBLEM  address: user 4242 may not write in /etc (user 0" in done.stdout, done.stderr


def test_too_few_open_files_are_a_problem(patient: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "poold.toml"
    tables = {
        "broker": {"address": f"ipc://{tmp_path}/s", "max_clients": 500},
        "endpoints": {"main": patient},
        "groups": {"default": {}},
    }
    file.write_text(toml(tables), "utf-8")
    command = f"ulimit -n 256; exec {sys.executable} -m poold doctor {file}"
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "PROBLEM  open files: the limit is 256; backends need up to 8, 500 clients" in done.stdout
    assert "LimitNOFILE=" in done.stdout


def test_a_password_that_others_can_read_is_a_warning(patient: dict[str, Any], tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("secret\n")
    secret.chmod(0o644)
    file = tmp_path / "poold.toml"
    tables = {"endpoints": {"main": {**patient, "password_file": str(secret)}}, "groups": {"default": {}}}
    file.write_text(toml(tables), "utf-8")
    for command in (["doctor"], ["check-config", "--connect"]):
        done = poold(*command, str(file))
        assert done.returncode == 0
        assert f"warning  secrets: {secret} holds a password" in done.stdout
        assert "-> chmod 6" in done.stdout


def test_check_config_connects_if_it_is_asked_to_and_leaves_the_rest_to_the_doctor(
    examine: Examine, patient: dict[str, Any], postgres: Postgres
) -> None:
    postgres.execute(f"ALTER ROLE {ROLE} SET idle_session_timeout = '2min'")
    connect = ("check-config", "--connect")
    code, report = examine({"main": patient}, {"default": {}}, command=connect)
    assert (code, report["warnings"]) == (0, [])
    assert {each["subject"] for each in report["findings"]} == {"configuration", "endpoint main", "group default"}
    code, report = examine(
        {"main": {**patient, "sslkey": "/nowhere/client.key"}, "away": NOWHERE, "fine": patient},
        {"default": {"endpoints": ["fine"], "max_size": 5000}, "lost": {"endpoints": ["away"], "role": "replica"}},
        command=connect,
    )
    assert code == 1
    assert len(report["problems"]) == 4  # the key file, the login, the role that is not there, and max_size


def test_what_is_no_configuration_is_all_that_can_be_said(tmp_path: Path) -> None:
    file = tmp_path / "poold.toml"
    file.write_text("[broker\n")
    done = poold("doctor", str(file))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("PROBLEM  configuration: not valid TOML")
    assert len(done.stdout.splitlines()) == 2


def test_a_broker_that_runs_is_named_and_its_own_backends_are_not_others(
    examine: Examine, start_broker: Callable[..., Broker], patient: dict[str, Any]
) -> None:
    broker = start_broker(endpoints={"main": patient}, groups={"default": {"min_size": 3, "max_size": 3}})
    for _ in range(3):
        broker.handler().query("SELECT 1")
    code, report = examine({"main": patient}, {"default": {"max_size": 3}}, {"address": broker.address})
    assert code == 0
    assert advice(report, f"address: a broker runs at {broker.address}") == ""


# What to do about files of certificates.


@pytest.fixture
def willing() -> Iterator[int]:
    """The port of one that wants TLS of whoever comes: only then libpq reads its files."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(8)
                        connection.sendall(b"S")
                        while connection.recv(100):
                            pass

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("another pair's key", "sslkey is not the key of sslcert"),
        ("no key", "sslkey must hold one private key"),
        ("a key that others can read", "chmod 600"),
        ("no certificate", "sslcert must hold a certificate"),
        ("no key for the certificate", "name the key of sslcert by sslkey"),
        ("no authority", "sslrootcert must hold certificates of authorities"),
    ],
)
def test_what_is_wrong_with_certificates_has_an_advice_that_fits(
    willing: int, tmp_path: Path, damage: str, what: str
) -> None:
    folder = tmp_path / "certificates"
    folder.mkdir()
    authority = Authority(folder, "authority")
    own, other = authority.sign("app"), authority.sign("other")
    keys = {"sslcert": own.certificate, "sslkey": own.key, "sslrootcert": authority.certificate}
    match damage:
        case "another pair's key":
            keys["sslkey"] = other.key
        case "no key":
            own.key.write_text("garbage")
        case "a key that others can read":
            own.key.chmod(0o644)
        case "no certificate":
            own.certificate.write_text("garbage")
        case "no key for the certificate":
            del keys["sslkey"]
        case _:
            authority.certificate.write_text("garbage")
    endpoint = {
        "host": "127.0.0.1", "port": willing, "dbname": "app", "user": "app", "sslmode": "require",
        "connect_timeout": 20,
        **{key: str(path) for key, path in keys.items()},
    }  # fmt: skip
    file = tmp_path / "poold.toml"
    file.write_text(toml({"endpoints": {"main": endpoint}, "groups": {"default": {}}}), "utf-8")
    done = poold("check-config", "--connect", str(file), HOME=str(tmp_path))
    assert done.returncode == 1
    [advised] = [line for line in done.stdout.splitlines() if line.lstrip().startswith("->")]
    assert what in advised, done.stdout


# What is right of a file with mistakes is tried.


MISTAKES = {
    "an unknown key of the group": ({}, {"wieghts": 1}),
    "a refused value of the group": ({}, {"role": "primry"}),
    "a value of another type": ({}, {"max_size": "x"}),
    "an endpoint of the group that is not there": ({}, {"endpoints": ["main", "mian"]}),
    "no endpoint of the group that is there": ({}, {"endpoints": ["mian"]}),
    "an unknown key of the endpoint": ({"weigth": 2}, {}),
    "a refused value of the endpoint": ({"query_timeout": -1}, {}),
}


@pytest.mark.parametrize("command", [("doctor",), ("check-config", "--connect")], ids=" ".join)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_elsewhere_does_not_keep_a_login_from_being_tried(
    examine: Examine, patient: dict[str, Any], mistake: str, command: tuple[str, ...]
) -> None:
    endpoint, group = MISTAKES[mistake]
    wrong = {**patient, "dbname": "not_there", **endpoint}
    code, report = examine({"main": wrong}, {"default": group}, command=command)
    assert code == 1
    assert len([each for each in report["problems"] if each.startswith("configuration: ")]) == 1
    [login] = [each for each in report["problems"] if each.startswith("endpoint main: ")]
    assert "no login for patient in not_there" in login
    assert ("group default" in login) is (mistake != "no endpoint of the group that is there")


def test_logins_are_tried_if_there_is_no_group_at_all(examine: Examine, patient: dict[str, Any]) -> None:
    _, report = examine({"main": {**patient, "dbname": "not_there"}, "fine": patient}, {})
    assert [each.partition(":")[0] for each in report["problems"]] == ["configuration", "endpoint main"]
    assert "endpoint fine: PostgreSQL" in " | ".join(
        f"{each['subject']}: {each['text']}" for each in report["findings"]
    )


@pytest.mark.parametrize("keys", [{"port": "x"}, {"prot": 5432}, {"passwrod": "x"}, {"sslmode": "on"}], ids=str)
def test_a_mistake_in_what_one_logs_in_by_is_no_other_login(
    examine: Examine, patient: dict[str, Any], keys: dict[str, Any]
) -> None:
    wrong = {**{key: value for key, value in patient.items() if key not in keys}, "dbname": "not_there", **keys}
    _, report = examine({"main": wrong}, {"default": {}})
    assert [each.partition(":")[0] for each in report["problems"]] == ["configuration"]


def test_a_group_with_a_mistake_is_not_judged(examine: Examine, patient: dict[str, Any]) -> None:
    groups = {"default": {"max_size": 5000, "wieghts": 1}, "other": {"role": "replica", "max_size": "x"}}
    _, report = examine({"main": patient}, groups)
    assert {each.partition(":")[0] for each in report["problems"]} == {"configuration"}
