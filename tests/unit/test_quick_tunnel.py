"""The answer of a quick tunnel service, as it is given and as it is understood."""

from __future__ import annotations

import base64
import json
import uuid

import pytest

from underpass.wire.credentials import Credentials
from underpass.wire.quick_tunnel import (
    MAX_RESPONSE_BYTES,
    QuickTunnel,
    QuickTunnelError,
    decode_quick_tunnel,
    encode_quick_tunnel,
    encode_quick_tunnel_refusal,
)

SECRET = b"\xcd" * 32
TUNNEL = QuickTunnel(
    Credentials("account", SECRET, uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")),
    "fast-blue-fox.tunnels.example",
    "qt-fast-blue-fox",
)
RESULT = {
    "id": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "name": "qt-fast-blue-fox",
    "hostname": "fast-blue-fox.tunnels.example",
    "account_tag": "account",
    "secret": base64.b64encode(SECRET).decode(),
}


def answer(**changed: object) -> bytes:
    return json.dumps({"success": True, "result": RESULT | changed, "errors": []}).encode()


def test_the_answer_has_the_keys_that_cloudflared_reads():
    assert json.loads(encode_quick_tunnel(TUNNEL)) == {
        "success": True,
        "result": RESULT,
        "errors": [],
    }


def test_what_is_given_is_understood():
    assert decode_quick_tunnel(200, encode_quick_tunnel(TUNNEL)) == TUNNEL


def test_neither_status_nor_success_decides():
    body = json.dumps({"result": RESULT}).encode()
    assert decode_quick_tunnel(500, body) == TUNNEL


def test_unknown_keys_are_ignored_and_the_name_may_be_missing():
    result = {key: value for key, value in RESULT.items() if key != "name"} | {"colour": "blue"}
    body = json.dumps({"result": result, "errors": None, "messages": []}).encode()
    assert decode_quick_tunnel(200, body).hostname == TUNNEL.hostname


@pytest.mark.parametrize(
    "hostname", ["https://a.example", "a.example", "a.example:8443", "localhost:1"]
)
def test_a_hostname_may_come_with_scheme_or_port(hostname):
    tunnel = decode_quick_tunnel(200, answer(hostname=hostname))
    assert tunnel.url == "https://" + hostname.removeprefix("https://")


@pytest.mark.parametrize(
    "hostname",
    [
        "a.example/path",
        "a b.example",
        "a.example\n",
        "\x1b[2Ja.example",
        "http://a.example",
        "user@a.example",
        "a..example",
        ".example",
        "a.example:port",
        "a.example:123456",
        "x" * 254,
    ],
)
def test_what_is_no_hostname_is_not_shown_to_the_user(hostname):
    with pytest.raises(QuickTunnelError, match=r"`result\.hostname` is not a hostname"):
        decode_quick_tunnel(200, answer(hostname=hostname))


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"<html>Bad gateway</html>", "can't be understood"),
        (b"", "can't be understood"),
        (b"[]", "can't be understood"),
        (b"\xff", "can't be understood"),
        (b'{"x":' + b"[" * 50000, "can't be understood"),
        (b"{}", "created no tunnel .* no reason given"),
        (answer(id=""), r"`result\.id` is missing or empty"),
        (answer(id="mine"), r"`result\.id` is not a UUID"),
        (answer(id=7), "can't be understood"),
        (answer(account_tag=""), r"`result\.account_tag` is missing or empty"),
        (answer(secret=""), r"`result\.secret` is missing or empty"),
        (answer(secret="***"), r"`result\.secret` is not base64"),
        (answer(hostname=""), r"`result\.hostname` is missing or empty"),
        (b" " * (MAX_RESPONSE_BYTES + 1), "longer than"),
    ],
)
def test_a_bad_answer_is_refused_with_a_reason_and_the_status(body, complaint):
    with pytest.raises(QuickTunnelError, match=complaint) as caught:
        decode_quick_tunnel(502, body)
    assert "HTTP status 502" in str(caught.value)


def test_a_refusal_reaches_the_user():
    body = encode_quick_tunnel_refusal(1015, "too many quick tunnels")
    assert json.loads(body)["result"] is None
    with pytest.raises(QuickTunnelError, match=r"too many quick tunnels \(code 1015\)"):
        decode_quick_tunnel(429, body)


def test_a_refusal_counts_even_with_an_empty_result():
    empty = dict.fromkeys(RESULT, "")
    body = json.dumps({"result": empty, "errors": [{"code": "E7", "message": ""}]}).encode()
    with pytest.raises(QuickTunnelError, match=r"no reason given \(code E7\)"):
        decode_quick_tunnel(200, body)


def test_reasons_are_cut_and_made_printable():
    errors = [{"code": i, "message": "\x1b[31m" + "x" * 5000} for i in range(10)]
    with pytest.raises(QuickTunnelError) as caught:
        decode_quick_tunnel(500, json.dumps({"errors": errors}).encode())
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_the_secret_is_not_printed():
    assert RESULT["secret"] not in repr(TUNNEL)
    assert "\\xcd" not in repr(TUNNEL)
