"""Tunnel credentials: both of their forms, and errors that say what to do."""

from __future__ import annotations

import base64
import json
import os
import stat
import uuid
from pathlib import Path

import pytest

from underpass.wire.credentials import (
    MAX_CREDENTIALS_BYTES,
    Credentials,
    CredentialsError,
    read_credentials_file,
    write_credentials_file,
)
from underpass.wire.registration import TunnelAuth

VECTORS = {
    vector["name"]: vector
    for vector in json.loads((Path(__file__).parent.parent / "vectors" / "misc.json").read_text())[
        "vectors"
    ]
}
TOKEN = VECTORS["tunnel token"]
FED_TOKEN = VECTORS["tunnel token with endpoint"]
FILE = VECTORS["credentials file"]["json"]

SECRET = b"\xab" * 32
SECRET_TEXT = base64.b64encode(SECRET).decode()
TUNNEL_ID = uuid.UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")
CREDENTIALS = Credentials("0123456789abcdef0123456789abcdef", SECRET, TUNNEL_ID)
FED_CREDENTIALS = Credentials(CREDENTIALS.account_tag, SECRET, TUNNEL_ID, "fed")


def token_of(document: object) -> str:
    return base64.b64encode(json.dumps(document).encode()).decode()


class TestToken:
    def test_recorded_tokens_are_read(self):
        assert Credentials.from_token(TOKEN["token"]) == CREDENTIALS
        assert Credentials.from_token(FED_TOKEN["token"]) == FED_CREDENTIALS

    def test_tokens_are_written_as_recorded(self):
        assert CREDENTIALS.to_token() == TOKEN["token"]
        assert FED_CREDENTIALS.to_token() == FED_TOKEN["token"]

    def test_key_order_and_unknown_keys_do_not_matter(self):
        fields = {"x": [1], "t": str(TUNNEL_ID), "s": SECRET_TEXT, "a": CREDENTIALS.account_tag}
        assert Credentials.from_token(token_of(fields)) == CREDENTIALS

    def test_white_space_from_pasting_does_not_matter(self):
        token = TOKEN["token"]
        assert Credentials.from_token(f"  {token[:70]}\r\n{token[70:]}\n") == CREDENTIALS

    @pytest.mark.parametrize(
        ("token", "complaint"),
        [
            ("", "not a JSON object; copy it again"),
            (TOKEN["token"][:-3], "not base64; copy it again"),
            (TOKEN["token"][4:], "not a JSON object; copy it again"),
            ("not-a-token", "not base64"),
            ("tökén", "not base64"),
            (base64.urlsafe_b64encode(b"???>>>").decode(), "not base64"),
            (token_of([]), "not a JSON object"),
            (token_of({}), "'a' is missing"),
            (token_of({"a": "x"}), "'s' is missing"),
            (token_of({"a": "", "s": "eA=="}), "'a' is missing or empty"),
            (token_of({"a": 1, "s": "eA=="}), "'a' is not a string"),
            (token_of({"a": "x", "s": ""}), "'s' is missing or empty"),
            (token_of({"a": "x", "s": "eA"}), "'s' is not base64"),
            (token_of({"a": "x", "s": "é"}), "'s' is not base64"),
            (token_of({"a": "x", "s": "eA=="}), "'t' is missing"),
            (token_of({"a": "x", "s": "eA==", "t": "my tunnel"}), "'t' is not a UUID"),
            (token_of({"a": "x", "s": "eA==", "t": str(TUNNEL_ID), "e": 7}), "'e' is not a str"),
            (base64.b64encode(b"\xff{}").decode(), "not a JSON object"),
            (base64.b64encode(b'{"a":' * 5000).decode(), "not a JSON object"),
            ("A" * (MAX_CREDENTIALS_BYTES + 1), "far too long"),
        ],
    )
    def test_a_bad_token_is_refused_with_a_reason(self, token, complaint):
        with pytest.raises(CredentialsError, match=complaint):
            Credentials.from_token(token)


class TestDocument:
    def test_the_recorded_file_is_read_and_written(self):
        assert Credentials.from_json(FILE) == CREDENTIALS
        assert CREDENTIALS.to_json().decode() == FILE

    def test_keys_are_matched_whatever_their_case(self):
        fields = {
            "accounttag": CREDENTIALS.account_tag,
            "TUNNELSECRET": SECRET_TEXT,
            "tunnelId": str(TUNNEL_ID),
            "endPoint": "fed",
        }
        assert Credentials.from_json(json.dumps(fields)) == FED_CREDENTIALS

    def test_extra_keys_are_ignored_and_endpoint_may_be_missing(self):
        fields = json.loads(FILE) | {"TunnelName": "mine"}
        del fields["Endpoint"]
        assert Credentials.from_json(json.dumps(fields).encode()) == CREDENTIALS

    def test_an_old_file_takes_the_id_it_is_given(self):
        fields = json.loads(FILE)
        del fields["TunnelID"]
        document = json.dumps(fields)
        assert Credentials.from_json(document, tunnel_id=TUNNEL_ID) == CREDENTIALS
        with pytest.raises(CredentialsError, match="'TunnelID' is missing"):
            Credentials.from_json(document)

    def test_the_id_in_the_file_comes_first(self):
        assert Credentials.from_json(FILE, tunnel_id=uuid.UUID(int=1)) == CREDENTIALS

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            ({"AccountTag": None}, "'AccountTag' is missing or empty"),
            ({"TunnelSecret": "***"}, "'TunnelSecret' is not base64"),
            ({"TunnelID": "mine"}, "'TunnelID' is not a UUID"),
            ({"Endpoint": []}, "'Endpoint' is not a string"),
        ],
    )
    def test_a_bad_field_is_named(self, changed, complaint):
        with pytest.raises(CredentialsError, match=complaint):
            Credentials.from_json(json.dumps(json.loads(FILE) | changed))

    def test_a_certificate_is_recognized(self):
        with pytest.raises(CredentialsError, match="certificate"):
            Credentials.from_json("\n-----BEGIN ARGO TUNNEL TOKEN-----\n")


class TestFile:
    def test_what_is_written_is_read(self, tmp_path):
        path = tmp_path / f"{TUNNEL_ID}.json"
        write_credentials_file(path, FED_CREDENTIALS)
        assert read_credentials_file(path) == FED_CREDENTIALS

    @pytest.mark.skipif(os.name == "nt", reason="modes are POSIX's")
    def test_only_the_owner_can_read_it(self, tmp_path):
        path = tmp_path / "credentials.json"
        write_credentials_file(path, CREDENTIALS)
        assert stat.S_IMODE(path.stat().st_mode) == 0o400

    def test_an_existing_file_is_left_alone(self, tmp_path):
        path = tmp_path / "credentials.json"
        path.write_text("precious")
        with pytest.raises(CredentialsError, match="exists already"):
            write_credentials_file(path, CREDENTIALS)
        assert path.read_text() == "precious"

    def test_a_missing_directory_is_said(self, tmp_path):
        with pytest.raises(CredentialsError, match="give a path in a directory that exists"):
            write_credentials_file(tmp_path / "none" / "credentials.json", CREDENTIALS)

    def test_a_write_that_fails_leaves_nothing(self, tmp_path, monkeypatch):
        def full(self):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Credentials, "to_json", full)
        path = tmp_path / "credentials.json"
        with pytest.raises(CredentialsError, match="No space left"):
            write_credentials_file(path, CREDENTIALS)
        assert not path.exists()

    def test_a_missing_file_says_where_to_get_one(self, tmp_path):
        path = tmp_path / "none.json"
        with pytest.raises(CredentialsError, match="underpass tunnel create") as caught:
            read_credentials_file(path)
        assert str(path) in str(caught.value)

    def test_a_directory_is_not_a_file(self, tmp_path):
        with pytest.raises(CredentialsError, match="is a directory"):
            read_credentials_file(tmp_path)

    def test_a_file_that_cannot_be_read_says_why(self, tmp_path):
        name = "x" * 300
        with pytest.raises(CredentialsError, match="too long"):
            read_credentials_file(tmp_path / name)

    def test_errors_name_the_file(self, tmp_path):
        path = tmp_path / "damaged.json"
        path.write_text("{")
        with pytest.raises(CredentialsError, match=r"damaged\.json is not a JSON object"):
            read_credentials_file(path)

    def test_a_file_far_too_long_is_not_read_to_its_end(self, tmp_path):
        path = tmp_path / "disk.img"
        path.write_bytes(b" " * (MAX_CREDENTIALS_BYTES + 100))
        with pytest.raises(CredentialsError, match="far too long"):
            read_credentials_file(path)


class TestSecrecy:
    def test_the_secret_is_not_printed(self):
        for text in (repr(CREDENTIALS), str(CREDENTIALS), f"{CREDENTIALS.tunnel_secret!s}"):
            assert SECRET_TEXT not in text
            assert "\\xab" not in text

    def test_errors_do_not_quote_what_they_complain_about(self):
        fields = {"a": "x", "s": SECRET_TEXT + "!", "t": SECRET_TEXT}
        with pytest.raises(CredentialsError) as caught:
            Credentials.from_token(token_of(fields))
        assert SECRET_TEXT not in str(caught.value)
        fields["s"] = SECRET_TEXT
        with pytest.raises(CredentialsError) as caught:
            Credentials.from_token(token_of(fields))
        assert SECRET_TEXT not in str(caught.value)

    def test_registration_gets_account_and_secret(self):
        assert CREDENTIALS.auth == TunnelAuth(CREDENTIALS.account_tag, SECRET)
