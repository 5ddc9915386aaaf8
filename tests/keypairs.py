"""Key pairs for tests, as `poold keygen` makes them, and the configuration of a broker with keys."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postgres import free_port

from poold.operations.keygen import make_pair


@dataclass
class Keyring:
    """A broker's pair, one client's, whose public key the broker has, and a stranger's, whose key it has not."""

    folder: Path
    address: str = field(default_factory=lambda: f"tcp://127.0.0.1:{free_port()}")

    def __post_init__(self) -> None:
        self.clients = self.folder / "clients"
        self.clients.mkdir()
        self.broker_secret, self.broker_public = make_pair(self.folder / "broker")
        self.client_secret, self.client_public = make_pair(self.folder / "client")
        self.stranger_secret, self.stranger_public = make_pair(self.folder / "stranger")
        self.admit(self.client_public)

    def admit(self, public: Path) -> None:
        """Let the broker know a client's public key."""
        (self.clients / public.name).write_bytes(public.read_bytes())

    @property
    def broker(self) -> dict[str, Any]:
        """The broker's section."""
        return {"address": self.address, "key_file": str(self.broker_secret), "client_keys": str(self.clients)}

    @property
    def client(self) -> dict[str, str]:
        """The Handler's arguments."""
        return {"server_key": str(self.broker_public), "key": str(self.client_secret)}

    @property
    def environment(self) -> dict[str, str]:
        """The same as variables."""
        return {"POOLD_SERVER_KEY": str(self.broker_public), "POOLD_KEY": str(self.client_secret)}
