"""Sound inputs for each decoder, from which hostile ones are made."""

from pathlib import Path

from parts import join

from client.wire.codec import encode, split_steps
from client.wire.messages import (
    VERSION,
    Ask,
    BatchMessage,
    CancelRequest,
    Commit,
    CopyEnd,
    CopyIn,
    CopyMessage,
    CopyTaken,
    Hello,
    Query,
    Rollback,
    Step,
    StepReference,
    ToBroker,
    TransactionMessage,
)
from client.wire.zmtp import GREETING, PING, command, frame

_GOLDEN = Path(__file__).parent.parent / "client" / "golden"
GOLDEN = [bytes.fromhex(path.read_text()) for path in sorted(_GOLDEN.glob("*.hex"))]
REQUESTS = [each for each in GOLDEN if each[1] < 64]
REPLIES = [each for each in GOLDEN if each[1] >= 64]

INT4, INT8, NUMERIC, TEXT, BOOL, DATE = 23, 20, 1700, 25, 16, 1082
OIDS = (
    0, 16, 17, 18, 19, 20, 21, 23, 25, 114, 600, 700, 701, 869, 1000, 1001, 1005, 1007, 1009, 1016, 1021, 1022, 1041,
    1042, 1043, 1082, 1083, 1114, 1115, 1182, 1184, 1186, 1231, 1266, 1700, 2950, 2951, 3802,
)  # fmt: skip


def oids(*types: int) -> bytes:
    return b"".join(each.to_bytes(4, "big") for each in types)


def values(*texts: bytes | None) -> bytes:
    return b"".join(b"\xff" * 4 if text is None else len(text).to_bytes(4, "big") + text for text in texts)


def message(kind: bytes, body: bytes) -> bytes:
    """A message of PostgreSQL's."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def columns(**types: int) -> bytes:
    """The body of a RowDescription."""
    described = len(types).to_bytes(2, "big")
    for name, oid in types.items():
        described += name.encode() + b"\0" + bytes(6) + oid.to_bytes(4, "big") + b"\xff\xff\xff\xff\xff\xff\0\0"
    return described


def row(*cells: bytes | None) -> bytes:
    """A DataRow."""
    return message(b"D", len(cells).to_bytes(2, "big") + values(*cells))


def fields(**named: str) -> bytes:
    """The body of an ErrorResponse or a NoticeResponse."""
    return b"".join(letter.encode() + text.encode() + b"\0" for letter, text in named.items()) + b"\0"


# ZeroMQ's protocol.


def _ready(kind: bytes) -> bytes:
    return command(b"READY", b"\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind + b"\x08Identity\0\0\0\0")


_TALK = [*map(frame, REQUESTS), PING, command(b"PONG", b"context"), frame(b"x" * 300), b"\x01\x00", b"\x01\x01a"]


def zmtp(*peers: bytes) -> list[bytes]:
    """Conversations; the first byte says how the network cuts them."""
    hellos = [GREETING + _ready(peer) for peer in peers]
    return [
        bytes((cut,)) + hello + talk
        for cut in (0, 1, 70)
        for hello in hellos
        for talk in (b"", *_TALK, b"".join(_TALK))
    ] + [b"\0" + GREETING + command(b"ERROR", b"\4nope")]


ZMTP_WORDS = (
    GREETING,
    PING,
    b"\x04\x19\x05READY",
    b"\x0bSocket-Type",
    b"\0\0\0\x06DEALER",
    b"\0\0\0\3REQ",
    b"\x04\x05ERROR",
)

# Messages to the broker.

STEP = Step(b"SELECT \0, \0", oids(INT4, 0), values(b"42", None), True, (), 0, None)
INSERT = Step(b"INSERT INTO t VALUES (1) RETURNING id", b"", b"", True, (), 1, 1)
STEPS: list[tuple[Step | int, ...]] = [
    (STEP,),
    (STEP, 1, STEP._replace(references=(StepReference(1, 0, None, "id"), StepReference(0, 0, 0, 0))), 2),
    (INSERT, 1, 1, STEP, 2, STEP._replace(low=1), 2),
    (Step(b"UPDATE t SET n = n + 1", b"", b"", False, (), 0, 5),),
]
_TYPES = oids(INT4, INT8, NUMERIC, 1007, 1009, BOOL, TEXT)
_VALUES = values(b"42", b"-5", b"1.5e10", b"{1,2,NULL}", b'{"a","b\\"c",NULL}', b"t", b"it's")
QUERY = Query(1, "default", 0, False, b"SELECT \0, \0, \0, \0, \0, \0, \0", _TYPES, _VALUES, True, None, "tag")
COPY = CopyMessage(1, "default", 0, False, b"COPY t FROM STDIN", True, None, "tag")
BATCH = BatchMessage(1, "tx", 1, True, *split_steps([STEP, STEP, STEP._replace(prepare=False)]), None, "tag")
MESSAGES = [
    *REQUESTS,
    encode(QUERY),
    encode(BATCH),
    *(encode(TransactionMessage(9, "default", None, None, None, 3, *split_steps(steps), 1.5, "t")) for steps in STEPS),
]
PLANS = [split_steps(steps)[0] for steps in STEPS]
# What msgpack's heads look like: lengths of arrays, maps, strings, bytes, extensions, and numbers of all sizes.
MSGPACK_WORDS = (
    b"\x90", b"\x91", b"\x91" * 50, b"\x9b\x02", b"\x9b\x07", b"\xdc\xff\xff", b"\xdd\xff\xff\xff\xff",
    b"\xdd\0\0\0\2", b"\x80",
    b"\x81\xa1a\xc0", b"\xde\0\1", b"\xdf\0\0\0\1", b"\xc0", b"\xc2", b"\xc4\0", b"\xc5\1\0",
    b"\xc6\xff\xff\xff\xff", b"\xca\x7f\xc0\0\0",
    b"\xcb\x7f\xf8\0\0\0\0\0\0", b"\xcb\xff\xf0\0\0\0\0\0\0", b"\xcf" + b"\xff" * 8, b"\xd3\x80" + bytes(7),
    b"\xd4\1a", b"\xd6\xff\0\0\0\0", b"\xc7\x0c\xff" + bytes(12),
    b"\xa0", b"\xa1\0", b"\xa2\xff\xfe", b"\xd9\xff", b"\xdb\xff\xff\xff\xff", b"\x7f", b"\xff", b"\x01", b"\x02",
)  # fmt: skip


def talk(*messages: ToBroker) -> bytes:
    """One client's messages to the core."""
    return join([*map(encode, messages), b""])


def _transaction(number: int, steps: tuple[Step | int, ...], group: str = "default") -> TransactionMessage:
    return TransactionMessage(number, group, None, None, None, 1, *split_steps(steps), None, "")


TALKS = [
    talk(Hello(VERSION, 1, "a", "0"), QUERY, QUERY._replace(request=2), CancelRequest(2),
    QUERY._replace(request=3), Ask(4, "stats")),
    talk(
        QUERY._replace(group="tx", lease=1, begin=True), QUERY._replace(request=2, group="tx", lease=1), Commit(3, 1),
        QUERY._replace(request=4, group="tx", lease=2, begin=True), Rollback(5, 2), Commit(6, 2),
    ),
    talk(*(_transaction(number, steps) for number, steps in enumerate(STEPS, 1)), CancelRequest(1), CancelRequest(4)),
    talk(*(_transaction(number, STEPS[1]) for number in range(1, 6)),
    *(QUERY._replace(request=n) for n in range(6, 12))),
    talk(
        BATCH, BATCH._replace(request=2, begin=False), Commit(3, 1), BATCH._replace(request=4, lease=2), Rollback(5, 2),
    ),
    talk(
        COPY, CopyIn(1, b"1\n"), CopyIn(1, b"2\n"), CopyEnd(1, None), COPY._replace(request=2, is_in=False),
        CopyTaken(2, 3), COPY._replace(request=3), CopyEnd(3, "no"), COPY._replace(request=4), CancelRequest(4),
    ),
]  # fmt: skip

# Statements and their parameters.

STATEMENTS = [
    b"SELECT * FROM t WHERE a = \0 AND b IN (\0, \0) ORDER BY \0, name LIMIT \0",
    b"WITH x AS (DELETE FROM t RETURNING *) SELECT count(*) FROM x GROUP BY 1, \0",
    b"INSERT INTO t VALUES (1, 'it''s', E'a\\'b', $tag$ ; $tag$, \0), (2, NULL, '', '', \0) RETURNING id",
    b"CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; END; SELECT 1",
    b'/* a /* nested */ remark */ UPDATE t SET a = $1 -- the end\n WHERE "weird ""name" = \0::int',
    b"BEGIN; SET x = 1; SELECT interval \0 day, U&'\\0041' UESCAPE '!', array[\0]; COMMIT",
    b"SELECT DISTINCT ON (\0, (\0)) set_config('a', \0, true) INTO x FROM t FOR NO KEY UPDATE",
    b"EXPLAIN ANALYZE SELECT 1.5e10, .5, 5., 'a' 'b' FROM t WHERE a = ANY(\0)",
]
SQL_WORDS = (
    b"'", b"''", b"E'", b"\\'", b"$$", b"$a$", b"/*", b"*/", b"--", b"\n", b"(", b")", b"[", b"]", b",", b";",
    b"\0", b"::", b"\"", b"U&'", b"$1",
    b"SELECT", b"ORDER BY ", b"GROUP BY ", b"BEGIN ATOMIC ", b"CASE ", b"END ", b"COPY ", b"interval ", b" " * 50,
    b"NULL,", b"1,", b"e'a'",
)  # fmt: skip
RENDERED = [
    join([b"SELECT \0", oids(oid), values(text)])
    for oid in OIDS
    for text in (
        b"5",
        b"-1.5e3",
        b"NaN",
        b"t",
        b"it's \\ \"",
        b'{1,NULL,"a\\"b",{x}}',
        b"{{1,2},{3,4}}",
        b"[0:1]={1,2}",
    )
]
RENDERED += [
    join([b"SELECT \0, \0, \0, \0, \0, \0, \0", _TYPES, _VALUES]),
    join([b"SELECT \0, \0", oids(0, 0), values(None, b"")]),
]
VALUE_WORDS = (
    b"'",
    b"''",
    b"\\",
    b"{",
    b"}",
    b"{{",
    b"NULL",
    b",",
    b'"',
    b'\\"',
    b'","',
    b"-",
    b"\0\0\0\1",
    b"\xff\xff\xff\xff",
    b"\0\0\3\xf1",
    b"[1:2]=",
    b"1e5",
    b"NaN",
)

# PostgreSQL's answers: the first byte chooses the units that were sent, the second how the network cuts.

_COLUMNS = columns(id=INT4, name=TEXT)
_ROW = row(b"1", b"a")
ERROR = fields(
    S="ERROR", V="ERROR", C="22012", M="division by zero", P="8", D="detail", W="context", q="SELECT 1", p="3"
)
READY, BOUND = message(b"Z", b"I"), message(b"2", b"")
_ANSWERS = [
    message(b"T", _COLUMNS) + _ROW + _ROW + message(b"C", b"SELECT 2\0") + READY,
    message(b"E", ERROR) + message(b"Z",
    b"E") + message(b"E", fields(S="FATAL", V="FATAL", C="57P01", M="going down")),
    message(b"N", ERROR) + message(b"C", b"DO\0") + READY + message(b"S", b"DateStyle\0ISO, DMY\0"),
    message(b"1", b"") + message(b"t", b"\0\0") + message(b"T", _COLUMNS) + BOUND + _ROW + message(b"C",
    b"SELECT 1\0") + READY,
    BOUND + _ROW + message(b"C", b"SELECT 1\0") + READY + BOUND + message(b"C", b"INSERT 0 1\0") + READY,
    BOUND + message(b"C", b"BEGIN\0") + BOUND + _ROW + message(b"C", b"SELECT 1\0") + BOUND + _ROW + message(b"C",
    b"SELECT 1\0") + READY,
    message(b"A", b"\0\0\0\1channel\0payload\0") + message(b"I", b"") + READY + message(b"3", b"") + message(b"n",
    b""),
    message(b"G", b"\0\0\1\0\0") + message(b"E", ERROR) + READY + message(b"H", b"\0\0\1\0\0") + message(b"d",
    b"x") + message(b"c", b""),
]  # fmt: skip
STREAMS = [bytes((unit, cut)) + answer for unit in range(7) for cut in (0, 3) for answer in _ANSWERS]
STREAMS.append(b"\0\0" + message(b"C", b"SELECT " + b"9" * 5000 + b"\0"))
WIRE_WORDS = (BOUND, READY, _ROW, message(b"C", b"SELECT 1\0"), message(b"T", _COLUMNS), message(b"n", b""),
    message(b"t", b"\0\0"), b"\0\0\0\4", b"\0\0\0\0",
              b"S\0\0\0\4", b"A\0\0\0\4", b"G\0\0\0\4", b"H\0\0\0\4",
              b"d\0\0\0\6ab", b"d\0\0\0\4", b"c\0\0\0\4", b"I\0\0\0\4", b"E\0\0\0\4", b"N\0\0\0\5\0", b"D\0\0\0\4",
              "P²\0".encode(), b"P99999999999\0")  # fmt: skip
# What units are answered with, one after the other; nothing stands for an answer in good order.
ANSWERS = [
    bytes((talk,)) + join([*[b""] * good, answer, b"", b"", b"", b""])
    for talk in range(len(TALKS))
    for good in (0, 1, 2)
    for answer in _ANSWERS
]
ERRORS = [join([text, ERROR]) for text in (b"", b"SELECT 1/0", "SELECT\n\t'é', 1/0 -- ".encode() + b"x" * 200)]

# Results as a broker sends them.

RESULTS = [
    join([columns(a=oid, b=TEXT), row(text, None) * times])
    for oid in OIDS
    for text, times in ((b"5", 1), (b"2024-01-01", 3), (b"{1,NULL}", 70))
]

REFERENCES = [join([columns(id=oid, name=TEXT), row(b"5", b"a") * 3, bytes((1,))]) for oid in OIDS] + [
    join([columns(id=oid, name=TEXT), row(b"5", b"a") * 3, bytes(range(0, 256, 37))]) for oid in OIDS
]

KEY_FILES = [
    b'metadata\ncurve\n    public-key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"\n',
    b"public-key = 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'\n"
    b'secret-key = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"\n',
]
ZAP = [join([b"1.0", b"1", b"poold", b"127.0.0.1", b"", b"CURVE", b"k" * 32, b""])]
TOML = b"""
[broker]
address = "ipc:///tmp/s"
max_clients = 10
allow_uids = [1, 2]
[endpoints.main]
host = "localhost"
dbname = "a"
user = "a"
password = "secret"
temp_buffers = "128MB"
[groups.default]
max_size = 4
endpoints = ["main"]
queue_timeout = 1.5
"""
LEGACY = [
    b'config = {"db": {"host": "h", "name": "n", "user": "u", "pass": "p", "ssl": "disable"},'
    b' "groups": {"a": {"connection_count": 2}}}\n',
    b'{"db": [{"host": "h", "name": "n", "user": "u", "pass": "p"}],'
    b' "groups": {"a": {"connection_count": 2, "autocommit": true}}}',
]

# Heads of requests for metrics, without the empty line at their end.
HTTP = [
    b"GET /metrics HTTP/1.1\r\nHost: localhost:9127\r\nUser-Agent: Prometheus/3.5\r\nAccept-Encoding: gzip\r\n"
    b"Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    b"HEAD http://a/metrics?x=1 HTTP/1.0\r\nConnection: keep-alive",
    b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 3",
]
HTTP_WORDS = (
    b"\r\n",
    b"Host: a",
    b"Connection: close",
    b"Transfer-Encoding: chunked",
    b"q=0.",
    b";",
    b",",
    b" HTTP/1.1",
)
