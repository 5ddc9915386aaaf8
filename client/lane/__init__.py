"""The short way of most requests, compiled: from a statement and its parameters to a Result, and from bytes to Rows.

Everything here is a twin of Python code that is complete without it: `parameters` of `client.values.bind`, `rows` of
`client.values.casting`, `exchange` of `client.channels.channel`, `replies` of `client.wire.codec`, `steps` of
`client.transaction`. Each does the usual and says when something is not usual; then the Python code does it, from the
beginning if nothing was sent, else with what has come. So neither errors nor rare types are known here.

This room imports nothing of the client: the Python code hands it what it needs.
"""
