"""Kinds of work: the units that a backend runs for a request, and the meaning of its answers."""
