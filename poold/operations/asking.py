"""How commands find a broker, ask it, and say what came of it: options, answers, exit codes."""

import json
import math
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import click

from client.channels.channel import Channel
from client.channels.registry import ADDRESS_VARIABLE, broker_address, broker_keys
from client.errors import DBConnectionError, DBError
from client.wire.address import check_address
from client.wire.arguments import packed_arguments
from client.wire.messages import Answer, Ask
from poold.operations.log_format import printable_lines

EXIT_ERROR = 1
EXIT_NOT_RUNNING = 3
EXIT_NO_ANSWER = 4
# Seconds. A broker answers in its next turn, but a busy one may take longer.
ANSWER_TIMEOUT = 10.0
# Characters: beyond any sentence.
LONGEST_SUMMARY = 1000


class GivenPath(click.Path):
    """A path. Whether it can be read is found out by reading, which can say why not."""

    def __init__(self) -> None:
        super().__init__(path_type=Path, readable=False)


class Seconds(click.FloatRange):
    """A time in seconds within bounds. No number is within none, as click has it, and would be waited for for ever."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if not math.isfinite(seconds):
            self.fail(f"{value} is no time in seconds", param, ctx)
        return seconds


class PlainCommand(click.Command):
    """A command of poold's: it takes what it is given, and nothing else.

    An empty text, of a variable that is not set say, is a usage error, as it would silently mean everything, the usual
    value or the current folder; and so is an option that is given twice, of which click takes the last one. The summary
    in the list of commands is a whole sentence, on as many lines as it needs.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            given, _, order = self.make_parser(ctx).parse_args(args=[*args])
            for param in order:
                value = given.get(param.name) if param.name else None
                if "" in (value if isinstance(value, list | tuple) else [value]):
                    raise click.BadParameter("expected a value, found an empty text", ctx, param)
                is_single = isinstance(param, click.Option) and not (param.multiple or param.is_flag)
                if is_single and (count := order.count(param)) > 1:
                    raise click.UsageError(f"{param.opts[-1]} is given {count} times; give it once", ctx)
        return super().parse_args(ctx, args)

    def get_short_help_str(self, limit: int = 45) -> str:
        del limit
        return super().get_short_help_str(LONGEST_SUMMARY)


def checked_address(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    """Return the value of an option that is an address; a wrong one is a usage error."""
    try:
        return None if value is None else check_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


address_option = click.option(
    "--address",
    callback=checked_address,
    help=f"The broker's address; else {ADDRESS_VARIABLE}, else this user's default.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def target_of(address: str | None) -> str:
    """Return the address to use; a wrong POOLD_ADDRESS is reported as a usage error, like a wrong option."""
    try:
        return broker_address(address)
    except ValueError as error:
        raise click.UsageError(f"{ADDRESS_VARIABLE}: {error}") from None


def for_address(command: str, address: str | None) -> str:
    """The command to type next, for the broker that was named for this one."""
    return command if address is None else f"{command} --address={shlex.quote(address)}"


def open_channel(target: str) -> Channel:
    """Connect to the broker; end the program if there is none."""
    try:
        keys = broker_keys(target)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        return Channel(target, keys)
    except DBError as error:
        is_absent = isinstance(error, DBConnectionError) and not error.is_kept_out
        _end(error, EXIT_NOT_RUNNING if is_absent else EXIT_ERROR)


def _end(error: DBError, code: int) -> NoReturn:
    """Say what is wrong, and end the program: with this code, or with that of a broker that does not answer."""
    complain(str(error))
    sys.exit(EXIT_NO_ANSWER if error.is_unanswered else code)


def ask(
    target: str, what: str, arguments: Iterable[tuple[str, str]] = (), timeout: float = ANSWER_TIMEOUT
) -> dict[str, Any]:
    """Ask the broker, which has to answer within timeout seconds; end the program if it refuses."""
    channel = open_channel(target)
    try:
        return ask_through(channel, what, arguments, timeout)
    finally:
        channel.close()


def ask_through(
    channel: Channel, what: str, arguments: Iterable[tuple[str, str]] = (), timeout: float = ANSWER_TIMEOUT
) -> dict[str, Any]:
    """Ask the broker behind this channel; end the program if it refuses."""
    try:
        return call(channel, what, arguments, timeout)
    except DBError as error:
        _end(error, EXIT_ERROR)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def call(channel: Channel, what: str, arguments: Iterable[tuple[str, str]], timeout: float) -> dict[str, Any]:
    """Return the body of the broker's answer; raises DBError, and ValueError of arguments that cannot be sent."""
    answer = channel.call(Ask(channel.next_request(), what, packed_arguments(arguments)), timeout)
    assert isinstance(answer, Answer)
    return answer.body


def print_json(value: Any) -> None:
    """Print the value for programs."""
    click.echo(json.dumps(value, indent=2))


def complain(text: str) -> None:
    """Say what is wrong; servers and clients may have had a say in it, and must not steer the terminal."""
    click.echo(printable_lines(f"poold: {text}"), err=True)


def fail(text: str) -> NoReturn:
    """Say what is wrong, and end the program."""
    complain(text)
    sys.exit(EXIT_ERROR)
