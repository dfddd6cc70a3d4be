"""Command lines in the syntax of Go's `flag` package, rewritten for click (docs: command line §1).

`-x v`, `--x v`, `-x=v` and `--x=v` are the same; a boolean is `--x` or `--x=false` and never takes
the next word; short flags are not grouped. After rewriting, every known flag is `--x=v`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

__all__ = ["Flag", "GoFlagError", "normalize"]


class GoFlagError(ValueError):
    """The flags contradict each other."""


class Flag(Struct, frozen=True):
    """What the parser must know: the flag's own name, under which it is passed on, and its kind.

    A `bare` flag, such as help, takes no value at all.
    """

    name: str
    is_boolean: bool = False
    is_bare: bool = False


def normalize(
    arguments: Sequence[str], flags: Mapping[str, Flag], *, stop_at_word: bool
) -> list[str]:
    """Rewrite `arguments`. `flags` is keyed by every spelling, without dashes.

    With `stop_at_word` the first word that is no flag, a subcommand, ends the rewriting. Unknown
    flags are left for click to complain about. Raises GoFlagError when one flag is given under two
    of its names.
    """
    rewritten: list[str] = []
    spellings: dict[str, str] = {}
    words = iter(range(len(arguments)))
    for index in words:
        argument = arguments[index]
        if argument == "--":
            return [*rewritten, *arguments[index:]]
        if not argument.startswith("-") or argument == "-":
            if stop_at_word:
                return [*rewritten, *arguments[index:]]
            rewritten.append(argument)
            continue
        spelling, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        flag = flags.get(spelling)
        if flag is None or flag.is_bare:
            rewritten.append(f"--{flag.name if flag else spelling}{equals}{value}")
            continue
        if spellings.setdefault(flag.name, spelling) != spelling:
            raise GoFlagError(
                f"the same flag is given twice, as {_dashed(spellings[flag.name])} and as "
                f"{_dashed(spelling)}; keep one of them"
            )
        if not equals and flag.is_boolean:
            value = "true"
        elif not equals:
            following = next(words, None)
            if following is None:
                rewritten.append(f"--{flag.name}")  # click says that its value is missing
                continue
            value = arguments[following]
        rewritten.append(f"--{flag.name}={value}")
    return rewritten


def _dashed(spelling: str) -> str:
    return f"-{spelling}" if len(spelling) == 1 else f"--{spelling}"
