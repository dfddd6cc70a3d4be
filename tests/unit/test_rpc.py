"""One RPC connection: what each end sends, keeps and refuses."""

from __future__ import annotations

import asyncio

import pytest

from underpass.wire import rpc_messages as messages
from underpass.wire.capnp import Message, StructReader
from underpass.wire.capnp_builder import MessageBuilder
from underpass.wire.rpc import (
    FAILED,
    MAX_ANSWERS,
    MAX_QUESTIONS,
    UNIMPLEMENTED,
    RpcConnection,
    RpcEnded,
    RpcError,
    RpcException,
    RpcProtocolError,
)
from underpass.wire.rpc_messages import (
    EMPTY,
    Abort,
    Bootstrap,
    Call,
    Content,
    Failure,
    Finish,
    ImportedCap,
    Other,
    PromisedAnswer,
    Release,
    Results,
    Unimplemented,
)

INTERFACE = 0x1234


def echo(interface_id: int, method_id: int, params: StructReader) -> Content:
    """Method 0 returns its number plus one; the others fail, each in its own way."""
    number = params.u32(0)
    if method_id == 0:
        return Content(1, 0, lambda results: results.set_u32(0, number + 1))
    if method_id == 1:
        raise RpcException("not today")
    if method_id == 2:
        raise LookupError("the vault is under the stairs")
    raise RpcException("no such method", UNIMPLEMENTED)


def number(value: int) -> Content:
    return Content(1, 0, lambda params: params.set_u32(0, value))


class Peer:
    """An RpcConnection whose output is kept, to be looked at and handed on by the test."""

    def __init__(self, dispatch=None):
        self.sent: list[bytes] = []
        self.ends: list[str] = []
        self.rpc = RpcConnection(self.sent.append, dispatch=dispatch, on_end=self.ends.append)

    def take(self) -> list[bytes]:
        """Everything sent since the last time."""
        taken, self.sent[:] = list(self.sent), []
        return taken

    def said(self) -> list[messages.RpcMessage]:
        return [messages.decode(Message.from_bytes(framed)) for framed in self.take()]


def exchange(*peers: Peer) -> None:
    """Carry messages between two peers until neither has more to say."""
    one, other = peers
    while one.sent or other.sent:
        for framed in one.take():
            other.rpc.feed(framed)
        for framed in other.take():
            one.rpc.feed(framed)


def calling(scenario):
    """Run `scenario(client, server)`, two peers not connected to each other."""
    return asyncio.run(scenario(Peer(), Peer(echo)))


def no_results(question_id: int) -> bytes:
    return messages.encode_results(question_id, EMPTY, release_param_caps=False)


def from_body(tag: int, data_words: int, pointers: int, fill) -> bytes:
    builder = MessageBuilder()
    root = builder.init_root(1, 1)
    root.set_u16(0, tag)
    fill(root.init_struct(0, data_words, pointers))
    return builder.to_bytes()


class TestCalling:
    def test_the_first_call_does_not_wait_for_the_bootstrap(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, number(6))
            bootstrap, call = client.sent
            assert messages.decode(Message.from_bytes(bootstrap)) == Bootstrap(0)
            decoded = messages.decode(Message.from_bytes(call))
            assert decoded.question_id == 1
            assert decoded.target == PromisedAnswer(0)
            exchange(client, server)
            assert (await future).u32(0) == 7

        calling(scenario)

    def test_later_calls_name_the_capability(self):
        async def scenario(client, server):
            await_first = client.rpc.call(INTERFACE, 0, number(1))
            exchange(client, server)
            await await_first
            second = client.rpc.call(INTERFACE, 0, number(2))
            (call,) = [messages.decode(Message.from_bytes(framed)) for framed in client.sent]
            assert call.target == ImportedCap(0)
            exchange(client, server)
            assert (await second).u32(0) == 3

        calling(scenario)

    def test_both_ends_may_be_wired_to_each_other(self):
        async def scenario():
            client = RpcConnection(lambda framed: server.feed(framed))
            server = RpcConnection(lambda framed: client.feed(framed), dispatch=echo)
            futures = [client.call(INTERFACE, 0, number(n)) for n in range(5)]
            assert [(await future).u32(0) for future in futures] == [1, 2, 3, 4, 5]

        asyncio.run(scenario())

    def test_answers_are_finished_in_their_order_keeping_the_capability(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, number(1))
            for framed in client.take():
                server.rpc.feed(framed)
            for framed in server.take():
                client.rpc.feed(framed)
            assert client.said() == [
                Finish(0, release_result_caps=False),
                Finish(1, release_result_caps=False),
            ]

        calling(scenario)

    def test_the_question_freed_last_is_used_first(self):
        async def scenario(client, server):
            for _ in range(3):
                client.rpc.call(INTERFACE, 0, number(1))
            exchange(client, server)
            ids = [client.rpc.call(INTERFACE, 0, number(1)) and client.said()[0].question_id]
            ids += [client.rpc.call(INTERFACE, 0, number(1)) and client.said()[0].question_id]
            assert ids == [3, 2]

        calling(scenario)

    def test_an_exception_is_raised_with_its_reason(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 1, EMPTY)
            for framed in client.take():
                server.rpc.feed(framed)
            for framed in server.take():
                client.rpc.feed(framed)
            with pytest.raises(RpcException, match="not today") as caught:
                await future
            assert caught.value.type == FAILED
            assert client.said()[-1] == Finish(1, release_result_caps=True)

        calling(scenario)

    def test_an_exception_keeps_its_type(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 9, EMPTY)
            exchange(client, server)
            with pytest.raises(RpcException) as caught:
                await future
            assert caught.value.type == UNIMPLEMENTED

        calling(scenario)

    def test_a_long_reason_is_cut(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            client.rpc.feed(messages.encode_exception(1, "x" * 5000, FAILED))
            with pytest.raises(RpcException) as caught:
                await future
            assert caught.value.reason == "x" * messages.MAX_REASON_CHARACTERS

        calling(scenario)

    def test_a_cancelled_return_fails_the_call(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)

            def cancelled(body):
                body.set_u32(0, 1)
                body.set_u16(6, 2)

            client.rpc.feed(from_body(3, 2, 1, cancelled))
            with pytest.raises(RpcException, match="cancelled"):
                await future

        calling(scenario)

    def test_a_promised_capability_is_as_good_as_a_hosted_one(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY)

            def promise(body):
                payload = body.init_struct(0, 0, 2)
                payload.set_capability(0, 1)
                _, descriptor = payload.init_struct_list(1, 2, 1, 1)
                descriptor.set_u16(0, 2)
                descriptor.set_u32(4, 77)

            client.rpc.feed(from_body(3, 2, 1, promise))
            client.take()
            client.rpc.call(INTERFACE, 0, EMPTY)
            assert client.said()[0].target == ImportedCap(77)

        calling(scenario)

    def test_a_refused_bootstrap_fails_pending_and_later_calls(self):
        async def scenario(client, server):
            nothing_to_offer = Peer()
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            exchange(client, nothing_to_offer)
            with pytest.raises(RpcException):
                await future
            with pytest.raises(RpcException, match="no bootstrap interface"):
                client.rpc.call(INTERFACE, 0, EMPTY)

        calling(scenario)

    def test_capabilities_nobody_asked_for_are_given_back(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY)
            client.take()

            def with_capability(body):
                body.set_u32(0, 1)
                payload = body.init_struct(0, 0, 2)
                payload.init_struct(0, 1, 0)
                payload.init_struct_list(1, 1, 1, 1)

            client.rpc.feed(from_body(3, 2, 1, with_capability))
            assert client.said() == [Finish(1, release_result_caps=True)]

        calling(scenario)

    def test_parameters_that_cannot_be_written_leave_no_question_behind(self):
        async def scenario(client, server):
            def fill(params):
                raise KeyError("fill")

            for _ in range(MAX_QUESTIONS + 1):
                with pytest.raises(KeyError):
                    client.rpc.call(INTERFACE, 0, Content(0, 0, fill))
            future = client.rpc.call(INTERFACE, 0, number(1))
            exchange(client, server)
            assert (await future).u32(0) == 2

        calling(scenario)


async def give_up(client: Peer) -> int:
    """Make a call and cancel it; returns its question id."""

    async def call():
        await client.rpc.call(INTERFACE, 0, EMPTY)

    task = asyncio.create_task(call())
    await asyncio.wait([task], timeout=0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    *_, call_message, finish = client.said()
    assert finish == Finish(call_message.question_id, release_result_caps=True)
    return call_message.question_id


class TestGivingUp:
    def test_the_peer_is_told_at_once(self):
        async def scenario(client, server):
            assert await give_up(client) == 1

        calling(scenario)

    def test_a_late_answer_is_dropped_and_frees_the_question(self):
        async def scenario(client, server):
            question_id = await give_up(client)
            client.rpc.feed(no_results(question_id))
            assert client.said() == []
            client.rpc.call(INTERFACE, 0, EMPTY)
            assert client.said()[0].question_id == question_id

        calling(scenario)

    def test_a_late_exception_is_dropped_too(self):
        async def scenario(client, server):
            question_id = await give_up(client)
            client.rpc.feed(messages.encode_exception(question_id, "too late", FAILED))
            assert client.said() == []

        calling(scenario)

    def test_a_question_given_up_keeps_its_place_until_it_is_answered(self):
        async def scenario(client, server):
            for _ in range(MAX_QUESTIONS - 1):  # the bootstrap is one, too
                await give_up(client)
            with pytest.raises(RpcError, match=f"{MAX_QUESTIONS} calls"):
                client.rpc.call(INTERFACE, 0, EMPTY)
            client.rpc.feed(no_results(5))
            client.rpc.call(INTERFACE, 0, EMPTY)
            assert client.said()[0].question_id == 5

        calling(scenario)


class TestEnding:
    def test_closing_says_what_cloudflared_says(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY)
            exchange(client, server)
            client.rpc.close()
            assert client.said() == [Release(0, 1), Abort("rpc: shutdown")]
            assert client.rpc.ended

        calling(scenario)

    def test_closing_gives_up_pending_calls(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            client.take()
            client.rpc.close()
            assert client.said() == [Finish(1, release_result_caps=True), Abort("rpc: shutdown")]
            with pytest.raises(RpcEnded, match="closed by this side"):
                await future

        calling(scenario)

    def test_closing_right_after_giving_up_finishes_once(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            client.take()
            future.cancel()
            client.rpc.close()
            await asyncio.wait([future])
            assert client.said() == [Finish(1, release_result_caps=True), Abort("rpc: shutdown")]

        calling(scenario)

    def test_closing_twice_is_closing_once(self):
        async def scenario(client, server):
            client.rpc.close()
            client.rpc.close()
            client.rpc.closed(None)
            assert client.said() == [Abort("rpc: shutdown")]

        calling(scenario)

    def test_an_abort_ends_it_without_an_answer(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            client.take()
            client.rpc.feed(messages.encode_abort("gone fishing") + b"\xff" * 100)
            client.rpc.feed(b"\xff" * 100)
            assert client.ends == ["gone fishing"]
            assert client.said() == []
            with pytest.raises(RpcEnded, match="gone fishing"):
                await future
            with pytest.raises(RpcEnded, match="gone fishing"):
                client.rpc.call(INTERFACE, 0, EMPTY)

        calling(scenario)

    def test_a_lost_stream_fails_pending_calls(self):
        async def scenario(client, server):
            futures = [client.rpc.call(INTERFACE, 0, EMPTY) for _ in range(3)]
            client.take()
            cause = ConnectionResetError("reset by peer")
            client.rpc.closed(cause)
            for future in futures:
                with pytest.raises(RpcEnded, match="reset by peer") as caught:
                    await future
                assert caught.value.__cause__ is cause
            assert client.said() == []
            assert client.ends == []

        calling(scenario)

    def test_an_owner_that_ends_it_while_being_called_sends_nothing_more(self):
        server = Peer(lambda *_: (server.rpc.closed(None), EMPTY)[1])
        server.rpc.feed(messages.encode_bootstrap(0))
        server.take()
        server.rpc.feed(messages.encode_call(1, ImportedCap(0), INTERFACE, 0, EMPTY))
        assert server.said() == []


def connected() -> Peer:
    """A server whose bootstrap capability has been asked for, as question 0."""
    server = Peer(echo)
    server.rpc.feed(messages.encode_bootstrap(0))
    server.take()
    return server


def refused(server: Peer, framed: bytes) -> Failure:
    server.rpc.feed(framed)
    (answer,) = server.said()
    assert isinstance(answer, Failure)
    return answer


class TestBeingCalled:
    def test_the_bootstrap_is_answered_with_capability_0(self):
        server = Peer(echo)
        server.rpc.feed(messages.encode_bootstrap(4))
        (answer,) = server.said()
        assert isinstance(answer, Results)
        assert (answer.answer_id, answer.capability) == (4, 0)

    def test_without_a_handler_there_is_no_bootstrap(self):
        failure = refused(Peer(), messages.encode_bootstrap(0))
        assert failure.reason == "rpc: no bootstrap interface"

    def test_the_capability_may_be_called_until_it_is_released(self):
        server = connected()
        server.rpc.feed(messages.encode_finish(0, release_result_caps=False))
        server.rpc.feed(messages.encode_call(1, ImportedCap(0), INTERFACE, 0, number(1)))
        assert isinstance(server.said()[0], Results)
        server.rpc.feed(messages.encode_release(0, 1))
        call = messages.encode_call(2, ImportedCap(0), INTERFACE, 0, number(1))
        assert "target" in refused(server, call).reason

    def test_finishing_the_bootstrap_may_release_the_capability(self):
        server = connected()
        server.rpc.feed(messages.encode_finish(0, release_result_caps=True))
        call = messages.encode_call(1, ImportedCap(0), INTERFACE, 0, EMPTY)
        assert "target" in refused(server, call).reason

    @pytest.mark.parametrize(
        "target", [ImportedCap(1), PromisedAnswer(7), PromisedAnswer(1)], ids=str
    )
    def test_nothing_else_may_be_called(self, target):
        call = messages.encode_call(1, target, INTERFACE, 0, EMPTY)
        assert "target" in refused(connected(), call).reason

    def test_the_results_of_a_call_hold_nothing_to_call(self):
        server = connected()
        server.rpc.feed(messages.encode_call(1, PromisedAnswer(0), INTERFACE, 0, EMPTY))
        server.take()
        call = messages.encode_call(2, PromisedAnswer(1), INTERFACE, 0, EMPTY)
        assert "target" in refused(server, call).reason

    def test_a_field_of_the_bootstrap_is_no_target(self):
        def fill(body):
            body.set_u32(0, 1)
            target = body.init_struct(0, 1, 1)
            target.set_u16(4, 1)
            answer = target.init_struct(0, 1, 1)
            (operation,) = answer.init_struct_list(0, 1, 1, 0)
            operation.set_u16(0, 1)

        assert "target" in refused(connected(), from_body(2, 3, 3, fill)).reason

    def test_a_target_of_unknown_kind_is_no_target(self):
        def fill(body):
            body.init_struct(0, 1, 1).set_u16(4, 9)

        server = Peer(echo)
        assert "target" in refused(server, from_body(2, 3, 3, fill)).reason

    def test_results_go_to_nobody_but_the_caller(self):
        def fill(body):
            body.set_u32(0, 1)
            body.set_u16(6, 1)
            body.init_struct(0, 1, 1)

        assert "caller" in refused(connected(), from_body(2, 3, 3, fill)).reason

    def test_capabilities_in_parameters_are_given_back(self):
        def fill(body):
            body.set_u32(0, 1)
            body.init_struct(0, 1, 1)
            body.init_struct(1, 0, 2).init_struct_list(1, 1, 1, 1)

        server = connected()
        server.rpc.feed(from_body(2, 3, 3, fill))
        answer = Message.from_bytes(server.take()[0]).root().struct(0)
        assert answer.bit(32) is False  # releaseParamCaps is stored inverted

    def test_a_fault_of_the_handler_is_not_told_to_the_peer(self):
        server = connected()
        with pytest.raises(LookupError, match="stairs"):
            server.rpc.feed(
                messages.encode_call(1, ImportedCap(0), INTERFACE, 2, EMPTY)
                + messages.encode_call(2, ImportedCap(0), INTERFACE, 0, number(1))
            )
        assert server.said() == [Failure(1, "rpc: internal error", FAILED)]
        server.rpc.feed(b"")
        (answer,) = server.said()
        assert isinstance(answer, Results)

    def test_unknown_messages_are_sent_back_as_unimplemented(self):
        server = connected()
        server.rpc.feed(from_body(13, 1, 1, lambda body: None))
        (framed,) = server.take()
        root = Message.from_bytes(framed).root()
        assert isinstance(messages.decode(Message.from_bytes(framed)), Unimplemented)
        assert root.struct(0).u16(0) == 13
        assert not server.rpc.ended

    def test_unimplemented_is_not_answered(self):
        server = connected()
        server.rpc.feed(messages.encode_unimplemented(13))
        assert server.said() == []

    def test_a_message_of_unknown_number_is_kept_apart(self):
        framed = from_body(999, 0, 0, lambda body: None)
        assert messages.decode(Message.from_bytes(framed)) == Other(999)

    def test_a_call_says_what_it_calls(self):
        framed = messages.encode_call(3, ImportedCap(8), 1 << 63, 65535, number(5))
        call = messages.decode(Message.from_bytes(framed))
        assert isinstance(call, Call)
        assert (call.question_id, call.target) == (3, ImportedCap(8))
        assert (call.interface_id, call.method_id) == (1 << 63, 65535)
        assert (call.to_caller, call.has_capabilities, call.params.u32(0)) == (True, False, 5)


def violations():
    yield "no message", b"\xff" * 8
    yield "a root pointer that leads outside", bytes.fromhex("0000000001000000ff") + b"\xff" * 7
    yield "a question asked twice", messages.encode_bootstrap(0)
    yield "a call under an open question", messages.encode_call(0, ImportedCap(0), 1, 0, EMPTY)
    yield "a finish of nothing", messages.encode_finish(9, release_result_caps=True)
    yield "a release of nothing", messages.encode_release(1, 1)
    yield "a release too many", messages.encode_release(0, 2)
    yield "an answer to nothing", no_results(0)
    yield "an exception for nothing", messages.encode_exception(0, "", FAILED)
    yield (
        "the release of a capability finished away",
        messages.encode_finish(0, release_result_caps=True) + messages.encode_release(0, 1),
    )


class TestViolations:
    @pytest.mark.parametrize(
        "framed", [pytest.param(framed, id=name) for name, framed in violations()]
    )
    def test_the_connection_ends_with_an_abort(self, framed):
        server = connected()
        with pytest.raises(RpcProtocolError):
            server.rpc.feed(framed)
        (abort,) = server.said()
        assert isinstance(abort, Abort)
        assert abort.reason.startswith("rpc: protocol error: ")
        assert server.rpc.ended
        assert server.ends == []
        server.rpc.feed(messages.encode_bootstrap(1))
        assert server.said() == []

    def test_answers_that_are_never_finished_are_bounded(self):
        server = Peer(echo)
        for question_id in range(MAX_ANSWERS):
            server.rpc.feed(messages.encode_bootstrap(question_id))
        assert len(server.take()) == MAX_ANSWERS
        with pytest.raises(RpcProtocolError, match=f"more than {MAX_ANSWERS}"):
            server.rpc.feed(messages.encode_bootstrap(MAX_ANSWERS))

    def test_refused_calls_count_as_answers(self):
        server = connected()
        call = [messages.encode_call(i, ImportedCap(5), 1, 0, EMPTY) for i in range(1, 65)]
        with pytest.raises(RpcProtocolError, match=f"more than {MAX_ANSWERS}"):
            server.rpc.feed(b"".join(call))

    @pytest.mark.parametrize("kind", [3, 4, 5, 99])
    def test_a_return_of_a_kind_nobody_asked_for(self, kind):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)

            def fill(body):
                body.set_u32(0, 1)
                body.set_u16(6, kind)

            with pytest.raises(RpcProtocolError, match="not asked for"):
                client.rpc.feed(from_body(3, 2, 1, fill))
            with pytest.raises(RpcProtocolError):
                await future

        calling(scenario)

    def test_a_bootstrap_answer_that_is_no_capability(self):
        async def scenario(client, server):
            future = client.rpc.call(INTERFACE, 0, EMPTY)
            with pytest.raises(RpcProtocolError, match="not a capability"):
                client.rpc.feed(no_results(0))
            with pytest.raises(RpcProtocolError):
                await future

        calling(scenario)

    def test_results_that_are_a_capability(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY).cancel()
            with pytest.raises(RpcProtocolError, match="not a struct"):
                client.rpc.feed(messages.encode_bootstrap_results(1, 0))

        calling(scenario)

    @pytest.mark.parametrize("kind", [0, 3, 4, 9])
    def test_a_capability_that_the_peer_does_not_host(self, kind):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY).cancel()

            def fill(body):
                payload = body.init_struct(0, 0, 2)
                payload.set_capability(0, 0)
                payload.init_struct_list(1, 1, 1, 1)[0].set_u16(0, kind)

            with pytest.raises(RpcProtocolError, match="not hosted"):
                client.rpc.feed(from_body(3, 2, 1, fill))

        calling(scenario)

    def test_a_capability_index_outside_of_the_table(self):
        async def scenario(client, server):
            client.rpc.call(INTERFACE, 0, EMPTY).cancel()
            with pytest.raises(RpcProtocolError, match="capability table"):
                client.rpc.feed(
                    from_body(3, 2, 1, lambda body: body.init_struct(0, 0, 2).set_capability(0, 0))
                )

        calling(scenario)

    def test_a_message_larger_than_the_limit(self):
        rpc = RpcConnection([].append, max_message_bytes=64)
        with pytest.raises(RpcProtocolError, match="at most 64"):
            rpc.feed(messages.encode_abort("x" * 64))
