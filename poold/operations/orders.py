"""The command line's orders to a running broker, for admins: `poold reconnect` and the like."""

from typing import Any

import click

from poold.operations.asking import address_option, ask, json_option, print_json, target_of

groups_argument = click.argument("groups", nargs=-1, metavar="[GROUP]...")
endpoint_option = click.option("--endpoint", metavar="NAME", help="Only this endpoint of the groups.")


def _chosen(groups: tuple[str, ...], endpoint: str | None) -> list[tuple[str, str]]:
    """Return the arguments that say which groups and which endpoint are meant."""
    return [*(("group", group) for group in groups), *([("endpoint", endpoint)] if endpoint is not None else [])]


def _in_words(answer: dict[str, Any]) -> str:
    """Return in words what was meant."""
    names = ", ".join(answer["groups"]) or "no group"
    return names if answer["endpoint"] is None else f"endpoint {answer['endpoint']} in {names}"


@click.command()
@groups_argument
@endpoint_option
@address_option
@json_option
def reconnect(groups: tuple[str, ...], endpoint: str | None, address: str | None, as_json: bool) -> None:
    """Close the backends that there are, each as soon as it rests; new ones are opened as needed.

    Of all groups, or of these. No request fails for it: what runs, and open transactions and sessions, go on to their
    end.
    """
    answer = ask(target_of(address), "reconnect", _chosen(groups, endpoint))
    if as_json:
        print_json(answer)
    else:
        closed, left = answer["closed"], answer["closing"]
        click.echo(f"{_in_words(answer)}: {closed} backends closed, {left} more follow as they come to rest")


COMMANDS = (reconnect,)
