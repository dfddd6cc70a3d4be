"""JSON, YAML and tables as cloudflared prints them."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from underpass.account.models import (
    Connection,
    Connector,
    CreatedTunnel,
    IpRoute,
    Tunnel,
    VirtualNetwork,
)
from underpass.account.moment import Moment
from underpass.cli.account_documents import JSON, YAML, TunnelInfo, document
from underpass.cli.documents import to_json, to_yaml
from underpass.cli.table import MAX_CELL, echo_table

ID = uuid.UUID("11111111-2222-4333-8444-555555555555")
THEN = Moment.parse("2026-01-02T03:04:05.12Z")
CONNECTION = Connection("LIS01", ID, False, "192.0.2.7", THEN)
TUNNEL = Tunnel(ID, "mine", THEN, connections=[CONNECTION])


def test_a_tunnel_as_json() -> None:
    assert to_json(document([TUNNEL], JSON)) == (
        "[\n"
        "  {\n"
        f'    "id": "{ID}",\n'
        '    "name": "mine",\n'
        '    "created_at": "2026-01-02T03:04:05.12Z",\n'
        '    "deleted_at": "0001-01-01T00:00:00Z",\n'
        '    "connections": [\n'
        "      {\n"
        '        "colo_name": "LIS01",\n'
        f'        "id": "{ID}",\n'
        '        "is_pending_reconnect": false,\n'
        '        "origin_ip": "192.0.2.7",\n'
        '        "opened_at": "2026-01-02T03:04:05.12Z"\n'
        "      }\n"
        "    ]\n"
        "  }\n"
        "]\n"
    )


def test_a_tunnel_just_made_as_yaml() -> None:
    made = CreatedTunnel(ID, "mine", THEN, connections=[CONNECTION], token="t")
    assert to_yaml(document(made, YAML)) == (
        "tunnel:\n"
        f"    id: {ID}\n"
        "    name: mine\n"
        "    createdat: 2026-01-02T03:04:05.12Z\n"
        "    deletedat: 0001-01-01T00:00:00Z\n"
        "    connections:\n"
        "        - coloname: LIS01\n"
        f"          id: {ID}\n"
        "          ispendingreconnect: false\n"
        "          originip: 192.0.2.7\n"
        "          openedat: 2026-01-02T03:04:05.12Z\n"
        "token: t\n"
    )


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (CreatedTunnel(ID), "id name created_at deleted_at connections token"),
        (TunnelInfo(TUNNEL, []), "id name createdAt conns"),
        (Connector(ID), "id features version arch run_at conns"),
        (
            IpRoute("10.0.0.0/8", virtual_network_id=ID),
            "id network tunnel_id virtual_network_id comment created_at deleted_at tunnel_name",
        ),
        (
            IpRoute("10.0.0.0/8"),
            "id network tunnel_id comment created_at deleted_at tunnel_name",
        ),
        (VirtualNetwork(ID), "id comment name is_default_network created_at deleted_at"),
    ],
)
def test_keys_of_json(value: Any, keys: str) -> None:
    assert list(json.loads(to_json(document(value, JSON)))) == keys.split()


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (CreatedTunnel(ID), "tunnel token"),
        (TunnelInfo(TUNNEL, []), "id name createdat connectors"),
        (Connector(ID), "id features version arch runat connections"),
        (
            IpRoute("10.0.0.0/8"),
            "id network tunnelid vnetid comment createdat deletedat tunnelname",
        ),
        (VirtualNetwork(ID), "id comment name isdefault createdat deletedat"),
    ],
)
def test_keys_of_yaml(value: Any, keys: str) -> None:
    assert list(yaml.safe_load(to_yaml(document(value, YAML)))) == keys.split()


def test_a_network_in_yaml_is_gos_structure() -> None:
    shaped = document(IpRoute("2001:db8::/32"), YAML)["network"]
    assert shaped == {"ip": "2001:db8::", "mask": [255] * 4 + [0] * 12}


def test_lists_that_there_are_none_of() -> None:
    assert to_json(document(None, JSON)) == "null\n"
    assert to_yaml(document(None, YAML)) == "[]\n"
    assert to_json(document([], JSON)) == "[]\n"
    assert document(Connector(ID), JSON)["features"] is None
    assert document(Connector(ID), YAML)["features"] == []


def test_json_escapes_what_go_escapes() -> None:
    text = "<a href='&'>\u2028\u2029é\x07"
    assert to_json(text) == ("\"\\u003ca href='\\u0026'\\u003e\\u2028\\u2029é\\u0007\"\n")
    assert json.loads(to_json(text)) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain", "plain"),
        ("2026.8.2", "2026.8.2"),
        ("a: b", "'a: b'"),
        ("true", '"true"'),
        ("off", '"off"'),
        ("1.0", '"1.0"'),
        ("0x1f", '"0x1f"'),
        ("1:30", '"1:30"'),
        ("2001-01-01", '"2001-01-01"'),
        ("", '""'),
        ("\x1b[31m", '"\\e[31m"'),
        ("\U0001f600", '"\\U0001F600"'),
        ("two\nlines", "|-\n    two\n    lines"),
        ("\nlines", '"\\nlines"'),
    ],
)
def test_yaml_quotes_what_could_be_something_else(text: str, written: str) -> None:
    assert to_yaml({"name": text}) == f"name: {written}\n"


def test_a_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["ID", "NAME"], [["1", "a longer one"], ["22", ""]])
    assert capsys.readouterr().out == ("ID NAME         \n1  a longer one \n22              \n")


def test_a_cell_is_one_line_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    echo_table(["NAME"], [["\x1b]0;x\x07\nforged\u202e"], ["x" * 5000]])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1].strip() == "]0;x  forged"
    assert len(lines[2]) == MAX_CELL + 1


def test_only_a_terminal_gets_colours() -> None:
    import click

    @click.command()
    def show() -> None:
        echo_table(["ID"], [])

    assert CliRunner().invoke(show).output == "ID \n"
    assert CliRunner().invoke(show, color=True).output == "\x1b[1mID \x1b[0m\n"
