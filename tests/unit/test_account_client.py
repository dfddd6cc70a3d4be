"""The account API, call by call (docs: API §3 to §6), and what is built upon calls."""

from __future__ import annotations

import json
import stat
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from underpass.account import client as client_module
from underpass.account.api import Envelope, PageInfo
from underpass.account.certificate import OriginCertificate
from underpass.account.client import AccountClient, ManagementResource
from underpass.account.errors import AccountError, ApiError
from underpass.account.hostname_routes import (
    check_hostname,
    check_pool,
    lead_by_load_balancer,
    lead_hostname,
)
from underpass.account.models import parse_address, parse_network
from underpass.account.names import find_tunnel, find_virtual_network, parse_id
from underpass.account.session import FED_API_URL, Account, open_account
from underpass.account.tunnels import create_tunnel, delete_tunnel, read_secret
from underpass.wire.credentials import Credentials
from underpass.wire.secret import Secret

CERTIFICATE = OriginCertificate("the zone/", "../account?", Secret(b"token"), "")
ID = uuid.UUID("11111111-2222-4333-8444-555555555555")
OTHER = uuid.UUID("21111111-2222-4333-8444-555555555555")
ACCOUNT = "/accounts/..%2Faccount%3F"
TUNNELS = f"{ACCOUNT}/cfd_tunnel"
ROUTES = f"{ACCOUNT}/teamnet/routes"
NETWORKS = f"{ACCOUNT}/teamnet/virtual_networks"

Call = tuple[str, str, Mapping[str, str] | None, Mapping[str, Any] | None]


class StandIn:
    """An `Api` that writes calls down and answers them in turn."""

    def __init__(self, *answers: Any) -> None:
        self.calls: list[Call] = []
        self.answers = list(answers)

    def call(
        self,
        what: str,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> Envelope:
        self.calls.append((method, path, query, body))
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, ApiError):
            raise answer
        return answer if isinstance(answer, Envelope) else Envelope(success=True, result=answer)

    def do(self, what: str, method: str, path: str, query: Mapping[str, str] | None = None) -> None:
        self.call(what, method, path, query)


def client(api: StandIn, page_size: int = 0) -> AccountClient:
    return AccountClient(api, CERTIFICATE, page_size=page_size)  # type: ignore[arg-type]


TUNNEL = {"id": str(ID), "name": "mine", "created_at": "2026-01-02T03:04:05Z"}

CALLS: list[tuple[Callable[[AccountClient], Any], Any, Call]] = [
    (
        lambda c: c.create_tunnel("mine", b"s" * 3),
        TUNNEL,
        ("POST", TUNNELS, None, {"name": "mine", "tunnel_secret": "c3Nz"}),
    ),
    (lambda c: c.tunnel(ID), TUNNEL, ("GET", f"{TUNNELS}/{ID}", None, None)),
    (lambda c: c.delete_tunnel(ID), None, ("DELETE", f"{TUNNELS}/{ID}", None, None)),
    (
        lambda c: c.delete_tunnel(ID, cascade=True),
        None,
        ("DELETE", f"{TUNNELS}/{ID}", {"cascade": "true"}, None),
    ),
    (lambda c: c.tunnel_token(ID), "t", ("GET", f"{TUNNELS}/{ID}/token", None, None)),
    (lambda c: c.connectors(ID), [], ("GET", f"{TUNNELS}/{ID}/connections", None, None)),
    (lambda c: c.clean_up(ID), None, ("DELETE", f"{TUNNELS}/{ID}/connections", None, None)),
    (
        lambda c: c.clean_up(ID, OTHER),
        None,
        ("DELETE", f"{TUNNELS}/{ID}/connections", {"client_id": str(OTHER)}, None),
    ),
    (
        lambda c: c.management_token(ID, ManagementResource.HOST_DETAILS),
        "t",
        ("POST", f"{TUNNELS}/{ID}/management/host_details", None, None),
    ),
    (
        lambda c: c.route_dns(ID, "a.b", overwrite=False),
        {"cname": "new"},
        (
            "PUT",
            f"/zones/the%20zone%2F/tunnels/{ID}/routes",
            None,
            {"type": "dns", "user_hostname": "a.b", "overwrite_existing": False},
        ),
    ),
    (
        lambda c: c.route_load_balancer(ID, "a.b", "pool"),
        {},
        (
            "PUT",
            f"/zones/the%20zone%2F/tunnels/{ID}/routes",
            None,
            {"type": "lb", "lb_name": "a.b", "lb_pool": "pool"},
        ),
    ),
    (
        lambda c: c.ip_routes({"is_deleted": "false"}),
        [],
        ("GET", ROUTES, {"tun_types": "cfd_tunnel", "is_deleted": "false", "page": "1"}, None),
    ),
    (
        lambda c: c.add_ip_route(parse_network("10.0.0.0/8"), ID),
        None,
        ("POST", ROUTES, None, {"network": "10.0.0.0/8", "tunnel_id": str(ID), "comment": ""}),
    ),
    (lambda c: c.delete_ip_route(ID), None, ("DELETE", f"{ROUTES}/{ID}", None, None)),
    (
        lambda c: c.ip_route_of(parse_address("2001:db8::1"), ID),
        None,
        ("GET", f"{ROUTES}/ip/2001:db8::1", {"virtual_network_id": str(ID)}, None),
    ),
    (
        lambda c: c.virtual_networks({"is_deleted": "false"}),
        [],
        ("GET", NETWORKS, {"is_deleted": "false"}, None),
    ),
    (
        lambda c: c.add_virtual_network("lab", "", default=True),
        {"id": str(ID)},
        ("POST", NETWORKS, None, {"name": "lab", "comment": "", "is_default_network": True}),
    ),
    (
        lambda c: c.update_virtual_network(ID, {"comment": ""}),
        None,
        ("PATCH", f"{NETWORKS}/{ID}", None, {"comment": ""}),
    ),
    (
        lambda c: c.delete_virtual_network(ID, force=True),
        None,
        ("DELETE", f"{NETWORKS}/{ID}", {"force": "true"}, None),
    ),
]


@pytest.mark.parametrize(("do", "answer", "call"), CALLS)
def test_a_call(do: Callable[[AccountClient], Any], answer: Any, call: Call) -> None:
    """The account and the zone come out of a file: they stay one part of the path each."""
    api = StandIn(answer)
    do(client(api))
    assert api.calls == [call]


def test_an_answer_of_the_wrong_kind() -> None:
    for answer in ("text", [], {"id": "x"}):
        with pytest.raises(ApiError, match=r"cannot get the tunnel .* cannot be understood"):
            client(StandIn(answer)).tunnel(ID)
    with pytest.raises(ApiError, match="cannot be understood"):
        client(StandIn({})).tunnel_token(ID)


def test_a_name_that_is_taken() -> None:
    api = StandIn(ApiError("no", 409), ApiError("other", 400))
    with pytest.raises(ApiError, match="a tunnel with this name exists already"):
        client(api).create_tunnel("mine", b"")
    with pytest.raises(ApiError, match="other"):
        client(api).create_tunnel("mine", b"")


@pytest.mark.parametrize(
    "answer",
    [None, {}, {"tunnel_id": None}, {"network": "::/0", "tunnel_id": str(uuid.UUID(int=0))}],
)
def test_an_address_without_a_route(answer: Any) -> None:
    assert client(StandIn(answer)).ip_route_of(parse_address("10.0.0.1")) is None


class TestPages:
    def page(self, rows: int, count: int, per_page: int, total: int) -> Envelope:
        info = PageInfo(count, per_page, total)
        return Envelope(success=True, result=[TUNNEL] * rows, result_info=info)

    def listed(self, *pages: Envelope, page_size: int = 0) -> tuple[int, list[Any]]:
        api = StandIn(*pages)
        rows = client(api, page_size).tunnels({"name": "n"})
        assert not api.answers
        return len(rows), [call[2] for call in api.calls]

    def test_one_without_information(self) -> None:
        rows, queries = self.listed(Envelope(success=True, result=[TUNNEL]))
        assert (rows, queries) == (1, [{"name": "n", "page": "1"}])

    def test_until_a_page_is_not_full(self) -> None:
        rows, queries = self.listed(self.page(2, 2, 2, 9), self.page(1, 1, 2, 9))
        assert (rows, queries[1]) == (3, {"name": "n", "page": "2"})

    def test_until_all_are_there(self) -> None:
        assert self.listed(self.page(2, 2, 2, 4), self.page(2, 2, 2, 4))[0] == 4

    def test_until_a_page_is_empty_whatever_it_says(self) -> None:
        assert self.listed(self.page(2, 2, 2, 9), self.page(0, 2, 2, 9))[0] == 2
        assert self.listed(self.page(0, 0, 0, 9))[0] == 0

    def test_the_size_asked_for(self) -> None:
        _, (query,) = self.listed(self.page(1, 1, 7, 1), page_size=7)
        assert query == {"name": "n", "per_page": "7", "page": "1"}

    @pytest.mark.parametrize("bound", ["MAX_PAGES", "MAX_ROWS"])
    def test_not_for_ever(self, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(client_module, bound, 3)
        api = StandIn(*[self.page(1, 1, 1, 10**9)] * 10)
        with pytest.raises(ApiError, match="more than"):
            client(api).tunnels({})
        assert len(api.calls) <= 4


class TestNames:
    def test_a_uuid_is_not_asked_for(self) -> None:
        api = StandIn()
        assert find_tunnel(client(api), str(ID)) == ID
        assert find_virtual_network(client(api), str(ID).upper()) == ID
        assert api.calls == []

    def test_a_name_is(self) -> None:
        api = StandIn([TUNNEL], [{"id": str(OTHER)}])
        assert find_tunnel(client(api), "mine") == ID
        assert find_virtual_network(client(api), "lab") == OTHER
        assert [call[2] for call in api.calls] == [
            {"is_deleted": "false", "name": "mine", "page": "1"},
            {"is_deleted": "false", "name": "lab"},
        ]

    def test_nothing_and_too_much_of_a_name(self) -> None:
        api = StandIn([], [TUNNEL, TUNNEL], [])
        with pytest.raises(AccountError, match="there is no tunnel named 'x'; `underpass tunnel l"):
            find_tunnel(client(api), "x")
        with pytest.raises(AccountError, match="there are 2 tunnels named 'x'; give the id of one"):
            find_tunnel(client(api), "x")
        with pytest.raises(AccountError, match="there is no virtual network named 'x'"):
            find_virtual_network(client(api), "x")

    def test_what_is_no_id(self) -> None:
        for text in ("", "mine", "11111111-2222-4333-8444-55555555555"):
            assert parse_id(text) is None


class TestTunnels:
    @pytest.fixture
    def api(self) -> StandIn:
        return StandIn(TUNNEL)

    @pytest.fixture
    def account(self, api: StandIn, tmp_path: Path) -> Account:
        return Account(client(api), CERTIFICATE, tmp_path / "cert.pem")

    def test_credentials_are_written_beside_the_certificate(
        self, account: Account, tmp_path: Path
    ) -> None:
        tunnel, path = create_tunnel(account, "mine", secret=b"s" * 32)
        assert (tunnel.id, path) == (ID, tmp_path / f"{ID}.json")
        written = Credentials.from_json(path.read_bytes())
        assert written == Credentials(CERTIFICATE.account_id, b"s" * 32, ID)
        if sys.platform != "win32":
            assert stat.S_IMODE(path.stat().st_mode) == 0o400

    def test_the_secret_is_random_and_the_path_anybodys(
        self, account: Account, api: StandIn, tmp_path: Path
    ) -> None:
        _, path = create_tunnel(account, "mine", path=tmp_path / "x.json")
        body = api.calls[0][3]
        assert body is not None
        assert json.loads(path.read_bytes())["TunnelSecret"] == body["tunnel_secret"]
        assert len(Credentials.from_json(path.read_bytes()).tunnel_secret) == 32

    def test_a_tunnel_whose_file_cannot_be_written_is_deleted_again(
        self, account: Account, api: StandIn, tmp_path: Path
    ) -> None:
        (tmp_path / "x.json").write_text("precious")
        with pytest.raises(AccountError, match=r"exists already .* was deleted again, because"):
            create_tunnel(account, "mine", path=tmp_path / "x.json")
        assert api.calls[1] == ("DELETE", f"{TUNNELS}/{ID}", {"cascade": "true"}, None)
        assert (tmp_path / "x.json").read_text() == "precious"

    def test_and_if_that_fails_too_it_is_said(
        self, account: Account, api: StandIn, tmp_path: Path
    ) -> None:
        api.answers.append(ApiError("busy", 503))
        with pytest.raises(AccountError, match=rf"\(busy\); .*`underpass tunnel delete {ID}`"):
            create_tunnel(account, "mine", path=tmp_path / "no" / "x.json")

    @pytest.mark.parametrize(("name", "reason"), [("", "needs a name"), (str(ID), "is a UUID")])
    def test_names_that_cannot_be(
        self, account: Account, api: StandIn, name: str, reason: str
    ) -> None:
        with pytest.raises(AccountError, match=reason):
            create_tunnel(account, name)
        assert api.calls == []

    def test_secrets_that_are_given(self) -> None:
        assert read_secret("c" * 43 + "=") == b"q\xc7\x1c" * 10 + b"q\xc7"[:2]
        for text in ("hunter22!", "hunter22", "c" * 42):
            with pytest.raises(AccountError) as caught:
                read_secret(text)
            assert "hunter22" not in str(caught.value)

    def written(self, path: Path, tunnel_id: uuid.UUID = ID) -> Path:
        path.write_bytes(Credentials("account", b"s" * 32, tunnel_id).to_json())
        return path

    def delete(self, account: Account, given: Path | None = None, *, force: bool = False) -> None:
        places = [account.path.parent]
        delete_tunnel(account, ID, force=force, given=given, places=places)

    def test_deleting_takes_the_credentials_that_are_found(
        self, account: Account, api: StandIn, tmp_path: Path
    ) -> None:
        path = self.written(tmp_path / f"{ID}.json")
        self.delete(account, force=True)
        assert not path.exists()
        assert [call[:3] for call in api.calls] == [
            ("GET", f"{TUNNELS}/{ID}", None),
            ("DELETE", f"{TUNNELS}/{ID}", {"cascade": "true"}),
        ]

    def test_or_those_that_are_given(self, account: Account, tmp_path: Path) -> None:
        path = self.written(tmp_path / "given.json")
        self.delete(account, path)
        assert not path.exists()

    def test_but_never_those_of_another_tunnel(self, account: Account, tmp_path: Path) -> None:
        path = self.written(tmp_path / "given.json", OTHER)
        self.delete(account, path)
        assert path.exists()

    def test_nor_what_are_none(self, account: Account, tmp_path: Path) -> None:
        (tmp_path / "given.json").write_text("precious")
        self.delete(account, tmp_path / "given.json")
        assert (tmp_path / "given.json").exists()

    def test_deleting_without_any_credentials(self, account: Account, tmp_path: Path) -> None:
        self.delete(account)
        self.delete_twice_is_refused(account)

    def delete_twice_is_refused(self, account: Account) -> None:
        deleted = {**TUNNEL, "deleted_at": "2026-05-06T07:08:09Z"}
        again = Account(client(StandIn(deleted)), CERTIFICATE, account.path)
        with pytest.raises(AccountError, match="was deleted already, at 2026-05-06T07:08:09Z"):
            self.delete(again)

    def test_a_tunnel_that_cannot_be_deleted_keeps_its_credentials(
        self, account: Account, api: StandIn, tmp_path: Path
    ) -> None:
        path = self.written(tmp_path / f"{ID}.json")
        api.answers.append(ApiError("has connections", 400))
        with pytest.raises(ApiError):
            self.delete(account)
        assert path.exists()


class TestHostnames:
    @pytest.mark.parametrize(
        ("answer", "sentence"),
        [
            ({"cname": "new"}, "Added CNAME a.b which will route to this tunnel"),
            ({"cname": "new", "name": "a.b.c"}, "Added CNAME a.b.c which will route to this tun"),
            ({"cname": "updated"}, "a.b updated to route to your tunnel"),
            ({"cname": "unchanged"}, "a.b is already configured to route to your tunnel"),
            ({"cname": "?"}, "a.b was routed to this tunnel"),
            ({"name": "a\x1b[31m"}, "a [31m was routed"),
        ],
    )
    def test_what_became_of_a_dns_route(self, answer: Any, sentence: str) -> None:
        said = lead_hostname(client(StandIn(answer)), ID, "a.b", overwrite=True)
        assert said.startswith(sentence)

    @pytest.mark.parametrize("balancer", ["new", "updated", "unchanged"])
    @pytest.mark.parametrize("pool", ["new", "updated", "unchanged"])
    def test_what_became_of_a_load_balancer(self, balancer: str, pool: str) -> None:
        api = StandIn({"load_balancer": balancer, "pool": pool})
        if (balancer, pool) == ("unchanged", "new"):
            with pytest.raises(AccountError, match="something went wrong"):
                lead_by_load_balancer(client(api), ID, "a.b", "the-pool")
        else:
            said = lead_by_load_balancer(client(api), ID, "a.b", "the-pool")
            assert "a.b" in said
            assert "the-pool" in said

    @pytest.mark.parametrize(
        "name", ["a", "a.b", "a.b.", "*.a.b", "_x.a", "a_b.c", "xn--4ca.b", "é.b", "x" * 63 + ".b"]
    )
    def test_names(self, name: str) -> None:
        check_hostname(name)

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "",
                ".",
                "a..b",
                ".a",
                "-a.b",
                "a-.b",
                "ab--c.d",
                "a b",
                "a/b",
                "a:1",
                "a.*",
                "http://a",
            ),
            *("x" * 64 + ".b", "a." * 127 + "a", "é" * 64, "\ud800", "a\n"),
        ],
    )
    def test_what_is_no_name(self, name: str) -> None:
        api = StandIn()
        with pytest.raises(AccountError, match="is not a valid hostname"):
            lead_hostname(client(api), ID, name, overwrite=False)
        assert api.calls == []

    def test_pools(self) -> None:
        check_pool("the-pool_1.x")
        for pool in ("", "-a", "*", "a b", "é"):
            with pytest.raises(AccountError, match="is not a valid pool name"):
                check_pool(pool)


def test_an_account_of_the_fed_region_has_an_api_of_its_own(tmp_path: Path) -> None:
    certificate = OriginCertificate("z", "a", Secret(b"t"), "fed")
    (tmp_path / "cert.pem").write_bytes(certificate.to_pem())
    account = open_account("", "http://elsewhere", [tmp_path])
    assert account.client._api.base == FED_API_URL
    assert account.certificate == certificate
    other = OriginCertificate("z", "a", Secret(b"t"))
    (tmp_path / "cert.pem").write_bytes(other.to_pem())
    assert open_account("", "http://x/", [tmp_path]).client._api.base == "http://x"
