"""Conversations with brokers, on plain sockets or libzmq's, and which of them a call uses."""
