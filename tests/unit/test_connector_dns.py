"""Lookups of the edge, asked of a DNS server on loopback: UDP for the system's way, TLS for the
other one."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
import dns.rrset
import pytest
import trustme

from underpass.connector import discovery
from underpass.connector.discovery import DnsResolver, NoSuchNameError, SrvTarget

NAME = "_v2-origintunneld._tcp.argotunnel.com"
TARGETS = [SrvTarget("one.example", 7844, 1, 10), SrvTarget("two.example", 7844, 2, 20)]

Answer = Callable[[dns.message.Message], dns.message.Message]


def srv(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    records = [f"{t.priority} {t.weight} {t.port} {t.host}." for t in TARGETS]
    reply.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "SRV", *records))
    return reply


def no_such_name(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply


def failing(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return reply


@contextlib.asynccontextmanager
async def server(answer: Answer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The system's DNS, as long as this holds."""

    class Answering(asyncio.DatagramProtocol):
        def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
            self.transport = transport

        def datagram_received(self, data: bytes, address: Any) -> None:
            self.transport.sendto(answer(dns.message.from_wire(data)).to_wire(), address)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Answering, ("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = transport.get_extra_info("sockname")[1]
    monkeypatch.setattr(dns.asyncresolver, "default_resolver", resolver)
    try:
        yield
    finally:
        transport.close()


@contextlib.asynccontextmanager
async def tls_server(
    answer: Answer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[None]:
    """The DNS over TLS that is asked in need."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("cloudflare-dns.com").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(2), "big")
        reply = answer(dns.message.from_wire(await reader.readexactly(size))).to_wire()
        writer.write(len(reply).to_bytes(2, "big") + reply)
        await reader.read()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    monkeypatch.setattr(discovery, "_DOT_ADDRESS", "127.0.0.1")
    monkeypatch.setattr(discovery, "_DOT_PORT", listener.sockets[0].getsockname()[1])
    try:
        yield
    finally:
        listener.close()


Ask = Callable[[Answer], Coroutine[Any, Any, Any]]


@pytest.fixture(params=["system", "over TLS"])
def ask(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Looks the edge up, in one way or the other."""

    async def system(answer: Answer) -> Any:
        async with server(answer, monkeypatch):
            return await DnsResolver().targets(NAME)

    async def over_tls(answer: Answer) -> Any:
        async with tls_server(answer, tmp_path, monkeypatch):
            return await DnsResolver().fallback_targets(NAME)

    return system if request.param == "system" else over_tls


def test_srv_records_become_targets(ask: Ask) -> None:
    found = asyncio.run(ask(srv))  # in no order: servers shuffle
    assert sorted(found, key=lambda target: target.priority) == TARGETS


def test_a_name_that_does_not_exist_is_told_apart(ask: Ask) -> None:
    with pytest.raises(NoSuchNameError):
        asyncio.run(ask(no_such_name))


def test_a_server_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with server(failing, monkeypatch):
            await DnsResolver().targets(NAME)

    with pytest.raises(OSError, match="SERVFAIL") as error:
        asyncio.run(scenario())
    assert not isinstance(error.value, NoSuchNameError)


def test_a_tls_server_with_another_name_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "_DOT_NAME", "elsewhere.example")

    async def scenario() -> None:
        async with tls_server(srv, tmp_path, monkeypatch):
            await DnsResolver().fallback_targets(NAME)

    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(scenario())


def test_addresses_are_asked_of_the_system() -> None:
    assert "127.0.0.1" in asyncio.run(DnsResolver().addresses("127.0.0.1"))
