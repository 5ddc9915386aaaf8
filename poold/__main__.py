"""`python -m poold` is the command `poold`."""

import sys

from poold.system.early_signals import ended_by_interrupt, hold_back


def main() -> None:
    """Run the command. What takes its time to import comes after what must not wait for that."""
    if sys.argv[1:2] == ["start"]:
        hold_back()
    with ended_by_interrupt():
        from poold.operations import cli

    cli.main()


if __name__ == "__main__":
    main()
