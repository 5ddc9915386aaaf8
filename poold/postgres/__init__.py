"""The broker's side towards PostgreSQL: connections, and the protocol spoken on them."""
