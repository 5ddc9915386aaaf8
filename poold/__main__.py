"""`python -m poold` is the command `poold`."""

from poold.cli import main

main()
