"""Conversations with brokers: one for each thread, on plain sockets or libzmq's."""
