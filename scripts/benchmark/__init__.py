"""The parts of scripts/bench and scripts/demo: one noun per file.

workspace    a temporary folder, and the order in which everything ends
service      a server process that ends with its owner; broker and pgbouncer are two of them
tables       pgbench's tables and statements
crew         worker processes that work at the same time and measure
workloads    what a worker does, again and again
contestants  the ways to the database that a worker may take
processor    the processor time of processes
figures      what was measured: from one cell to medians and ratios
report       tables and JSON of it
"""
