"""A PostgreSQL server that speaks TLS. The wheel's programs cannot; the distribution's can, and root fetches them.

As in a production server, TCP is encrypted where the client wants it; roles that end in a word have rules of their own:

    encrypted    TLS only
    certified    by a client certificate
    scrammed     by password, with TLS or without
"""

import os
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from certificates import Authority, Signed
from postgres import PrivatePostgres, primary
from waiting import wait_until

from poold.embedded.programs import BINDIR_VARIABLE, Account

PASSWORD = "opensesame-scram"
RULES = """\
hostssl   all encrypted 127.0.0.1/32 trust
hostnossl all encrypted 127.0.0.1/32 reject
hostssl   all certified 127.0.0.1/32 cert
host      all scrammed  127.0.0.1/32 scram-sha-256
"""
ROLES = f"CREATE ROLE encrypted LOGIN; CREATE ROLE certified LOGIN; CREATE ROLE scrammed LOGIN PASSWORD '{PASSWORD}'"
# https://www.postgresql.org/docs/current/protocol-message-formats.html
SSL_REQUEST = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
CANCEL_REQUEST = (80877102).to_bytes(4, "big")
NAMES = ("localhost",)


def bindir_with_tls() -> Path:
    """A folder of programs whose server speaks TLS; skips the test where there is none and none can be installed."""
    found = _find()
    problem = ""
    if found is None:
        problem = _install()
        found = _find()
    if found is None:
        pytest.skip(f"no PostgreSQL server that speaks TLS, and Debian's `postgresql` was not installed: {problem}")
    return found


def _find() -> Path | None:
    chosen = os.environ.get(BINDIR_VARIABLE)
    folders = [*([Path(chosen)] if chosen else []), *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    return next((each for each in folders if _speaks_tls(each / "postgres")), None)


def _speaks_tls(program: Path) -> bool:
    """Whether the program is linked with OpenSSL."""
    try:
        return b"libssl.so" in program.read_bytes()
    except OSError:
        return False


def _install() -> str:
    """Install Debian's server without the cluster that comes with it; what was in the way."""
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        return "only root can, with apt-get"
    settings = Path("/etc/postgresql-common/createcluster.conf")
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text("create_main_cluster = false\n")
    keep = ["-o", "Dpkg::Options::=--force-confold"]
    said = ""
    for command in (["update"], ["install", "-y", "--no-install-recommends", *keep, "postgresql"]):
        done = subprocess.run(
            ["apt-get", "-q", *command],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        said = done.stderr.strip()
    return said.rpartition("\n")[2]


class EncryptedPostgres:
    """A server with TLS on 127.0.0.1, its authority, and the certificate that it shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "authority")
        self.stranger = Authority(folder, "stranger")
        self.certificate = self.authority.sign("localhost", names=NAMES)
        self._shown = folder / "server.crt", folder / "server.key"
        self._write(self.certificate)
        crt, key = map(str, self._shown)
        settings = {"ssl": "on", "ssl_cert_file": crt, "ssl_key_file": key}
        bindir = bindir_with_tls()
        self.postgres: PrivatePostgres = primary(
            folder / "server", bindir=bindir, ssl_ca_file=str(self.authority.certificate), **settings
        )
        rules = self.postgres.server.cluster / "pg_hba.conf"
        rules.write_text(RULES + rules.read_text())
        self.postgres.execute(ROLES)
        self.postgres.execute("SELECT pg_reload_conf()")

    def endpoint(self, user: str = "encrypted", **over: object) -> dict[str, object]:
        """The settings of an endpoint that verifies everything; what is None is left out."""
        settings = {
            **self.postgres.parameters,
            "host": "localhost",
            "user": user,
            "sslmode": "verify-full",
            "sslrootcert": str(self.authority.certificate),
            **over,
        }
        return {name: value for name, value in settings.items() if value is not None}

    def show(self, certificate: Signed) -> None:
        """From here on the server shows this certificate."""
        self._write(certificate)
        self.postgres.execute("SELECT pg_reload_conf()")
        wait_until(lambda: self._seen() == certificate.der, 20, "the server's new certificate")

    def _seen(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.postgres.server.port)) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            with context.wrap_socket(plain) as encrypted:
                return encrypted.getpeercert(binary_form=True)

    def _write(self, certificate: Signed) -> None:
        """Put the files in place; the key is the server's user's."""
        account = Account.for_server()
        for source, target in zip((certificate.certificate, certificate.key), self._shown, strict=True):
            shutil.copyfile(source, target)
            target.chmod(0o600)
            os.chown(target, account.uid, account.gid)

    def stop(self) -> None:
        self.postgres.stop()
