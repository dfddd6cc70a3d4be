"""Origins that the visitor chooses: bastions and SOCKS, and what origins are told of visitors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from peers.origin import Origin
from peers.patience import PATIENCE, eventually, soon
from peers.processes import (
    ConnectorProcess,
    EdgeProcess,
    Process,
    QuickTunnelProcess,
    new_tunnel,
    running,
)
from peers.servers import free_port, listens, program, serving, sshd
from peers.stream_echo import stream_echo
from peers.websocket_bridge import websocket_bridge
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from underpass.wire.credentials import write_credentials_file
from underpass.wire.proxy_protocol import proxy_header, visitor_address

DOMAIN = "example.test"
HOSTS = ("bastion", "mode", "fenced", "socks", "no-rules", "fixed", "nobody", "v1", "v2", "unix")

NGINX = """
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log info;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port} proxy_protocol;
        location / {{ return 200 "$proxy_protocol_addr $proxy_protocol_port \
$proxy_protocol_server_addr $proxy_protocol_server_port $request_uri"; }}
    }}
}}
"""


@dataclass(frozen=True)
class Choices:
    """A connector with one rule for each way to choose."""

    edge: EdgeProcess
    connector: ConnectorProcess
    origin: Origin
    unix: Origin
    echo: int
    closed: int
    told: int

    def hostname(self, rule: str) -> str:
        return f"{rule}.{DOMAIN}"

    def curl(self, port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
        """curl, told to reach everything by the SOCKS server on `port`."""
        return subprocess.run(
            [
                *(program("curl"), "--silent", "--show-error", "--noproxy", ""),
                *("--max-time", f"{PATIENCE:.0f}", "--socks5-hostname", f"127.0.0.1:{port}"),
                *arguments,
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE * 2,
            check=False,
        )


def _rules(echo: int, closed: int, told: int, unix: Path) -> list[dict[str, object]]:
    here = {"prefix": "127.0.0.1/32", "allow": True}
    rules: list[dict[str, object]] = [
        {"hostname": "bastion", "service": "bastion"},
        {"hostname": "mode", "service": "tcp://unused:1", "originRequest": {"bastionMode": True}},
        {
            "hostname": "fenced",
            "service": "bastion",
            "originRequest": {"ipRules": [{**here, "ports": [echo]}]},
        },
        {"hostname": "socks", "service": "socks-proxy", "originRequest": {"ipRules": [here]}},
        {"hostname": "no-rules", "service": "socks-proxy"},
        {
            "hostname": "fixed",
            "service": f"tcp://127.0.0.1:{echo}",
            "originRequest": {"proxyType": "socks"},
        },
        {
            "hostname": "nobody",
            "service": f"tcp://127.0.0.1:{closed}",
            "originRequest": {"proxyType": "socks"},
        },
        {"hostname": "unix", "service": f"unix:{unix}"},
    ]
    for version in ("v1", "v2"):
        settings = {"proxyProtocol": version}
        service = f"tcp://127.0.0.1:{told}"
        rules.append({"hostname": version, "service": service, "originRequest": settings})
    return [
        *({**rule, "hostname": f"{rule['hostname']}.{DOMAIN}"} for rule in rules),
        {"service": "http_status:404"},
    ]


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Choices]:
    directory = tmp_path_factory.mktemp("choices")
    credentials = new_tunnel(directory / "data", *(f"{host}.{DOMAIN}" for host in HOSTS))
    write_credentials_file(directory / "credentials.json", credentials)
    told = free_port()
    edge = EdgeProcess(directory / "data")
    with (
        running(edge),
        Origin() as origin,
        Origin(path=directory / "unix.sock") as unix,
        stream_echo() as echo,
        socket.socket() as unused,
    ):
        # Bound and not listening: refused, and nobody else takes it.
        unused.bind(("127.0.0.1", 0))
        closed = unused.getsockname()[1]
        (directory / "config.yml").write_text(
            yaml.safe_dump(
                {
                    "tunnel": str(credentials.tunnel_id),
                    "credentials-file": str(directory / "credentials.json"),
                    "ingress": _rules(echo, closed, told, directory / "unix.sock"),
                }
            )
        )
        connector = ConnectorProcess(
            [f"--config={directory / 'config.yml'}", *edge.edge_arguments, "run"]
        )
        with running(connector):
            connector.ready()
            yield Choices(edge, connector, origin, unix, echo, closed, told)


def visit(choices: Choices, rule: str, destination: str | None = None) -> connect:
    headers = {} if destination is None else {"Cf-Access-Jump-Destination": destination}
    return connect(
        f"wss://{choices.hostname(rule)}:{choices.edge.https_port}/",
        host="127.0.0.1",
        port=choices.edge.https_port,
        proxy=None,
        ssl=ssl.create_default_context(cafile=choices.edge.ca),
        additional_headers=headers,
        open_timeout=PATIENCE,
    )


class TestBastion:
    @pytest.mark.parametrize("rule", ["bastion", "mode", "fenced"])
    @pytest.mark.parametrize("spelling", ["{}", "tcp://{}", "ssh://user@{}/path", "{}/path"])
    def test_bytes_both_ways(self, choices: Choices, rule: str, spelling: str) -> None:
        destination = spelling.format(f"127.0.0.1:{choices.echo}")

        async def scenario() -> None:
            async with visit(choices, rule, destination) as socket:
                await socket.send(b"hello")
                assert await soon(socket.recv()) == b"hello"

        asyncio.run(scenario())

    def refused(self, choices: Choices, rule: str, destination: str | None) -> tuple[str, str]:
        """The cause and the sentence in the log."""

        async def scenario() -> str:
            with pytest.raises(InvalidStatus) as refused:
                async with visit(choices, rule, destination):
                    raise AssertionError("it was let through")
            answer = refused.value.response
            assert answer.status_code == 502
            return answer.headers["cf-ray"]

        ray = asyncio.run(scenario())
        line = choices.connector.wait_for("Unable to reach the origin service", cfRay=ray)
        return line["cause"], line["error"]

    def test_no_destination(self, choices: Choices) -> None:
        cause, error = self.refused(choices, "bastion", None)
        assert cause == "bad_destination"
        assert "Cf-Access-Jump-Destination" in error

    def test_no_port(self, choices: Choices) -> None:
        cause, error = self.refused(choices, "bastion", "127.0.0.1")
        assert cause == "bad_destination"
        assert "has no port" in error

    def test_nobody_listens(self, choices: Choices) -> None:
        cause, error = self.refused(choices, "bastion", f"127.0.0.1:{choices.closed}")
        assert (cause, error) == (
            "dial",
            f"cannot connect to 127.0.0.1:{choices.closed}: Connection refused",
        )

    def test_a_name_that_does_not_exist(self, choices: Choices) -> None:
        assert self.refused(choices, "bastion", "nowhere.invalid:22")[0] == "dns"

    @pytest.mark.parametrize("host", ["127.0.0.2", "[::1]", "0.0.0.0", "[::ffff:127.0.0.2]"])
    def test_rules_where_there_are_any(self, choices: Choices, host: str) -> None:
        assert self.refused(choices, "fenced", f"{host}:{choices.echo}")[0] == "denied"

    def test_rules_for_ports(self, choices: Choices) -> None:
        assert self.refused(choices, "fenced", f"127.0.0.1:{choices.closed}")[0] == "denied"


class TestSocks:
    """curl as the client, by a local port that leads through the tunnel."""

    def test_an_address(self, choices: Choices) -> None:
        with websocket_bridge(choices.edge, choices.hostname("socks")) as port:
            finished = choices.curl(port, f"{choices.origin.url}/hello")
        assert (finished.stdout, finished.stderr) == ("hello\n", "")

    def test_a_name_of_which_one_address_is_allowed(self, choices: Choices) -> None:
        url = choices.origin.url.replace("127.0.0.1", "localhost")
        assert "localhost" in url
        with websocket_bridge(choices.edge, choices.hostname("socks")) as port:
            finished = choices.curl(port, f"{url}/hello")
        assert (finished.stdout, finished.stderr) == ("hello\n", "")

    def test_a_large_upload_and_download(self, choices: Choices, tmp_path: Path) -> None:
        there, back = tmp_path / "there", tmp_path / "back"
        there.write_bytes(os.urandom(3_000_000))
        with websocket_bridge(choices.edge, choices.hostname("socks")) as port:
            finished = choices.curl(
                port,
                f"{choices.origin.url}/echo",
                "--data-binary",
                f"@{there}",
                "--output",
                str(back),
            )
        assert finished.stderr == ""
        assert back.read_bytes() == there.read_bytes()

    @pytest.mark.parametrize(
        ("rule", "host", "reply", "cause"),
        [
            ("socks", "127.0.0.2", 2, "denied"),
            ("socks", "nowhere.invalid", 2, "dns"),
            ("no-rules", "127.0.0.1", 2, "denied"),
            ("socks", "127.0.0.1", 5, "dial"),
        ],
    )
    def test_refusals(self, choices: Choices, rule: str, host: str, reply: int, cause: str) -> None:
        """curl tells the code of the reply (RFC 1928 §6), the log the cause."""
        with websocket_bridge(choices.edge, choices.hostname(rule)) as port:
            finished = choices.curl(port, f"http://{host}:{choices.closed}/")
        assert finished.returncode == 97
        assert f"({reply})" in finished.stderr
        assert choices.connector.wait_for("SOCKS request refused", cause=cause)["hop"]

    def test_in_front_of_one_origin_the_request_does_not_matter(self, choices: Choices) -> None:
        """docs: configuration §5, `proxyType`."""
        greeting, request = b"\x05\x01\x00", b"\x05\x01\x00\x03\x07nowhere\x00\x01"

        async def scenario() -> None:
            async with visit(choices, "fixed") as socket:
                await socket.send(greeting + request + b"first")
                received = bytearray()
                while len(received) < 2 + 10 + len(b"firstthen"):
                    data = await soon(socket.recv())
                    assert isinstance(data, bytes)
                    if len(received) < 17 <= len(received) + len(data):
                        await socket.send(b"then")
                    received += data
                assert received[:2] == b"\x05\x00"
                assert received[2:6] == b"\x05\x00\x00\x01"
                assert received[6:10] == bytes((127, 0, 0, 1))
                assert received[12:] == b"firstthen"

        asyncio.run(scenario())

    def test_that_origin_is_connected_before_the_visitor_is_answered(
        self, choices: Choices
    ) -> None:
        async def scenario() -> None:
            with pytest.raises(InvalidStatus) as refused:
                async with visit(choices, "nobody"):
                    raise AssertionError("nobody is there")
            assert refused.value.response.status_code == 502

        asyncio.run(scenario())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nginx_is_told_who_visits(choices: Choices, version: str, tmp_path: Path) -> None:
    """Over the PROXY protocol. Each connection is told; nginx refuses those that are not."""
    nginx = program("nginx")
    user = "user root;" if os.geteuid() == 0 else ""
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(NGINX.format(directory=tmp_path, user=user, port=choices.told))
    arguments = [nginx, "-e", str(tmp_path / "error.log"), "-c", str(configuration)]
    with (
        serving(arguments, choices.told, tmp_path / "output.log"),
        websocket_bridge(choices.edge, choices.hostname(version)) as port,
    ):
        for number in range(2):
            finished = subprocess.run(
                [program("curl"), "-sS", "--noproxy", "*", f"http://127.0.0.1:{port}/{number}"],
                capture_output=True,
                text=True,
                timeout=PATIENCE,
                check=True,
            )
            # Port 0 is nothing to nginx.
            told = f"127.0.0.1  127.0.0.1 {choices.told} /{number}"
            assert finished.stdout == told
        for source in (b"192.0.2.1", b"2001:db8::1", b"::ffff:192.0.2.1"):
            header = proxy_header(version, visitor_address(source), "127.0.0.1", choices.told)
            assert _told(choices.told, header) == source.removeprefix(b"::ffff:")
        # Of nobody it takes the connection's own address, or none (which of them, versions differ).
        nobody = proxy_header(version, None, "127.0.0.1", choices.told)
        assert _told(choices.told, nobody) in (b"", b"127.0.0.1")


def _told(port: int, header: bytes) -> bytes:
    """Whom nginx takes the visitor for, of whom it gets `header`."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as connection:
        connection.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    return body.split(b" ")[0]


def test_a_websocket_on_a_unix_socket(choices: Choices) -> None:
    """cloudflared answers 502 here."""

    async def scenario() -> None:
        async with connect(
            f"wss://{choices.hostname('unix')}:{choices.edge.https_port}/ws",
            host="127.0.0.1",
            port=choices.edge.https_port,
            proxy=None,
            ssl=ssl.create_default_context(cafile=choices.edge.ca),
            open_timeout=PATIENCE,
        ) as socket:
            await socket.send("hello")
            assert await soon(socket.recv()) == "hello"

    asyncio.run(scenario())


@pytest.mark.parametrize("socks5", [True, False])
def test_the_flags(edge: EdgeProcess, socks5: bool) -> None:
    """`--socks5` in front of `--url`, and `--bastion`."""
    hello = b"hello"

    async def scenario(hostname: str, destination: str) -> None:
        async with connect(
            f"wss://{hostname}:{edge.https_port}/",
            host="127.0.0.1",
            port=edge.https_port,
            proxy=None,
            ssl=ssl.create_default_context(cafile=edge.ca),
            additional_headers={"Cf-Access-Jump-Destination": destination},
            open_timeout=PATIENCE,
        ) as visitor:
            if socks5:
                await visitor.send(b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x01")
                for size in (2, 10):
                    assert len(await soon(visitor.recv())) == size
            await visitor.send(hello)
            assert await soon(visitor.recv()) == hello

    with stream_echo() as port:
        destination = f"127.0.0.1:{port}"
        arguments = [f"--url=tcp://{destination}", "--socks5"] if socks5 else ["--bastion"]
        connector = QuickTunnelProcess(edge, *arguments)
        with running(connector):
            connector.ready()
            asyncio.run(scenario(connector.hostname, destination))


@contextlib.contextmanager
def stock_client(choices: Choices, rule: str, *more: str) -> Iterator[int]:
    """`cloudflared access tcp` to a rule; yields its local port."""
    binary = os.environ.get("UNDERPASS_CLOUDFLARED", "")
    if not binary:
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    port, hostname = free_port(), choices.hostname(rule)
    client = Process(
        [
            *(binary, "access", "tcp", "--hostname", hostname, "--url", f"127.0.0.1:{port}"),
            *("--connect-to", f"{hostname}:{choices.edge.https_port}:127.0.0.1", *more),
        ]
    )
    try:
        eventually(lambda: listens(port), "the client listens")
        yield port
    finally:
        client.kill()


@pytest.mark.interop
def test_ssh_by_a_bastion_with_a_stock_client(choices: Choices, tmp_path: Path) -> None:
    content = os.urandom(1_000_000)
    with (
        sshd(tmp_path) as server,
        stock_client(choices, "fenced", "--destination", f"localhost:{choices.closed}") as nowhere,
        stock_client(choices, "bastion", "--destination", f"localhost:{server.port}") as local,
    ):
        finished = subprocess.run(
            server.client(local, "cat"),
            input=content,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert (finished.stderr, finished.stdout) == (b"", content)
        refused = subprocess.run(
            server.client(nowhere, "cat"), capture_output=True, timeout=PATIENCE, check=False
        )
        assert (refused.returncode, refused.stdout) == (255, b"")


@pytest.mark.interop
def test_socks_with_a_stock_client(choices: Choices) -> None:
    with stock_client(choices, "socks") as port:
        finished = choices.curl(port, f"{choices.origin.url}/hello")
        assert (finished.stdout, finished.stderr) == ("hello\n", "")
        refused = choices.curl(port, f"http://127.0.0.2:{choices.closed}/")
        assert "(2)" in refused.stderr
