"""Lines get into their file whole, and never hold anything up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from underpass.ops import line_writer
from underpass.ops.line_writer import FLUSH_AT, MAX_WAITING, PIPE_ATOMIC, LineWriter

Make = Callable[[Path], LineWriter]


@pytest.fixture
def make() -> Iterator[Make]:
    writers: list[LineWriter] = []

    def start(path: Path) -> LineWriter:
        writers.append(LineWriter(str(path)))
        return writers[-1]

    yield start
    for writer in writers:
        writer.close()


def written(writer: LineWriter, path: Path) -> bytes:
    """What is in the file once all has been written."""
    writer.close()
    writer.close = lambda: None  # type: ignore[method-assign]  # it is closed
    return path.read_bytes()


def test_lines_are_appended_in_order(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"before\n")
    writer = make(path)
    for number in range(1000):
        writer.write(b"%d\n" % number)
    assert written(writer, path) == b"before\n" + b"".join(b"%d\n" % n for n in range(1000))


def test_nothing_is_written_before_it_is_time(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "log"
    writer = make(path)
    writer.write(b"line\n")
    assert path.read_bytes() == b""
    assert writer.waiting == 5
    assert threading.active_count() == 1


def test_many_lines_do_not_wait_for_the_second(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    writer = make(path)
    came = threading.Event()
    wait_for_thread(writer, came, monkeypatch)
    writer.write(b"x" * (FLUSH_AT - 1) + b"\n")
    assert came.wait(30)


def wait_for_thread(
    writer: LineWriter, came: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set `came` when a batch has been written."""
    write = writer._write

    def note(lines: list[bytes]) -> None:
        write(lines)
        came.set()

    monkeypatch.setattr(writer, "_write", note)


class Stuck:
    """A disk that takes nothing until it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go_on = threading.Event()
        self.reached = threading.Event()
        write = line_writer._write_all

        def stick(descriptor: int, data: bytes) -> None:
            self.reached.set()
            assert self.go_on.wait(30)
            write(descriptor, data)

        monkeypatch.setattr(line_writer, "_write_all", stick)


def test_what_a_slow_disk_cannot_take_is_dropped_and_counted(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, path = Stuck(monkeypatch), tmp_path / "log"
    writer = make(path)
    line = b"x" * 1023 + b"\n"
    kept = MAX_WAITING // 1024
    for _ in range(kept + 5):
        writer.write(line)
    assert disk.reached.wait(30)
    assert writer.waiting == MAX_WAITING
    assert writer.take_losses() == (5, None)
    assert writer.take_losses() == (0, None)
    disk.go_on.set()
    assert len(written(writer, path)) == kept * 1024
    assert writer.waiting == 0


def test_an_error_of_the_disk_is_told(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(line_writer, "_write_all", full)
    path = tmp_path / "log"
    writer = make(path)
    writer.write(b"one\n")
    writer.write(b"two\n")
    assert written(writer, path) == b""
    count, error = writer.take_losses()
    assert count == 2
    assert error is not None
    assert error.errno == errno.ENOSPC
    assert writer.waiting == 0


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be renamed")
@pytest.mark.parametrize("recreate", [False, True])
def test_a_file_that_is_renamed_is_followed_by_a_new_one(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch, recreate: bool
) -> None:
    path, rotated = tmp_path / "log", tmp_path / "log.1"
    writer, came = make(path), threading.Event()
    wait_for_thread(writer, came, monkeypatch)
    writer.write(b"old\n")
    writer.flush()
    assert came.wait(30)
    path.rename(rotated)
    if recreate:
        path.touch()
    writer.write(b"new\n")
    assert written(writer, path) == b"new\n"
    assert rotated.read_bytes() == b"old\n"


def test_a_file_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        LineWriter(str(tmp_path / "missing" / "log"))


@pytest.mark.skipif(sys.platform == "win32", reason="modes are POSIX'")
def test_others_cannot_read_it(tmp_path: Path, make: Make) -> None:
    make(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o007 == 0


def test_standard_output() -> None:
    program = (
        "from underpass.ops.line_writer import LineWriter; w = LineWriter('-'); "
        "[w.write(b'%d\\n' % n) for n in range(5000)]; w.close()"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"".join(b"%d\n" % number for number in range(5000))


@pytest.mark.skipif(sys.platform == "win32", reason="pipes are POSIX'")
def test_what_goes_into_a_pipe_at_once_stays_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reading, writing = os.pipe()
    writer = LineWriter("-")
    monkeypatch.setattr(writer, "_descriptor", writing)
    lines = [b"x" * size + b"\n" for size in (1000, 3000, 200, 5000, 10)]
    pieces = writer._pieces(lines)
    assert b"".join(pieces) == b"".join(lines)
    assert all(piece.endswith(b"\n") or not piece for piece in pieces)
    assert [len(piece) for piece in pieces if len(piece) > PIPE_ATOMIC] == [5001]
    os.close(reading)
    os.close(writing)


def test_several_writers_do_not_cut_each_others_lines(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "log"
    writers = [make(path) for _ in range(4)]
    for number in range(2000):
        for which, writer in enumerate(writers):
            writer.write(b"%d %d %s\n" % (which, number, b"x" * (number % 200)))
    for writer in writers:
        written(writer, path)
    lines = path.read_bytes().splitlines()
    assert len(lines) == 8000
    for which in range(4):
        mine = [int(line.split()[1]) for line in lines if line.startswith(b"%d " % which)]
        assert mine == list(range(2000))
