"""Damage: to bytes, and to JSON values. Each follows from its generator alone."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

Change = Callable[[bytes, random.Random], bytes]


def flip(content: bytes, draw: random.Random) -> bytes:
    """Return the content with one bit of one byte changed."""
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << draw.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, draw: random.Random) -> bytes:
    """Return the content without its end."""
    return content[: draw.randrange(len(content))]


def zeros(content: bytes, draw: random.Random) -> bytes:
    """Return the content with a stretch of zeros, as a copy that was broken off leaves it."""
    start = draw.randrange(len(content))
    length = min(draw.choice((1, 16, 512, 4096)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def drop(content: bytes, draw: random.Random) -> bytes:
    """Return the content without some bytes in its midst."""
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.randint(1, 64) :]


def insert(content: bytes, draw: random.Random) -> bytes:
    """Return the content with some random bytes more."""
    place = draw.randrange(len(content) + 1)
    return content[:place] + draw.randbytes(draw.randint(1, 64)) + content[place:]


def swap(content: bytes, draw: random.Random) -> bytes:
    """Return the content with two of its stretches exchanged."""
    one, two = sorted(draw.sample(range(len(content) + 1), 2))
    length = min(draw.randint(1, 64), two - one, len(content) - two)
    first, second = content[one : one + length], content[two : two + length]
    return content[:one] + second + content[one + length : two] + first + content[two + length :]


BYTES: tuple[Change, ...] = (flip, cut, zeros, drop, insert, swap)

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 7.0, -0.0, 0.1, 1e308, -1e308, 1e-320, 2**31, 2**63, 2**64, 10**400,
    float("nan"), float("inf"), -float("inf"),
    "", " ", "0", "nan", "None", "1e999", "-1", "é", "\u0000", "\ud800", "\U0001f6f0", "../../etc/passwd", "a/b.c", "x" * 5000,
    "2016-02-30T25:61:61Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z",
    "POLYGON EMPTY", "POLYGON ((0 0, 1 1, 0 0))", "POLYGON ((500 100, 501 100, 501 101, 500 101, 500 100))",
    [], {}, [None], [[]], [1, 2], [1, 2, 3, 4], [0, 0, 0, 0], [-5, -5, 9, 9], [1e9, 1e9, 1, 1], [0.5, 0.5, 0.2, 0.2], ["a", "b"],
    {"a": 1}, {"": None},
)  # fmt: skip
"""Values that somebody may have written where another kind belongs."""


def odd_record(content: bytes, draw: random.Random) -> bytes:
    """Return JSON with one to three of its values changed: others, of another kind, gone, twice, renamed or exchanged."""
    value = json.loads(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = draw.choice(places)
        _CHANGES[draw.randrange(len(_CHANGES))](holder, key, places, draw)
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (holder, key) of every value in a JSON value."""
    keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _odd(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    holder[key] = draw.choice(ODD)


def _near(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    """Change a number or a text by little, or write it as another type."""
    value = holder[key]
    if isinstance(value, bool) or value is None:
        holder[key] = str(value)
    elif isinstance(value, int | float):
        small = abs(value) < 1e15
        changed = (-value, value * 10, value + 360, value / 7, float(value), int(value)) if small else (-value, value - value)
        holder[key] = draw.choice((*changed, str(value), [value]))
    elif isinstance(value, str):
        place = draw.randrange(len(value) + 1)
        longer = f"{value[:place]}9{value[place:]}"
        holder[key] = draw.choice((value[:place], value.upper(), f" {value} ", longer, [value], value * 2))
    else:
        holder[key] = [value]


def _gone(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    del holder[key]


def _renamed(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    if isinstance(holder, dict):
        holder[draw.choice((key.upper(), f"{key}_", "", "type", "id"))] = holder.pop(key)
    else:
        holder.insert(key, holder[key])


def _exchanged(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    other, name = draw.choice(places)
    if not (_holds(holder[key], other) or _holds(other[name], holder)):
        holder[key], other[name] = other[name], holder[key]


def _holds(value: Any, searched: Any) -> bool:
    """Tell whether a value is a holder of values, or has it in it: an exchange would put it into itself."""
    return value is searched or any(holder is searched or holder[key] is searched for holder, key in _places(value))


def _many(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    holder[key] = [holder[key]] * draw.choice((0, 2, 300))


def _nested(holder: Any, key: Any, places: list[tuple[Any, Any]], draw: random.Random) -> None:
    for _ in range(draw.choice((2, 50, 400))):
        holder[key] = [holder[key]]


_CHANGES = (_odd, _odd, _odd, _odd, _near, _near, _near, _near, _gone, _gone, _renamed, _exchanged, _many, _nested)
RECORDS: tuple[Change, ...] = (odd_record, odd_record, odd_record, odd_record, *BYTES)
"""Mostly values that a program may write, and some damage to bytes."""
