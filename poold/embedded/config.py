"""`poold start` without a configuration: a private PostgreSQL and two groups on it."""

from poold.config.model import BrokerConfig, Config, EndpointConfig, GroupConfig
from poold.embedded.server import DATABASE, EmbeddedPostgres

ENDPOINT = "private"
# Enough for a development machine; whoever needs more configures a server of their own.
MAX_SIZE = 4


def private_config(server: EmbeddedPostgres, address: str) -> Config:
    """Return the configuration for a started private server: group `default` is autocommit, `transactions` is not."""
    endpoint = EndpointConfig(host=str(server.socket_dir), port=server.port, user=server.user, dbname=DATABASE)
    names = (ENDPOINT,)
    return Config(
        broker=BrokerConfig(address=address),
        endpoints={ENDPOINT: endpoint},
        groups={
            "default": GroupConfig(endpoints=names, max_size=MAX_SIZE),
            "transactions": GroupConfig(endpoints=names, max_size=MAX_SIZE, autocommit=False),
        },
    )
