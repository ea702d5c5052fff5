"""The language of `--where`: a condition over the columns of the index, read and checked before any data are.

    condition  = conjunction { ("or" | "|") conjunction }
    conjunction = negation { ("and" | "&") negation }
    negation   = "not" negation | comparison
    comparison = primary { ("<" | "<=" | ">" | ">=" | "==" | "!=" | ["not"] "in") primary }
    primary    = "~" primary | "(" condition ")" | list | number | text | column [ ".isna()" | ".notna()" ]

Precedence is that of pandas' `query`, whose language this is a part of. Nothing of it is run as Python.
"""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, NoReturn

from satmip_data.metadata.fields import CATEGORICAL, NUMERIC
from satmip_data.metadata.tabular import read_column
from satmip_data.names import did_you_mean
from satmip_data.records import Sample

Kind = Literal["numbers", "text", "times"]
Truth = bool | None
"""Whether a condition holds; None where a value that decides it is missing."""
Condition = Callable[[Sample], Truth]

DEPTH = 50
"""Parentheses and negations inside each other, at most."""

_TOKEN = re.compile(
    r"""\s*(?: (?P<number>(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?!\w)) | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
        | (?P<name>[^\W\d]\w*|`[^`]*`) | (?P<sign><=|>=|==|!=|[<>()\[\],.&|~+-]) )""",
    re.VERBOSE,
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq, "!=": operator.ne,
    "in": lambda value, values: value in values, "not in": lambda value, values: value not in values,
}  # fmt: skip
_WORDS = {"and": "&", "or": "|", "not": "not", "in": "in"}
_INSTEAD = {"=": "==", "!": "not"}
"""Signs of other languages, and those of this one."""


class WhereError(ValueError):
    """A condition that cannot be read; the message points at the place."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    """`number`, `text`, `name`, a sign or a word of the language, or `end`."""
    text: str
    start: int


@dataclass(frozen=True, slots=True)
class _Column:
    kind: Kind
    read: Callable[[Sample], Any]
    """Gives the value of a sample, None where it is missing."""


@dataclass(frozen=True, slots=True)
class _Constant:
    value: float | str | tuple["_Constant", ...]
    start: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of the condition with the place where it begins."""

    what: _Column | _Constant | Condition
    start: int


@cache
def columns() -> dict[str, _Column]:
    """Return every column by its name: those of a sample, of its window, and of the tabular features."""

    def feature(column: Any) -> Callable[[Sample], Any]:
        return lambda sample: read_column(sample.metadata, column)

    texts, sizes = ("key", "split", "place", "category", "path"), ("scene_width", "scene_height")
    windows = {f"window_{name}": operator.attrgetter(f"window.{name}") for name in ("x", "y", "width", "height")}
    return {
        **{name: _Column("text", operator.attrgetter(name)) for name in texts},
        **{name: _Column("numbers", operator.attrgetter(name)) for name in sizes},
        **{name: _Column("numbers", read) for name, read in windows.items()},
        "timestamp": _Column("times", operator.attrgetter("metadata.datetime")),
        **{column.name: _Column("numbers", feature(column)) for column in NUMERIC},
        **{column.name: _Column("text", feature(column)) for column in CATEGORICAL},
    }


def parse(where: str) -> Condition:
    """Return what tells of a sample whether the condition holds.

    Raises:
        WhereError: it is none.
    """
    return _Parser(where).whole()


class _Parser:
    """Reads from left to right; each method reads what the grammar calls by its name."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._tokens = tuple(self._split())
        self._next = 0
        self._depth = 0

    def whole(self) -> Condition:
        condition = self._condition(self._disjunction())
        if self._token.kind != "end":
            self._fail(self._token.start, f"Unexpected {_shown(self._token)}.", "Join two conditions with and, or.")
        return condition

    def _split(self) -> Iterator[_Token]:
        position, end = 0, len(self._where.rstrip())
        while position < end:
            match = _TOKEN.match(self._where, position)
            if match is None:
                self._fail_to_split(position)
            kind = str(match.lastgroup)
            text = match[kind]
            if kind == "sign" or (kind == "name" and text in _WORDS):
                kind = _WORDS.get(text, text)
            yield _Token(kind, text, match.start(str(match.lastgroup)))
            position = match.end()
        yield _Token("end", "", end)

    def _fail_to_split(self, position: int) -> NoReturn:
        found = re.compile(r"\s*(\w+|.)", re.DOTALL).match(self._where, position)
        assert found is not None
        sign = found[1]
        advice = f"Write {_INSTEAD[sign]} instead." if sign in _INSTEAD else ""
        self._fail(found.start(1), f"Unexpected {sign}.", "The text has no end." if sign in "'\"" else advice)

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *kinds: str) -> _Token | None:
        """Return the next token and go on behind it, if it is of one of the kinds."""
        token = self._token
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _disjunction(self) -> _Part:
        return self._joined("|", lambda: self._joined("&", self._negation, _all), _any)

    def _joined(self, sign: str, read: Callable[[], _Part], join: Callable[[list[Condition]], Condition]) -> _Part:
        first = read()
        if self._token.kind != sign:
            return first
        parts = [self._condition(first)]
        while self._take(sign):
            parts.append(self._condition(read()))
        return _Part(join(parts), first.start)

    def _negation(self) -> _Part:
        if (sign := self._take("not")) is None:
            return self._comparison()
        return self._deeper(sign, lambda: _Part(_not(self._condition(self._negation())), sign.start))

    def _comparison(self) -> _Part:
        parts, links = [self._primary()], []
        while (link := self._link()) is not None:
            links.append(link)
            parts.append(self._primary())
        if self._token.kind in ("+", "-"):
            self._fail(self._token.start, f"Unexpected {self._token.text}.", "Nothing is calculated here.")
        if not links:
            return parts[0]
        compared = [self._link_of(left, link, right) for left, link, right in zip(parts, links, parts[1:], strict=False)]
        return _Part(_all(compared), parts[0].start)

    def _link(self) -> _Token | None:
        if self._token.kind == "not" and self._tokens[self._next + 1].kind == "in":
            self._next += 2
            return _Token("not in", "not in", self._tokens[self._next - 2].start)
        return self._take("<", "<=", ">", ">=", "==", "!=", "in")

    def _primary(self) -> _Part:
        token = self._token
        if self._take("~"):
            return self._deeper(token, lambda: _Part(_not(self._condition(self._primary())), token.start))
        if self._take("("):
            return self._deeper(token, lambda: self._group(token))
        if self._take("["):
            return self._list(token, "]")
        if self._take("name"):
            return self._column(token)
        if (constant := self._constant()) is not None:
            return _Part(constant, token.start)
        if token.kind == "end":
            self._fail(token.start, "The condition ends too early.", "A column, a number or text belongs here.")
        self._fail(token.start, f"Unexpected {_shown(token)}.", "A column, a number or text belongs here.")

    def _deeper(self, token: _Token, read: Callable[[], _Part]) -> _Part:
        self._depth += 1
        if self._depth > DEPTH:
            self._fail(token.start, f"More than {DEPTH} parentheses and negations stand inside each other.")
        part = read()
        self._depth -= 1
        return part

    def _group(self, opened: _Token) -> _Part:
        """Read a condition or, as Python writes lists too, constants in parentheses."""
        part = self._disjunction()
        if self._token.kind == "," and isinstance(part.what, _Constant):
            return self._list(opened, ")", (part.what,))
        self._close(opened, ")")
        return part

    def _list(self, opened: _Token, closing: str, values: tuple[_Constant, ...] = ()) -> _Part:
        while self._token.kind != closing:
            if values and not self._take(","):
                break
            if self._token.kind == closing:
                break
            if (constant := self._constant()) is None:
                self._fail(self._token.start, "A list holds numbers or text.")
            values += (constant,)
        self._close(opened, closing)
        return _Part(_Constant(values, opened.start), opened.start)

    def _close(self, opened: _Token, closing: str) -> None:
        if self._take(closing) is None:
            self._fail(self._token.start, f"{closing} is missing for the {opened.text} at character {opened.start + 1}.")

    def _constant(self) -> _Constant | None:
        start, sign = self._token.start, 1.0
        while (token := self._take("+", "-")) is not None:
            sign = -sign if token.kind == "-" else sign
            if self._token.kind not in ("+", "-", "number"):
                self._fail(token.start, f"Unexpected {token.text}.", "Only a number has a sign; nothing is calculated.")
        if (token := self._take("number", "text")) is None:
            return None
        try:
            return _Constant(sign * float(token.text) if token.kind == "number" else str(ast.literal_eval(token.text)), start)
        except (ValueError, SyntaxError):
            self._fail(start, f"This is no {token.kind}.")

    def _column(self, token: _Token) -> _Part:
        name = token.text.strip("`")
        column = columns().get(name)
        if column is None:
            advice = did_you_mean(name, columns()).strip() or "The command satmip-data fields lists the columns."
            self._fail(token.start, f'Unknown column "{name}".', advice)
        if (dot := self._take(".")) is None:
            return _Part(column, token.start)
        called = "".join(part.text for part in self._tokens[self._next : self._next + 3])
        if called not in ("isna()", "notna()", "isnull()", "notnull()"):
            self._fail(dot.start, "Unknown method.", f"A column has .isna() and .notna() only, as {name}.isna().")
        self._next += 3
        read, wanted = column.read, called.startswith("is")
        return _Part(lambda sample: (read(sample) is None) == wanted, token.start)

    def _condition(self, part: _Part) -> Condition:
        if isinstance(part.what, _Column | _Constant):
            self._fail(part.start, "This is no condition.", "Compare a column with something, as cloud_cover < 30.")
        return part.what

    def _link_of(self, left: _Part, link: _Token, right: _Part) -> Condition:
        """Return one comparison: of a column with a constant, or with another column."""
        sides = [side.what for side in (left, right)]
        for side in (left, right):
            if not isinstance(side.what, _Column | _Constant):
                self._fail(side.start, "A condition cannot be compared.", "Join conditions with and, or, not.")
        column = next((side for side in sides if isinstance(side, _Column)), None)
        if column is None:
            self._fail(left.start, "Both sides are constants.", "One side of a comparison is a column.")
        compared = link.kind
        several = isinstance(right.what, _Constant) and isinstance(right.what.value, tuple)
        if several and compared in ("==", "!="):  # as pandas reads it
            compared = "in" if compared == "==" else "not in"
        if several != (compared in ("in", "not in")) or (isinstance(left.what, _Constant) and isinstance(left.what.value, tuple)):
            self._fail(link.start, f"{link.text} cannot compare these.", "A column can be in a list, as year in [2015, 2016].")
        first, second = (self._reader(side, column.kind) for side in (left, right))
        compare = _ORDER[compared]

        def holds(sample: Sample) -> Truth:
            one, other = first(sample), second(sample)
            return None if one is None or other is None else compare(one, other)

        return holds

    def _reader(self, side: _Part, kind: Kind) -> Callable[[Sample], Any]:
        if isinstance(side.what, _Column):
            if side.what.kind != kind:
                self._fail(side.start, f"A column of {side.what.kind} is compared with one of {kind}.")
            return side.what.read
        assert isinstance(side.what, _Constant)
        value = self._value(side.what, kind)
        return lambda _: value

    def _value(self, constant: _Constant, kind: Kind) -> Any:
        """Return what a constant stands for beside a column."""
        if isinstance(constant.value, tuple):
            return tuple(self._value(part, kind) for part in constant.value)
        if isinstance(constant.value, str) == (kind == "numbers"):
            advice = {
                "numbers": "Compare it with a number, as 30.",
                "text": "Compare it with text, as 'FRA'.",
                "times": "Compare it with a date, as '2016-01-31', or use the column year.",
            }[kind]
            self._fail(constant.start, f"The column holds {kind}.", advice)
        return self._time(constant) if kind == "times" else constant.value

    def _time(self, constant: _Constant) -> datetime:
        import pandas as pd  # late: it takes a third of a second, and help needs none of it

        try:
            # "now" and "today" would select other samples tomorrow.
            if not any(map(str.isdigit, str(constant.value))):
                raise ValueError
            time: datetime = pd.to_datetime(str(constant.value), utc=True)
        except (ValueError, OverflowError):
            self._fail(constant.start, "This is no date.", "Write it as '2016-01-31' or '2016-01-31T12:00:00Z'.")
        return time

    def _fail(self, start: int, problem: str, advice: str = "") -> NoReturn:
        where = re.sub(r"\s", " ", self._where)
        raise WhereError(f"--where: {' '.join(filter(None, (problem, advice)))}\n  {where}\n  {' ' * start}^")


def _shown(token: _Token) -> str:
    return token.text or "end"


def _not(condition: Condition) -> Condition:
    def holds(sample: Sample) -> Truth:
        truth = condition(sample)
        return None if truth is None else not truth

    return holds


def _all(parts: Sequence[Condition]) -> Condition:
    """Return `and`: one part that fails decides it, whatever is missing."""

    def holds(sample: Sample) -> Truth:
        truths = [part(sample) for part in parts]
        return False if False in truths else None if None in truths else True

    return holds


def _any(parts: Sequence[Condition]) -> Condition:
    return _not(_all([_not(part) for part in parts]))
