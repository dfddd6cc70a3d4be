"""Interoperation: one file of rules, served by our connector and by a stock cloudflared. What their
visitors get is compared byte by byte.

Runs when UNDERPASS_CLOUDFLARED names a binary; needs no network.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from peers.cloudflared import Cloudflared, binary
from peers.patience import PATIENCE, soon
from peers.processes import ConnectorProcess, EdgeProcess, new_tunnel, running
from peers.servers import free_port
from peers.stream_echo import stream_echo
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from underpass.wire.credentials import write_credentials_file

pytestmark = pytest.mark.interop

__all__ = ["binary"]

GREETING = b"\x05\x01\x00"


@dataclass(frozen=True)
class Both:
    """The two edges, each with one connector."""

    ours: EdgeProcess
    theirs: EdgeProcess
    echo: int
    closed: int

    def ask(self, rule: str, sends: bytes, destination: str | None = None) -> tuple[bytes, bytes]:
        """What a visitor of ours and one of theirs gets."""

        async def both() -> tuple[bytes, bytes]:
            ours, theirs = await asyncio.gather(
                _visit(self.ours, rule, sends, destination),
                _visit(self.theirs, rule, sends, destination),
            )
            return ours, theirs

        return asyncio.run(both())


async def _visit(edge: EdgeProcess, rule: str, sends: bytes, destination: str | None) -> bytes:
    """All that comes until the other end ends it, or until `sends` has come back; a refusal as its
    status."""
    headers = {} if destination is None else {"Cf-Access-Jump-Destination": destination}
    received = b""
    try:
        async with connect(
            f"wss://{rule}.example.test:{edge.https_port}/",
            host="127.0.0.1",
            port=edge.https_port,
            proxy=None,
            compression=None,
            ssl=ssl.create_default_context(cafile=edge.ca),
            additional_headers=headers,
            open_timeout=PATIENCE,
        ) as visitor:
            await visitor.send(sends)
            with contextlib.suppress(ConnectionClosed):
                while not received.endswith(b"the end"):
                    data = await soon(visitor.recv())
                    assert isinstance(data, bytes)
                    received += data
    except InvalidStatus as refused:
        return b"%d" % refused.response.status_code
    return received


@pytest.fixture(scope="module")
def both(binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    with stream_echo() as echo, contextlib.ExitStack() as stack:
        closed = free_port()
        here = {"prefix": "127.0.0.1/32", "allow": True}
        edges = []
        for maker in ("ours", "theirs"):
            directory = tmp_path_factory.mktemp(maker)
            names = ("bastion", "mode", "socks", "none", "fixed")
            tunnel = new_tunnel(directory / "data", *(f"{name}.example.test" for name in names))
            write_credentials_file(directory / "credentials.json", tunnel)
            rules = [
                {"hostname": "bastion.example.test", "service": "bastion"},
                {
                    "hostname": "mode.example.test",
                    "service": "tcp://unused:1",
                    "originRequest": {"bastionMode": True},
                },
                {
                    "hostname": "socks.example.test",
                    "service": "socks-proxy",
                    "originRequest": {"ipRules": [here]},
                },
                {"hostname": "none.example.test", "service": "socks-proxy"},
                {
                    "hostname": "fixed.example.test",
                    "service": f"tcp://127.0.0.1:{echo}",
                    "originRequest": {"proxyType": "socks"},
                },
                {"service": "http_status:404"},
            ]
            config = directory / "config.yml"
            config.write_text(
                yaml.safe_dump(
                    {
                        "tunnel": str(tunnel.tunnel_id),
                        "credentials-file": str(directory / "credentials.json"),
                        "ingress": rules,
                    }
                )
            )
            edges.append(_begun(stack, directory, config, binary if maker == "theirs" else None))
        yield Both(*edges, echo, closed)


def _begun(
    stack: contextlib.ExitStack, directory: Path, config: Path, binary: str | None
) -> EdgeProcess:
    edge = EdgeProcess(directory / "data")
    stack.enter_context(running(edge))
    if binary is None:
        connector = ConnectorProcess([f"--config={config}", *edge.edge_arguments, "run"])
        stack.enter_context(running(connector))
        connector.ready()
    else:
        stock = Cloudflared(binary, edge, [f"--config={config}", "--grace-period=0s", "run"])
        stack.enter_context(running(stock))
        stock.ready()
    return edge


def connection(host: bytes, port: int) -> bytes:
    """A request for `host`, an address or a name as SOCKS encodes it."""
    return b"\x05\x01\x00" + host + port.to_bytes(2, "big")


HERE = b"\x01\x7f\x00\x00\x01"
LOCALHOST = b"\x03\x09localhost"


def bound(answer: bytes) -> bytes:
    """The answer without the port that the connector connected from, which nobody chooses."""
    return answer[:10] + answer[12:]


@pytest.mark.parametrize("rule", ["socks", "fixed"])
def test_a_session(both: Both, rule: str) -> None:
    for host in (HERE, LOCALHOST):
        sends = GREETING + connection(host, both.echo) + b"the end"
        ours, theirs = both.ask(rule, sends)
        assert bound(ours) == bound(theirs)
        assert ours.endswith(b"the end")


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("socks", HERE),
        ("socks", LOCALHOST),
        ("socks", b"\x01\x7f\x00\x00\x02"),
        ("socks", b"\x04" + bytes(15) + b"\x01"),
        ("socks", b"\x03\x0fnowhere.invalid"),
        ("socks", b"\x03\xff" + b"x" * 255),
        ("none", HERE),
    ],
)
def test_destinations_that_are_refused(both: Both, rule: str, host: bytes) -> None:
    ours, theirs = both.ask(rule, GREETING + connection(host, both.closed))
    assert ours == theirs
    assert len(ours) > 2


@pytest.mark.parametrize(
    "sends",
    [
        b"\x04\x01\x00\x50\x7f\x00\x00\x01\x00",
        b"\x05\x01\x02",
        b"\x05\x03\x02\x01\x00" + b"\x05\x02\x00" + HERE + b"\x00\x16",
        GREETING + b"\x05\x02\x00" + HERE + b"\x00\x16",
        GREETING + b"\x05\x03\x00" + HERE + b"\x00\x16",
    ],
    ids=["SOCKS4", "authentication", "no authentication third", "BIND", "UDP"],
)
def test_what_is_not_served(both: Both, sends: bytes) -> None:
    ours, theirs = both.ask("socks", sends)
    assert ours == theirs


def test_an_unknown_address_type_is_named(both: Both) -> None:
    """Different on purpose: cloudflared hangs up without a word."""
    ours, theirs = both.ask("socks", GREETING + b"\x05\x01\x00\x02\x00\x00")
    assert ours == b"\x05\x00" + b"\x05\x08\x00\x01" + bytes(6)
    assert theirs == b"\x05\x00"


@pytest.mark.parametrize("rule", ["bastion", "mode"])
@pytest.mark.parametrize(
    "destination",
    [
        "127.0.0.1:{echo}",
        "localhost:{echo}",
        "tcp://127.0.0.1:{echo}",
        "ssh://user@127.0.0.1:{echo}/path?x=1",
        "127.0.0.1:{echo}/path",
        "//127.0.0.1:{echo}",
        "127.0.0.1:{closed}",
        "127.0.0.1",
        "localhost",
        "nowhere.invalid:22",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "[::1",
        None,
    ],
)
def test_jumps(both: Both, rule: str, destination: str | None) -> None:
    if destination is not None:
        destination = destination.format(echo=both.echo, closed=both.closed)
    ours, theirs = both.ask(rule, b"the end", destination)
    assert ours == theirs
    assert ours in (b"the end", b"502")
