"""The envelopes in which configuration crosses a link."""

from __future__ import annotations

import json

import pytest

from underpass.wire.remote_config import (
    MAX_UPDATE_BYTES,
    NO_VERSION,
    ConfigurationReply,
    ConfigurationUpdate,
    ConfigurationUpdateError,
    LocalRule,
    decode_reply,
    decode_update,
    encode_reply,
    encode_update,
    local_configuration,
)


class TestUpdate:
    def test_the_configuration_is_passed_on_as_it_is(self):
        body = b'{"config": {"ingress": [ ], "new": 1e3}, "version": 7}'
        assert decode_update(body) == ConfigurationUpdate(7, b'{"ingress": [ ], "new": 1e3}')

    def test_what_is_written_is_read(self):
        update = ConfigurationUpdate(3, b'{"ingress":[]}')
        assert encode_update(update) == b'{"version":3,"config":{"ingress":[]}}'
        assert decode_update(encode_update(update)) == update

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"version":1}',
            b'{"config":{}}',
            b'{"version":"1","config":{}}',
            b'{"version":1.5,"config":{}}',
            b'{"version":2147483648,"config":{}}',
            b'{"version":1,"config":{}',
            b'{"version":1,"config":' + b"[" * 50000,
            b" " * (MAX_UPDATE_BYTES + 1),
        ],
    )
    def test_anything_else_is_refused(self, body):
        with pytest.raises(ConfigurationUpdateError):
            decode_update(body)


class TestReply:
    def test_success_is_what_cloudflared_answers(self):
        assert encode_reply(ConfigurationReply(4)) == b'{"lastAppliedVersion":4,"err":null}'
        assert decode_reply(b'{"lastAppliedVersion":4,"err":null}') == ConfigurationReply(4)

    def test_failure_says_why(self):
        reply = ConfigurationReply(NO_VERSION, "the last rule must match everything")
        assert decode_reply(encode_reply(reply)) == reply

    @pytest.mark.parametrize("error", ["{}", '{"Offset":0}', "[]", "0", "false"])
    def test_an_error_without_words_is_an_error(self, error):
        reply = decode_reply(f'{{"lastAppliedVersion":2,"err":{error}}}'.encode())
        assert reply.last_applied_version == 2
        assert reply.error == "the connector gave no reason"

    @pytest.mark.parametrize("body", [b"", b"{}", b'{"lastAppliedVersion":null}', b" " * 2000000])
    def test_anything_else_is_refused(self, body):
        with pytest.raises(ConfigurationUpdateError):
            decode_reply(body)


class TestLocalConfiguration:
    def test_the_documents_example(self):
        document = local_configuration(
            [
                LocalRule("http://127.0.0.1:9000", hostname="a.example.com"),
                LocalRule("http_status:404"),
            ],
            warp_routing={},
            flags={"protocol": "http2"},
        )
        assert document == (
            b'{"__configuration_flags":{"protocol":"http2"},"ingress":['
            b'{"hostname":"a.example.com","service":"http://127.0.0.1:9000","originRequest":{}},'
            b'{"service":"http_status:404","originRequest":{}}],"warp-routing":{}}'
        )

    def test_the_recorded_document_without_flags(self):
        document = local_configuration([LocalRule("http_status:404")], warp_routing={}, flags={})
        assert document == (
            b'{"ingress":[{"service":"http_status:404","originRequest":{}}],"warp-routing":{}}'
        )

    def test_options_and_flags(self):
        document = local_configuration(
            [LocalRule("hello_world", path="^/a", origin_request={"connectTimeout": 1.5})],
            warp_routing={"maxActiveFlows": 10},
            flags={"retries": "5", "loglevel": "debug"},
        )
        assert json.loads(document) == {
            "__configuration_flags": {"loglevel": "debug", "retries": "5"},
            "ingress": [
                {"path": "^/a", "service": "hello_world", "originRequest": {"connectTimeout": 1.5}}
            ],
            "warp-routing": {"maxActiveFlows": 10},
        }
