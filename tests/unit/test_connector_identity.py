"""Which tunnel is run, and with which credentials."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from underpass.connector.identity import IdentityError, credentials_of, find_credentials
from underpass.connector.settings import resolve
from underpass.connector.settings_table import Value
from underpass.wire.credentials import Credentials, CredentialsError

ONE = Credentials("account", b"1" * 32, uuid.UUID(int=1))
TWO = Credentials("account", b"2" * 32, uuid.UUID(int=2))


def find(reference: str = "", *directories: Path, **given: Value) -> Credentials:
    settings = resolve([{name.replace("_", "-"): value for name, value in given.items()}], {}, {})
    return find_credentials(settings, reference, directories, look_up)


def look_up(name: str) -> uuid.UUID:
    """An account with one tunnel."""
    if name != "my-tunnel":
        raise LookupError(name)
    return TWO.tunnel_id


def write(path: Path, credentials: Credentials) -> str:
    path.write_bytes(credentials.to_json())
    return str(path)


def test_a_token_wins_over_everything(tmp_path: Path) -> None:
    path = write(tmp_path / "two.json", TWO)
    assert find(str(TWO.tunnel_id), token=ONE.to_token(), credentials_file=path) == ONE


def test_a_token_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"\n  {ONE.to_token()}\n")
    assert find(token_file=str(path)) == ONE
    assert find(token=TWO.to_token(), token_file=str(path)) == TWO


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "cannot read"), (b"\n", "is empty"), (b"\xff", "does not hold")]
)
def test_a_token_file_without_a_token(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CredentialsError, match=reason):
        find(token_file=str(path))


def test_a_bad_token_is_not_repeated_in_the_error() -> None:
    with pytest.raises(CredentialsError) as caught:
        find(token="not-a-token-but-secret")
    assert "secret" not in str(caught.value)


def test_contents_win_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "two.json", TWO)
    contents = ONE.to_json().decode()
    assert find(credentials_contents=contents, credentials_file=path) == ONE


def test_a_uuid_replaces_the_one_in_the_credentials(tmp_path: Path) -> None:
    path = write(tmp_path / "one.json", ONE)
    found = find(str(TWO.tunnel_id), credentials_file=path)
    assert found.tunnel_id == TWO.tunnel_id
    assert found.tunnel_secret == ONE.tunnel_secret


def test_a_name_is_not_checked_against_the_credentials(tmp_path: Path) -> None:
    assert find("my-tunnel", credentials_file=write(tmp_path / "one.json", ONE)) == ONE


def test_credentials_are_searched_by_uuid_beside_the_certificate_first(tmp_path: Path) -> None:
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    beside.mkdir()
    elsewhere.mkdir()
    file_name = f"{ONE.tunnel_id}.json"
    write(elsewhere / file_name, ONE)
    assert find(str(ONE.tunnel_id), elsewhere) == ONE
    changed = Credentials("other", b"3" * 32, ONE.tunnel_id)
    write(beside / file_name, changed)
    assert find(str(ONE.tunnel_id), elsewhere, origincert=str(beside / "cert.pem")) == changed


def test_no_credentials_found_says_where_they_were_looked_for(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=f"none of {tmp_path}; give it with --credentials-file"):
        find(str(ONE.tunnel_id), tmp_path)


def test_a_name_alone_is_looked_up(tmp_path: Path) -> None:
    write(tmp_path / f"{TWO.tunnel_id}.json", TWO)
    assert find("my-tunnel", tmp_path) == TWO
    with pytest.raises(LookupError, match="unknown"):
        find("unknown", tmp_path)


def test_a_name_is_looked_up_for_credentials_that_do_not_say_whose_they_are(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    secret = json.loads(ONE.to_json())["TunnelSecret"]
    path.write_text(json.dumps({"AccountTag": "account", "TunnelSecret": secret}))
    found = find("my-tunnel", credentials_file=str(path))
    assert (found.tunnel_id, found.tunnel_secret) == (TWO.tunnel_id, ONE.tunnel_secret)
    with pytest.raises(CredentialsError, match="TunnelID"):
        find(credentials_file=str(path))


def test_a_token_has_no_say_about_a_tunnel_that_is_known(tmp_path: Path) -> None:
    write(tmp_path / f"{TWO.tunnel_id}.json", TWO)
    settings = resolve([{"token": ONE.to_token()}], {}, {})
    assert credentials_of(TWO.tunnel_id, settings, [tmp_path]) == TWO


def test_nothing_at_all_says_what_to_give() -> None:
    with pytest.raises(IdentityError, match="give --token"):
        find()
