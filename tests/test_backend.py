"""The shell of the backends where no PostgreSQL is needed to show it."""

from poold.backend import Backends
from poold.config import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core.broker import Broker
from poold.core.effects import Simple


def test_effects_for_a_backend_that_was_lost_meanwhile_are_void() -> None:
    config = Config(
        broker=BrokerConfig(address="ipc:///tmp/x"),
        endpoints={"main": EndpointConfig(host="/tmp", dbname="db", user="user")},
        groups={"default": GroupConfig(endpoints=("main",))},
    )
    woken: list[None] = []
    backends = Backends(config, Broker(config, lambda: 0.5), lambda: woken.append(None), poller)
    backends.execute(23, (Simple(b"SELECT 1"),))
    backends.flush()
    backends.cancel(23)
    backends.close(23, "gone")
    backends.close_all()
    assert woken == []
