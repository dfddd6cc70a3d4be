"""Load balancers before the edge, which say by PROXY headers whom they speak for."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from peers.bad_visitor import RawVisitor, get, raw_visitor
from peers.patience import PATIENCE, eventually
from peers.processes import EdgeProcess
from peers.public_port import public_port, read_all, route, visitor
from peers.servers import free_port, program, serving
from peers.stage import Stage, stage
from peers.stream_echo import serving as echo

V2 = bytes.fromhex("0d0a0d0a000d0a515549540a")
FROM_192_0_2_7 = V2 + bytes.fromhex("2111000cc00002077f000001126701bb")
HEADERS = {
    "192.0.2.7": b"PROXY TCP4 192.0.2.7 127.0.0.1 4711 443\r\n",
    "192.0.2.8": V2 + bytes.fromhex("2111000fc00002087f000001126701bb040000"),
    "2001:db8::7": b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n",
    # Of itself: a health check.
    "127.0.0.1": V2 + bytes.fromhex("20000000"),
}


@contextmanager
def behind(tmp_path: Path, *networks: str, workers: int = 1) -> Iterator[tuple[Stage, Path]]:
    """An edge that trusts these networks, and its access log."""
    file, log = tmp_path / "edge.yml", tmp_path / "access.log"
    file.write_text(json.dumps({"trusted-hops": networks}))
    arguments = [f"--config={file}", f"--access-log={log}", f"--workers={workers}"]
    with stage(tmp_path / "data", edge_arguments=arguments) as place:
        eventually(lambda: ask(place, source="127.0.0.200") is not None, "the tunnel answers")
        yield place, log


Headers = dict[str, str]


def ask(
    place: Stage, header: bytes = b"", *, scheme: str = "https", source: str = "127.0.0.1"
) -> Headers | None:
    """The fields that the application gets of a request from `source` with `header` before it, and
    the request's ray; None if it gets none."""
    port = place.edge.https_port if scheme == "https" else place.edge.http_port
    context = ssl.create_default_context(cafile=place.edge.ca)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(
            socket.create_connection(("127.0.0.1", port), PATIENCE, (source, 0))
        )
        sock.sendall(header)
        try:
            if scheme == "https":
                sock = stack.enter_context(
                    context.wrap_socket(sock, server_hostname=place.hostname)
                )
            sock.sendall(get(place.hostname, "/shown", "Connection: close"))
            response = http.client.HTTPResponse(sock)
            response.begin()
            if response.status != 200:
                return None
            ray = response.getheader("cf-ray", "")
            fields = json.loads(response.read())["headers"]
        except (OSError, http.client.HTTPException):
            return None
    return {**dict(fields), "ray": ray}


def address(headers: Headers | None) -> str:
    """The visitor's, as the application is told it twice."""
    assert headers is not None, "it is answered"
    assert headers["Cf-Connecting-Ip"] == headers["X-Forwarded-For"]
    return headers["Cf-Connecting-Ip"]


def clients(log: Path, headers: Headers | None) -> list[str]:
    """Whom the access log names for a request."""
    assert headers is not None
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [line["client"] for line in lines if line["cfRay"] == headers["ray"]]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_they_speak_for_visitors(tmp_path: Path, scheme: str, workers: int) -> None:
    with behind(tmp_path, "127.0.0.0/28", workers=workers) as (place, log):
        for client, header in HEADERS.items():
            seen = ask(place, header, scheme=scheme)
            assert address(seen) == client
            eventually(lambda: clients(log, seen) == [client], "the access log has it")  # noqa: B023


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"])
def test_haproxy_before_it(tmp_path: Path, header: str) -> None:
    """It knows the visitor by the address that curl comes from."""
    haproxy = program("haproxy")
    with behind(tmp_path, "127.0.0.1") as (place, _):
        ports = free_port(), free_port()
        behind_them = place.edge.https_port, place.edge.http_port
        configuration = tmp_path / "haproxy.cfg"
        configuration.write_text(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
            + "".join(
                f"listen l{to}\n bind 127.0.0.1:{port}\n server edge 127.0.0.1:{to} {header}\n"
                for port, to in zip(ports, behind_them, strict=True)
            )
        )
        with serving([haproxy, "-f", str(configuration)], ports[0], tmp_path / "haproxy.log"):
            for scheme, port in zip(("https", "http"), ports, strict=True):
                url = f"{scheme}://{place.hostname}:{port}/shown"
                resolve = f"{place.hostname}:{port}:127.0.0.1"
                done = subprocess.run(
                    [
                        *("curl", "-q", "-sS", "--interface", "127.0.0.9", "--resolve", resolve),
                        *("--cacert", str(place.edge.ca), url),
                    ],
                    check=True,
                    capture_output=True,
                    timeout=PATIENCE,
                )
                assert address(dict(json.loads(done.stdout)["headers"])) == "127.0.0.9"


def test_others_are_visitors_and_believed_nothing(tmp_path: Path) -> None:
    with behind(tmp_path, "10.0.0.0/8", "127.0.0.1", "2001:db8::/32") as (place, _):
        for scheme in ("https", "http"):
            assert address(ask(place, scheme=scheme, source="127.0.0.9")) == "127.0.0.9"
            for header in HEADERS.values():
                # To TLS it is no hello, to HTTP no request.
                assert ask(place, header, scheme=scheme, source="127.0.0.9") is None
            # Two of them are one too many, from whomever.
            assert ask(place, 2 * HEADERS["192.0.2.7"], scheme=scheme) is None


def test_a_trusted_hop_without_a_header_is_refused(tmp_path: Path) -> None:
    with behind(tmp_path, "127.0.0.1") as (place, _):
        for scheme in ("https", "http"):
            assert ask(place, scheme=scheme) is None
        line = place.edge.wait_for("a trusted hop sends no PROXY header that can be read", count=2)
        assert line["peer"] == "127.0.0.1"


def test_a_header_and_a_request_in_pieces(tmp_path: Path) -> None:
    async def scenario(place: Stage) -> None:
        async with raw_visitor(place.edge.http_port) as visitor:
            await in_bytes(visitor, FROM_192_0_2_7)
            await visitor.send(get(place.authority, "/shown"))
            assert await visitor.status() == 200
            assert b"192.0.2.7" in await visitor.reader.readuntil(b"}")

    async def in_bytes(visitor: RawVisitor, data: bytes) -> None:
        for byte in data:
            await visitor.send(bytes([byte]))
            await asyncio.sleep(0)

    with behind(tmp_path, "127.0.0.1") as (place, _):
        asyncio.run(scenario(place))


def test_who_is_trusted_changes_while_it_runs(tmp_path: Path) -> None:
    header = HEADERS["192.0.2.7"]
    with contextlib.ExitStack() as stack:
        place, _ = stack.enter_context(behind(tmp_path, "127.0.0.1", workers=2))
        # Somebody who has come, and says who it is only after the change.
        waiting = stack.enter_context(
            socket.create_connection(("127.0.0.1", place.edge.http_port), PATIENCE)
        )
        for scheme in ("https", "http"):
            assert address(ask(place, header, scheme=scheme)) == "192.0.2.7"
        apply(place.edge, tmp_path, "trusted-hops: []\n", 1)
        for scheme in ("https", "http") * 5:
            assert address(ask(place, scheme=scheme)) == "127.0.0.1"
        apply(place.edge, tmp_path, "trusted-hops: [127.0.0.0/8]\n", 2)
        for scheme in ("https", "http") * 5:
            assert address(ask(place, header, scheme=scheme)) == "192.0.2.7"
        waiting.sendall(FROM_192_0_2_7 + get(place.authority))
        assert waiting.recv(100).startswith(b"HTTP/1.1 200 ")


def apply(edge: EdgeProcess, tmp_path: Path, text: str, count: int) -> None:
    """Have a configuration read, now."""
    (tmp_path / "edge.yml").write_text(text)
    edge.signal(signal.SIGHUP)
    edge.wait_for("Configuration applied", count=count)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_public_port(data_dir: Path, workers: int) -> None:
    """A trusted hop's header is read, the origin gets the edge's own."""

    def repeat(client: socket.socket) -> None:
        client.sendall(read_all(client))

    with (
        echo(repeat) as origin,
        public_port(
            data_dir,
            f"tcp://127.0.0.1:{origin}",
            more=", proxy-protocol: v1",
            workers=workers,
        ) as place,
    ):

        def said(header: bytes) -> bytes:
            with visitor(place.port) as sock:
                sock.sendall(header + b"hello")
                sock.shutdown(socket.SHUT_WR)
                return read_all(sock)

        assert said(b"").startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 ")
        port = route(0, more=", proxy-protocol: v1")  # as it was
        place.write(f"tcp:\n{port}trusted-hops: [127.0.0.1]\n")
        place.edge.signal(signal.SIGHUP)
        place.edge.wait_for("Configuration applied")
        for client in ("192.0.2.7", "192.0.2.8"):
            expected = f"PROXY TCP4 {client} 127.0.0.1 0 {place.port}\r\nhello"
            assert said(HEADERS[client]) == expected.encode()
        # Reset: whichever call meets it first.
        with pytest.raises(OSError, match=r"reset by peer|not connected|Broken pipe"):
            said(b"")
