"""What to do about a login that failed, by the words of libpq's and PostgreSQL's error."""

from __future__ import annotations

_PAIR = "sslkey is not the key of sslcert: give the two files that were made together"
_READABLE = "let the broker's user read it, and enter the folders above it"
_FULL = "the server has no connection left: raise its max_connections, or lower max_size"

# The first line of which the error has all words. Texts about files come first: a file's path may hold other words, and
# so may the reason why it cannot be read.
_ADVICE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("private key file", "has group or world access"), "make sslkey readable for the broker's user only: chmod 600"),
    (("private key file", "must be owned by"), "let sslkey belong to the broker's user: chown"),
    (("private key file", "key values mismatch"), _PAIR),
    (("private key file", "key type mismatch"), _PAIR),
    (("certificate does not match private key file",), _PAIR),
    (("certificate present, but not private key file",), "name the key of sslcert by sslkey"),
    (("could not stat private key file",), f"correct sslkey, or {_READABLE}"),
    (("private key file", "is not a regular file"), "name by sslkey the file itself that holds the key"),
    (("could not load private key file", "Permission denied"), f"sslkey cannot be read: {_READABLE}"),
    (
        ("could not load private key file",),
        "sslkey must hold one private key, in PEM or DER and without a passphrase",
    ),
    (("could not read root certificate file", "Permission denied"), f"sslrootcert cannot be read: {_READABLE}"),
    (("could not read root certificate file",), "sslrootcert must hold certificates of authorities, in PEM"),
    (("root certificate file", "does not exist"), "name by sslrootcert the authority of the server's certificate"),
    (("home directory to locate root certificate",), "name by sslrootcert the authority of the server's certificate"),
    (("certificate file", "Permission denied"), f"sslcert cannot be read: {_READABLE}"),
    (
        ("could not read certificate file",),
        "sslcert must hold a certificate, in PEM: correct the path, or make it anew",
    ),
    (("could not open certificate file",), f"correct sslcert, or {_READABLE}"),
    (
        ("server certificate for", "does not match host name"),
        "let host be a name that the server's certificate has, or renew that certificate",
    ),
    (
        ("certificate verify failed",),
        "sslrootcert must hold the authority of the server's certificate, which must not have expired or be in sslcrl",
    ),
    (("alert unknown ca",), "the server's ssl_ca_file must hold the authority of sslcert"),
    (("alert certificate expired",), "renew sslcert: the server finds that it has expired"),
    (("alert certificate revoked",), "make another sslcert: the server's ssl_crl_file has this one"),
    (("certificate required",), "the server wants a certificate of the client: give sslcert and sslkey"),
    (("valid client certificate",), "the server wants a certificate of the client: give sslcert and sslkey"),
    (("certificate authentication failed",), "sslcert's common name must be the role's, or be mapped in pg_ident.conf"),
    (("does not support SSL",), "turn ssl on at the server, or correct sslmode"),
    (("weak sslmode",), 'set sslmode = "verify-full", or name sslrootcert\'s file'),
    (("channel binding",), "let the server have ssl and scram-sha-256 for the role, or correct channel_binding"),
    (("password authentication failed",), "check user and password, or the password file, of the endpoint"),
    (("no password supplied",), "give the endpoint a password_file"),
    (("no pg_hba.conf entry",), "let the role in by a line in the server's pg_hba.conf, then reload the server"),
    (("authentication failed",), "check the role's line in the server's pg_hba.conf"),
    (("remaining connection slots",), _FULL),
    (("too many connections",), "a limit of role or database is reached: raise it, or lower max_size"),
    (("too many clients",), _FULL),
    (("Too many open files",), "raise this process's limit of open files: ulimit -n, LimitNOFILE= in systemd"),
    (("permission denied for database",), "GRANT CONNECT ON DATABASE ... to the role"),
    (("not currently accepting connections",), "ALTER DATABASE ... ALLOW_CONNECTIONS true"),
    (("is not permitted to log in",), "ALTER ROLE ... LOGIN"),
    (("Connection refused",), "start the server, or correct host and port; for tcp check its listen_addresses"),
    (
        ("server", "socket", "No such file"),
        "start the server, or correct host: the folder of its socket (unix_socket_directories)",
    ),
    (("server", "socket", "Permission denied"), "let the broker's user enter host, the folder of the server's socket"),
    (("No such file",), "correct the path of the file"),
    (("password_file",), "let the broker's user read the password file"),
    (("does not exist",), "create it on the server, or correct the endpoint"),
    (("No route to host",), "correct host, or what is on the way, as a route or a firewall"),
    (("Network is unreachable",), "correct host, or what is on the way, as a route or a firewall"),
    (("connect_timeout",), "check host, port and what is on the way, as a firewall"),
    (("not known",), "correct the host's name, or the machine's name server"),
    (("name resolution",), "check the machine's name server"),
    (("starting up",), "wait until the server has started"),
    (("shutting down",), "wait until the server has started again"),
    (("recovery mode",), "wait until the server has recovered; its log says from what"),
    (("certificate",), "check sslrootcert, sslcert and sslkey of the endpoint, and the server's certificate"),
)


def advice_on(error: str) -> str:
    """Return what to do about the error of a login."""
    return next((what for words, what in _ADVICE if all(each in error for each in words)), "see the server's log")
