"""Messages changed as what they mean: a field gets another value or type, arrays grow, nest, and lose items.

Bytes changed at random seldom are msgpack any more, and get no further than its decoder.
"""

from random import Random
from typing import Any

import msgpack
from parts import join, split_all

# Fields of messages hold such, or may be mistaken for it.
LEAVES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, 7, -1, 65535, 2**31, 2**63 - 1, 2**63, -(2**63), 0.0, 1.5, -1.0, float("inf"),
    float("nan"), "", "default", "tx", "id", "a\0b", "x" * 129, "é", "serializable", "stats",
    b"", b"\0", b"\0\0\0\x17", b"\xff" * 4,
    b"SELECT \0", b"BEGIN", b"COMMIT; SELECT 1", b"COPY t TO STDOUT", b"SET x = 1", b"DROP TABLE x", b"\0\0\0\x0242",
    (), (1,), {},
)  # fmt: skip
_DEEP = 40


def reshaped(dice: Random, data: bytes) -> bytes:
    """A message with some of its values changed; what is no message stays."""
    try:
        tree = msgpack.unpackb(data, use_list=True, strict_map_key=False)
        for _ in range(dice.randrange(1, 4)):
            tree = _changed(dice, tree)
        return bytes(msgpack.packb(tree))
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException):
        return data


def reshaped_talk(dice: Random, data: bytes) -> bytes:
    """Several messages, one of them changed, doubled or in another place."""
    frames = split_all(data)[:20]
    if not frames:
        return data
    at = dice.randrange(len(frames))
    what = dice.random()
    if what < 0.7:
        frames[at] = reshaped(dice, frames[at])
    elif what < 0.85:
        frames.insert(dice.randrange(len(frames) + 1), frames[at])
    else:
        frames.append(frames.pop(at))
    return join([*[frame[:65535] for frame in frames], b""])


def _changed(dice: Random, tree: Any) -> Any:
    """The tree with one of its nodes changed."""
    if isinstance(tree, list) and tree and dice.random() < 0.85:
        at = dice.randrange(len(tree))
        tree[at] = _changed(dice, tree[at])
        return tree
    if isinstance(tree, bytes) and tree[:1] > b"\x90" and dice.random() < 0.8:
        return reshaped(dice, tree)  # a transaction's steps
    if isinstance(tree, list) and dice.random() < 0.8:
        return _other_list(dice, tree)
    if isinstance(tree, int) and dice.random() < 0.5:
        return tree + dice.choice((-1, 1, 2))
    if isinstance(tree, bytes | str) and dice.random() < 0.5:
        at = dice.randrange(len(tree) + 1)
        return dice.choice((tree[:at], tree[at:], tree * 2, tree[:at] + tree[at + 1 :]))
    return dice.choice(LEAVES)


def _other_list(dice: Random, items: list[Any]) -> Any:
    match dice.randrange(6):
        case 0:
            return items[: dice.randrange(len(items) + 1)]
        case 1:
            return [*items, dice.choice(items or LEAVES)]
        case 2:
            return items * dice.choice((2, 3, 20))
        case 3:
            dice.shuffle(items)
            return items
        case 4:
            for _ in range(dice.randrange(1, _DEEP)):
                items = [items]
            return items
        case _:
            at = dice.randrange(len(items) + 1)
            return [*items[:at], dice.choice(LEAVES), *items[at:]]
