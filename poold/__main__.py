"""`python -m poold` is the command `poold`."""

from poold.operations.cli import main

main()
