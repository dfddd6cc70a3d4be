"""Match the path patterns of ingress rules, in time linear in the path when it matters.

The pattern belongs to the operator, the path to whoever sends the request. Go's RE2 never takes
more than linear time; Python's `re` backtracks, and a harmless-looking `(a+)+$` can be driven to
take years. So a pattern is kept in two forms:

- as a Python pattern, used when its cost on this path has a small bound: no repeat holds a choice,
  and length to the power of its unbounded repeats is below STEPS;
- as a state machine that follows all possibilities at once (Thompson 1968, with the reached sets
  remembered), used otherwise.

Both give the same answer; a property test says so.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable

from underpass.connector.re2_syntax import (
    Alternatives,
    Assertion,
    Chars,
    Node,
    PatternError,
    Repeat,
    Sequence,
    parse,
)

__all__ = ["PathPattern", "PatternError"]

# Elementary steps the backtracking matcher may be asked for: a few hundred microseconds.
STEPS = 50_000
# States of the machine; counted repeats are written out, so `(\w{1000}){1000}` would be a million.
MAX_STATES = 10_000
# Remembered transitions and sets of one machine; when full it starts over.
MAX_REMEMBERED = 4096

_PYTHON_PLACES = {
    "text_start": r"\A",
    "text_end": r"(?!(?s:.))",
    "line_start": r"(?<![^\n])",
    "line_end": r"(?![^\n])",
    "word": r"(?a:\b)",
    "not_word": r"(?!(?a:\b))",
}


class PathPattern:
    """One compiled pattern. Raises PatternError for what RE2 refuses."""

    def __init__(self, text: str) -> None:
        self.text = text
        tree = parse(text)
        self._machine = _Machine(tree)
        self._search: Callable[[str], object] = re.compile(_python(tree)).search
        self._short = _longest_cheap(tree)

    def matches(self, path: str) -> bool:
        """Whether the pattern occurs anywhere in the decoded `path`."""
        if len(path) <= self._short:
            return self._search(path) is not None
        return self._machine.search(path)


def _longest_cheap(tree: Node) -> int:
    """The longest text, in characters, the backtracking matcher is trusted with; -1 for none."""
    if not _is_plain(tree):
        return -1
    power = _loops(tree) + (not _is_anchored(tree))
    return int(STEPS ** (1 / max(power, 1)))


def _is_anchored(node: Node) -> bool:
    """Whether the pattern can begin nowhere but at the start."""
    if isinstance(node, Sequence):
        return bool(node.items) and _is_anchored(node.items[0])
    return node == Assertion("text_start")


def _is_plain(node: Node) -> bool:
    """Whether nothing but single characters is repeated."""
    if isinstance(node, Repeat):
        return isinstance(node.item, Chars) or (node.high == 1 and _is_plain(node.item))
    if isinstance(node, (Sequence, Alternatives)):
        return all(_is_plain(item) for item in node.items)
    return True


def _loops(node: Node) -> int:
    """How many choices of length a backtracking matcher may have to combine."""
    if isinstance(node, Repeat):
        return (node.high != node.low) + _loops(node.item)
    if isinstance(node, (Sequence, Alternatives)):
        return sum(_loops(item) for item in node.items)
    return 0


def _python(node: Node) -> str:
    """The tree as a pattern for Python's `re`."""
    if isinstance(node, Chars):
        if len(node.ranges) == 1 and node.ranges[0][0] == node.ranges[0][1]:
            return f"\\U{node.ranges[0][0]:08x}"
        if not node.ranges:
            return "(?!)"
        return "[" + "".join(f"\\U{low:08x}-\\U{high:08x}" for low, high in node.ranges) + "]"
    if isinstance(node, Assertion):
        return _PYTHON_PLACES[node.kind]
    if isinstance(node, Sequence):
        return "".join(f"(?:{_python(item)})" for item in node.items)
    if isinstance(node, Alternatives):
        return "(?:" + "|".join(_python(item) for item in node.items) + ")"
    high = "" if node.high is None else node.high
    return f"(?:{_python(node.item)}){{{node.low},{high}}}"


# What stands on either side of a place: nothing, a newline, a word character, something else.
_NOTHING, _NEWLINE, _WORD, _OTHER = range(4)
_KINDS = {"\n": _NEWLINE, "_": _WORD}


def _kind(char: str) -> int:
    if char.isascii() and char.isalnum():
        return _WORD
    return _KINDS.get(char, _OTHER)


_HOLDS: dict[str, Callable[[int, int], bool]] = {
    "text_start": lambda before, _: before == _NOTHING,
    "text_end": lambda _, after: after == _NOTHING,
    "line_start": lambda before, _: before in (_NOTHING, _NEWLINE),
    "line_end": lambda _, after: after in (_NOTHING, _NEWLINE),
    "word": lambda before, after: (before == _WORD) != (after == _WORD),
    "not_word": lambda before, after: (before == _WORD) == (after == _WORD),
}


class _Reached:
    """Character states reached at one place, and where each next character leads."""

    __slots__ = ("following", "matched", "states")

    def __init__(self, states: tuple[int, ...], matched: bool) -> None:
        self.states = states
        self.matched = matched
        self.following: dict[str, frozenset[int]] = {}


class _Machine:
    """The tree as states. State 0 is the match; the others lead to one or two more."""

    def __init__(self, tree: Node) -> None:
        self._chars: list[tuple[list[int], list[int]] | None] = [None]
        self._places: list[Callable[[int, int], bool] | None] = [None]
        self._next: list[tuple[int, ...]] = [()]
        self._start = self._add(tree, 0)
        self._reached: dict[tuple[frozenset[int], int, int], _Reached] = {}
        self._remembered = 0

    def search(self, text: str) -> bool:
        states = frozenset((self._start,))
        before = _NOTHING
        for char in text:
            after = _kind(char)
            reached = self._close(states, before, after)
            if reached.matched:
                return True
            following = reached.following.get(char)
            states = self._step(reached, char) if following is None else following
            before = after
        return self._close(states, before, _NOTHING).matched

    def _close(self, states: frozenset[int], before: int, after: int) -> _Reached:
        """Follow everything that consumes no character."""
        key = (states, before, after)
        known = self._reached.get(key)
        if known is not None:
            return known
        seen = set(states)
        waiting = list(states)
        waits = []
        while waiting:
            state = waiting.pop()
            if self._chars[state] is not None:
                waits.append(state)
                continue
            place = self._places[state]
            if place is None or place(before, after):
                for target in self._next[state]:
                    if target not in seen:
                        seen.add(target)
                        waiting.append(target)
        reached = _Reached(tuple(waits), 0 in seen)
        self._remember()
        self._reached[key] = reached
        return reached

    def _step(self, reached: _Reached, char: str) -> frozenset[int]:
        code = ord(char)
        targets = {self._start}  # the pattern may begin anywhere
        for state in reached.states:
            chars = self._chars[state]
            if chars is not None:
                index = bisect_right(chars[0], code) - 1
                if index >= 0 and code <= chars[1][index]:
                    targets.add(self._next[state][0])
        self._remember()
        following = frozenset(targets)
        reached.following[char] = following
        return following

    def _remember(self) -> None:
        self._remembered += 1
        if self._remembered > MAX_REMEMBERED:
            self._reached.clear()
            self._remembered = 0

    def _state(
        self,
        following: tuple[int, ...],
        chars: tuple[list[int], list[int]] | None = None,
        place: Callable[[int, int], bool] | None = None,
    ) -> int:
        if len(self._next) >= MAX_STATES:
            raise PatternError("too large once its repeats are counted out")
        self._chars.append(chars)
        self._places.append(place)
        self._next.append(following)
        return len(self._next) - 1

    def _add(self, node: Node, then: int) -> int:
        """Add the states of `node`, which lead to `then`; return where to enter."""
        if isinstance(node, Chars):
            lows, highs = [low for low, _ in node.ranges], [high for _, high in node.ranges]
            return self._state((then,), chars=(lows, highs))
        if isinstance(node, Assertion):
            return self._state((then,), place=_HOLDS[node.kind])
        if isinstance(node, Sequence):
            for item in reversed(node.items):
                then = self._add(item, then)
            return then
        if isinstance(node, Alternatives):
            return self._state(tuple(self._add(item, then) for item in node.items))
        if node.high is None:
            loop = self._state(())
            self._next[loop] = (self._add(node.item, loop), then)
            then = loop
        else:
            end = then
            for _ in range(node.high - node.low):
                then = self._state((self._add(node.item, then), end))
        for _ in range(node.low):
            then = self._add(node.item, then)
        return then
