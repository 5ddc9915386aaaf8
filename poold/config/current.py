"""The configuration that holds at the moment: the one place to ask, as a reload puts another one there.

Whoever keeps a value of it beyond one call keeps one that may not hold any more. What may be kept are the keys that no
reload changes (`poold.config.changes`), and a lease's limits, which are those that it began with.
"""

from __future__ import annotations

from collections.abc import Mapping

from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig


class CurrentConfig:
    """The configuration of a running broker."""

    __slots__ = ("broker", "endpoints", "groups")

    broker: BrokerConfig
    endpoints: Mapping[str, EndpointConfig]
    groups: Mapping[str, GroupConfig]

    def __init__(self, config: Config) -> None:
        self.become(config)

    def become(self, config: Config) -> None:
        """Let this one hold from here on."""
        self.broker = config.broker
        self.endpoints = config.endpoints
        self.groups = config.groups

    def as_it_is(self) -> Config:
        """Return it as it is at this moment."""
        return Config(broker=self.broker, endpoints=self.endpoints, groups=self.groups)
