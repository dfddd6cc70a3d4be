"""The RE2 dialect of path patterns, parsed into a small tree.

Ingress rules written for cloudflared carry Go regular expressions (docs: configuration §3.1),
which are RE2: no look-around, no back-references, `\\d \\s \\w` in ASCII, `$` only at the very end.
Python's `re` reads the same text differently in places that matter for routing (`$` also matches
before a last newline, `\\d` takes any script's digits), so the dialect is parsed here.
Grammar: https://github.com/google/re2/wiki/Syntax, with Go's Perl flags.

A rule asks one question, "does it match anywhere?", so groups and laziness leave no trace in the
tree.
Not supported, and said so: script classes such as `\\p{Greek}` (general categories are).
"""

from __future__ import annotations

import sys
import unicodedata

from msgspec import Struct

__all__ = [
    "Alternatives",
    "Assertion",
    "Chars",
    "Node",
    "PatternError",
    "Repeat",
    "Sequence",
    "parse",
]

# Go's own bound on one counted repeat.
MAX_REPEAT = 1000
# Characters; a longer pattern is a mistake, and the tree is built recursively.
MAX_PATTERN = 4096
MAX_DEPTH = 100

Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """The pattern is not valid; the text says where and why."""


class Chars(Struct, frozen=True):
    """One character out of sorted, disjoint, inclusive code point ranges."""

    ranges: Ranges


class Assertion(Struct, frozen=True):
    """A place: `text_start`, `text_end`, `line_start`, `line_end`, `word` or `not_word`."""

    kind: str


class Sequence(Struct, frozen=True):
    items: tuple[Node, ...]


class Alternatives(Struct, frozen=True):
    items: tuple[Node, ...]


class Repeat(Struct, frozen=True):
    """`item` at least `low` times and at most `high` times (None: no bound)."""

    item: Node
    low: int
    high: int | None


Node = Chars | Assertion | Sequence | Alternatives | Repeat

_DIGIT: Ranges = ((0x30, 0x39),)
_SPACE: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_PERL = {"d": _DIGIT, "s": _SPACE, "w": _WORD}
_POSIX: dict[str, Ranges] = {
    "alnum": ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A)),
    "alpha": ((0x41, 0x5A), (0x61, 0x7A)),
    "ascii": ((0x00, 0x7F),),
    "blank": ((0x09, 0x09), (0x20, 0x20)),
    "cntrl": ((0x00, 0x1F), (0x7F, 0x7F)),
    "digit": _DIGIT,
    "graph": ((0x21, 0x7E),),
    "lower": ((0x61, 0x7A),),
    "print": ((0x20, 0x7E),),
    "punct": ((0x21, 0x2F), (0x3A, 0x40), (0x5B, 0x60), (0x7B, 0x7E)),
    "space": ((0x09, 0x0D), (0x20, 0x20)),
    "upper": ((0x41, 0x5A),),
    "word": _WORD,
    "xdigit": ((0x30, 0x39), (0x41, 0x46), (0x61, 0x66)),
}
_SIMPLE_ESCAPES = {"a": 7, "f": 12, "t": 9, "n": 10, "r": 13, "v": 11}
_PLACES = {"A": "text_start", "z": "text_end", "b": "word", "B": "not_word"}
_ALL: Ranges = ((0, sys.maxunicode),)
_NOT_NEWLINE: Ranges = ((0, 9), (11, sys.maxunicode))
# Letters with a third case form beyond str.upper and str.lower.
_MORE_CASES = {"k": "\u212a", "s": "\u017f", "å": "\u212b", "ω": "\u2126"}
# Code points; a wider range under (?i) folds its ASCII part only.
_MAX_FOLDED_RANGE = 1024


def parse(pattern: str) -> Node:
    """Parse `pattern`; raise PatternError when RE2 would refuse it."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"longer than {MAX_PATTERN} characters")
    parser = _Parser(pattern)
    node = parser.alternatives(0)
    if parser.at < len(pattern):
        raise PatternError(f"unexpected ')' at character {parser.at + 1}")
    return node


def _normal(ranges: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return tuple(merged)


def _inverse(ranges: Ranges) -> Ranges:
    gaps = []
    start = 0
    for low, high in ranges:
        if low > start:
            gaps.append((start, low - 1))
        start = high + 1
    if start <= sys.maxunicode:
        gaps.append((start, sys.maxunicode))
    return tuple(gaps)


def _folded(ranges: Ranges) -> Ranges:
    """Add the other cases of every character."""
    folded = list(ranges)
    for low, high in ranges:
        if high - low > _MAX_FOLDED_RANGE:
            high = min(high, 0x7F)
        for code in range(low, high + 1):
            char = chr(code)
            others = (char.lower(), char.upper(), _MORE_CASES.get(char.lower(), ""))
            folded.extend((ord(other), ord(other)) for other in others if len(other) == 1)
    return _normal(folded)


def _category(name: str) -> Ranges | None:
    """The ranges of a Unicode general category (`L`, `Lu`, `Any`); None when it is not one."""
    if name == "Any":
        return _ALL
    if len(name) not in (1, 2) or name[0] not in "CLMNPSZ":
        return None
    found = [
        (code, code)
        for code in range(sys.maxunicode + 1)
        if unicodedata.category(chr(code)).startswith(name)
    ]
    return _normal(found) if found else None


class _Parser:
    """Recursive descent over the pattern; `at` is the next character, `flags` those in force."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern
        self.at = 0
        self.flags: frozenset[str] = frozenset()

    def error(self, why: str) -> PatternError:
        return PatternError(f"{why} at character {min(self.at, len(self.pattern) - 1) + 1}")

    def peek(self, text: str) -> bool:
        return self.pattern.startswith(text, self.at)

    def alternatives(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise self.error(f"groups nested deeper than {MAX_DEPTH}")
        outer = self.flags
        branches = [self.sequence(depth)]
        while self.peek("|"):
            self.at += 1
            branches.append(self.sequence(depth))
        self.flags = outer
        return branches[0] if len(branches) == 1 else Alternatives(tuple(branches))

    def sequence(self, depth: int) -> Node:
        items: list[Node] = []
        repeated = False
        while self.at < len(self.pattern) and self.pattern[self.at] not in "|)":
            if self.peek("\\Q"):
                items.extend(self.quoted())
                repeated = False
                continue
            bounds = self.quantifier()
            if bounds is None:
                item = self.atom(depth)
                if item is not None:
                    items.append(item)
                    repeated = False
            elif repeated:
                raise self.error("a repetition operator after another one")
            elif not items:
                raise self.error("nothing to repeat")
            else:
                items[-1] = Repeat(items[-1], *bounds)
                repeated = True
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def quantifier(self) -> tuple[int, int | None] | None:
        char = self.pattern[self.at]
        if char in "*+?":
            self.at += 1
            bounds: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        elif char == "{":
            end = self.pattern.find("}", self.at)
            low, comma, high = self.pattern[self.at + 1 : end].partition(",")
            if end < 0 or not _is_number(low) or (high and not _is_number(high)):
                return None  # a brace that counts nothing is a literal one
            bounds = (int(low), (int(high) if high else None) if comma else int(low))
            if max(bounds[0], bounds[1] or 0) > MAX_REPEAT:
                raise self.error(f"a repeat count above {MAX_REPEAT}")
            if bounds[1] is not None and bounds[1] < bounds[0]:
                raise self.error("a repeat count that runs backwards")
            self.at = end + 1
        else:
            return None
        if self.peek("?"):
            self.at += 1
        return bounds

    def quoted(self) -> list[Node]:
        end = self.pattern.find("\\E", self.at)
        text = self.pattern[self.at + 2 : end if end >= 0 else None]
        self.at = end + 2 if end >= 0 else len(self.pattern)
        return [self.literal(ord(char)) for char in text]

    def literal(self, code: int) -> Chars:
        return self.chars(((code, code),))

    def chars(self, ranges: Ranges) -> Chars:
        return Chars(_folded(ranges) if "i" in self.flags else ranges)

    def atom(self, depth: int) -> Node | None:
        char = self.pattern[self.at]
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.bracket()
        if char == "\\":
            return self.escape()
        self.at += 1
        if char == ".":
            return Chars(_ALL if "s" in self.flags else _NOT_NEWLINE)
        if char == "^":
            return Assertion("line_start" if "m" in self.flags else "text_start")
        if char == "$":
            return Assertion("line_end" if "m" in self.flags else "text_end")
        return self.literal(ord(char))

    def group(self, depth: int) -> Node | None:
        """A group, or None for `(?flags)`, which only changes what follows it."""
        outer = self.flags
        self.at += 1
        if self.peek("?"):
            if self.peek("?=") or self.peek("?!") or self.peek("?<=") or self.peek("?<!"):
                raise self.error("look-around is not supported")
            if self.peek("?P<") or self.peek("?<"):
                end = self.pattern.find(">", self.at)
                name = self.pattern[self.pattern.index("<", self.at) + 1 : max(end, 0)]
                if not (name.isascii() and name.replace("_", "a").isalnum()):
                    raise self.error("a bad group name")
                self.at = end + 1
            elif not self.group_flags():
                return None
        node = self.alternatives(depth + 1)
        if not self.peek(")"):
            raise self.error("a group that is not closed")
        self.at += 1
        self.flags = outer
        return node

    def group_flags(self) -> bool:
        """Read `?flags:` (True: a group follows) or `?flags)` (False: it is over)."""
        self.at += 1
        flags = set(self.flags)
        on = True
        while self.at < len(self.pattern):
            char = self.pattern[self.at]
            if char in "imsU":
                (flags.add if on else flags.discard)(char)
            elif char == "-" and on:
                on = False
            elif char in ":)":
                self.at += 1
                self.flags = frozenset(flags)
                return char == ":"
            else:
                break
            self.at += 1
        raise self.error("an unknown kind of group")

    def escape(self) -> Node:
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter in _PLACES and letter:
            self.at += 2
            return Assertion(_PLACES[letter])
        known = self.class_escape()
        if known is not None:
            return self.chars(known)
        return self.literal(self.char_escape())

    def class_escape(self) -> Ranges | None:
        """`\\d`, `\\W`, `\\pL`, `\\P{Lu}`: ranges; None when something else is escaped."""
        letter = self.pattern[self.at + 1 : self.at + 2]
        if letter and letter in "dswDSW":
            self.at += 2
            ranges = _PERL[letter.lower()]
            return _inverse(ranges) if letter.isupper() else ranges
        if letter not in ("p", "P"):
            return None
        name = self.pattern[self.at + 2 : self.at + 3]
        length = 3
        if name == "{":
            end = self.pattern.find("}", self.at)
            name = self.pattern[self.at + 3 : max(end, 0)]
            length = end + 1 - self.at
        inverted = (letter == "P") != name.startswith("^")
        found = _category(name.removeprefix("^"))
        if found is None:
            raise self.error(f"\\{letter}{{{name}}}: only general categories are supported")
        self.at += length
        return _inverse(found) if inverted else found

    def char_escape(self) -> int:
        """The code point of an escaped character."""
        letter = self.pattern[self.at + 1 : self.at + 2]
        rest = self.pattern[self.at + 2 :]
        if not letter:
            raise self.error("a backslash with nothing after it")
        if letter in _SIMPLE_ESCAPES:
            self.at += 2
            return _SIMPLE_ESCAPES[letter]
        if letter == "x":
            digits = rest[1:].partition("}")[0] if rest.startswith("{") else rest[:2]
            closed = not rest.startswith("{") or "}" in rest
            is_hex = all(char in "0123456789abcdefABCDEF" for char in digits)
            if (
                closed
                and is_hex
                and (0 < len(digits) <= 8 if rest[:1] == "{" else len(digits) == 2)
            ):
                code = int(digits, 16)
                if code <= sys.maxunicode:
                    self.at += 2 + len(digits) + (2 if rest.startswith("{") else 0)
                    return code
            raise self.error("a bad \\x escape")
        if letter in "01234567":
            if letter != "0" and rest[:1] not in tuple("01234567"):
                raise self.error("back-references are not supported")
            digits = letter
            for char in rest[:2]:
                if char not in "01234567":
                    break
                digits += char
            self.at += 1 + len(digits)
            return int(digits, 8)
        if letter in "89":
            raise self.error("back-references are not supported")
        if ord(letter) < 0x80 and not letter.isalnum():
            self.at += 2
            return ord(letter)
        raise self.error(f"an unknown escape \\{letter}")

    def bracket(self) -> Chars:
        opened = self.error("a character class that is not closed")
        self.at += 1
        inverted = self.peek("^")
        self.at += inverted
        found: list[tuple[int, int]] = []
        first = True
        while first or not self.peek("]"):
            if self.at >= len(self.pattern):
                raise opened
            first = False
            named = self.named_class()
            if named is None and self.peek("\\"):
                named = self.class_escape()
            if named is not None:
                found.extend(named)
                continue
            low = high = self.bracket_char(opened)
            if self.peek("-") and not self.peek("-]"):
                self.at += 1
                high = self.bracket_char(opened)
                if high < low:
                    raise self.error("a range that runs backwards")
            found.append((low, high))
        self.at += 1
        ranges = self.chars(_normal(found)).ranges
        return Chars(_inverse(ranges) if inverted else ranges)

    def bracket_char(self, opened: PatternError) -> int:
        if self.at >= len(self.pattern):
            raise opened
        if self.peek("\\"):
            return self.char_escape()
        self.at += 1
        return ord(self.pattern[self.at - 1])

    def named_class(self) -> Ranges | None:
        """`[:alpha:]` or `[:^alpha:]` inside a bracket."""
        if not self.peek("[:"):
            return None
        end = self.pattern.find(":]", self.at + 2)
        if end < 0:
            return None
        name = self.pattern[self.at + 2 : end]
        ranges = _POSIX.get(name.removeprefix("^"))
        if ranges is None:
            raise self.error(f"an unknown class [:{name}:]")
        self.at = end + 2
        return _inverse(ranges) if name.startswith("^") else ranges


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and (text == "0" or text[0] != "0")
