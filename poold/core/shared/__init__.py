"""Waiting requests, and whose turn it is."""
