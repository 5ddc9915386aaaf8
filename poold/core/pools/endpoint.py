"""One PostgreSQL address: what all groups know of it. Whether a group can connect there: `availability`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from poold.config.model import EndpointConfig
from poold.core.facts import Observation


class Role(IntEnum):
    """What an endpoint's server is for its database cluster."""

    UNKNOWN = 0  # it has not said yet
    PRIMARY = 1  # takes writes
    REPLICA = 2  # a standby
    FENCED = 3  # says that it is the primary, and must not be written to


@dataclass(slots=True, eq=False)
class Endpoint:
    """One PostgreSQL address and its time limits in seconds; query_timeout 0 is no limit. Also a deadline's key."""

    name: str
    query_timeout: float = 0.0
    connect_timeout: float = 10.0
    weight: float = 1.0
    address: tuple[str, int, str] = ("", 0, "")  # host, port and database, for clients that record traces
    # Whether its options say something about synchronous_commit: what was acknowledged may not be flushed.
    is_loose: bool = False
    role: Role = Role.UNKNOWN
    why: str = "its role is not known yet"  # the role in words
    observation: Observation | None = None  # the last one
    observed: float = 0.0  # when that was
    position: int = 0  # in bytes of the log: flushed by a primary, replayed by a replica
    lag: float = 0.0  # of a replica: for how many seconds it was behind its primary when that was asked
    is_located: bool = True  # whether no question for its position is under way
    is_heard: bool = False  # whether its server has answered the last question
    is_asked: bool = False  # whether a question was answered, or has failed, at all
    is_looking: bool = False  # whether a question is under way
    looked: float = float("-inf")  # when the last question began
    is_resting: bool = False  # an operator has drained it: it is not asked

    def configure(self, config: EndpointConfig) -> None:
        """Have what the configuration says, from here on."""
        self.query_timeout = config.query_timeout
        self.connect_timeout = config.connect_timeout
        self.weight = config.weight
        self.address = config.host, config.port, config.dbname
        self.is_loose = "synchronous_commit" in config.options

    def forget(self, why: str) -> None:
        """Nothing is known of its server any more, and no question to it is under way; why, in words."""
        self.role, self.why = Role.UNKNOWN, why
        self.observation = None
        self.observed, self.looked = 0.0, float("-inf")
        self.position, self.lag = 0, 0.0
        self.is_located = True
        self.is_heard = self.is_asked = self.is_looking = False

    def in_words(self) -> str:
        """Name and role, for error texts and the log."""
        return f"{self.name}: {self.why}"
