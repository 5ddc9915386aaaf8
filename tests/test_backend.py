"""The shell of the backends where no PostgreSQL is needed to show it."""

import asyncio

from poold.backend import Backends
from poold.config import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.core.broker import Broker
from poold.core.effects import Simple
from poold.poller import Poller


async def carry_out_effects_for_nobody() -> list[None]:
    config = Config(
        broker=BrokerConfig(address="ipc:///tmp/x"),
        endpoints={"main": EndpointConfig(host="/tmp", dbname="db", user="user")},
        groups={"default": GroupConfig(endpoints=("main",))},
    )
    woken: list[None] = []
    poller = Poller()
    backends = Backends(config, Broker(config, lambda: 0.5), lambda: woken.append(None), poller)
    backends.execute(23, (Simple(b"SELECT 1"),))
    backends.flush()
    backends.cancel(23)
    backends.close(23, "gone")
    backends.close_all()
    poller.close()
    return woken


def test_effects_for_a_backend_that_was_lost_meanwhile_are_void() -> None:
    assert asyncio.run(carry_out_effects_for_nobody()) == []
