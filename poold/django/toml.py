"""Examples of the broker's configuration for error texts: what to write where a group is missing."""


def example(group: str, database: str) -> str:
    """Return tables for a group in a database that may be created and dropped while the broker runs."""
    return (
        f"[endpoints.{group}]\n"
        'host = "..."  # as in the endpoint of the other groups, like port, user and password_file\n'
        f'dbname = "{database}"\n'
        'user = "..."\n'
        "query_timeout = 60\n"
        "\n"
        f"[groups.{group}]\n"
        f'endpoints = ["{group}"]\n'
        "min_size = 0"
    )
