"""One two-party Cap'n Proto RPC connection, without any I/O.

Level 1 as far as the tunnel needs it: one side may offer a bootstrap capability, the other calls
it, before the bootstrap answer has come if it likes. No other capability is ever passed. Docs:
wire protocol §3.2; the messages themselves are in :mod:`underpass.wire.rpc_messages`.

The owner gives a `send` that takes the bytes of one message each time, and passes in what it
receives with :meth:`RpcConnection.feed`. Answers are sent while feeding, so the owner limits how
much a peer can make this side queue by not reading on while its own output is blocked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from msgspec import Struct

from underpass.wire import rpc_messages as messages
from underpass.wire.capnp import MAX_MESSAGE_BYTES, MalformedMessage, MessageReader, StructReader
from underpass.wire.rpc_messages import FAILED, UNIMPLEMENTED, Content

MAX_QUESTIONS: Final = 64
"""Most calls without an answer at one time. cloudflared makes one at a time, after the bootstrap;
a question given up keeps its place until the peer answers it after all."""

MAX_ANSWERS: Final = 64
"""Most answers kept for a peer that has not sent Finish for them. Calls are answered at once, so
a conforming peer holds two or three."""

SHUTDOWN: Final = "rpc: shutdown"
"""The reason that cloudflared gives in its Abort when it closes normally."""

_EXPORT_ID: Final = 0


class RpcError(Exception):
    """Base of all that can go wrong with a call."""


class RpcException(RpcError):  # noqa: N818  (the protocol's own term)
    """The receiver of a call answered with an exception.

    Raised by a call; also by a `Dispatch`, to answer with one. `type` is FAILED, UNIMPLEMENTED
    or another number of rpc.capnp.
    """

    def __init__(self, reason: str, type: int = FAILED) -> None:  # noqa: A002  (the field's name)
        super().__init__(reason)
        self.reason = reason
        self.type = type


class RpcProtocolError(RpcError):
    """The peer sent bytes that are no message, or a message it may not send now.

    The connection has ended; the owner resets the stream.
    """


class RpcEnded(RpcError):  # noqa: N818  (a state, not only an error)
    """The connection ended, by either side, before the call was answered."""


Dispatch: TypeAlias = Callable[[int, int, StructReader], Content]
"""Answers a call: interface id, method ordinal and parameters in, results out.

Raises RpcException to answer with an exception, MalformedMessage if the parameters are none."""


class _Question(Struct):
    future: asyncio.Future[StructReader] | None
    """None for the bootstrap, whose answer nobody waits for by itself."""
    finished: bool = False
    """Finish has been sent before the answer came."""


class RpcConnection:
    """Either end of an RPC connection: a caller, or with `dispatch` also one that is called.

    `on_end` is called with the reason when the peer ends the connection with Abort, which is how
    it closes normally. It is not called for an end that the owner brought about or was told by
    an exception.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        *,
        dispatch: Dispatch | None = None,
        on_end: Callable[[str], None] | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        self._send = send
        self._dispatch = dispatch
        self._on_end = on_end
        self._reader = MessageReader(max_message_bytes=max_message_bytes)
        self._feeding = False
        self._end_reason: str | None = None

        self._questions: dict[int, _Question] = {}
        self._free_question_ids: list[int] = []
        self._next_question_id = 0
        self._bootstrap_question: int | None = None
        self._import: int | None = None
        self._bootstrap_failure: messages.Failure | None = None

        # Question id of the peer -> whether its answer is the bootstrap capability.
        self._answers: dict[int, bool] = {}
        self._export_references = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will be sent or taken in."""
        return self._end_reason is not None

    # Calling.

    def call(
        self, interface_id: int, method_id: int, params: Content
    ) -> asyncio.Future[StructReader]:
        """Call a method of the peer's bootstrap capability; the future brings the results.

        To be called inside the running loop. Cancelling the future, as a timeout around it does,
        gives the question up and tells the peer. The future raises RpcException if the peer
        answers with an exception, RpcEnded or RpcProtocolError if the connection ends first.
        Raises RpcEnded if it has ended, RpcException if the bootstrap was refused, RpcError if
        MAX_QUESTIONS are open, ValueError if the call is too large, and what `params.fill` raises.
        """
        future = asyncio.get_running_loop().create_future()
        self._check_callable()
        if self._import is None and self._bootstrap_question is None:
            self._bootstrap_question = self._new_question(_Question(None))
            self._send(messages.encode_bootstrap(self._bootstrap_question))
            self._check_callable()  # `send` may have led to the answer already.
        question = _Question(future)
        question_id = self._new_question(question)
        try:
            encoded = messages.encode_call(
                question_id, self._target(), interface_id, method_id, params
            )
        except BaseException:
            self._forget_question(question_id)
            raise
        future.add_done_callback(partial(self._give_up_if_cancelled, question_id, question))
        self._send(encoded)
        return future

    def _check_callable(self) -> None:
        if self._end_reason is not None:
            raise RpcEnded(f"the RPC connection has ended: {self._end_reason}")
        if self._bootstrap_failure is not None:
            raise RpcException(self._bootstrap_failure.reason, self._bootstrap_failure.type)
        if len(self._questions) >= MAX_QUESTIONS:
            raise RpcError(f"{MAX_QUESTIONS} calls are unanswered: the peer is not keeping up")

    def _target(self) -> messages.Target:
        if self._import is not None:
            return messages.ImportedCap(self._import)
        assert self._bootstrap_question is not None
        return messages.PromisedAnswer(self._bootstrap_question)

    def _new_question(self, question: _Question) -> int:
        if self._free_question_ids:
            question_id = self._free_question_ids.pop()
        else:
            question_id = self._next_question_id
            self._next_question_id += 1
        self._questions[question_id] = question
        return question_id

    def _forget_question(self, question_id: int) -> _Question | None:
        question = self._questions.pop(question_id, None)
        if question is not None:
            self._free_question_ids.append(question_id)
        return question

    def _give_up_if_cancelled(
        self, question_id: int, question: _Question, future: asyncio.Future[StructReader]
    ) -> None:
        if future.cancelled() and self._questions.get(question_id) is question:
            self._finish_early(question_id, question)

    def _finish_early(self, question_id: int, question: _Question) -> None:
        # The id stays taken until the peer's Return, which may be on its way already.
        if not question.finished and not self.ended:
            question.finished = True
            self._send(messages.encode_finish(question_id, release_result_caps=True))

    # Receiving.

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in received bytes, in chunks of any size; bytes after the end are dropped.

        Raises RpcProtocolError, once, if the peer broke the protocol: the peer has then been sent
        an Abort and all pending calls have failed. An exception of `dispatch` other than its
        documented ones passes through, after an answer without details; the connection goes on.
        """
        if self.ended:
            return
        received = self._reader.feed(data)
        if self._feeding:
            return  # `send` led back here: the loop below takes these bytes up.
        self._feeding = True
        try:
            for message in received:
                self._receive(messages.decode(message))
                if self.ended:
                    break
        except (MalformedMessage, RpcProtocolError) as error:
            reason = f"rpc: protocol error: {error}"
            self._send(messages.encode_abort(reason))
            self._end(reason, RpcProtocolError, error)
            raise RpcProtocolError(str(error)) from error
        finally:
            self._feeding = False

    def _receive(self, message: messages.RpcMessage) -> None:
        if isinstance(message, messages.Call):
            self._receive_call(message)
        elif isinstance(message, messages.Results):
            self._receive_results(message)
        elif isinstance(message, messages.Failure):
            self._receive_failure(message)
        elif isinstance(message, messages.Finish):
            self._receive_finish(message)
        elif isinstance(message, messages.Bootstrap):
            self._receive_bootstrap(message)
        elif isinstance(message, messages.Release):
            self._receive_release(message)
        elif isinstance(message, messages.Abort):
            self._end(message.reason, RpcEnded, None)
            if self._on_end is not None:
                self._on_end(message.reason)
        elif isinstance(message, messages.Other):
            self._send(messages.encode_unimplemented(message.tag))
        # Unimplemented asks for nothing, and answering it could go on for ever.

    def _receive_results(self, message: messages.Results) -> None:
        question = self._answered(message.answer_id)
        if message.answer_id == self._bootstrap_question:
            self._bootstrap_question = None
            if message.capability is None:
                raise RpcProtocolError("the answer to the bootstrap is not a capability")
            self._import = message.capability
            self._finish(message.answer_id, release_result_caps=False)
            return
        if message.content is None:
            raise RpcProtocolError("the results of a call are not a struct")
        if question.future is not None and not question.future.done():
            question.future.set_result(message.content)
        if not question.finished:
            # No method returns capabilities; a peer that sends some gets them back.
            self._finish(message.answer_id, release_result_caps=message.has_capabilities)

    def _receive_failure(self, message: messages.Failure) -> None:
        question = self._answered(message.answer_id)
        if message.answer_id == self._bootstrap_question:
            self._bootstrap_question = None
            self._bootstrap_failure = message
        elif question.future is not None and not question.future.done():
            question.future.set_exception(RpcException(message.reason, message.type))
        if not question.finished:
            self._finish(message.answer_id, release_result_caps=True)

    def _answered(self, question_id: int) -> _Question:
        question = self._forget_question(question_id)
        if question is None:
            raise RpcProtocolError(f"a return for question {question_id}, which is not open")
        return question

    def _finish(self, question_id: int, *, release_result_caps: bool) -> None:
        self._send(messages.encode_finish(question_id, release_result_caps=release_result_caps))

    # Being called.

    def _receive_bootstrap(self, message: messages.Bootstrap) -> None:
        self._open_answer(message.question_id, is_capability=self._dispatch is not None)
        if self._dispatch is None:
            self._send_exception(message.question_id, "rpc: no bootstrap interface")
            return
        self._export_references += 1
        self._send(messages.encode_bootstrap_results(message.question_id, _EXPORT_ID))

    def _receive_call(self, call: messages.Call) -> None:
        refusal = self._refusal(call)
        self._open_answer(call.question_id, is_capability=False)
        if refusal is not None or self._dispatch is None:
            self._send_exception(call.question_id, refusal or "rpc: nothing to call here")
            return
        try:
            results = self._dispatch(call.interface_id, call.method_id, call.params)
        except RpcException as error:
            self._send_exception(call.question_id, error.reason, error.type)
            return
        except MalformedMessage:
            raise
        except Exception:
            self._send_exception(call.question_id, "rpc: internal error")
            raise
        if not self.ended:
            self._send(
                messages.encode_results(
                    call.question_id, results, release_param_caps=call.has_capabilities
                )
            )

    def _refusal(self, call: messages.Call) -> str | None:
        """Why `call` can't be dispatched; None if it can."""
        target = call.target
        if isinstance(target, messages.ImportedCap):
            known = target.capability == _EXPORT_ID and self._export_references > 0
        elif isinstance(target, messages.PromisedAnswer):
            known = target.whole and self._answers.get(target.question_id, False)
        else:
            known = False
        if not known:
            return "rpc: the target of the call is not a capability of this side"
        if not call.to_caller:
            return "rpc: results can only be sent to the caller"
        return None

    def _receive_finish(self, message: messages.Finish) -> None:
        is_capability = self._answers.pop(message.question_id, None)
        if is_capability is None:
            raise RpcProtocolError(f"a finish for question {message.question_id}, never asked")
        if is_capability and message.release_result_caps:
            self._release(1)

    def _receive_release(self, message: messages.Release) -> None:
        if message.capability != _EXPORT_ID:
            raise RpcProtocolError(f"a release of capability {message.capability}, never exported")
        self._release(message.count)

    def _release(self, count: int) -> None:
        if count > self._export_references:
            raise RpcProtocolError("a capability is released more often than it was sent")
        self._export_references -= count

    def _open_answer(self, question_id: int, *, is_capability: bool) -> None:
        if question_id in self._answers:
            raise RpcProtocolError(f"question {question_id} is asked again before its finish")
        if len(self._answers) >= MAX_ANSWERS:
            raise RpcProtocolError(f"more than {MAX_ANSWERS} questions without a finish")
        self._answers[question_id] = is_capability

    def _send_exception(self, question_id: int, reason: str, exception_type: int = FAILED) -> None:
        if not self.ended:
            self._send(messages.encode_exception(question_id, reason, exception_type))

    # Ending.

    def close(self) -> None:
        """End the connection as cloudflared does: Finish what is pending, Release, Abort.

        Pending calls raise RpcEnded. Does nothing if the connection has ended.
        """
        if self.ended:
            return
        for question_id, question in list(self._questions.items()):
            if question.future is not None:
                self._finish_early(question_id, question)
        if self._import is not None:
            self._send(messages.encode_release(self._import, 1))
        self._send(messages.encode_abort(SHUTDOWN))
        self._end("closed by this side", RpcEnded, None)

    def closed(self, exc: BaseException | None) -> None:
        """Tell that the stream underneath is gone, because of `exc` or in good order.

        Sends nothing. Pending calls raise RpcEnded. Does nothing if the connection has ended.
        """
        if not self.ended:
            self._end(str(exc) if exc is not None else "the stream was closed", RpcEnded, exc)

    def _end(self, reason: str, error: type[RpcError], cause: BaseException | None) -> None:
        self._end_reason = reason
        questions = list(self._questions.values())
        self._questions.clear()
        self._answers.clear()
        for question in questions:
            if question.future is not None and not question.future.done():
                failure = error(reason)
                failure.__cause__ = cause
                question.future.set_exception(failure)


__all__ = [
    "FAILED",
    "MAX_ANSWERS",
    "MAX_QUESTIONS",
    "SHUTDOWN",
    "UNIMPLEMENTED",
    "Dispatch",
    "RpcConnection",
    "RpcEnded",
    "RpcError",
    "RpcException",
    "RpcProtocolError",
]
