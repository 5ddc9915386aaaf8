"""How many files a configuration may have the broker open, compared with how many it may: a broker that cannot has to
say so before it serves, as later nobody gets in any more, not even to look.
"""

from __future__ import annotations

from collections.abc import Mapping

from client.wire.address import ipc_path
from poold.config.model import BrokerConfig, EndpointConfig, GroupConfig
from poold.system import descriptors

# For anything but clients, backends and the questions to endpoints: the loop, listeners, log, memory that clients
# share, cancels, collectors of metrics, files being read, clients of the broker that is being replaced.
OWN = 64
# So many clients may connect beyond max_clients, if their users have fewer than FEW_CLIENTS.
RESERVED_CLIENTS = 32
FEW_CLIENTS = 4

Groups = Mapping[str, GroupConfig]
Endpoints = Mapping[str, EndpointConfig]


def backends(groups: Groups) -> int:
    """Return how many backends the groups may have at once; on replicas they may have as many again."""
    return sum(
        group.max_size * (2 if group.wanted == "primary" and len(group.endpoints) > 1 else 1)
        for group in groups.values()
    )


def others(endpoints: Endpoints) -> int:
    """Return what is neither a backend nor a client within max_clients; each endpoint may be asked for its role."""
    return OWN + RESERVED_CLIENTS + len(endpoints)


def room(endpoints: Endpoints, groups: Groups) -> int:
    """Return for how many clients there are descriptors if there are as many backends as there may be."""
    return descriptors.limit() - backends(groups) - others(endpoints)


def objection(broker: BrokerConfig, endpoints: Endpoints, groups: Groups) -> str:
    """Return why this process cannot have all that the configuration allows, "" if it can."""
    clients = broker.max_clients if ipc_path(broker.address) is not None else 0
    left = room(endpoints, groups)
    if left >= max(clients, FEW_CLIENTS):
        return ""
    most, own, servers = descriptors.limit(), others(endpoints), backends(groups)
    parts = f"{servers} for backends (max_size of all groups, twice where replicas are read)"
    people = f"{clients} for max_clients" if clients > FEW_CLIENTS else f"{FEW_CLIENTS} for clients"
    return (
        f"the broker may need {most - left + max(clients, FEW_CLIENTS)} descriptors ({parts}, {people}, {own} for "
        f"itself and for operators), this process may have {most}; {descriptors.WAYS}, or lower max_size or max_clients"
    )
