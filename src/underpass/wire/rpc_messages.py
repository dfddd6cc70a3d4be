"""The messages of Cap'n Proto RPC level 1 that the tunnel uses, as values and as bytes.

Layouts: rpc.capnp of the Cap'n Proto distribution; the part of it in use, docs: wire protocol
§3.2. What these messages mean together is the business of :mod:`underpass.wire.rpc`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import Struct

from underpass.wire.capnp import MalformedMessage, Message, StructReader
from underpass.wire.capnp_builder import MessageBuilder, StructBuilder

MAX_REASON_CHARACTERS: Final = 1024
"""Longest reason kept of a received exception or abort. It ends in a log line; a peer could send
a megabyte."""

_UNIMPLEMENTED: Final = 0
_ABORT: Final = 1
_CALL: Final = 2
_RETURN: Final = 3
_FINISH: Final = 4
_RELEASE: Final = 6
_BOOTSTRAP: Final = 8

_TARGET_IMPORTED_CAP: Final = 0
_TARGET_PROMISED_ANSWER: Final = 1
_SEND_RESULTS_TO_CALLER: Final = 0
_RETURN_RESULTS: Final = 0
_RETURN_EXCEPTION: Final = 1
_RETURN_CANCELED: Final = 2
_CAP_SENDER_HOSTED: Final = 1
_CAP_SENDER_PROMISE: Final = 2
_OP_NOOP: Final = 0

FAILED: Final = 0
"""Exception type: a call that went wrong; calling again would go wrong again."""
UNIMPLEMENTED: Final = 3
"""Exception type: the method does not exist."""


class Content(Struct, frozen=True):
    """A struct still to be written: the parameters or the results of a call.

    `data_words` and `pointers` are the size from the schema; `fill` sets the fields.
    """

    data_words: int
    pointers: int
    fill: Callable[[StructBuilder], None]


def _nothing(_: StructBuilder) -> None:
    """Fill a struct that has no fields."""


EMPTY: Final = Content(0, 0, _nothing)


class ImportedCap(Struct, frozen=True):
    """A call's target: a capability that the receiver of the call exports."""

    capability: int


class PromisedAnswer(Struct, frozen=True):
    """A call's target: the answer to an earlier question, whether it has come or not.

    `whole` is False if the target is something inside the answer instead of the answer itself.
    """

    question_id: int
    whole: bool = True


Target: TypeAlias = ImportedCap | PromisedAnswer


class Bootstrap(Struct, frozen=True):
    question_id: int


class Call(Struct, frozen=True):
    """`target` is None and `to_caller` False for kinds of call beyond level 1."""

    question_id: int
    target: Target | None
    interface_id: int
    method_id: int
    to_caller: bool
    params: StructReader
    has_capabilities: bool


class Results(Struct, frozen=True):
    """`capability` is the sender's export id if the content itself is a capability."""

    answer_id: int
    content: StructReader | None
    capability: int | None
    has_capabilities: bool


class Failure(Struct, frozen=True):
    """A Return that brings no results."""

    answer_id: int
    reason: str
    type: int


class Finish(Struct, frozen=True):
    question_id: int
    release_result_caps: bool


class Release(Struct, frozen=True):
    capability: int
    count: int


class Abort(Struct, frozen=True):
    reason: str


class Unimplemented(Struct, frozen=True):
    """The peer did not know a message of ours."""


class Other(Struct, frozen=True):
    """A message beyond level 1; `tag` is its number in the Message union."""

    tag: int


RpcMessage: TypeAlias = (
    Bootstrap | Call | Results | Failure | Finish | Release | Abort | Unimplemented | Other
)


def decode(message: Message) -> RpcMessage:
    """What `message` says. Raises MalformedMessage."""
    root = message.root()
    tag = root.u16(0)
    if tag == _CALL:
        return _decode_call(root.struct(0))
    if tag == _RETURN:
        return _decode_return(root.struct(0))
    if tag == _FINISH:
        body = root.struct(0)
        return Finish(body.u32(0), release_result_caps=not body.bit(32))
    if tag == _BOOTSTRAP:
        return Bootstrap(root.struct(0).u32(0))
    if tag == _RELEASE:
        body = root.struct(0)
        return Release(body.u32(0), body.u32(4))
    if tag == _ABORT:
        return Abort(_reason(root.struct(0)))
    if tag == _UNIMPLEMENTED:
        return Unimplemented()
    return Other(tag)


def _decode_call(body: StructReader) -> Call:
    payload = body.struct(1)
    return Call(
        question_id=body.u32(0),
        target=_decode_target(body.struct(0)),
        interface_id=body.u64(8),
        method_id=body.u16(4),
        to_caller=body.u16(6) == _SEND_RESULTS_TO_CALLER,
        params=payload.struct(0),
        has_capabilities=bool(payload.struct_list(1)),
    )


def _decode_target(target: StructReader) -> Target | None:
    which = target.u16(4)
    if which == _TARGET_IMPORTED_CAP:
        return ImportedCap(target.u32(0))
    if which == _TARGET_PROMISED_ANSWER:
        answer = target.struct(0)
        whole = all(op.u16(0) == _OP_NOOP for op in answer.struct_list(0))
        return PromisedAnswer(answer.u32(0), whole)
    return None


def _decode_return(body: StructReader) -> Results | Failure:
    answer_id = body.u32(0)
    which = body.u16(6)
    if which == _RETURN_RESULTS:
        return _decode_results(answer_id, body.struct(0))
    if which == _RETURN_EXCEPTION:
        exception = body.struct(0)
        return Failure(answer_id, _reason(exception), exception.u16(4))
    if which == _RETURN_CANCELED:
        return Failure(answer_id, "the peer cancelled the call", FAILED)
    # The other kinds answer requests that only level 2 and above can make.
    raise MalformedMessage(f"a return of kind {which} was not asked for")


def _decode_results(answer_id: int, payload: StructReader) -> Results:
    descriptors = payload.struct_list(1)
    index = payload.capability(0)
    if index is None:
        return Results(answer_id, payload.struct(0), None, bool(descriptors))
    if index >= len(descriptors):
        raise MalformedMessage("a capability pointer leads outside of the capability table")
    descriptor = descriptors[index]
    # A promise takes calls just as what it will resolve to does.
    if descriptor.u16(0) not in (_CAP_SENDER_HOSTED, _CAP_SENDER_PROMISE):
        raise MalformedMessage("a returned capability is not hosted by the peer")
    return Results(answer_id, None, descriptor.u32(4), has_capabilities=True)


def _reason(exception: StructReader) -> str:
    return exception.text(0)[:MAX_REASON_CHARACTERS]


def encode_bootstrap(question_id: int) -> bytes:
    builder, body = _message(_BOOTSTRAP, 1, 1)
    body.set_u32(0, question_id)
    return builder.to_bytes()


def encode_call(
    question_id: int, target: Target, interface_id: int, method_id: int, params: Content
) -> bytes:
    """A call whose results go to the caller and whose parameters hold no capability.

    Raises ValueError if a parameter does not fit its field or the message is too large.
    """
    builder, body = _message(_CALL, 3, 3)
    body.set_u32(0, question_id)
    body.set_u16(4, method_id)
    body.set_u64(8, interface_id)
    message_target = body.init_struct(0, 1, 1)
    if isinstance(target, ImportedCap):
        message_target.set_u32(0, target.capability)
    else:
        message_target.set_u16(4, _TARGET_PROMISED_ANSWER)
        answer = message_target.init_struct(0, 1, 1)
        answer.set_u32(0, target.question_id)
        answer.init_struct_list(0, 0, 1, 0)
    _payload(body, 1, params)
    return builder.to_bytes()


def encode_results(answer_id: int, results: Content, *, release_param_caps: bool) -> bytes:
    builder, body = _return(answer_id, release_param_caps=release_param_caps)
    _payload(body, 0, results)
    return builder.to_bytes()


def encode_bootstrap_results(answer_id: int, export_id: int) -> bytes:
    """The answer to a Bootstrap: the capability `export_id`."""
    builder, body = _return(answer_id, release_param_caps=False)
    payload = body.init_struct(0, 0, 2)
    payload.set_capability(0, 0)
    (descriptor,) = payload.init_struct_list(1, 1, 1, 1)
    descriptor.set_u16(0, _CAP_SENDER_HOSTED)
    descriptor.set_u32(4, export_id)
    return builder.to_bytes()


def encode_exception(
    answer_id: int, reason: str, exception_type: int, *, release_param_caps: bool = False
) -> bytes:
    builder, body = _return(answer_id, release_param_caps=release_param_caps)
    body.set_u16(6, _RETURN_EXCEPTION)
    exception = body.init_struct(0, 1, 1)
    exception.set_u16(4, exception_type)
    exception.set_text(0, reason)
    return builder.to_bytes()


def encode_finish(question_id: int, *, release_result_caps: bool) -> bytes:
    builder, body = _message(_FINISH, 1, 0)
    body.set_u32(0, question_id)
    body.set_bit(32, not release_result_caps)
    return builder.to_bytes()


def encode_release(capability: int, count: int) -> bytes:
    builder, body = _message(_RELEASE, 1, 0)
    body.set_u32(0, capability)
    body.set_u32(4, count)
    return builder.to_bytes()


def encode_abort(reason: str) -> bytes:
    builder, body = _message(_ABORT, 1, 1)
    body.set_text(0, reason)
    return builder.to_bytes()


def encode_unimplemented(tag: int) -> bytes:
    """The refusal of a message by its number. Its body is not sent back: nobody reads it, and
    copying what a peer composed would be work at the peer's bidding."""
    builder, echoed = _message(_UNIMPLEMENTED, 1, 1)
    echoed.set_u16(0, tag)
    return builder.to_bytes()


def _message(tag: int, data_words: int, pointers: int) -> tuple[MessageBuilder, StructBuilder]:
    builder = MessageBuilder()
    message = builder.init_root(1, 1)
    message.set_u16(0, tag)
    return builder, message.init_struct(0, data_words, pointers)


def _return(answer_id: int, *, release_param_caps: bool) -> tuple[MessageBuilder, StructBuilder]:
    builder, body = _message(_RETURN, 2, 1)
    body.set_u32(0, answer_id)
    body.set_bit(32, not release_param_caps)
    return builder, body


def _payload(parent: StructBuilder, pointer: int, content: Content) -> None:
    """A payload without capabilities."""
    payload = parent.init_struct(pointer, 0, 2)
    content.fill(payload.init_struct(0, content.data_words, content.pointers))
    payload.init_struct_list(1, 0, 1, 1)
