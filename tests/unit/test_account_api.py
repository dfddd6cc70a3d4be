"""Calls of the account API: what is sent, and what is made of each answer (docs: API §2)."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from underpass.account import api as api_module
from underpass.account.api import MAX_ANSWER_BYTES, REQUEST_TIMEOUT, Api, Envelope, PageInfo
from underpass.account.errors import AccountError, ApiError
from underpass.ops.http_request import Answer, RequestError
from underpass.version import VERSION
from underpass.wire.secret import Secret

TOKEN = "hunter22"


class Network:
    """Takes requests, and answers each alike."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[str, str, dict[str, Any]]] = []
        self.answer: Answer | RequestError = answer({"success": True, "result": None})
        monkeypatch.setattr(api_module, "request", self._request)

    def _request(self, method: str, address: str, **more: Any) -> Answer:
        self.asked.append((method, address, more))
        if isinstance(self.answer, RequestError):
            raise self.answer
        return self.answer


def answer(
    body: Any, status: int = 200, content_type: str = "application/json", location: str = ""
) -> Answer:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, content_type, location, encoded)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch)


@pytest.fixture
def api() -> Api:
    return Api("https://api.example/v4/", Secret(TOKEN.encode()), cacert=Path("ca.pem"))


def test_what_is_sent(network: Network, api: Api) -> None:
    api.call("try", "POST", "/x", {"b": "2 &", "a": "1"}, {"name": "n"})
    ((method, address, more),) = network.asked
    assert (method, address) == ("POST", "https://api.example/v4/x?a=1&b=2+%26")
    assert more == {
        "headers": {
            "Authorization": f"Bearer {TOKEN}",
            "Accept": "application/json;version=1",
            "User-Agent": f"underpass/{VERSION}",
            "Content-Type": "application/json",
        },
        "body": b'{"name":"n"}',
        "timeout": REQUEST_TIMEOUT,
        "max_bytes": MAX_ANSWER_BYTES,
        "cacert": Path("ca.pem"),
    }


def test_without_a_body_there_is_no_content_type(network: Network, api: Api) -> None:
    api.call("try", "GET", "/x")
    ((_, address, more),) = network.asked
    assert address == "https://api.example/v4/x"
    assert more["body"] is None
    assert "Content-Type" not in more["headers"]


def test_an_envelope(network: Network, api: Api) -> None:
    network.answer = answer(
        {
            "success": True,
            "errors": [],
            "messages": [{"code": 1, "message": "by the way"}],
            "result": [1],
            "result_info": {"count": 1, "page": 1, "per_page": 20, "total_count": 1, "more": 1},
        }
    )
    assert api.call("try", "GET", "/") == Envelope(
        success=True, errors=[], result=[1], result_info=PageInfo(1, 20, 1)
    )


def test_null_is_a_result(network: Network, api: Api) -> None:
    assert api.call("try", "GET", "/").result is None


def refusal(code: Any, message: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"code": code, "message": message}], "result": None}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (answer(refusal(1003, "no such zone")), "cannot try: no such zone (code 1003)"),
        (
            answer({**refusal("x1", "but"), "success": True, "result": 1}),
            "cannot try: but (code x1)",
        ),
        (
            answer({"errors": [{"message": "a"}, {"code": 2}, {}]}, 500),
            "cannot try: a; no reason given (code 2); no reason given; try again later",
        ),
        (answer({"result": 1}), "cannot try: the API says that the call failed, and not why"),
        (answer({"success": True}), "cannot try: the answer of https://api.example/v4 has no resu"),
        (answer(b"<html>"), "cannot try: the answer of https://api.example/v4 cannot be underst"),
        (answer(b""), "cannot be understood"),
        (answer([]), "cannot be understood"),
        (answer(b"[" * 100_000), "cannot be understood"),
        (answer(b"{}{}"), "cannot be understood"),
        (answer({"success": "yes", "result": 1}), "cannot be understood"),
        (answer({"success": True, "result": 1}, 201), "failed with status 201 Created"),
        (answer(b"", 400), "cannot try: incorrect request parameters (status 400)"),
        (answer(b"", 401), "unauthorized (status 401); the account certificate is not valid"),
        (answer(refusal(10000, "Authentication error"), 403), "error (code 10000); the account ce"),
        (answer(b"", 404), "not found (status 404); check the name or id, and --api-url"),
        (answer(b"", 429), "too many requests (status 429); try again later"),
        (answer(b"", 503), "failed with status 503 Service Unavailable; try again later"),
        (answer(b"", 599), "failed with status 599; try again later"),
        (
            answer(b"", 302, location="http://x/\x1b[31m"),
            "redirects to http://x/ [31m (status 302); redirects are not followed",
        ),
        (answer(refusal(1, "not JSON"), 400, "text/html"), "incorrect request parameters"),
        (answer(refusal(1, "in \x1b[31mred\n"), 400), "cannot try: in  [31mred (code 1)"),
        (RequestError("timed out"), "the API https://api.example/v4 cannot be asked: timed out"),
    ],
)
def test_a_failure_in_words(
    network: Network, api: Api, given: Answer | RequestError, text: str
) -> None:
    network.answer = given
    with pytest.raises(ApiError) as caught:
        api.call("try", "GET", "/")
    assert text in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert caught.value.status == (None if isinstance(given, RequestError) else given.status)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (answer(b"anything"), ""),
        (answer(b"", content_type=""), ""),
        (answer({"success": False}), ""),
        (answer(refusal(1, "ignored"), content_type="text/plain"), ""),
        (answer(refusal(1, "but")), "cannot try: but (code 1)"),
        (answer(b"", 204), "failed with status 204"),
        (answer(refusal(1022, "has connections"), 400), "has connections (code 1022)"),
    ],
)
def test_a_call_of_which_only_the_status_counts(
    network: Network, api: Api, given: Answer, text: str
) -> None:
    network.answer = given
    if not text:
        api.do("try", "DELETE", "/x")
    else:
        with pytest.raises(ApiError) as caught:
            api.do("try", "DELETE", "/x")
        assert text in str(caught.value)


@pytest.mark.parametrize("base", ["", "api.example", "ftp://x", "https://user@x", "https://x?y"])
def test_a_base_that_is_no_address(base: str) -> None:
    with pytest.raises(AccountError, match="--api-url"):
        Api(base, Secret(b"x"))


@pytest.mark.parametrize(
    ("base", "warned"),
    [
        ("http://api.example", True),
        ("http://127.0.0.1:1", False),
        ("http://[::1]:1", False),
        ("https://api.example", False),
    ],
)
def test_an_unencrypted_way_is_warned_of(
    base: str, warned: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("underpass"), "propagate", True)
    Api(base, Secret(b"x"))
    assert ("unencrypted" in caplog.text) is warned
