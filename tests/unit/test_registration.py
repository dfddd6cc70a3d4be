"""Registration of a connection: recorded sessions in both roles, and what is out of bounds."""

from __future__ import annotations

import asyncio
import json
import uuid
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from msgspec.structs import replace

from underpass.wire import registration_messages as layout
from underpass.wire import rpc_messages as messages
from underpass.wire.capnp import Message, MessageReader
from underpass.wire.registration import (
    DUPLICATE_CONNECTION,
    MAX_CONFIGURATION_BYTES,
    ClientInfo,
    ConnectionDetails,
    ConnectionOptions,
    RegistrationClient,
    RegistrationRefused,
    RegistrationRequest,
    RegistrationServer,
    TunnelAuth,
)
from underpass.wire.rpc import RpcEnded, RpcException, RpcProtocolError
from underpass.wire.rpc_messages import EMPTY, ImportedCap

VECTORS = Path(__file__).parent.parent / "vectors"
(RECORDED,) = json.loads((VECTORS / "registration_rpc.json").read_text())["vectors"]
SESSIONS = {session["name"]: session for session in RECORDED["sessions"]}
ACCEPTED, *REFUSED = SESSIONS.values()
CONFIG = RECORDED["updateLocalConfiguration_config"].encode()

REQUEST = RegistrationRequest(
    auth=TunnelAuth("0123456789abcdef0123456789abcdef", b"\xab" * 32),
    tunnel_id=uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"),
    conn_index=2,
    options=ConnectionOptions(
        client=ClientInfo(
            client_id=uuid.UUID("01020304-0506-4708-890a-0b0c0d0e0f10"),
            features=(
                "allow_remote_config",
                "serialized_headers",
                "support_datagram_v2",
                "support_quic_eof",
                "management_logs",
            ),
            version="2026.8.2",
            arch="linux_amd64",
        ),
        origin_local_ip=IPv4Address("192.0.2.10"),
        num_previous_attempts=3,
    ),
)
DETAILS = ConnectionDetails(uuid.UUID("11111111-2222-3333-4444-555555555555"), "lhr01", False)
REFUSALS = {
    "register rejected: plain error text EDUPCONN": (DUPLICATE_CONNECTION, 0, False),
    "register rejected: Unauthorized: Invalid tunnel secret": (
        "Unauthorized: Invalid tunnel secret",
        0,
        False,
    ),
    "register rejected: retryable, cause 'try later', retryAfter 3 s (3000000000 ns), "
    "shouldRetry true": ("try later", 3_000_000_000, True),
}


def recorded(session: dict, direction: str) -> list[str]:
    return [message["hex"] for message in session[direction]]


def hexes(sent: list[bytes]) -> list[str]:
    return [framed.hex() for framed in sent]


class Edge:
    """A handler that answers as the recorded one did."""

    def __init__(self, outcome: ConnectionDetails | Exception = DETAILS):
        self.outcome = outcome
        self.calls: list[object] = []

    def register_connection(self, request):
        self.calls.append(request)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def unregister_connection(self):
        self.calls.append("unregister")

    def update_local_configuration(self, config):
        self.calls.append(config)


def register(client: RegistrationClient, request: RegistrationRequest = REQUEST):
    return client.register_connection(
        request.auth, request.tunnel_id, request.conn_index, request.options
    )


class Script:
    """The recorded edge: answers each of the client's calls with the next recorded messages."""

    def __init__(self, session: dict):
        self.sent: list[bytes] = []
        self.answers = [bytes.fromhex(text) for text in recorded(session, "edge_to_connector")]
        self.client = RegistrationClient(self._take)

    def _take(self, framed: bytes) -> None:
        self.sent.append(framed)
        message = messages.decode(Message.from_bytes(framed))
        if isinstance(message, messages.Call):
            # The answer to the bootstrap and to the first call come together.
            count = 2 if message.method_id == layout.REGISTER_CONNECTION else 1
            answers, self.answers = self.answers[:count], self.answers[count:]
            asyncio.get_running_loop().call_soon(self.client.feed, b"".join(answers))


class TestRecordedSessions:
    def test_the_connector_says_what_cloudflared_said(self):
        async def scenario():
            script = Script(ACCEPTED)
            client = script.client
            assert await register(client) == DETAILS
            await client.update_local_configuration(CONFIG)
            await client.unregister_connection()
            client.close()
            assert hexes(script.sent) == recorded(ACCEPTED, "connector_to_edge")

        asyncio.run(scenario())

    @pytest.mark.parametrize("session", REFUSED, ids=lambda session: session["name"])
    def test_the_connector_understands_a_refusal(self, session):
        async def scenario():
            script = Script(session)
            with pytest.raises(RegistrationRefused) as caught:
                await register(script.client)
            refused = caught.value
            expected = REFUSALS[session["name"]]
            assert (refused.cause, refused.retry_after_ns, refused.should_retry) == expected
            script.client.close()
            assert hexes(script.sent) == recorded(session, "connector_to_edge")

        asyncio.run(scenario())

    def test_the_edge_says_what_cloudflareds_edge_said(self):
        edge, sent, ends = Edge(), [], []
        server = RegistrationServer(edge, sent.append, on_end=ends.append)
        for text in recorded(ACCEPTED, "connector_to_edge"):
            server.feed(bytes.fromhex(text))
        assert edge.calls == [REQUEST, CONFIG, "unregister"]
        assert hexes(sent) == recorded(ACCEPTED, "edge_to_connector")
        assert ends == ["rpc: shutdown"]

    @pytest.mark.parametrize("session", REFUSED, ids=lambda session: session["name"])
    def test_the_edge_refuses_as_cloudflareds_edge_did(self, session):
        edge = Edge(RegistrationRefused(*REFUSALS[session["name"]]))
        sent, ends = [], []
        server = RegistrationServer(edge, sent.append, on_end=ends.append)
        server.feed(bytes.fromhex("".join(recorded(session, "connector_to_edge"))))
        assert hexes(sent) == recorded(session, "edge_to_connector")
        assert ends == ["rpc: shutdown"]

    def test_every_recorded_message_can_be_read(self):
        for session in SESSIONS.values():
            for direction in ("connector_to_edge", "edge_to_connector"):
                for recorded_message in session[direction]:
                    message = Message.from_bytes(bytes.fromhex(recorded_message["hex"]))
                    kind = type(messages.decode(message)).__name__.lower()
                    kind = "return" if kind == "results" else kind
                    assert kind == recorded_message["message"]

    def test_calls_on_quic_streams_can_be_read(self):
        vectors = json.loads((VECTORS / "quic_rpc_streams.json").read_text())["vectors"]
        for vector in vectors:
            for direction in ("initiator_to_acceptor", "acceptor_to_initiator"):
                stream = b"".join(bytes.fromhex(m["hex"]) for m in vector[direction])
                kinds = [
                    type(messages.decode(message)).__name__.lower()
                    for message in MessageReader().feed(stream)
                ]
                expected = [message["message"] for message in vector[direction]]
                assert [kind.replace("results", "return") for kind in kinds] == expected


def both(edge: Edge):
    """A client and a server joined to each other."""
    client = RegistrationClient(lambda framed: server.feed(framed))
    server = RegistrationServer(edge, lambda framed: client.feed(framed))
    return client, server


def returned(request: RegistrationRequest) -> RegistrationRequest:
    """`request` as the edge gets it."""
    edge = Edge()
    client, _ = both(edge)
    asyncio.run(register(client, request))
    return edge.calls[0]


class TestRequest:
    @pytest.mark.parametrize(
        "address", [IPv4Address("198.51.100.7"), IPv6Address("2001:db8::7"), None], ids=str
    )
    def test_addresses_of_both_families_or_none(self, address):
        request = replace(REQUEST, options=replace(REQUEST.options, origin_local_ip=address))
        assert returned(request) == request

    def test_all_fields(self):
        request = RegistrationRequest(
            TunnelAuth("account", b"\0\x01"),
            uuid.UUID(int=1),
            255,
            ConnectionOptions(
                ClientInfo(uuid.UUID(int=2), (), "0.1.0", "plan9_mips"),
                IPv6Address("::1"),
                replace_existing=True,
                compression_quality=9,
                num_previous_attempts=254,
            ),
        )
        assert returned(request) == request

    def test_more_attempts_than_the_field_holds_are_sent_as_its_most(self):
        request = replace(REQUEST, options=replace(REQUEST.options, num_previous_attempts=1000))
        assert returned(request).options.num_previous_attempts == 255

    @pytest.mark.parametrize("index", [-1, 256])
    def test_an_index_that_does_not_fit_is_an_error_of_the_caller(self, index):
        with pytest.raises(ValueError, match="range"):
            returned(replace(REQUEST, conn_index=index))

    def test_the_secret_is_not_printed(self):
        for text in (repr(REQUEST), str(REQUEST.auth), f"{REQUEST.auth.tunnel_secret}"):
            assert "abab" not in text
            assert "\\xab" not in text
        assert "<secret of 32 bytes>" in repr(REQUEST)

    def test_the_secret_stays_the_bytes_it_is(self):
        assert REQUEST.auth.tunnel_secret == b"\xab" * 32
        assert returned(REQUEST).auth.tunnel_secret.hex() == "ab" * 32


def client_info(**changed) -> RegistrationRequest:
    client = replace(REQUEST.options.client, **changed)
    return replace(REQUEST, options=replace(REQUEST.options, client=client))


LONG = "x" * (layout.MAX_NAME_CHARACTERS + 1)
OUT_OF_BOUNDS = {
    "auth.accountTag": replace(REQUEST, auth=TunnelAuth(LONG, b"s")),
    "auth.tunnelSecret": replace(REQUEST, auth=TunnelAuth("a", bytes(layout.MAX_SECRET_BYTES + 1))),
    "client.features has 65": client_info(features=("f",) * (layout.MAX_FEATURES + 1)),
    "client.features has 257": client_info(features=(LONG,)),
    "client.version": client_info(version=LONG),
    "client.arch": client_info(arch=LONG),
}


class TestBounds:
    @pytest.mark.parametrize("field", OUT_OF_BOUNDS)
    def test_a_field_out_of_bounds_is_refused_by_name(self, field):
        with pytest.raises(RpcException, match=field):
            returned(OUT_OF_BOUNDS[field])

    def test_a_field_at_its_bound_is_not(self):
        name = "x" * layout.MAX_NAME_CHARACTERS
        request = client_info(features=(name,) * layout.MAX_FEATURES, version=name, arch=name)
        request = replace(request, auth=TunnelAuth(name, bytes(layout.MAX_SECRET_BYTES)))
        assert returned(request) == request

    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_an_id_that_is_no_uuid_is_refused(self, size):
        def fill(params):
            params.set_data(1, bytes(size))

        assert "tunnelId" in refusal_of(messages.Content(1, 3, fill))

    def test_an_address_of_odd_size_is_refused(self):
        def fill(params):
            layout.registration_params(REQUEST).fill(params)
            options = params.init_struct(2, 1, 2)
            options.init_struct(0, 0, 4).set_data(0, bytes(16))
            options.set_data(1, bytes(5))

        assert "originLocalIp has 5 bytes" in refusal_of(messages.Content(1, 3, fill))

    def test_an_address_of_four_bytes_is_accepted(self):
        def fill(params):
            layout.registration_params(REQUEST).fill(params)
            options = params.init_struct(2, 1, 2)
            options.init_struct(0, 0, 4).set_data(0, bytes(16))
            options.set_data(1, b"\xc0\0\x02\x01")

        edge = Edge()
        serve_call(edge, layout.REGISTRATION_SERVER, 0, messages.Content(1, 3, fill))
        assert edge.calls[0].options.origin_local_ip == IPv4Address("192.0.2.1")


def serve_call(edge: Edge, interface_id: int, method_id: int, params: messages.Content):
    """The edge's answer to one call."""
    sent = []
    server = RegistrationServer(edge, sent.append)
    server.feed(messages.encode_bootstrap(0))
    server.feed(messages.encode_call(1, ImportedCap(0), interface_id, method_id, params))
    return messages.decode(Message.from_bytes(sent[-1]))


def refusal_of(params: messages.Content) -> str:
    edge = Edge()
    answer = serve_call(edge, layout.REGISTRATION_SERVER, layout.REGISTER_CONNECTION, params)
    assert isinstance(answer, messages.Failure)
    assert edge.calls == []
    return answer.reason


class TestServer:
    @pytest.mark.parametrize(
        ("interface_id", "method_id"),
        [(layout.REGISTRATION_SERVER, 3), (0xEA58385C65416035, 0), (0, 0)],
    )
    def test_other_methods_and_interfaces_are_not_implemented(self, interface_id, method_id):
        answer = serve_call(Edge(), interface_id, method_id, EMPTY)
        assert isinstance(answer, messages.Failure)
        assert answer.type == messages.UNIMPLEMENTED
        assert f"{interface_id:#x}" in answer.reason

    def test_a_handler_may_answer_with_an_exception(self):
        with pytest.raises(RpcException, match="closed for today"):
            asyncio.run(register(both(Edge(RpcException("closed for today")))[0]))

    @pytest.mark.parametrize("garbage", [b"\xff" * 8, b"GET / HTTP/1.1\r\n\r\n"])
    def test_bytes_that_are_no_messages_are_one_kind_of_error(self, garbage):
        with pytest.raises(RpcProtocolError):
            RegistrationServer(Edge(), [].append).feed(garbage)

    def test_parameters_that_lead_nowhere_are_the_same_kind_of_error(self):
        edge = Edge()
        with pytest.raises(RpcProtocolError):
            serve_call(edge, layout.REGISTRATION_SERVER, 2, messages.Content(0, 1, _dangling))
        with pytest.raises(RpcProtocolError):
            serve_call(edge, layout.REGISTRATION_SERVER, 0, messages.Content(1, 3, _dangling))
        assert edge.calls == []

    def test_the_edge_may_close_too(self):
        sent = []
        server = RegistrationServer(Edge(), sent.append)
        server.close()
        assert hexes(sent) == [messages.encode_abort("rpc: shutdown").hex()]
        server.closed(None)


def _dangling(params) -> None:
    params.set_capability(0, 0)


def answered(fill) -> ConnectionDetails:
    """What the client makes of a registration's results."""

    async def scenario():
        client = RegistrationClient([].append)
        task = asyncio.ensure_future(register(client))
        answer = messages.encode_bootstrap_results(0, 0) + messages.encode_results(
            1, messages.Content(0, 1, fill), release_param_caps=False
        )
        asyncio.get_running_loop().call_soon(client.feed, answer)
        return await task

    return asyncio.run(scenario())


def response(kind: int, connection_id: bytes = bytes(16), location: str = ""):
    def fill(results):
        response = results.init_struct(0, 1, 1)
        response.set_u16(0, kind)
        details = response.init_struct(0, 1, 2)
        details.set_data(0, connection_id)
        details.set_text(1, location)

    return fill


class TestClient:
    @pytest.mark.parametrize("size", [0, 15, 17])
    def test_a_connection_id_that_is_no_uuid(self, size):
        with pytest.raises(RpcProtocolError, match=rf"uuid has {size} bytes"):
            answered(response(1, bytes(size)))

    def test_a_location_that_is_too_long(self):
        with pytest.raises(RpcProtocolError, match="locationName"):
            answered(response(1, location=LONG))

    def test_an_answer_of_unknown_kind(self):
        with pytest.raises(RpcProtocolError, match="unknown kind 2"):
            answered(response(2))

    def test_an_answer_that_leads_nowhere(self):
        with pytest.raises(RpcProtocolError):
            answered(_dangling)

    def test_a_long_cause_is_cut(self):
        def fill(results):
            results.init_struct(0, 1, 1).init_struct(0, 2, 1).set_text(0, "no " * 5000)

        with pytest.raises(RegistrationRefused) as caught:
            answered(fill)
        assert len(caught.value.cause) == layout.MAX_CAUSE_CHARACTERS

    def test_remotely_managed(self):
        details = replace(DETAILS, tunnel_is_remotely_managed=True)
        client, _ = both(Edge(details))
        assert asyncio.run(register(client)) == details

    def test_tells_how_its_calls_went(self):
        async def scenario(outcome, calls):
            edge = Edge(outcome)
            server = RegistrationServer(edge, lambda framed: client.feed(framed))
            client = RegistrationClient(server.feed, on_called=calls)
            try:
                await register(client)
            finally:
                await client.unregister_connection()

        told = []
        asyncio.run(scenario(DETAILS, lambda *call: told.append(call)))
        with pytest.raises(RegistrationRefused):
            asyncio.run(scenario(RegistrationRefused("no"), lambda *call: told.append(call)))
        assert [(method, failed) for method, _, failed in told] == [
            ("register_connection", False),
            ("unregister_connection", False),
            ("register_connection", True),
            ("unregister_connection", False),
        ]
        assert all(seconds >= 0 for _, seconds, _ in told)

    def test_a_lost_stream(self):
        async def scenario():
            client = RegistrationClient([].append)
            asyncio.get_running_loop().call_soon(client.closed, ConnectionResetError("gone"))
            with pytest.raises(RpcEnded, match="gone"):
                await client.unregister_connection()

        asyncio.run(scenario())

    def test_an_edge_that_aborts(self):
        async def scenario():
            ends = []
            client = RegistrationClient([].append, on_end=ends.append)
            asyncio.get_running_loop().call_soon(client.feed, messages.encode_abort("no room"))
            with pytest.raises(RpcEnded, match="no room"):
                await client.unregister_connection()
            assert ends == ["no room"]

        asyncio.run(scenario())


def test_a_refusal_says_what_kind_it_is():
    assert RegistrationRefused("EDUPCONN").is_duplicate
    assert not RegistrationRefused("EDUPCONN again").is_duplicate
    assert RegistrationRefused("Unauthorized: Invalid tunnel secret").is_unauthorized
    assert not RegistrationRefused("EDUPCONN").is_unauthorized
    assert str(RegistrationRefused("try later")) == "try later"


class Wires:
    """A client and a server that hand their bytes to each other at once."""

    def __init__(self, edge: Edge) -> None:
        self.server = RegistrationServer(edge, lambda framed: self.client.feed(framed))
        self.client = RegistrationClient(self.server.feed)


def test_a_registered_connector_may_report_a_large_configuration() -> None:
    edge = Edge()

    async def talk() -> None:
        wires = Wires(edge)
        await register(wires.client)
        await wires.client.update_local_configuration(bytes(MAX_CONFIGURATION_BYTES))

    asyncio.run(talk())
    assert edge.calls[1] == bytes(MAX_CONFIGURATION_BYTES)


@pytest.mark.parametrize(
    ("registered", "size"), [(False, 1 << 20), (True, MAX_CONFIGURATION_BYTES + (1 << 20))]
)
def test_not_before_and_not_without_bounds(registered: bool, size: int) -> None:
    edge = Edge()

    async def talk() -> None:
        wires = Wires(edge)
        if registered:
            await register(wires.client)
        with pytest.raises(RpcProtocolError, match="bytes, at most"):
            await wires.client.update_local_configuration(bytes(size))

    asyncio.run(talk())
    assert len(edge.calls) == registered
