"""Permissions of clients, admission of their messages, replies owed, and leases."""
