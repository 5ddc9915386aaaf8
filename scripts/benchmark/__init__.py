"""The parts of scripts/bench and scripts/demo: one noun per file.

workspace    a temporary folder, and the order in which everything ends
service      a server process that ends with its owner; broker and pgbouncer are two of them
database     the private PostgreSQL of a run
network      makes it further away; delay is its program
tables       pgbench's tables and statements, and a few more
crew         worker processes that work at the same time and measure
workloads    what a worker does, again and again
contestants  the ways to the database that a worker may take; psycopg3 and ancestor have more of them
lineup       all of them by name, and what each needs started
settings     what a run is asked to do
measurement  one contestant at one place
processor    the processor time of processes
memory       their memory
figures      what was measured: from one cell to medians and ratios
targets      what poold wants to reach
environment  the machine and the versions
report       tables and JSON of all this
plots        pictures of it
"""
