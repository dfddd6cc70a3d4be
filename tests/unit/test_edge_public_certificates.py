"""Certificates of other authorities: which are wanted, when they are due, what files may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import trustme

from underpass.edge import certificate_files
from underpass.edge.certificate_files import LOOK_SECONDS, MAX_FILE, CertificateFiles
from underpass.edge.certificate_keeper import (
    FIRST_RETRY,
    LONGEST_RETRY,
    CertificateKeeper,
    is_public,
)
from underpass.edge.challenges import MAX_PROOF, PREFIX, Challenges
from underpass.edge.errors import CertificateError

NAME = "app.public-site.dev"
AUTHORITY = trustme.CA()


def pem(*names: str, valid: timedelta = timedelta(days=90)) -> bytes:
    now = datetime.now(timezone.utc)
    leaf = AUTHORITY.issue_cert(*names, not_before=now, not_after=now + valid)
    return leaf.private_key_and_cert_chain_pem.bytes()


class Bench:
    """A keeper whose authority and clocks are the test's."""

    def __init__(self, directory: Path, given: list[tuple[Path, Path]] | None = None) -> None:
        self.now = datetime.now(timezone.utc)
        self.seconds = 0.0
        self.wanted = [NAME]
        self.asked: list[str] = []
        self.answer: Callable[[str], bytes] = pem
        self.files = CertificateFiles(given or [], directory, clock=lambda: self.seconds)
        self.keeper = self.new_keeper()

    def new_keeper(self, *, wildcards: bool = False) -> CertificateKeeper:
        return CertificateKeeper(
            self,
            self.files,
            lambda: self.wanted,
            wildcards=wildcards,
            clock=lambda: self.now,
            uniform=lambda low, high: (low + high) / 2,
        )

    def obtain(self, name: str) -> bytes:
        self.asked.append(name)
        return self.answer(name)

    def pass_time(self, time: timedelta) -> None:
        self.now += time
        self.seconds += time.total_seconds()

    def work(self) -> None:
        """What the keeper would do until nothing is due, and a moment."""
        while (name := self.keeper.next_due()) is not None:
            asyncio.run(self.keeper.obtain(name))
        self.pass_time(timedelta(seconds=LOOK_SECONDS))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def refuse(_: str) -> bytes:
    raise CertificateError("no")


class TestKeeper:
    def test_what_is_there_is_not_asked_for(self, bench: Bench) -> None:
        bench.work()
        bench.pass_time(timedelta(days=1))
        bench.work()
        assert bench.asked == [NAME]
        assert bench.files.find(NAME) is not None

    def test_with_a_third_of_its_life_left_it_is_renewed(self, bench: Bench) -> None:
        bench.work()
        leaf = bench.files.obtained(NAME)
        assert leaf is not None
        bench.pass_time(leaf.renew_after - bench.now - timedelta(minutes=1))
        bench.work()
        assert len(bench.asked) == 1
        bench.pass_time(timedelta(minutes=2))
        bench.answer = lambda name: pem(name, valid=timedelta(days=180))
        bench.work()
        assert len(bench.asked) == 2
        bench.pass_time(timedelta(seconds=LOOK_SECONDS))
        renewed = bench.files.find(NAME)
        assert renewed is not None
        assert renewed.not_after > leaf.not_after

    def test_failures_are_followed_by_longer_and_longer_waits(
        self, bench: Bench, caplog: pytest.LogCaptureFixture
    ) -> None:
        bench.answer = refuse
        waits = []
        for _ in range(12):
            before = bench.now
            bench.work()
            while bench.keeper.next_due() is None:
                bench.pass_time(timedelta(minutes=1))
            waits.append(bench.now - before)
        minute = timedelta(minutes=1)
        assert FIRST_RETRY <= waits[0] < FIRST_RETRY + minute
        assert 2 * FIRST_RETRY <= waits[1] < 2 * FIRST_RETRY + minute
        assert LONGEST_RETRY <= max(waits) == waits[-1] < LONGEST_RETRY + minute
        assert caplog.records[-1].error == "no"  # type: ignore[attr-defined]

    def test_a_failure_holds_up_no_other_name(self, bench: Bench) -> None:
        bench.wanted = ["bad.public-site.dev", NAME]
        bench.answer = lambda name: refuse(name) if name.startswith("bad") else pem(name)
        bench.work()
        assert bench.asked == ["bad.public-site.dev", NAME]

    def test_a_failure_is_forgotten_with_the_route(self, bench: Bench) -> None:
        bench.answer = refuse
        bench.work()
        bench.wanted = []
        bench.work()
        bench.wanted = [NAME]
        bench.work()
        assert len(bench.asked) == 2

    def test_what_cannot_be_found_again_is_not_asked_for_without_end(self, bench: Bench) -> None:
        bench.answer = lambda name: b"nonsense"
        bench.work()
        bench.pass_time(FIRST_RETRY / 2)
        bench.work()
        assert len(bench.asked) == 1

    def test_what_the_operator_gave_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "given.pem"
        path.write_bytes(pem("*.public-site.dev"))
        bench = Bench(tmp_path, [(path, path)])
        bench.work()
        assert bench.asked == []

    def test_wildcards_need_another_proof(self, bench: Bench) -> None:
        bench.wanted = ["*.public-site.dev"]
        bench.work()
        assert bench.asked == []
        bench.keeper = bench.new_keeper(wildcards=True)
        bench.work()
        assert bench.asked == ["*.public-site.dev"]
        assert bench.files.find("any.public-site.dev") is not None

    @pytest.mark.parametrize(
        ("name", "public"),
        [
            (NAME, True),
            ("*.public-site.dev", True),
            ("localhost", False),
            ("app.localhost", False),
            ("app.example", False),
            ("host.internal", False),
            ("127.0.0.1", False),
            ("dev", False),
        ],
    )
    def test_names_that_an_authority_could_vouch_for(self, name: str, public: bool) -> None:
        assert is_public(name) is public


class TestFiles:
    def test_an_exact_name_goes_before_a_wildcard(self, tmp_path: Path) -> None:
        files = CertificateFiles([], tmp_path)
        files.path_for(NAME).write_bytes(pem(NAME))
        files.path_for("*.public-site.dev").write_bytes(pem("*.public-site.dev"))
        assert files.find(NAME) is files.obtained(NAME)
        assert files.find("x.public-site.dev") is files.obtained("*.public-site.dev")
        assert files.find("x.y.public-site.dev") is None

    def test_a_pair_that_is_none_is_refused(self, tmp_path: Path) -> None:
        one, two = tmp_path / "one.pem", tmp_path / "two.pem"
        one.write_bytes(pem(NAME))
        two.write_bytes(pem(NAME))
        with pytest.raises(CertificateError, match="does not hold the key"):
            CertificateFiles([(one, two)], tmp_path)

    @pytest.mark.parametrize(
        ("content", "why"),
        [
            (b"", "are not a PEM"),
            (b"-----BEGIN PRIVATE KEY-----", "are not a PEM"),
            (AUTHORITY.cert_pem.bytes(), "are not a PEM"),
            (b" " * (MAX_FILE + 1), "larger than"),
        ],
    )
    def test_what_is_no_certificate(self, tmp_path: Path, content: bytes, why: str) -> None:
        path = tmp_path / "given.pem"
        path.write_bytes(content)
        with pytest.raises(CertificateError, match=why):
            CertificateFiles([(path, path)], tmp_path)

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(CertificateError, match=r"there is no certificate file .*none\.pem"):
            CertificateFiles([(tmp_path / "none.pem", tmp_path / "none.pem")], tmp_path)

    def test_the_key_is_not_among_the_certificates(self, tmp_path: Path) -> None:
        path = tmp_path / "given.pem"
        path.write_bytes(pem(NAME))
        leaf = CertificateFiles([(path, path)], tmp_path).find(NAME)
        assert leaf is not None
        assert b"PRIVATE" not in leaf.chain_pem
        assert leaf.key_pem.count(b"PRIVATE KEY") == 2
        assert b"PRIVATE" not in repr(leaf).encode()

    def test_the_bound_on_names_remembered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(certificate_files, "MAX_REMEMBERED", 10)
        files = CertificateFiles([], tmp_path)
        for number in range(100):
            files.find(f"n{number}.public-site.dev")
            assert len(files._remembered) <= 10


class TestChallenges:
    def test_what_is_published_is_found_until_it_is_removed(self, tmp_path: Path) -> None:
        challenges = Challenges(tmp_path / "challenges")
        challenges.publish("token", "token.proof")
        assert challenges.find(PREFIX + b"token") == b"token.proof"
        challenges.remove("token")
        challenges.remove("token")
        assert challenges.find(PREFIX + b"token") is None

    @pytest.mark.parametrize(
        "token", [b"", b"../secret", b"a/b", b"token?x", b"a" * 257, b".", b"%2e", b"\x00"]
    )
    def test_no_other_file_is_reached(self, tmp_path: Path, token: bytes) -> None:
        (tmp_path / "secret").write_text("secret")
        (tmp_path / "challenges").mkdir()
        assert Challenges(tmp_path / "challenges").find(PREFIX + token) is None

    def test_the_bound_on_a_proof(self, tmp_path: Path) -> None:
        challenges = Challenges(tmp_path / "challenges")
        challenges.publish("token", "a" * (MAX_PROOF + 1))
        assert len(challenges.find(PREFIX + b"token") or b"") == MAX_PROOF

    def test_a_token_that_is_none_is_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not a token"):
            Challenges(tmp_path / "challenges").publish("../x", "proof")


def test_other_keys_than_rsa_will_do(tmp_path: Path) -> None:
    leaf = AUTHORITY.issue_cert(NAME, key_type=trustme.KeyType.ECDSA)
    path = tmp_path / "given.pem"
    path.write_bytes(leaf.private_key_and_cert_chain_pem.bytes())
    assert CertificateFiles([(path, path)], tmp_path).find(NAME) is not None
