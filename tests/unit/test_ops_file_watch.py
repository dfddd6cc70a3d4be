"""A file that changes is noticed, however it was written, and once for each content."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from underpass.ops.document import file_state
from underpass.ops.file_watch import MAX_WATCHED, FileWatch


class Bench:
    """A watch that looks when the test says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "config.yml"
        if not self.file.exists():
            self.file.write_text("one\n")
        self.files = [self.file]
        self.changes = 0
        self.watch = FileWatch(lambda: self.files, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def looks(self, count: int = 2) -> int:
        """Look so often; how many changes there have been since the start."""
        for _ in range(count):
            await self.watch.look()
        return self.changes

    def replace(self, text: str) -> None:
        """As an editor does that writes a new file beside the old one."""
        beside = self.directory / "config.yml~"
        beside.write_text(text)
        os.replace(beside, self.file)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def run(bench: Bench, scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        bench.watch.start()
        try:
            await asyncio.wait_for(scenario(), 20)
        finally:
            bench.watch.close()

    asyncio.run(main())


def test_a_file_that_stays_is_left_alone(bench: Bench) -> None:
    async def scenario() -> None:
        assert await bench.looks(5) == 0

    run(bench, scenario)


@pytest.mark.parametrize("how", ["written", "replaced"])
def test_a_change_counts_once_it_has_settled(bench: Bench, how: str) -> None:
    async def scenario() -> None:
        for number in range(1, 4):
            text = "more\n" * number
            _ = bench.file.write_text(text) if how == "written" else bench.replace(text)
            assert await bench.looks(1) == number - 1
            assert await bench.looks(1) == number
            assert await bench.looks(3) == number

    run(bench, scenario)


def test_a_file_that_is_being_written_is_not_read(bench: Bench) -> None:
    async def scenario() -> None:
        for size in range(2, 9):
            bench.file.write_text("x" * size)
            assert await bench.looks(1) == 0
        assert await bench.looks(1) == 1

    run(bench, scenario)


def test_the_same_content_again_is_no_change(bench: Bench) -> None:
    async def scenario() -> None:
        bench.replace("two\n")
        assert await bench.looks() == 1
        bench.replace("two\n")
        assert await bench.looks() == 1
        bench.replace("one\n")
        assert await bench.looks() == 2

    run(bench, scenario)


def test_what_was_read_in_the_meantime_is_no_change(bench: Bench) -> None:
    async def scenario() -> None:
        bench.replace("two\n")
        await bench.watch.settle()
        assert await bench.looks() == 0
        bench.file.touch()
        assert await bench.looks() == 0
        bench.replace("three\n")
        assert await bench.looks() == 1

    run(bench, scenario)


def test_a_change_between_reading_and_watching_is_seen(bench: Bench) -> None:
    known = {bench.file: file_state(bench.file)}
    bench.replace("two\n")
    bench.watch = FileWatch(lambda: bench.files, bench._changed, known)

    async def scenario() -> None:
        assert await bench.looks() == 1

    run(bench, scenario)


def test_a_file_that_is_gone_is_waited_for(bench: Bench) -> None:
    async def scenario() -> None:
        bench.file.unlink()
        assert await bench.looks(5) == 0
        bench.file.write_text("back again\n")
        assert await bench.looks() == 1

    run(bench, scenario)


def test_links_are_followed_as_those_of_a_config_map(tmp_path: Path) -> None:
    """`config.yml` leads to `..data/config.yml`, and `..data` is the link that is swapped."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yml").write_text(f"{name}\n")
    (tmp_path / "..data").symlink_to("first")
    (tmp_path / "config.yml").symlink_to("..data/config.yml")
    bench = Bench(tmp_path)

    async def scenario() -> None:
        (tmp_path / "..new").symlink_to("second")
        os.replace(tmp_path / "..new", tmp_path / "..data")
        assert await bench.looks() == 1

    run(bench, scenario)


def test_files_come_and_go_with_the_configuration(bench: Bench) -> None:
    async def scenario() -> None:
        pem = bench.directory / "ca.pem"
        pem.write_text("certificate\n")
        bench.files = [bench.file, pem, pem]
        assert await bench.looks() == 0
        pem.write_text("another certificate\n")
        assert await bench.looks() == 1
        bench.files = [bench.file]
        pem.write_text("yet another certificate\n")
        assert await bench.looks() == 1

    run(bench, scenario)


def test_how_many_are_watched_is_bounded(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        many = [bench.directory / f"{number}.pem" for number in range(MAX_WATCHED + 5)]
        bench.files = [bench.file, *many]
        assert await bench.looks() == 0
        many[-1].write_text("beyond\n")
        assert await bench.looks() == 0
        many[0].write_text("within\n")
        assert await bench.looks() == 1

    with caplog.at_level(logging.WARNING):
        run(bench, scenario)
    assert caplog.text.count("too many files to watch all") == 1


def test_the_end_is_the_end(bench: Bench) -> None:
    async def main() -> None:
        bench.watch.start()
        watching = bench.watch._watching
        assert watching is not None
        bench.watch.close()
        with pytest.raises(asyncio.CancelledError):
            await watching

    asyncio.run(main())
