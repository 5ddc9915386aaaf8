"""What a process knows of the servers behind its groups; asked for once by each process, not by each connection."""

from typing import Any, NamedTuple

from poold.django.options import Place

_QUESTION = (
    "SELECT pg_catalog.current_setting('server_version_num')::int, pg_catalog.current_setting('TimeZone'), "
    "pg_catalog.current_database()"
)
# Names of the one zone that has no other offset than 0.
_UTC = frozenset(("utc", "etc/utc", "uct", "etc/uct", "universal", "etc/universal", "zulu", "etc/zulu"))

# The servers that were asked, by place. A server that could not be asked is not in it.
_known: dict[Place, "Server"] = {}


class Server(NamedTuple):
    """What a server has said."""

    version: int  # as in 150004
    timezone: str  # in which its statements run if nobody says anything
    database: str

    def runs_in(self, timezone: str) -> bool:
        """Whether statements run in this time zone without being told."""
        mine, theirs = self.timezone.lower(), timezone.lower()
        return mine == theirs or (mine in _UTC and theirs in _UTC)


def server_at(place: Place, connection: Any) -> Server:
    """What is known of the server at the place; asks by the connection if nobody has asked yet."""
    known = _known.get(place)
    if known is None:
        with connection.cursor() as cursor:
            cursor.execute(_QUESTION)
            known = _known[place] = Server(*cursor.fetchone())
    return known
