"""A stand-in for the API that account commands talk to, with an account behind it.

It keeps what it is told, numbers what it makes (ids and times are the same in every run), writes
down every request, and fails where a test wants it to. A transfer service for logins is at
/transfer/.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from underpass.account.certificate import OriginCertificate
from underpass.wire.credentials import Credentials
from underpass.wire.secret import Secret

from .patience import PATIENCE

ACCOUNT = "699d98642c564d2e855e9661899b7252"
ZONE = "023e105f4ecef8ad9ca31a8372d0c353"
API_TOKEN = "an-api-token-that-no-log-may-contain"
CERTIFICATE = OriginCertificate(ZONE, ACCOUNT, Secret(API_TOKEN.encode()))

Row = dict[str, Any]


def numbered(number: int) -> str:
    """The id of the `number`th thing that was made."""
    digest = hashlib.sha256(b"%d" % number).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))


@dataclass
class Request:
    """A request as it came. `query` is decoded, in its order."""

    method: str
    path: str
    query: list[tuple[str, str]]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass
class Failure:
    """An answer in place of the real one, `times` times (0: always)."""

    method: str
    path: re.Pattern[str]
    status: int
    body: bytes
    content_type: str
    headers: dict[str, str]
    times: int


class RefusedError(Exception):
    """What the API answers instead of a result."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.errors = [{"code": code, "message": message}]


@dataclass
class AccountApi:
    """`serving` has one. `url` is for --api-url, `callback` for --callbackURL."""

    per_page: int = 20
    tunnels: list[Row] = field(default_factory=list)
    connectors: dict[str, list[Row]] = field(default_factory=dict)
    routes: list[Row] = field(default_factory=list)
    networks: list[Row] = field(default_factory=list)
    records: dict[str, str] = field(default_factory=dict)
    balancers: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._made = 0
        self._lock = threading.Condition()
        self._handed_over: dict[str, bytes] = {}
        self._polled: list[str] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with self._lock:
            self._handed_over[""] = b""
            self._lock.notify_all()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.address}/client/v4"

    @property
    def callback(self) -> str:
        return f"{self.address}/transfer/"

    # What tests do.

    def add_tunnel(self, name: str, *, deleted: bool = False, links: int = 0) -> str:
        """A tunnel with a connector of so many links. Its id."""
        tunnel = self._new_tunnel(name, b"s" * 32)
        if deleted:
            tunnel["deleted_at"] = self._time()
        if links:
            self.connect(tunnel["id"], links)
        return str(tunnel["id"])

    def connect(self, tunnel_id: str, links: int) -> None:
        """A connector of the tunnel, with so many links."""
        connector = self._id()
        connections = [
            {
                "id": self._id(),
                "colo_name": "LIS01" if number % 2 else "MAD02",
                "is_pending_reconnect": number == 2,
                "origin_ip": "192.0.2.7",
                "opened_at": self._time(),
                "client_id": connector,
            }
            for number in range(links)
        ]
        self._tunnel(tunnel_id)["connections"] = connections
        self.connectors[tunnel_id] = [
            {
                "id": connector,
                "features": ["serialized_headers"],
                "version": "2026.8.2",
                "arch": "linux_amd64",
                "run_at": self._time(),
                "conns": connections,
            }
        ]

    def add_network(self, name: str, *, default: bool = False) -> str:
        row = self._add_network({"name": name, "comment": "", "is_default_network": default})
        return str(row["id"])

    def add_route(self, network: str, tunnel: str, comment: str = "", vnet: str = "") -> str:
        body = {"network": network, "tunnel_id": tunnel, "comment": comment}
        row = self._add_route(body | ({"virtual_network_id": vnet} if vnet else {}))
        return str(row["id"])

    def fail(
        self,
        method: str,
        path: str,
        status: int,
        body: Any = b"",
        content_type: str = "application/json",
        *,
        headers: dict[str, str] | None = None,
        times: int = 0,
    ) -> None:
        """Answer so from now on; `path` is a pattern, `body` bytes or something for JSON."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        pattern = re.compile(path)
        self.failures.append(
            Failure(method, pattern, status, encoded, content_type, headers or {}, times)
        )

    def hand_over(self, key: str, body: bytes) -> None:
        """What the login page does after consent."""
        with self._lock:
            self._handed_over[key] = body
            self._lock.notify_all()

    def wait_for_poll(self) -> str:
        """The key of a login that has begun to poll."""
        with self._lock:
            assert self._lock.wait_for(lambda: self._polled, PATIENCE), "nobody polls"
            return self._polled.pop(0)

    # What the server does.

    def answer(self, request: Request) -> tuple[int, bytes, str, dict[str, str]]:
        with self._lock:
            self.requests.append(request)
            for failure in self.failures:
                if failure.method == request.method and failure.path.search(request.path):
                    failure.times -= 1
                    if failure.times == 0:
                        self.failures.remove(failure)
                    return failure.status, failure.body, failure.content_type, failure.headers
        if request.path.startswith("/transfer/"):
            return self._transfer(request.path.removeprefix("/transfer/"))
        with self._lock:
            try:
                result, info = self._result(request)
            except RefusedError as refused:
                body = {"success": False, "errors": refused.errors, "messages": [], "result": None}
                return refused.status, json.dumps(body).encode(), "application/json", {}
        body = {"success": True, "errors": [], "messages": [], "result": result}
        if info is not None:
            body["result_info"] = info
        return 200, json.dumps(body).encode(), "application/json", {}

    def _transfer(self, key: str) -> tuple[int, bytes, str, dict[str, str]]:
        with self._lock:
            self._polled.append(key)
            self._lock.notify_all()
            self._lock.wait_for(lambda: self._handed_over.keys() & {key, ""}, PATIENCE)
            body = self._handed_over.get(key)
        return (404, b"", "text/plain", {}) if body is None else (200, body, "text/plain", {})

    def _result(self, request: Request) -> tuple[Any, Row | None]:
        if request.headers.get("authorization") != f"Bearer {API_TOKEN}":
            raise RefusedError(403, 10000, "Authentication error")
        query = dict(request.query)
        for pattern, handle in _CALLS:
            found = pattern.fullmatch(f"{request.method} {request.path}")
            if found is not None:
                arguments = [unquote(each) for each in found.groups()]
                result = handle(self, query, request.json, *arguments)
                return result if isinstance(result, tuple) else (result, None)
        raise RefusedError(404, 7003, f"Could not route to {request.path}")

    def _id(self) -> str:
        self._made += 1
        return numbered(self._made)

    def _time(self) -> str:
        self._made += 1
        return f"2026-01-02T03:{self._made // 60 % 60:02d}:{self._made % 60:02d}.{self._made:06d}Z"

    def _page(self, rows: list[Row], query: dict[str, str]) -> tuple[list[Row], Row]:
        size, number = int(query.get("per_page", self.per_page)), int(query.get("page", 1))
        page = rows[(number - 1) * size : number * size]
        info = {"count": len(page), "page": number, "per_page": size, "total_count": len(rows)}
        return page, info

    # Tunnels.

    def _new_tunnel(self, name: str, secret: bytes) -> Row:
        tunnel: Row = {
            "id": self._id(),
            "account_tag": ACCOUNT,
            "name": name,
            "created_at": self._time(),
            "deleted_at": None,
            "connections": [],
            "secret": secret,
        }
        self.tunnels.append(tunnel)
        return tunnel

    def _tunnel(self, tunnel_id: str) -> Row:
        for tunnel in self.tunnels:
            if tunnel["id"] == tunnel_id:
                return tunnel
        raise RefusedError(404, 1000, "tunnel not found")

    def _create(self, _query: Row, body: Row) -> Row:
        name, secret = body["name"], base64.b64decode(body["tunnel_secret"], validate=True)
        if any(t["name"] == name and t["deleted_at"] is None for t in self.tunnels):
            raise RefusedError(409, 1013, "You already have a tunnel with this name.")
        tunnel = self._new_tunnel(name, secret)
        return _shown(tunnel) | {"token": _token(tunnel)}

    def _list(self, query: dict[str, str], _: Any) -> tuple[list[Row], Row]:
        def wanted(tunnel: Row) -> bool:
            name = str(tunnel["name"])
            return (
                not (query.get("is_deleted") == "false" and tunnel["deleted_at"])
                and query.get("name", name) == name
                and name.startswith(query.get("name_prefix", ""))
                and not ("exclude_prefix" in query and name.startswith(query["exclude_prefix"]))
                and query.get("uuid", tunnel["id"]) == tunnel["id"]
                and tunnel["created_at"] >= "2026"
            )

        return self._page([_shown(each) for each in self.tunnels if wanted(each)], query)

    def _get(self, _query: Row, _: Any, tunnel_id: str) -> Row:
        return _shown(self._tunnel(tunnel_id))

    def _delete(self, query: dict[str, str], _: Any, tunnel_id: str) -> Row:
        tunnel = self._tunnel(tunnel_id)
        if tunnel["connections"] and query.get("cascade") != "true":
            raise RefusedError(400, 1022, "Cannot delete tunnel because it has active connections")
        tunnel["deleted_at"] = self._time()
        return _shown(tunnel)

    def _get_token(self, _query: Row, _: Any, tunnel_id: str) -> str:
        return _token(self._tunnel(tunnel_id))

    def _connections(self, _query: Row, _: Any, tunnel_id: str) -> list[Row]:
        self._tunnel(tunnel_id)
        return self.connectors.get(tunnel_id, [])

    def _clean_up(self, query: dict[str, str], _: Any, tunnel_id: str) -> None:
        tunnel = self._tunnel(tunnel_id)
        only = query.get("client_id")
        kept = [each for each in tunnel["connections"] if only and each["client_id"] != only]
        tunnel["connections"] = kept

    def _management(self, _query: Row, _: Any, tunnel_id: str, resource: str) -> str:
        self._tunnel(tunnel_id)
        return f"eyJ.{resource}.sig"

    # Hostnames.

    def _route(self, _query: Row, body: Row, tunnel_id: str) -> Row:
        self._tunnel(tunnel_id)
        if body["type"] == "dns":
            return self._route_dns(body, tunnel_id)
        pools = self.balancers.setdefault(body["lb_name"], {})
        state = "updated" if pools else "new"
        if body["lb_pool"] not in pools:
            pools[body["lb_pool"]] = {tunnel_id}
            return {"load_balancer": state, "pool": "new"}
        known = tunnel_id in pools[body["lb_pool"]]
        pools[body["lb_pool"]].add(tunnel_id)
        return {"load_balancer": "unchanged", "pool": "unchanged" if known else "updated"}

    def _route_dns(self, body: Row, tunnel_id: str) -> Row:
        name = body["user_hostname"]
        before = self.records.get(name)
        if before == tunnel_id:
            return {"cname": "unchanged", "name": name}
        if before is not None and not body["overwrite_existing"]:
            raise RefusedError(
                400, 1003, "An A, AAAA, or CNAME record with that host already exists."
            )
        self.records[name] = tunnel_id
        return {"cname": "new" if before is None else "updated", "name": name}

    # Private networks.

    def _add_route(self, body: Row) -> Row:
        row: Row = {
            "id": self._id(),
            "network": body["network"],
            "tunnel_id": body["tunnel_id"],
            "tunnel_name": self._tunnel(body["tunnel_id"])["name"],
            "comment": body["comment"],
            "created_at": self._time(),
            "deleted_at": None,
        }
        if "virtual_network_id" in body:
            row["virtual_network_id"] = self._network(body["virtual_network_id"])["id"]
        self.routes.append(row)
        return row

    def _post_route(self, _query: Row, body: Row) -> Row:
        return self._add_route(body)

    def _routes(self, query: dict[str, str], _: Any) -> tuple[list[Row], Row]:
        assert query["tun_types"] == "cfd_tunnel"

        def wanted(route: Row) -> bool:
            network = ipaddress.ip_network(route["network"])
            inner, outer = query.get("network_superset"), query.get("network_subset")
            return (
                (route["deleted_at"] is not None) == (query["is_deleted"] == "true")
                and (inner is None or _within(ipaddress.ip_network(inner), network))
                and (outer is None or _within(network, ipaddress.ip_network(outer)))
                and query.get("comment", route["comment"]) == route["comment"]
                and query.get("tunnel_id", route["tunnel_id"]) == route["tunnel_id"]
                and query.get("virtual_network_id", route.get("virtual_network_id"))
                == route.get("virtual_network_id")
            )

        return self._page([each for each in self.routes if wanted(each)], query)

    def _delete_route(self, _query: Row, _: Any, route_id: str) -> Row:
        for route in self.routes:
            if route["id"] == route_id:
                route["deleted_at"] = self._time()
                return route
        raise RefusedError(404, 1015, "route not found")

    def _route_of(self, query: dict[str, str], _: Any, address: str) -> Row | None:
        parsed = ipaddress.ip_address(address)
        found = [
            route
            for route in self.routes
            if route["deleted_at"] is None
            and parsed in ipaddress.ip_network(route["network"])
            and route.get("virtual_network_id") == query.get("virtual_network_id")
        ]
        return max(found, key=lambda r: ipaddress.ip_network(r["network"]).prefixlen, default=None)

    # Virtual networks.

    def _network(self, network_id: str) -> Row:
        for network in self.networks:
            if network["id"] == network_id:
                return network
        raise RefusedError(404, 1020, "virtual network not found")

    def _add_network(self, body: Row) -> Row:
        if body["is_default_network"]:
            for other in self.networks:
                other["is_default_network"] = False
        row = {"id": self._id(), **body, "created_at": self._time(), "deleted_at": None}
        self.networks.append(row)
        return row

    def _post_network(self, _query: Row, body: Row) -> Row:
        return self._add_network(body)

    def _networks(self, query: dict[str, str], _: Any) -> list[Row]:
        def wanted(row: Row) -> bool:
            default = str(row["is_default_network"]).lower()
            return (
                (row["deleted_at"] is not None) == (query["is_deleted"] == "true")
                and query.get("id", row["id"]) == row["id"]
                and query.get("name", row["name"]) == row["name"]
                and query.get("is_default", default) == default
            )

        return [row for row in self.networks if wanted(row)]

    def _patch_network(self, _query: Row, body: Row, network_id: str) -> Row:
        row = self._network(network_id)
        row |= body
        return row

    def _delete_network(self, query: dict[str, str], _: Any, network_id: str) -> Row:
        row = self._network(network_id)
        used = any(
            route.get("virtual_network_id") == network_id and route["deleted_at"] is None
            for route in self.routes
        )
        if used and query.get("force") != "true":
            raise RefusedError(400, 1021, "virtual network is used by routes")
        row["deleted_at"] = self._time()
        return row


def _calls() -> Iterator[tuple[re.Pattern[str], Callable[..., Any]]]:
    tunnels = f"/client/v4/accounts/{ACCOUNT}/cfd_tunnel"
    teamnet = f"/client/v4/accounts/{ACCOUNT}/teamnet"
    api = AccountApi
    for method, path, handle in (
        ("POST", tunnels, api._create),
        ("GET", tunnels, api._list),
        ("GET", f"{tunnels}/([^/]+)", api._get),
        ("DELETE", f"{tunnels}/([^/]+)", api._delete),
        ("GET", f"{tunnels}/([^/]+)/token", api._get_token),
        ("GET", f"{tunnels}/([^/]+)/connections", api._connections),
        ("DELETE", f"{tunnels}/([^/]+)/connections", api._clean_up),
        ("POST", f"{tunnels}/([^/]+)/management/([a-z_]+)", api._management),
        ("PUT", f"/client/v4/zones/{ZONE}/tunnels/([^/]+)/routes", api._route),
        ("GET", f"{teamnet}/routes", api._routes),
        ("POST", f"{teamnet}/routes", api._post_route),
        ("DELETE", f"{teamnet}/routes/([^/]+)", api._delete_route),
        ("GET", f"{teamnet}/routes/ip/([^/]+)", api._route_of),
        ("GET", f"{teamnet}/virtual_networks", api._networks),
        ("POST", f"{teamnet}/virtual_networks", api._post_network),
        ("PATCH", f"{teamnet}/virtual_networks/([^/]+)", api._patch_network),
        ("DELETE", f"{teamnet}/virtual_networks/([^/]+)", api._delete_network),
    ):
        yield re.compile(f"{method} {path}"), handle


_CALLS = list(_calls())


def _shown(tunnel: Row) -> Row:
    return {key: value for key, value in tunnel.items() if key != "secret"}


def _token(tunnel: Row) -> str:
    return Credentials(ACCOUNT, tunnel["secret"], uuid.UUID(tunnel["id"])).to_token()


def _within(inner: Any, outer: Any) -> bool:
    return bool(inner.version == outer.version and inner.subnet_of(outer))


@contextlib.contextmanager
def serving(**options: Any) -> Iterator[AccountApi]:
    """A stand-in that answers."""
    api = AccountApi(**options)
    api.start()
    try:
        yield api
    finally:
        api.stop()


def write_certificate(directory: Path) -> Path:
    """A cert.pem for this account."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "cert.pem"
    path.write_bytes(CERTIFICATE.to_pem())
    return path


def _handler(api: AccountApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(
                self.command,
                url.path,
                parse_qsl(url.query, keep_blank_values=True),
                {name.lower(): value for name, value in self.headers.items()},
                body,
            )
            status, answer, content_type, headers = api.answer(request)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # who asked has gone
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(answer)))
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.serve)
    return Handler
