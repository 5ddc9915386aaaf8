"""The way of a request: how it waits, runs, and gets its one answer."""
