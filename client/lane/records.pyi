from typing import Any

SOURCES: int

class ChannelFields:
    address: Any
    welcome: Any
    pid: int
    _error: Any
    _socket: Any
    _zmtp: Any
    _groups: Any
    _descriptor: int
    _last_request: int
    _asked: int
    _answered: int
    _is_broken: bool
    _is_drained: bool
    _heard: float
    _max_request_bytes: int

class ResultFields:
    rowcount: Any
    statusmessage: Any
    notices: Any
    arraysize: Any
    _ahead: Any
    _at: Any
    _casters: Any
    _columns: Any
    _count: Any
    _dicts: bool
    _reader: Any
    _row: Any
    _rows: Any
    _starts: Any

class PendingFields:
    around: Any
    _known: Any
    _dicts: bool
