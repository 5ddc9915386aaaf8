"""How the broker says which requests it has begun: entries in memory that it shares with its clients.

An entry is the key of the client that has it, and the greatest number of a request of that client's that has begun.
"""

import struct

ENTRY = struct.Struct("=QQ")
