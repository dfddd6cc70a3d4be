"""Every cause of a failed request is known, and every known one has a place in the code."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from underpass.cli.main import underpass
from underpass.wire.causes import CAUSES, Hop, Speaker, cause_in, hop_of, in_words

ROOT = Path(__file__).resolve().parents[2]

GIVEN_BY = re.compile(
    r"\b(?:fail|failed|dial_failed|fail_waiting|fail_longest_waiting|outbound_lost"
    r"|broken_response|OriginDialError)\(|(?:\b|_)cause(?:: str)? = "
)
"""What a cause is handed to, or kept in."""

WORD = re.compile(r'(?<![\w"])"([a-z][a-z0-9_]*)"')

SPEAKERS = ("ext/underpass/core", "src/underpass/connector", "src/underpass/edge")


def arguments(text: str, at: int) -> str:
    """From `at`, just behind an opening bracket, up to the one that closes it."""
    depth = 1
    for end in range(at, len(text)):
        depth += (text[end] in "([") - (text[end] in ")]")
        if not depth:
            return text[at:end]
    raise AssertionError("a bracket is never closed")


def causes_in(text: str) -> Iterator[str]:
    for found in GIVEN_BY.finditer(text):
        if found.group().endswith("("):
            yield from WORD.findall(arguments(text, found.end()))
        else:
            yield from WORD.findall(text[found.end() : text.index("\n", found.end())])


def used() -> dict[str, list[str]]:
    """{cause: files that give it}"""
    places: dict[str, list[str]] = {}
    for folder in SPEAKERS:
        for path in sorted((ROOT / folder).rglob("*.py*")):
            if path.suffix in (".py", ".pyx"):
                for word in causes_in(path.read_text(encoding="utf-8")):
                    places.setdefault(word, []).append(str(path.relative_to(ROOT)))
    return places


def test_what_is_read_out_of_the_code_are_the_causes() -> None:
    text = """
        exchange.fail(502, "link_full" if links else "no_link")
        exchange.context = f"no {error}"; exchange.fail(
            502, "dial")
        self.failed("broken_off")
        failed(502, "dns", f"cannot resolve {service}: {error}")
        cause = "other"
    """
    assert [*causes_in(text)] == ["link_full", "no_link", "dial", "broken_off", "dns", "other"]


def test_every_cause_in_the_code_is_registered() -> None:
    unknown = {word: places for word, places in used().items() if word not in CAUSES}
    assert not unknown, "add a line for each to src/underpass/wire/causes.py"


def test_no_cause_is_registered_that_nothing_gives() -> None:
    assert not CAUSES.keys() - used().keys()


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES)
def test_a_cause_says_what_it_means_and_what_to_do(cause: object) -> None:
    from underpass.wire.causes import Cause

    assert isinstance(cause, Cause)
    assert re.fullmatch("[a-z][a-z0-9_]{0,39}", cause.word)
    assert cause.meaning.endswith(".")
    assert cause.advice.endswith((".", ")"))
    assert cause.status == 0 or 400 <= cause.status <= 599
    assert "|" not in cause.meaning + cause.advice  # they are shown in tables


def test_a_sentence_may_end_with_what_a_cause_means() -> None:
    assert in_words("dial") == "the connector could not connect to the origin"
    assert in_words("of_tomorrow") == "of_tomorrow"


def test_words_are_unique() -> None:
    from underpass.wire import causes

    assert len(causes._ALL) == len(CAUSES)


class TestHops:
    def test_the_same_trouble_is_with_whoever_the_speaker_sent_the_request_to(self) -> None:
        assert hop_of("protocol_error", Speaker.CONNECTOR) is Hop.ORIGIN
        assert hop_of("protocol_error", Speaker.EDGE) is Hop.CONNECTOR

    def test_most_causes_say_it_whoever_speaks(self) -> None:
        for speaker in Speaker:
            assert hop_of("dial", speaker) is Hop.ORIGIN
            assert hop_of("no_link", speaker) is Hop.LINK

    def test_a_word_of_a_newer_connector_is_the_connectors(self) -> None:
        assert hop_of("never_heard_of", Speaker.CONNECTOR) is Hop.CONNECTOR


@pytest.mark.parametrize(
    "text",
    [
        "dial_timeout",
        " DIAL_TIMEOUT\n",
        "underpass-cause: dial_timeout",
        "Underpass-Cause: dial_timeout\r\nUnderpass-Hop: origin",
        "cf-cloudflared-cause: dial_timeout",
        '2026-01-02T03:04:05Z ERR Unable to reach the origin service error="no" '
        "cause=dial_timeout connIndex=0",
        '{"level":"error","message":"x","cause":"dial_timeout","hop":"origin"}',
        'underpass_request_failures_total{cause="dial_timeout",hop="origin"} 3',
        '{"type": "urn:x", "status": 502, "cause": "dial_timeout"}',
    ],
)
def test_a_cause_is_found_in_what_an_operator_pastes(text: str) -> None:
    assert cause_in(text) == "dial_timeout"


@pytest.mark.parametrize("text", ["", "everything is fine", "because: of nothing"])
def test_what_names_no_cause(text: str) -> None:
    assert cause_in(text) is None


class TestExplain:
    def run(self, *arguments: str, text: str | None = None) -> Result:
        return CliRunner().invoke(underpass, ["explain", *arguments], input=text)

    def test_one(self) -> None:
        said = self.run("tls")
        assert said.exit_code == 0
        assert said.output.splitlines()[0] == "tls"
        assert CAUSES["tls"].meaning in said.output
        assert CAUSES["tls"].advice in said.output
        assert "Where:    origin" in said.output

    def test_a_pasted_line_in_words_or_in_quotes(self) -> None:
        expected = self.run("tls").output
        assert self.run("underpass-cause:", "tls").output == expected
        assert self.run("ERR no answer cause=tls hop=origin").output == expected

    def test_standard_input(self) -> None:
        assert self.run("-", text='{"cause":"tls"}\n').output == self.run("tls").output

    def test_all(self) -> None:
        lines = self.run().output.splitlines()
        assert [line.split()[0] for line in lines] == [*CAUSES]

    def test_json(self) -> None:
        one = json.loads(self.run("--output", "json", "protocol_error").output)
        assert one["cause"] == "protocol_error"
        assert (one["hop"], one["hopSaidByEdge"]) == ("origin", "connector")
        assert one["status"] == 502
        every = json.loads(self.run("--output=json").output)
        assert one in every
        assert [each["cause"] for each in every] == [*CAUSES]

    def test_a_cause_without_a_status(self) -> None:
        assert json.loads(self.run("reset_by_client", "-o", "json").output)["status"] is None
        assert "Status:   none" in self.run("reset_by_client").output

    def test_an_unknown_one_gets_a_hint(self) -> None:
        said = self.run("dial_timout")
        assert said.exit_code == 2
        assert "did you mean dial_timeout?" in said.output
        assert "lists all" in self.run("qqqq").output
