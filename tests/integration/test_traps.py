"""Traps that another user of the machine lays: who falls in talks to somebody else's broker, or overwrites a file.

The default folder of a user without a login session is /tmp/poold-UID, which everybody can make first.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from brokers import Broker, run
from people import BECOME, LISTED, only_root, poold_as
from postgres import server_folder

from poold.embedded.server import EmbeddedError, EmbeddedPostgres

StartBroker = Callable[..., Broker]

# Has no login session, so its default is in /tmp.
VICTIM = 60123
ATTACKER = LISTED
DEFAULT = Path(f"/tmp/poold-{VICTIM}")
ASK = "print(client.handler.Handler().query('SELECT 1')[0][0])"

pytestmark = only_root


@pytest.fixture
def default_folder() -> Iterator[Path]:
    """The victim's default folder, made by the attacker."""
    DEFAULT.mkdir(mode=0o755)
    os.chown(DEFAULT, ATTACKER, ATTACKER)
    try:
        yield DEFAULT
    finally:
        shutil.rmtree(DEFAULT, ignore_errors=True)


@pytest.fixture
def impostor(default_folder: Path, start_broker: StartBroker) -> Broker:
    """A broker that serves the victim's default address."""
    return start_broker(broker={"address": f"ipc://{default_folder}/poold.sock", "allow_uids": [VICTIM]})


def test_a_client_does_not_talk_to_a_broker_in_somebody_elses_default_folder(
    default_folder: Path, impostor: Broker
) -> None:
    def asked() -> str:
        done = run(sys.executable, "-c", f"{BECOME}\n{ASK}", str(VICTIM))
        return done.stdout + done.stderr

    owner = f"belongs to user {ATTACKER} with mode drwxr-xr-x: somebody else could pose as the broker there"
    assert owner in asked()
    default_folder.chmod(0o777)
    os.chown(default_folder, VICTIM, VICTIM)
    assert "could pose as the broker there" in asked()
    default_folder.chmod(0o700)
    assert asked() == "1\n"


def test_the_command_line_does_not_talk_to_it_either(impostor: Broker) -> None:
    for command in ("ping", "stats", "stop"):
        done = poold_as(VICTIM, command)
        assert (done.returncode, done.stdout) == (3, "")
        assert "could pose as the broker there" in done.stderr


@pytest.mark.parametrize("detached", [(), ("--detach",)], ids=["in the foreground", "detached"])
def test_a_broker_does_not_start_in_it(default_folder: Path, detached: tuple[str, ...]) -> None:
    with server_folder() as folder:
        config = folder / "poold.toml"
        config.write_text('[endpoints.main]\nhost = "/tmp"\ndbname = "d"\nuser = "u"\n[groups.default]\n')
        address = f"--address=ipc://{default_folder}/poold.sock"
        done = poold_as(VICTIM, "start", f"--config={config}", address, *detached)
    assert done.returncode == 1
    assert "could pose as the broker there" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(default_folder.iterdir()) == []


def test_a_detached_brokers_log_follows_no_link(default_folder: Path) -> None:
    os.chown(default_folder, VICTIM, VICTIM)
    with server_folder() as folder:
        treasure = folder / "treasure"
        treasure.write_text("precious")
        os.chown(treasure, VICTIM, VICTIM)
        (default_folder / "poold.log").symlink_to(treasure)
        done = poold_as(VICTIM, "start", "--config=/nonexistent", "--detach")
        assert (done.returncode, treasure.read_text()) == (1, "precious")
    assert "poold.log is a symbolic link" in done.stderr


# The private PostgreSQL.


Make = Callable[[Path], EmbeddedPostgres]


@pytest.fixture
def make(bindir: Callable[[], Path]) -> Make:
    return lambda data: EmbeddedPostgres(data, bindir=bindir(), settings={"fsync": "off"})


@pytest.mark.parametrize(("owner", "mode"), [(ATTACKER, 0o755), (0, 0o777), (0, 0o1777)])
def test_a_private_server_is_not_made_where_others_can_lay_links(make: Make, owner: int, mode: int) -> None:
    with server_folder() as folder:
        data = folder / "data"
        data.mkdir()
        data.chmod(mode)
        os.chown(data, owner, owner)
        with pytest.raises(EmbeddedError, match="expected one of user 0 that not everybody may write to"):
            make(data).start()
        assert list(data.iterdir()) == []


def test_a_link_that_took_the_place_of_a_killed_owners_socket_folder_is_not_followed(make: Make) -> None:
    with server_folder() as folder:
        treasure = folder / "treasures"
        treasure.mkdir()
        (treasure / "crown").write_text("precious")
        trap = folder / "poold-gone"
        trap.symlink_to(treasure)
        (folder / "data").mkdir()
        (folder / "data" / "socket").symlink_to(trap)
        with make(folder / "data") as server:
            assert server.running
        assert (treasure / "crown").read_text() == "precious"


@pytest.mark.parametrize("name", ["lock", "log"])
def test_its_lock_and_log_follow_no_link(make: Make, name: str) -> None:
    with server_folder() as folder:
        treasure = folder / "treasure"
        treasure.write_text("precious")
        (folder / "data").mkdir()
        (folder / "data" / name).symlink_to(treasure)
        server = make(folder / "data")
        if name == "lock":
            with pytest.raises(EmbeddedError, match="is a symbolic link"):
                server.start()
        else:
            with server:  # the link becomes the log of the start before
                assert not server.log.is_symlink()
        assert treasure.read_text() == "precious"


def test_nobody_else_can_hold_its_lock(make: Make) -> None:
    with server_folder() as folder, make(folder / "data") as server:
        assert (server.data / "lock").stat().st_mode & 0o777 == 0o600
