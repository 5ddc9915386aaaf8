"""psycopg2.tz: time zones of a fixed offset."""

from psycopg2.tz import LOCAL, ZERO, FixedOffsetTimezone, LocalTimezone

__all__ = ["LOCAL", "ZERO", "FixedOffsetTimezone", "LocalTimezone"]
