"""Calls of the account API: a request, the envelope of its answer, and what to say when it fails
(docs: API §2).

A call succeeds with status 200 and an envelope that says so, and with nothing else, as for
cloudflared. The API token goes into one header and into no text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

import msgspec
from msgspec import Struct

from underpass.account.errors import AccountError, ApiError
from underpass.ops.http_request import Answer, RequestError, request, require_http_url
from underpass.version import VERSION
from underpass.wire.printable import printable
from underpass.wire.secret import Secret

__all__ = ["MAX_ANSWER_BYTES", "REQUEST_TIMEOUT", "Api", "Envelope", "PageInfo", "Refusal"]

REQUEST_TIMEOUT: Final = 15.0
"""Seconds for one call, all of it."""
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
"""Largest answer taken in: a page of a thousand tunnels with four links each is below 1 MiB."""

_MAX_ERRORS_SHOWN: Final = 8
_JSON: Final = "application/json"
_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

_log = logging.getLogger(__name__)


class Refusal(Struct, frozen=True):
    """One of an answer's errors."""

    code: int | float | str = ""
    message: str = ""

    def __str__(self) -> str:
        reason = printable(self.message) or "no reason given"
        code = printable(str(self.code))
        return f"{reason} (code {code})" if code else reason


class PageInfo(Struct, frozen=True):
    """Which part of a list an answer is. Absent numbers are 0."""

    count: int = 0
    per_page: int = 0
    total_count: int = 0


class Envelope(Struct, frozen=True):
    """What every answer is wrapped in. `result` is UNSET when it is missing, None when null."""

    success: bool = False
    errors: list[Refusal] | None = None
    result: Any = msgspec.UNSET
    result_info: PageInfo | None = None


class Api:
    """Where the API is and how to be let in. `base` is an address without a trailing slash."""

    def __init__(self, base: str, token: Secret, *, cacert: Path | None = None) -> None:
        """`cacert` is trusted beside the system's roots. Raises AccountError for a bad `base`."""
        base = base.removesuffix("/")
        try:
            require_http_url(base)
        except ValueError as error:
            raise AccountError(f"--api-url {base!r}: {error}") from None
        self.base = base
        self._token = token
        self._cacert = cacert
        url = urlsplit(base)
        if url.scheme == "http" and url.hostname not in _LOOPBACK:
            _log.warning("The API token goes over the network unencrypted", extra={"apiURL": base})

    def call(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Envelope:
        """A call whose answer counts. `what` says in errors what was to be done.

        Raises ApiError.
        """
        answer = self._ask(what, method, path, query, body)
        if answer.status != HTTPStatus.OK:
            raise self._refused(what, answer)
        envelope = _decode(answer.body)
        if isinstance(envelope, str):
            raise ApiError(
                f"cannot {what}: the answer of {self.base} cannot be understood: {envelope}; "
                "check the address given with --api-url",
                answer.status,
            )
        if envelope.errors or not envelope.success:
            raise self._refused(what, answer, envelope)
        if envelope.result is msgspec.UNSET:
            raise ApiError(f"cannot {what}: the answer of {self.base} has no result", answer.status)
        return envelope

    def do(self, what: str, method: str, path: str, query: Mapping[str, str] | None = None) -> None:
        """A call whose status counts, and of whose answer only errors do. Raises ApiError."""
        answer = self._ask(what, method, path, query, None)
        envelope = _decode(answer.body) if answer.content_type == _JSON else ""
        errors = not isinstance(envelope, str) and envelope.errors
        if answer.status != HTTPStatus.OK or errors:
            raise self._refused(what, answer)

    def _ask(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
    ) -> Answer:
        headers = {
            "Authorization": f"Bearer {self._token.decode('ascii')}",
            "Accept": "application/json;version=1",
            "User-Agent": f"underpass/{VERSION}",
        }
        if body is not None:
            headers["Content-Type"] = _JSON
        address = self.base + path
        if query:
            address += "?" + urlencode(sorted(query.items()))
        try:
            return request(
                method,
                address,
                headers=headers,
                body=None if body is None else msgspec.json.encode(body),
                timeout=REQUEST_TIMEOUT,
                max_bytes=MAX_ANSWER_BYTES,
                cacert=self._cacert,
            )
        except RequestError as error:
            raise ApiError(f"cannot {what}: the API {self.base} cannot be asked: {error}") from None

    def _refused(self, what: str, answer: Answer, envelope: Envelope | None = None) -> ApiError:
        if envelope is None and answer.content_type == _JSON:
            decoded = _decode(answer.body)
            envelope = None if isinstance(decoded, str) else decoded
        errors = (envelope.errors if envelope is not None else None) or []
        said = "; ".join(map(str, errors[:_MAX_ERRORS_SHOWN]))
        reason, remedy = _explain(answer, self.base)
        text = f"cannot {what}: {said or reason}"
        return ApiError(f"{text}; {remedy}" if remedy else text, answer.status)


def _explain(answer: Answer, base: str) -> tuple[str, str]:
    """What a status means, and what to do; each may be empty."""
    status = answer.status
    if status == HTTPStatus.OK:
        return "the API says that the call failed, and not why", ""
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return (
            f"unauthorized (status {status})",
            "the account certificate is not valid for this account, or no longer: move it away "
            "and run `underpass tunnel login`",
        )
    if status == HTTPStatus.NOT_FOUND:
        return "not found (status 404)", "check the name or id, and --api-url"
    if status == HTTPStatus.BAD_REQUEST:
        return "incorrect request parameters (status 400)", ""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "too many requests (status 429)", "try again later"
    if 300 <= status < 400:
        location = printable(answer.location) or "nowhere"
        return (
            f"{base} redirects to {location} (status {status})",
            "redirects are not followed; give the right address with --api-url",
        )
    try:
        phrase = f" {HTTPStatus(status).phrase}"
    except ValueError:
        phrase = ""
    return f"failed with status {status}{phrase}", "try again later" if status >= 500 else ""


def _decode(body: bytes) -> Envelope | str:
    """The envelope in an answer, or why there is none."""
    try:
        return msgspec.json.decode(body, type=Envelope)
    except (ValueError, RecursionError) as error:
        return printable(str(error))
