"""The number of this release, which pyproject.toml takes from here.

A constant, because to ask for the installed package's costs a worker's start more than all of psycopg2.
"""

RELEASE = "0.1.0"
