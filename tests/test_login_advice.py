"""What is said about a login that failed, by the texts of libpq and PostgreSQL."""

import pytest

from poold.operations.advice import advice_on

KEY = 'could not load private key file "/etc/certificate does not exist/a.key": '
SAID = {
    'private key file "a" has group or world access; file must have permissions u=rw (0600) or less': "chmod 600",
    'private key file "a" must be owned by the current user or root': "chown",
    'could not stat private key file "a": No such file or directory': "correct sslkey",
    'private key file "a" is not a regular file': "the file itself",
    f"{KEY}key values mismatch": "not the key of sslcert",
    f"{KEY}unsupported": "sslkey must hold one private key",
    f"{KEY}bad decrypt": "without a passphrase",
    f"{KEY}Permission denied": "sslkey cannot be read",
    'certificate does not match private key file "a": x': "not the key of sslcert",
    'certificate present, but not private key file "a"': "by sslkey",
    'could not read certificate file "a": No such file or directory': "sslcert",
    'could not open certificate file "a": Permission denied': "sslcert cannot be read",
    'could not read root certificate file "a": no start line': "sslrootcert must hold",
    'root certificate file "a" does not exist Either provide the file, ...': "name by sslrootcert",
    'server certificate for "a" does not match host name "b"': "let host be a name",
    "SSL error: certificate verify failed": "sslrootcert must hold the authority",
    "SSL error: tlsv1 alert unknown ca": "ssl_ca_file",
    "SSL error: sslv3 alert certificate expired": "renew sslcert",
    "FATAL: connection requires a valid client certificate": "give sslcert and sslkey",
    'FATAL: certificate authentication failed for user "a"': "common name",
    "server does not support SSL, but SSL was required": "turn ssl on",
    'FATAL: password authentication failed for user "a"': "check user and password",
    'FATAL: no pg_hba.conf entry for host "::1", user "a", no encryption': "pg_hba.conf",
    'FATAL: database "a" does not exist': "create it",
    'FATAL: database "a" is not currently accepting connections': "ALLOW_CONNECTIONS",
    'FATAL: permission denied for database "a"': "GRANT CONNECT",
    'connection to server on socket "/a/.s.PGSQL.1" failed: No such file or directory': "start the server",
    'connection to server on socket "/a/.s.PGSQL.1" failed: Permission denied': "enter host",
    'connection to server at "::1", port 1 failed: Connection refused': "start the server",
    "FATAL: the database system is shutting down": "wait",
    "something else": "see the server's log",
}


@pytest.mark.parametrize("error", SAID)
def test_each_text_has_an_advice_that_fits(error: str) -> None:
    assert SAID[error] in advice_on(error)
