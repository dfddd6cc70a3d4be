"""`tunnel ingress validate` and `tunnel ingress rule` beside a stock cloudflared, over generated
configurations: the same files are good, and the same rule answers.

Runs when UNDERPASS_CLOUDFLARED names a binary. Where we differ on purpose is at the end.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner

from underpass.cli.main import underpass

pytestmark = pytest.mark.interop

CONFIGURATIONS: Final = 160
URLS: Final = 3

HOSTNAMES: Final = (
    *("", "*", "a.example.com", "b.example.com", "*.example.com", "*.a.example.com", "example.com"),
    *("bücher.example", "*abc", "xn--bcher-kva.example", "::1", "10.0.0.1"),
)
BAD_HOSTNAMES: Final = ("a.example.com:80", "a.*.com", "*.*.com", "a*", "[::1]:80")
PATHS: Final = (
    *("", "^/a", "b$", "^/a b$", r"\.(png|jpe?g)$", "/a/b", "(?i)^/ADMIN", r"\d{2,3}", "^/é", "^$"),
    *("^/(a|b)/", "[^/]+x", r"\bfoo\b", "^/$", ".", r"\p{Lu}", "(?s)^/.*z$", r"^/a\z"),
)
BAD_PATHS: Final = ("(", "(?=x)", "*", "[", "a{2,1}", r"(a)\1", "(?<=x)y", "\\", "a**", "x{1001}")
SERVICES: Final = (
    *("http://localhost:8000", "https://localhost", "http://h?q=1", "ws://h"),
    *("wss://h:1", "http://[::1]:80", "https://[::1]", "unix:/run/a.sock", "unix+tls:a.sock"),
    *("tcp://h", "tcp://h:1", "ssh://h", "rdp://h:3390", "smb://h", "foo://bar", "ftp://h:21"),
    *("http_status:404", "http_status:100", "http_status:999", "hello_world", "hello-world"),
    *("bastion", "socks-proxy", "unix:", "HTTP://h"),
)
BAD_SERVICES: Final = (
    *("", "localhost", "localhost:8000", "http://", "http://h/", "http://h/x", "tcp://h/x"),
    *("http_status:99", "http_status:1000", "http_status:x", "http_status:", "http_status:4 4"),
    *("://h", "http://h:port", "/run/a.sock"),
)
SETTINGS: Final[tuple[Any, ...]] = (
    {"connectTimeout": "5s", "noTLSVerify": True},
    {"keepAliveConnections": 0, "keepAliveTimeout": "1m30s", "http2Origin": True},
    {"proxyType": "socks", "proxyPort": 80, "bastionMode": False},
    {"bastionMode": True},
    {"ipRules": [{"prefix": "10.0.0.0/8", "ports": [80, 443], "allow": True}]},
    {"access": {"required": True, "teamName": "team", "audTag": ["tag"]}},
    {"tcpKeepAlive": "-1s", "caPool": "/nonexistent.pem"},
    {},
    None,
)
BAD_SETTINGS: Final[tuple[Any, ...]] = (
    {"connectTimeout": 5},
    {"connectTimeout": "soon"},
    {"noTLSVerify": "yes, please"},
    {"keepAliveConnections": "many"},
    {"access": {"required": True, "audTag": ["tag"]}},
    "none",
)
HOSTS: Final = (
    *("a.example.com", "b.example.com", "x.a.example.com", "example.com", "nobody.test", "*abc"),
    *("a.example.com:8443", "xn--bcher-kva.example", "www.xn--bcher-kva.example", "10.0.0.1"),
)
TARGETS: Final = (
    *("", "/", "/a", "/a/b", "/a%20b", "/x.png", "/x.jpg?q=.png", "/admin", "/AdMin/x", "/12345"),
    *("/%C3%A9", "/b/x", "/foo-bar", "/αβ", "/x/z", "/%41/b", "//a", "/a?/../b", "/a;b", "/a+b"),
)


@pytest.fixture(scope="module")
def binary() -> str:
    path = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not path:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    return path


def configuration(chance: random.Random) -> dict[str, Any]:
    """Rules, of which some are wrong: about half of the configurations are good."""

    def pick(good: tuple[Any, ...], bad: tuple[Any, ...]) -> Any:
        return chance.choice(bad if chance.random() < 0.03 else good)

    def rule(is_last: bool) -> dict[str, Any]:
        hostname = pick(HOSTNAMES[2:], BAD_HOSTNAMES)
        path = pick(PATHS, BAD_PATHS) if chance.random() < 0.6 else ""
        if is_last and chance.random() < 0.95:
            hostname, path = chance.choice(("", "*")), ""
        elif chance.random() < 0.1:
            hostname = chance.choice(("", "*"))
        found = {"hostname": hostname, "path": path, "service": pick(SERVICES, BAD_SERVICES)}
        if chance.random() < 0.2:
            found["originRequest"] = pick(SETTINGS, BAD_SETTINGS)
        return {key: value for key, value in found.items() if value != "" or chance.random() < 0.1}

    count = chance.randint(1, 6)
    config: dict[str, Any] = {"ingress": [rule(number == count) for number in range(1, count + 1)]}
    if chance.random() < 0.2:
        config["originRequest"] = pick(SETTINGS, BAD_SETTINGS)
    if chance.random() < 0.1:
        config["warp-routing"] = chance.choice(
            ({"connectTimeout": "3s"}, {"maxActiveFlows": 5}, {"connectTimeout": 3}, {})
        )
    return config


def ours(*arguments: str) -> tuple[int, str]:
    """Exit code, and standard output if it was 0."""
    result = CliRunner().invoke(underpass, arguments)
    return result.exit_code, result.stdout if result.exit_code == 0 else ""


def theirs(binary: str, *arguments: str) -> tuple[int, str]:
    done = subprocess.run([binary, *arguments], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout if done.returncode == 0 else ""


def write(directory: Path, number: int, config: Any) -> str:
    # JSON is YAML.
    path = directory / f"{number}.yml"
    path.write_text(json.dumps(config), "utf-8")
    return str(path)


def test_the_same_files_are_good_and_the_same_rules_answer(binary: str, tmp_path: Path) -> None:
    chance = random.Random(20260802)
    files = [write(tmp_path, number, configuration(chance)) for number in range(CONFIGURATIONS)]
    with ThreadPoolExecutor(4) as pool:

        def each(asked: list[tuple[str, ...]]) -> list[tuple[int, str]]:
            return list(pool.map(lambda words: theirs(binary, *words), asked))

        asked = [("tunnel", "--config", file, "ingress", "validate") for file in files]
        judged = {
            words[2]: (ours(*words), there) for words, there in zip(asked, each(asked), strict=True)
        }
        wrong = {
            Path(file).read_text("utf-8"): pair
            for file, pair in judged.items()
            if pair[0] != pair[1]
        }
        assert not wrong, f"{len(wrong)} of {len(files)}: {json.dumps(wrong, indent=1)}"
        good = [file for file, (here, _) in judged.items() if here[0] == 0]
        assert CONFIGURATIONS / 4 < len(good) < CONFIGURATIONS * 3 / 4

        asked = [
            (
                *("tunnel", "--config", file, "ingress", "rule"),
                f"https://{chance.choice(HOSTS)}{chance.choice(TARGETS)}",
            )
            for file in good
            for _ in range(URLS)
        ]
        differing = [
            (Path(words[2]).read_text("utf-8"), words[-1], here, there)
            for words, there in zip(asked, each(asked), strict=True)
            if (here := ours(*words)) != there
        ]
        assert not differing, f"{len(differing)} of {len(asked)}: {json.dumps(differing, indent=1)}"


FIRST, SECOND, REFUSED = "Matched rule #0", "Matched rule #1", ""


@pytest.mark.parametrize(
    ("rule", "url", "here", "there"),
    [
        ({"hostname": "a.example.com"}, "https://A.example.COM/", FIRST, SECOND),
        ({"hostname": "a.example.com"}, "https://a.example.com./", FIRST, SECOND),
        ({"hostname": "*.bücher.example"}, "https://a.xn--bcher-kva.example/", FIRST, SECOND),
        ({"path": "^/static/"}, "https://a/static/../admin", REFUSED, FIRST),
        ({"path": "^/admin"}, "https://a/static/../admin", REFUSED, SECOND),
        ({"path": "^/admin/"}, "https://a/admin%2fx", REFUSED, FIRST),
        ({"path": "^/admin"}, "https://a/%2561dmin", REFUSED, SECOND),
    ],
)
def test_where_rules_are_chosen_otherwise_on_purpose(
    binary: str, tmp_path: Path, rule: dict[str, str], url: str, here: str, there: str
) -> None:
    rules = [rule | {"service": "http://h"}, {"service": "http_status:404"}]
    words = ("tunnel", "--config", write(tmp_path, 0, {"ingress": rules}), "ingress", "rule", url)
    for (code, output), expected in ((ours(*words), here), (theirs(binary, *words), there)):
        assert code == (0 if expected else 1)
        assert expected in output


@pytest.mark.parametrize(
    "config",
    [
        {"ingress": [{"service": "http_status:404", "servise": "x"}]},
        {"ingress": [{"service": "http_status:404"}], "loglvl": "info"},
        {"ingress": [{"service": "http_status:404"}], "originRequest": {"noTlsVerify": True}},
        {"ingress": [{"service": "http_status:404"}], "originRequest": {"proxyPort": 65536}},
        {"ingress": [{"path": r"\p{Greek}", "service": "http://h"}, {"service": "http://h"}]},
    ],
    ids=lambda config: json.dumps(config),
)
def test_what_is_refused_here_only(binary: str, tmp_path: Path, config: Any) -> None:
    words = ("tunnel", "--config", write(tmp_path, 0, config), "ingress", "validate")
    assert ours(*words)[0] == 1
    assert theirs(binary, *words)[0] == 0


# Two flags of each kind that a file can give, and what may stand there.
FLAGS: Final = (
    *("pidfile", "edge-bind-address", "retries", "ha-connections", "no-autoupdate"),
    *("no-tls-verify", "grace-period", "rpc-timeout", "edge", "tag"),
)
VALUES: Final[tuple[Any, ...]] = (
    *("", "x", "4", "5s", "true", "0s", 0, 4, -1, 1.5, True, False, None),
    *([], ["a"], [1], {}, {"a": 1}),
)


def test_the_same_types_of_flag_keys_are_refused(binary: str, tmp_path: Path) -> None:
    """By what `ingress validate` says of the file."""
    rules = [{"service": "http_status:404"}]
    asked = {
        (flag, json.dumps(value)): (
            *("tunnel", "--config"),
            write(tmp_path, number, {flag: value, "ingress": rules}),
            *("ingress", "validate"),
        )
        for number, (flag, value) in enumerate((f, v) for f in FLAGS for v in VALUES)
    }
    with ThreadPoolExecutor(4) as pool:
        there = dict(
            zip(asked, pool.map(lambda w: theirs(binary, *w)[0], asked.values()), strict=True)
        )
    here = {each: ours(*words)[0] for each, words in asked.items()}
    differing = {each for each in asked if here[each] != there[each]}
    # A key without a value counts as not given here.
    assert differing == {(flag, "null") for flag in FLAGS}
    assert not any(here[each] for each in differing)
    assert set(here.values()) == {0, 1}
