"""Public ports: a visitor with nothing of ours on its side, a tunnel, and an origin that speaks no
HTTP. Real processes and sockets; the connector is ours, or a stock one."""

from __future__ import annotations

import contextlib
import filecmp
import hashlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from peers.cloudflared import binary
from peers.patience import PATIENCE, eventually
from peers.processes import running
from peers.public_port import (
    HOSTNAME,
    PublicPort,
    another_connector,
    public_port,
    read_all,
    route,
    visitor,
)
from peers.servers import free_port, listens, program, sshd
from peers.stream_echo import serving, stream_echo

__all__ = ["binary"]

SIZE = 5 * 1024 * 1024 + 1
LARGE = 50_000_000


def log_lines(place: PublicPort, count: int) -> list[dict[str, Any]]:
    """The access log, when it has so many lines."""

    def lines() -> list[dict[str, Any]]:
        text = place.access_log.read_text() if place.access_log.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    eventually(lambda: len(lines()) >= count, f"{count} lines in the access log")
    return lines()


def resident(pid: int) -> int:
    """Bytes of memory of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def echoed(sock: socket.socket, content: bytes) -> bytes:
    """What comes back, as much as was sent; both at once."""
    sending = threading.Thread(target=sock.sendall, args=(content,), daemon=True)
    sending.start()
    got = bytearray()
    while len(got) < len(content):
        piece = sock.recv(262144)
        assert piece, f"the end after {len(got)} bytes"
        got += piece
    sending.join(PATIENCE)
    return bytes(got)


KINDS = [
    pytest.param((False, 1), id="ours"),
    pytest.param((False, 2), id="two workers"),
    pytest.param((True, 1), id="stock", marks=pytest.mark.interop),
]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str | None, int]:
    stock, workers = request.param
    return (request.getfixturevalue("binary") if stock else None), workers


Kind = tuple[str | None, int]


def reached(data_dir: Path, origin: str, kind: Kind, **more: Any) -> Any:
    stock, workers = kind
    return public_port(data_dir, origin, binary=stock, workers=workers, **more)


class TestSsh:
    """OpenSSH, server and client."""

    def test_commands_and_files_both_ways(self, data_dir: Path, tmp_path: Path, kind: Kind) -> None:
        content = os.urandom(SIZE)
        there, back = tmp_path / "there", tmp_path / "back"
        there.write_bytes(content)
        with (
            sshd(tmp_path) as server,
            reached(data_dir, f"ssh://127.0.0.1:{server.port}", kind) as place,
        ):
            ran = run(server.client(place.port, "sha256sum; echo done >&2; exit 7"), content)
            assert (ran.stderr, ran.returncode) == (b"done\n", 7)
            assert ran.stdout.split()[0].decode() == hashlib.sha256(content).hexdigest()

            # The options of the client's command line, with scp's spelling of the port.
            _, *options = server.client(place.port)
            where = options.pop()
            for index, option in enumerate(options):
                if option == "-p":
                    options[index] = "-P"
            kept = tmp_path / "kept"
            ran = run([program("scp"), *options, str(there), f"{where}:{kept}"])
            assert ran.returncode == 0, ran.stderr
            assert filecmp.cmp(there, kept, shallow=False)
            ran = run([program("sftp"), "-b", "-", *options, where], f"get {kept} {back}".encode())
            assert ran.returncode == 0, ran.stderr
            assert filecmp.cmp(there, back, shallow=False)

            line = log_lines(place, 3)[0]
            assert (line["protocol"], line["scheme"], line["host"]) == ("tcp", "tcp", HOSTNAME)
            assert line["client"] == "127.0.0.1"
            assert line["requestBytes"] > SIZE
            assert "cause" not in line

    def test_several_sessions_at_once(self, data_dir: Path, tmp_path: Path, kind: Kind) -> None:
        with (
            sshd(tmp_path) as server,
            reached(data_dir, f"ssh://127.0.0.1:{server.port}", kind) as place,
        ):
            sessions = [
                subprocess.Popen(
                    server.client(place.port, f"echo {number}; cat"),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
                for number in range(5)
            ]
            for number, session in enumerate(sessions):
                assert session.stdout is not None
                assert session.stdout.readline() == b"%d\n" % number
            for session in sessions:
                assert session.communicate(b"bye", PATIENCE)[0] == b"bye"
                assert session.returncode == 0


def run(arguments: list[str], data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        arguments, input=data, capture_output=True, timeout=PATIENCE * 2, check=False
    )


class TestBytes:
    def test_fifty_megabytes_each_way_at_once(self, data_dir: Path, kind: Kind) -> None:
        content = os.urandom(LARGE)
        with stream_echo() as origin, reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place:
            with visitor(place.port) as sock:
                assert echoed(sock, content) == content
            (line,) = log_lines(place, 1)
            assert (line["requestBytes"], line["responseBytes"]) == (LARGE, LARGE)
            labels = f'route="tcp-{place.port}"'
            into = f'direction="in",{labels}'
            total = place.edge.metric("underpass_edge_tcp_bytes_total", into)
            if not total:  # labels come in either order
                into = f'{labels},direction="in"'
                total = place.edge.metric("underpass_edge_tcp_bytes_total", into)
            assert total == LARGE
            assert place.edge.metric("underpass_edge_tcp_streams_total", labels) == 1
            assert place.edge.metric("underpass_edge_tcp_active_streams", labels) == 0

    def test_a_server_that_speaks_first(self, data_dir: Path, kind: Kind) -> None:
        def greet(client: socket.socket) -> None:
            client.sendall(b"220 welcome\r\n")
            client.sendall(b"221 " + client.recv(100))

        with (
            serving(greet) as origin,
            reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place,
        ):
            for _ in range(20):
                with visitor(place.port) as sock:
                    assert sock.recv(100) == b"220 welcome\r\n"
                    sock.sendall(b"bye")
                    assert read_all(sock) == b"221 bye"

    def test_all_of_it_comes_before_the_end(self, data_dir: Path, kind: Kind) -> None:
        """The origin writes and closes; the visitor, who is still sending, reads late."""
        content = os.urandom(3_000_000)
        written = threading.Event()

        def hasty(client: socket.socket) -> None:
            client.recv(1)
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            written.set()
            read_all(client)

        with (
            serving(hasty) as origin,
            reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place,
            visitor(place.port) as sock,
        ):
            sock.sendall(b"x" * 1000)
            assert written.wait(PATIENCE)
            eventually(
                lambda: place.edge.has_logged("x") or log_lines(place, 1),
                "the origin's end is known at the edge",
            )
            sock.sendall(b"this comes too late")
            assert read_all(sock) == content

    def test_a_visitors_end_does_not_cut_the_answer_off(self, data_dir: Path, kind: Kind) -> None:
        """`echo hello | nc host port`."""
        with (
            stream_echo() as origin,
            reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place,
            visitor(place.port) as sock,
        ):
            sock.sendall(b"hello\n")
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"hello\n"

    def test_an_origin_that_waits_for_the_end_gets_it(self, data_dir: Path) -> None:
        """Which takes a connector that knows half-close."""

        def count(client: socket.socket) -> None:
            total = len(read_all(client))
            client.sendall(b"%d bytes" % total)

        with (
            serving(count) as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}") as place,
            visitor(place.port) as sock,
        ):
            sock.sendall(b"x" * 1_000_000)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == b"1000000 bytes"
            (line,) = log_lines(place, 1)
            assert "cause" not in line


class TestWorkers:
    def test_a_stream_goes_by_the_worker_that_has_the_link(self, data_dir: Path) -> None:
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", workers=2) as place,
        ):
            holder = place.edge.wait_for("registered connection 0")["worker"]
            other = place.workers[1 - holder]
            open_files = Path(f"/proc/{other}/fd")
            before = len(list(open_files.iterdir()))
            with contextlib.ExitStack() as stack:
                os.kill(place.workers[holder], signal.SIGSTOP)
                try:
                    socks = [stack.enter_context(visitor(place.port)) for _ in range(5)]
                    eventually(
                        lambda: len(list(open_files.iterdir())) >= before + 5,
                        "the worker without a link has accepted",
                    )
                finally:
                    os.kill(place.workers[holder], signal.SIGCONT)
                for number, sock in enumerate(socks):
                    content = b"%d" % number * 100_000
                    assert echoed(sock, content) == content

    def test_ports_come_and_go_and_streams_stay(self, data_dir: Path, kind: Kind) -> None:
        stock, workers = kind
        if stock is not None:
            pytest.skip("the connector has no part in it")
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", workers=workers) as place,
            visitor(place.port) as sock,
        ):
            assert echoed(sock, b"before") == b"before"
            another = free_port()
            place.write(f"tcp:\n{route(another)}")
            place.edge.signal(signal.SIGHUP)
            place.edge.wait_for("Configuration applied")
            assert echoed(sock, b"still here") == b"still here"
            with visitor(another) as new:
                assert echoed(new, b"through the new one") == b"through the new one"
            assert not listens(place.port)
            place.write(f"tcp:\n{route(another)}{route(place.port)}")
            place.edge.signal(signal.SIGHUP)
            place.edge.wait_for("Configuration applied", count=2)
            with visitor(place.port) as new:
                assert echoed(new, b"and back") == b"and back"
            assert echoed(sock, b"to the end") == b"to the end"

    def test_a_port_that_is_taken_changes_nothing(self, data_dir: Path) -> None:
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}") as place,
            socket.create_server(("127.0.0.1", 0)) as taken,
        ):
            port = taken.getsockname()[1]
            free = free_port()
            place.write(f"tcp:\n{route(free)}{route(port)}")
            place.edge.signal(signal.SIGHUP)
            line = place.edge.wait_for("Configuration refused")
            assert "another program listens there" in line["error"]
            assert not listens(free)
            with visitor(place.port) as sock:
                assert echoed(sock, b"as ever") == b"as ever"

    def test_sockets_that_a_service_manager_keeps(self, data_dir: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as kept:
            name = f"tcp-{kept.getsockname()[1]}"
            with (
                stream_echo() as origin,
                public_port(
                    data_dir, f"tcp://127.0.0.1:{origin}", inherited=((name, kept),)
                ) as place,
                visitor(place.port) as sock,
            ):
                assert echoed(sock, b"through it") == b"through it"


class TestFailures:
    def refused(self, port: int) -> None:
        # Which may come before connect() has returned.
        with pytest.raises(ConnectionResetError), visitor(port) as sock:
            assert sock.recv(1) == b"reset", "an end would look like an answer that is complete"

    def test_nobody_listens_at_the_origin(self, data_dir: Path, kind: Kind) -> None:
        with reached(data_dir, f"tcp://127.0.0.1:{free_port()}", kind) as place:
            self.refused(place.port)
            (line,) = log_lines(place, 1)
            stock, _ = kind
            cause = "connector" if stock else "dial"
            assert (line["cause"], line["status"]) == (cause, 502)
            assert line["hop"] == ("connector" if stock else "origin")
            shown = place.edge.wait_for("a stream was broken off")
            assert (shown["cause"], shown["host"]) == (cause, HOSTNAME)
            labels = f'cause="{cause}",hop="{line["hop"]}"'
            assert place.edge.metric("underpass_request_failures_total", labels) == 1

    def test_there_is_no_connector(self, data_dir: Path) -> None:
        with public_port(data_dir, "tcp://127.0.0.1:1") as place:
            place.connector.stop()
            self.refused(place.port)
            assert log_lines(place, 1)[0]["cause"] == "no_link"

    def test_another_connector_reaches_what_one_cannot(self, data_dir: Path) -> None:
        """Before anything was answered; what the visitor has said is said again."""
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{free_port()}") as place,
        ):
            another = another_connector(place, f"tcp://127.0.0.1:{origin}")
            with running(another):
                another.ready()
                for _ in range(10):
                    with visitor(place.port) as sock:
                        assert echoed(sock, b"said once") == b"said once"
                lines = log_lines(place, 10)
                assert not any("cause" in line for line in lines)
                assert any(line.get("attempts") == 2 for line in lines)

    def test_the_hostname_speaks_http(self, data_dir: Path) -> None:
        def http(client: socket.socket) -> None:
            client.recv(65536)
            client.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nsorry")

        with (
            serving(http) as origin,
            public_port(data_dir, f"http://127.0.0.1:{origin}") as place,
        ):
            self.refused(place.port)
            assert log_lines(place, 1)[0]["cause"] == "not_a_websocket"

    def test_the_link_is_lost_midway(self, data_dir: Path, kind: Kind) -> None:
        with (
            stream_echo() as origin,
            reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place,
            visitor(place.port) as sock,
        ):
            assert echoed(sock, b"so far so good") == b"so far so good"
            place.connector.kill()
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            (line,) = log_lines(place, 1)
            assert line["cause"] in ("link_lost", "reset_by_peer")
            # `running` stops it once more.
            place.connector.check = lambda expected=0: None  # type: ignore[method-assign]

    def test_the_origin_resets(self, data_dir: Path) -> None:
        def rude(client: socket.socket) -> None:
            client.sendall(b"half of i")
            client.recv(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

        with (
            serving(rude) as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}") as place,
            visitor(place.port) as sock,
        ):
            assert sock.recv(100) == b"half of i"
            sock.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            assert log_lines(place, 1)[0]["cause"] == "reset_by_peer"


class TestBounds:
    def test_a_slow_reader_slows_the_origin(self, data_dir: Path) -> None:
        """And memory does not take what it does not."""
        sent = 0

        def pour(client: socket.socket) -> None:
            nonlocal sent
            client.recv(1)
            client.settimeout(3.0)
            with contextlib.suppress(TimeoutError):
                while sent < 1_000_000_000:
                    sent += client.send(b"z" * 65536)

        with (
            serving(pour) as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}") as place,
            visitor(place.port, buffer=65536) as sock,
        ):
            before = resident(place.edge.pid), resident(place.connector.pid)
            sock.sendall(b"x")
            at = -1
            while at != sent:  # until it moves no more
                at = sent
                time.sleep(1.0)
            assert sent < 40_000_000
            after = resident(place.edge.pid), resident(place.connector.pid)
            for grown in (after[0] - before[0], after[1] - before[1]):
                assert grown < 24_000_000

    def test_a_thousand_idle_streams_are_light(self, data_dir: Path) -> None:
        more = ", connections: 2000, connections-per-client: 2000"
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", more=more) as place,
            contextlib.ExitStack() as stack,
        ):
            stack.enter_context(visitor(place.port))
            labels = f'route="tcp-{place.port}"'
            before = resident(place.edge.pid)
            for _ in range(1000):
                stack.enter_context(visitor(place.port))
            eventually(
                lambda: place.edge.metric("underpass_edge_tcp_active_streams", labels) == 1001,
                "all streams are there",
            )
            each = (resident(place.edge.pid) - before) / 1000
            assert each < 20_000, f"{each:.0f} bytes each"

    def test_limits_hold_and_are_told(self, data_dir: Path) -> None:
        more = ", connections: 8, connections-per-client: 5"
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", more=more) as place,
            contextlib.ExitStack() as stack,
        ):
            socks = [stack.enter_context(visitor(place.port)) for _ in range(5)]
            for sock in socks:
                assert echoed(sock, b"one of five") == b"one of five"
            for _ in range(100):
                # The reset may come before connect() has returned.
                with pytest.raises(ConnectionResetError), visitor(place.port) as sock:
                    sock.recv(1)
            line = place.edge.wait_for("connections were turned away")
            assert line["route"] == f"tcp-{place.port}"
            labels = f'route="tcp-{place.port}"'
            assert place.edge.metric("underpass_edge_tcp_refused_total", labels) == 100
            failures = 'cause="too_many_connections",hop="edge"'
            assert place.edge.metric("underpass_request_failures_total", failures) == 100
            socks.pop().close()

            def another() -> bool:
                with contextlib.suppress(ConnectionError), visitor(place.port) as sock:
                    sock.sendall(b"again")
                    return sock.recv(5) == b"again"
                return False

            eventually(another, "there is room again")

    def test_a_visitor_that_says_nothing_is_given_up(self, data_dir: Path) -> None:
        more = ", idle-timeout: 2s"
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", more=more) as place,
            visitor(place.port) as sock,
        ):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            assert log_lines(place, 1)[0]["cause"] == "timeout_idle"

    def test_an_origin_that_does_not_answer_is_given_up(self, data_dir: Path) -> None:
        """192.0.2.1 is nobody's (RFC 5737): the connector waits for it."""
        more = ", connect-timeout: 2s"
        with (
            public_port(data_dir, "tcp://192.0.2.1:9", more=more) as place,
            visitor(place.port) as sock,
        ):
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
            (line,) = log_lines(place, 1)
            assert line["cause"] in ("timeout_first_byte", "dial")

    def test_garbage_reaches_the_origin_as_it_is(self, data_dir: Path, kind: Kind) -> None:
        garbage = b"\x00\xff\x82\xfe\x40\x00" * 10_000 + b"GET / HTTP/1.1\r\n\r\n" * 100
        with (
            stream_echo() as origin,
            reached(data_dir, f"tcp://127.0.0.1:{origin}", kind) as place,
            visitor(place.port) as sock,
        ):
            assert echoed(sock, garbage) == garbage

    def test_connections_that_come_and_vanish_leave_nothing(self, data_dir: Path) -> None:
        more = ", connections-per-client: 1000"
        with (
            stream_echo() as origin,
            public_port(data_dir, f"tcp://127.0.0.1:{origin}", more=more) as place,
        ):
            with visitor(place.port) as sock:
                assert echoed(sock, b"warm") == b"warm"
            files = lambda: place.edge.open_files, lambda: place.connector.open_files
            eventually(lambda: log_lines(place, 1), "it has ended")
            before = [count() for count in files]
            for number in range(500):
                sock = visitor(place.port)
                if number % 2:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                sock.close()
            eventually(lambda: len(log_lines(place, 501)) == 501, "all have ended")
            eventually(
                lambda: all(now() <= then for now, then in zip(files, before, strict=True)),
                "no file is left open",
            )


@pytest.mark.parametrize(("host", "told"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_a_listener_for_both_families_tells_addresses_as_they_are(
    data_dir: Path, host: str, told: str
) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with stream_echo() as origin, public_port(data_dir, f"tcp://127.0.0.1:{origin}") as place:
        another = free_port()
        place.write(f"tcp: [{{listen: ':{another}', hostname: {HOSTNAME}}}]")
        place.edge.signal(signal.SIGHUP)
        place.edge.wait_for("Configuration applied")
        with socket.create_connection((host, another), PATIENCE) as sock:
            assert echoed(sock, b"hello") == b"hello"
        assert log_lines(place, 1)[0]["client"] == told


def test_the_origin_is_told_who_comes(data_dir: Path) -> None:
    """By a PROXY header, where the port says so."""

    def first_line(client: socket.socket) -> None:
        line = b""
        while not line.endswith(b"\r\n"):
            line += client.recv(1)
        client.sendall(line)

    with (
        serving(first_line) as origin,
        public_port(data_dir, f"tcp://127.0.0.1:{origin}", more=", proxy-protocol: v1") as place,
        visitor(place.port) as sock,
    ):
        port = sock.getsockname()[1]
        expected = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {place.port}\r\n"
        assert read_all(sock) == expected.encode()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tcp: [{listen: ':22'}]", "hostname: is missing"),
        ("tcp: [{hostname: a.example}]", "listen: is missing"),
        ("tcp: [{listen: '22', hostname: a.example}]", "has no port"),
        ("tcp: [{listen: ':22', hostname: '*.example'}]", "a plain name is needed"),
        ("tcp: [{listen: ':22', hostname: a.example, limit: 1}]", "unknown key"),
        ("tcp: [{listen: ':22', hostname: a.example, connections: 0}]", "0 connections"),
        ("tcp: [{listen: ':22', hostname: a.example, proxy-protocol: v3}]", "none of v1 and v2"),
        ("tcp: [{listen: ':22', hostname: a.example, connect-timeout: 0s}]", "connect timeout"),
        (
            "tcp: [{listen: ':22', hostname: a.example}, {listen: '[::1]:22', hostname: b.test}]",
            "given to two public ports",
        ),
        (
            "listen: {https: ':443'}\ntcp: [{listen: ':443', hostname: a.example}]",
            "given to two listeners",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_told(tmp_path: Path, text: str, complaint: str) -> None:
    from underpass.edge.options_file import load_edge_file
    from underpass.ops.document import ConfigError

    path = tmp_path / "edge.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        load_edge_file(path)
