"""Command lines in Go's flag syntax become ones click reads."""

from __future__ import annotations

import pytest

from underpass.cli.go_flags import Flag, GoFlagError, normalize

FLAGS = {
    "url": Flag("url"),
    "credentials-file": Flag("credentials-file"),
    "cred-file": Flag("credentials-file"),
    "p": Flag("protocol"),
    "protocol": Flag("protocol"),
    "edge": Flag("edge"),
    "hello-world": Flag("hello-world", is_boolean=True),
    "help": Flag("help", is_bare=True),
    "h": Flag("help", is_bare=True),
}


@pytest.mark.parametrize(
    ("given", "rewritten"),
    [
        ("-url x", "--url=x"),
        ("--url x", "--url=x"),
        ("-url=x", "--url=x"),
        ("--url=x", "--url=x"),
        ("--url=", "--url="),
        ("--url a=b", "--url=a=b"),
        ("--url -x", "--url=-x"),
        ("--url --", "--url=--"),
        ("-p http2", "--protocol=http2"),
        ("--cred-file x", "--credentials-file=x"),
        ("--hello-world", "--hello-world=true"),
        ("-hello-world=false", "--hello-world=false"),
        ("--hello-world false", "--hello-world=true false"),
        ("--edge a:1 --edge b:2", "--edge=a:1 --edge=b:2"),
        ("-h", "--help"),
        ("-help", "--help"),
        ("--url", "--url"),
        ("--bogus x", "--bogus x"),
        ("-bogus=x", "--bogus=x"),
        ("name -url x", "name --url=x"),
        ("-- -url x", "-- -url x"),
        ("-", "-"),
        ("", ""),
    ],
)
def test_rewriting(given: str, rewritten: str) -> None:
    assert normalize(given.split(), FLAGS, stop_at_word=False) == rewritten.split()


def test_a_groups_flags_end_at_the_subcommand() -> None:
    given = ["-url", "x", "run", "-url", "y"]
    assert normalize(given, FLAGS, stop_at_word=True) == ["--url=x", "run", "-url", "y"]


def test_one_flag_under_two_names_is_an_error() -> None:
    with pytest.raises(GoFlagError, match="as -p and as --protocol"):
        normalize(["-p", "http2", "--protocol=quic"], FLAGS, stop_at_word=False)
    assert normalize(["-p", "a", "-p", "b"], FLAGS, stop_at_word=False) == [
        "--protocol=a",
        "--protocol=b",
    ]
