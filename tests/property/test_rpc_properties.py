"""RPC connections under any chunking, any damage, and any order of messages."""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from underpass.wire import rpc_messages as messages
from underpass.wire.capnp import Message
from underpass.wire.registration import (
    ClientInfo,
    ConnectionDetails,
    ConnectionOptions,
    RegistrationClient,
    RegistrationRefused,
    RegistrationServer,
    TunnelAuth,
)
from underpass.wire.rpc import MAX_ANSWERS, RpcConnection, RpcError, RpcProtocolError
from underpass.wire.rpc_messages import EMPTY, Content, ImportedCap, PromisedAnswer

VECTORS = Path(__file__).parent.parent / "vectors"
(RECORDED,) = json.loads((VECTORS / "registration_rpc.json").read_text())["vectors"]
SESSIONS = RECORDED["sessions"]
DETAILS = ConnectionDetails(uuid.UUID("11111111-2222-3333-4444-555555555555"), "lhr01", False)


def stream(session: dict, direction: str) -> bytes:
    return b"".join(bytes.fromhex(message["hex"]) for message in session[direction])


FROM_CONNECTOR = stream(SESSIONS[0], "connector_to_edge")
FROM_EDGE = [stream(session, "edge_to_connector") for session in SESSIONS]


class Edge:
    def register_connection(self, request):
        return DETAILS

    def unregister_connection(self):
        pass

    def update_local_configuration(self, config):
        pass


def register(client: RegistrationClient):
    return client.register_connection(
        TunnelAuth("a", b"s"),
        uuid.UUID(int=1),
        0,
        ConnectionOptions(ClientInfo(uuid.UUID(int=2), (), "", "")),
    )


def damage(data: st.DataObject, original: bytes) -> bytes:
    damaged = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    return bytes(damaged)


cuts = st.lists(st.integers(0, 2000), max_size=12).map(sorted)
"""Where chunks end; beyond the end of a stream there is nothing to cut."""


def chunks(content: bytes, ends: list[int]) -> list[bytes]:
    starts = [0, *ends]
    return [content[start:end] for start, end in zip(starts, [*ends, None], strict=True)]


@given(cuts)
@example(list(range(2000)))
def test_the_edge_answers_the_same_wherever_chunks_end(ends_of_chunks):
    sent, ends = [], []
    server = RegistrationServer(Edge(), sent.append, on_end=ends.append)
    for chunk in chunks(FROM_CONNECTOR, ends_of_chunks):
        server.feed(chunk)
    assert b"".join(sent) == stream(SESSIONS[0], "edge_to_connector")
    assert ends == ["rpc: shutdown"]


@given(cuts)
@example(list(range(2000)))
def test_the_connector_understands_the_same_wherever_chunks_end(ends_of_chunks):
    async def scenario():
        client = RegistrationClient([].append)
        task = asyncio.ensure_future(register(client))
        # The last two answers are to calls not made here.
        answers = b"".join(bytes.fromhex(m["hex"]) for m in SESSIONS[0]["edge_to_connector"][:2])
        for chunk in chunks(answers, ends_of_chunks):
            asyncio.get_running_loop().call_soon(client.feed, chunk)
        assert await task == DETAILS

    asyncio.run(scenario())


@given(st.data(), cuts)
def test_an_edge_fed_damaged_bytes_raises_one_error_or_goes_on(data, ends_of_chunks):
    server = RegistrationServer(Edge(), [].append)
    try:
        for chunk in chunks(damage(data, FROM_CONNECTOR), ends_of_chunks):
            server.feed(chunk)
    except RpcProtocolError:
        server.feed(FROM_CONNECTOR)


@given(st.sampled_from(FROM_EDGE), st.data())
def test_a_connector_fed_damaged_bytes_raises_one_error_or_goes_on(original, data):
    damaged = damage(data, original)

    async def scenario():
        client = RegistrationClient([].append)
        task = asyncio.ensure_future(register(client))

        def feed():
            try:
                client.feed(damaged)
            except RpcProtocolError:
                pass
            client.close()  # so that a call left without an answer ends as well

        asyncio.get_running_loop().call_soon(feed)
        try:
            await task
        except (RpcError, RegistrationRefused):
            pass

    asyncio.run(scenario())


@given(st.binary(max_size=300))
@example(b"")
def test_an_edge_fed_any_bytes_raises_one_error_or_waits(content):
    server = RegistrationServer(Edge(), [].append)
    try:
        server.feed(content)
    except RpcProtocolError:
        pass


ids = st.integers(0, 4)
targets = st.builds(ImportedCap, st.integers(0, 1)) | st.builds(PromisedAnswer, ids, st.booleans())
peer_messages = st.one_of(
    st.builds(messages.encode_bootstrap, ids),
    st.builds(messages.encode_call, ids, targets, st.just(1), st.integers(0, 2), st.just(EMPTY)),
    st.builds(
        lambda question, release: messages.encode_finish(question, release_result_caps=release),
        ids,
        st.booleans(),
    ),
    st.builds(messages.encode_release, st.integers(0, 1), st.integers(0, 2)),
    st.builds(messages.encode_unimplemented, st.integers(0, 13)),
    st.builds(messages.encode_exception, ids, st.just("no"), st.integers(0, 3)),
)


def dispatch(interface_id: int, method_id: int, params: object) -> Content:
    return EMPTY


@given(st.lists(peer_messages, max_size=40))
def test_every_question_of_a_peer_is_answered_once_or_ends_the_connection(received):
    sent: list[bytes] = []
    rpc = RpcConnection(sent.append, dispatch=dispatch)
    asked = 0
    for framed in received:
        message = messages.decode(Message.from_bytes(framed))
        try:
            rpc.feed(framed)
        except RpcProtocolError:
            break
        asked += isinstance(message, messages.Bootstrap | messages.Call)
    answers = [messages.decode(Message.from_bytes(framed)) for framed in sent]
    if rpc.ended:
        assert isinstance(answers.pop(), messages.Abort)
    assert len(answers) == asked
    assert all(isinstance(answer, messages.Results | messages.Failure) for answer in answers)


@given(st.lists(st.integers(0, (1 << 32) - 1), unique=True, max_size=MAX_ANSWERS))
def test_a_peer_may_number_its_questions_as_it_likes(question_ids):
    sent: list[bytes] = []
    rpc = RpcConnection(sent.append, dispatch=dispatch)
    for question_id in question_ids:
        rpc.feed(messages.encode_bootstrap(question_id))
    for question_id in question_ids:
        rpc.feed(messages.encode_finish(question_id, release_result_caps=True))
    answers = [messages.decode(Message.from_bytes(framed)) for framed in sent]
    assert [answer.answer_id for answer in answers] == question_ids
    assert not rpc.ended
