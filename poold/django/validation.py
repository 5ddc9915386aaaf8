"""What `manage.py check --database default` and `migrate` say of an entry of DATABASES: what is void, and what is slow.

Everything here works as it is; what cannot work is an ImproperlyConfigured when the alias connects.
"""

from typing import Any

from django.core import checks
from django.db.backends.base.validation import BaseDatabaseValidation

from poold.django.options import mistakes, place_of, void
from poold.django.server import server_at


class DatabaseValidation(BaseDatabaseValidation):
    """Django's system checks of one alias."""

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Return what is wrong (E001), what is void (W001) and what is slow (W002)."""
        settings, alias = self.connection.settings_dict, self.connection.alias
        where = f"DATABASES[{alias!r}]"
        wrong = [checks.Error(f"{where}: {text}.", id="poold.E001") for text in mistakes(settings)]
        if wrong:
            return wrong
        found: list[checks.CheckMessage] = [
            checks.Warning(f"{where}: {name} means nothing with poold: {reason}.", hint="Remove it.", id="poold.W001")
            for name, reason in void(settings)
        ]
        return found + self._time_zone(where)

    def _time_zone(self, where: str) -> list[checks.CheckMessage]:
        """Warn if the time zone has to travel with each statement."""
        self.connection.ensure_connection()
        place, wanted = place_of(self.connection.settings_dict), self.connection.timezone_name
        server = server_at(place, self.connection.connection)
        if wanted is None or server.runs_in(wanted):
            return []
        return [
            checks.Warning(
                f"{where}: the server of the group {place.group!r} runs in the time zone {server.timezone}, and this "
                f"project expects {wanted}; so the time zone travels with each statement, which takes longer.",
                hint=f'Write options = "-c TimeZone={wanted}" into the endpoint in the broker\'s configuration.',
                id="poold.W002",
            )
        ]
