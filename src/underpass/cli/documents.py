"""JSON and YAML documents exactly as cloudflared writes them, so that scripts keep working.

JSON is Go's `encoding/json` with an indent of two: `<`, `>` and `&` are escaped. YAML is that of
`yaml.v3`: four spaces, lists indented, and text quoted where it could be taken for something else.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import yaml
from yaml.emitter import Emitter
from yaml.representer import SafeRepresenter
from yaml.resolver import BaseResolver
from yaml.serializer import Serializer

from underpass.account.moment import Moment

__all__ = ["to_json", "to_yaml"]

_ESCAPED: Final = str.maketrans(
    {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
)

# Text that a YAML reader would take for something else when it is not quoted: Go's resolver, what
# older versions of YAML had, and the two words of theirs that cloudflared does not quote.
_NOT_TEXT: Final = re.compile(
    r"""
      ~ | null | Null | NULL | = | <<
    | true | True | TRUE | false | False | FALSE
    | [yYnN] | yes | Yes | YES | no | No | NO | on | On | ON | off | Off | OFF
    | [-+]? \. (?: inf | Inf | INF ) | \. (?: nan | NaN | NAN )
    | [-+]? (?: 0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO]?[0-7_]+ | [1-9][0-9_]* | 0 )
    | [-+]? (?: \.[0-9_]+ | [0-9][0-9_]* (?: \.[0-9_]* )? ) (?: [eE][-+]?[0-9_]+ )?
    | [-+]? [0-9][0-9_]* (?: :[0-5]?[0-9] )+ (?: \.[0-9_]* )?
    | [0-9]{4}-[0-9]{1,2}-[0-9]{1,2}
      (?: [Tt\ ] [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2} (?: \.[0-9]+ )? (?: Z | [-+][0-9:]+ )? )?
    """,
    re.VERBOSE,
)
# What is written as an escape: cloudflared does so beyond 16 bits, and the others break lines.
_ESCAPED_IN_YAML: Final = re.compile("[\U00010000-\U0010ffff\x85\u2028\u2029]")


def to_json(document: Any) -> str:
    """The document with a line break at its end."""
    # These characters stand nowhere in JSON but in strings.
    return json.dumps(document, indent=2, ensure_ascii=False).translate(_ESCAPED) + "\n"


def to_yaml(document: Any) -> str:
    """The document with a line break at its end."""
    return yaml.dump(
        document, Dumper=_Dumper, indent=4, width=2**31, allow_unicode=True, sort_keys=False
    )


class _Dumper(Emitter, Serializer, SafeRepresenter, BaseResolver):
    """PyYAML's own parts, without a resolver: what to quote is decided here."""

    def __init__(self, stream: Any, **options: Any) -> None:
        Emitter.__init__(
            self,
            stream,
            indent=options["indent"],
            width=options["width"],
            allow_unicode=options["allow_unicode"],
        )
        Serializer.__init__(self)
        SafeRepresenter.__init__(self, default_flow_style=False, sort_keys=options["sort_keys"])
        BaseResolver.__init__(self)

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Inside a list an item's content begins after its dash; all else at a multiple of 4."""
        self.indents.append(self.indent)
        if self.indent is None:
            self.indent = 0
        elif self.states[-1] == self.expect_block_sequence_item:
            self.indent += 2
        else:
            self.indent = self.best_indent * (self.indent // self.best_indent + 1)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None
    if not text or _NOT_TEXT.fullmatch(text) or _ESCAPED_IN_YAML.search(text):
        style = '"'
    elif "\n" in text:
        # PyYAML gets the indentation wrong when there is white space at the beginning.
        style = '"' if text[0].isspace() else "|"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_moment(dumper: _Dumper, moment: Moment) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(moment))


def _represent_word(dumper: _Dumper, value: bool | int) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", str(value).lower())


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(Moment, _represent_moment)
_Dumper.add_representer(bool, _represent_word)
_Dumper.add_representer(int, _represent_word)
_Dumper.add_representer(
    type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:str", "null")
)
