"""What becomes of a request: where it waits, what it runs, and its one answer."""
