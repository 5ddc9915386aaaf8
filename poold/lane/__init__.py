"""The short way of most requests, compiled: `lane`."""
