"""The account API, call by call (docs: API §3 to §6)."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Mapping
from enum import Enum
from typing import Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from underpass.account.api import Api, Envelope
from underpass.account.certificate import OriginCertificate
from underpass.account.errors import ApiError
from underpass.account.models import (
    NO_ID,
    Address,
    Connector,
    CreatedTunnel,
    DnsRoute,
    IpRoute,
    LoadBalancerRoute,
    Network,
    Pool,
    Tunnel,
    VirtualNetwork,
    convert,
)
from underpass.wire.printable import printable

__all__ = ["MAX_PAGES", "MAX_ROWS", "AccountClient", "ManagementResource"]

MAX_ROWS: Final = 100_000
"""Rows of one list: a hundred times what an account may have."""
MAX_PAGES: Final = 10_000
"""Pages of one list."""

T = TypeVar("T")


class ManagementResource(Enum):
    """What a management token lets somebody see of a running connector."""

    LOGS = "logs"
    ADMIN = "admin"
    HOST_DETAILS = "host_details"


class AccountClient:
    """What an account certificate allows. Every method may raise ApiError.

    Filters are given by the API's own names. `page_size` is how many rows are asked for at once; 0
    leaves that to the API.
    """

    def __init__(self, api: Api, certificate: OriginCertificate, *, page_size: int = 0) -> None:
        account = f"/accounts/{quote(certificate.account_id, safe='')}"
        self._api = api
        self._tunnels = f"{account}/cfd_tunnel"
        self._routes = f"{account}/teamnet/routes"
        self._networks = f"{account}/teamnet/virtual_networks"
        self._zone = f"/zones/{quote(certificate.zone_id, safe='')}"
        self._page = {"per_page": str(page_size)} if page_size > 0 else {}

    # Tunnels.

    def create_tunnel(self, name: str, secret: bytes) -> CreatedTunnel:
        what = f"create the tunnel {name!r}"
        body = {"name": name, "tunnel_secret": base64.b64encode(secret).decode("ascii")}
        try:
            envelope = self._api.call(what, "POST", self._tunnels, body=body)
        except ApiError as error:
            if error.status == 409:
                raise ApiError(
                    f"cannot {what}: a tunnel with this name exists already; choose another name, "
                    "or delete that tunnel first",
                    error.status,
                ) from None
            raise
        return _result(what, envelope, CreatedTunnel)

    def tunnel(self, tunnel_id: uuid.UUID) -> Tunnel:
        what = f"get the tunnel {tunnel_id}"
        return _result(what, self._api.call(what, "GET", f"{self._tunnels}/{tunnel_id}"), Tunnel)

    def tunnels(self, filters: Mapping[str, str]) -> list[Tunnel]:
        return self._list("list tunnels", self._tunnels, filters, list[Tunnel])

    def delete_tunnel(self, tunnel_id: uuid.UUID, *, cascade: bool = False) -> None:
        """`cascade` deletes with it what depends on it: connections, routes."""
        self._api.do(
            f"delete the tunnel {tunnel_id}",
            "DELETE",
            f"{self._tunnels}/{tunnel_id}",
            {"cascade": "true"} if cascade else None,
        )

    def tunnel_token(self, tunnel_id: uuid.UUID) -> str:
        what = f"get the token of the tunnel {tunnel_id}"
        return _result(what, self._api.call(what, "GET", f"{self._tunnels}/{tunnel_id}/token"), str)

    def connectors(self, tunnel_id: uuid.UUID) -> list[Connector]:
        what = f"list the connectors of the tunnel {tunnel_id}"
        envelope = self._api.call(what, "GET", f"{self._tunnels}/{tunnel_id}/connections")
        return _result(what, envelope, list[Connector])

    def clean_up(self, tunnel_id: uuid.UUID, connector_id: uuid.UUID | None = None) -> None:
        """Forget the connections of a tunnel, or those of one connector."""
        self._api.do(
            f"clean up the connections of the tunnel {tunnel_id}",
            "DELETE",
            f"{self._tunnels}/{tunnel_id}/connections",
            {"client_id": str(connector_id)} if connector_id is not None else None,
        )

    def drain(self, tunnel_id: uuid.UUID, which: uuid.UUID, *, undo: bool = False) -> None:
        """Send a connector, or one connection, no new requests, or again as others."""
        self._api.do(
            f"{'end the draining of' if undo else 'drain'} {which} of the tunnel {tunnel_id}",
            "DELETE" if undo else "POST",
            f"{self._tunnels}/{tunnel_id}/connections/{which}/drain",
        )

    def management_token(self, tunnel_id: uuid.UUID, resource: ManagementResource) -> str:
        what = f"get a management token of the tunnel {tunnel_id}"
        path = f"{self._tunnels}/{tunnel_id}/management/{resource.value}"
        return _result(what, self._api.call(what, "POST", path), str)

    # Hostnames.

    def route_dns(self, tunnel_id: uuid.UUID, hostname: str, *, overwrite: bool) -> DnsRoute:
        return self._route_hostname(
            tunnel_id,
            {"type": "dns", "user_hostname": hostname, "overwrite_existing": overwrite},
            DnsRoute,
        )

    def route_load_balancer(
        self, tunnel_id: uuid.UUID, hostname: str, pool: str
    ) -> LoadBalancerRoute:
        return self._route_hostname(
            tunnel_id, {"type": "lb", "lb_name": hostname, "lb_pool": pool}, LoadBalancerRoute
        )

    def _route_hostname(self, tunnel_id: uuid.UUID, body: Mapping[str, Any], kind: type[T]) -> T:
        what = f"add the route to the tunnel {tunnel_id}"
        path = f"{self._zone}/tunnels/{tunnel_id}/routes"
        return _result(what, self._api.call(what, "PUT", path, body=body), kind)

    def pool(self, hostname: str) -> Pool | None:
        """All tunnels that a hostname leads to; None if it leads nowhere."""
        what = f"get the hostname {hostname}"
        try:
            envelope = self._api.call(what, "GET", self._hostname(hostname))
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return _result(what, envelope, Pool)

    def put_pool(self, pool: Pool) -> Pool:
        """Lead a hostname to tunnels, if it is still at the revision of `pool`."""
        what = f"lead {pool.hostname} to its tunnels"
        body = {
            "targets": [
                {"tunnel_id": str(target.tunnel_id), "weight": target.weight}
                for target in pool.targets
            ],
            "sticky": pool.sticky,
            "pool": pool.pool,
            "revision": pool.revision,
        }
        envelope = self._api.call(what, "PUT", self._hostname(pool.hostname), body=body)
        return _result(what, envelope, Pool)

    def delete_hostname(self, hostname: str) -> None:
        """Lead a hostname nowhere any more."""
        self._api.do(f"delete the hostname {hostname}", "DELETE", self._hostname(hostname))

    def _hostname(self, hostname: str) -> str:
        return f"{self._zone}/hostnames/{quote(hostname, safe='*')}"

    # Private networks.

    def ip_routes(self, filters: Mapping[str, str]) -> list[IpRoute]:
        filters = {"tun_types": "cfd_tunnel", **filters}
        return self._list("list routes", self._routes, filters, list[IpRoute])

    def add_ip_route(
        self,
        network: Network,
        tunnel_id: uuid.UUID,
        *,
        comment: str = "",
        virtual_network_id: uuid.UUID | None = None,
    ) -> None:
        body = {"network": str(network), "tunnel_id": str(tunnel_id), "comment": comment}
        if virtual_network_id is not None:
            body["virtual_network_id"] = str(virtual_network_id)
        self._api.call(f"add the route for {network}", "POST", self._routes, body=body)

    def delete_ip_route(self, route_id: uuid.UUID) -> None:
        self._api.call(f"delete the route {route_id}", "DELETE", f"{self._routes}/{route_id}")

    def ip_route_of(
        self, address: Address, virtual_network_id: uuid.UUID | None = None
    ) -> IpRoute | None:
        """The route that an address takes, if any."""
        what = f"get the route of {address}"
        path = f"{self._routes}/ip/{address}"
        query = {"virtual_network_id": str(virtual_network_id)} if virtual_network_id else None
        envelope = self._api.call(what, "GET", path, query)
        result = envelope.result
        if result is None or (isinstance(result, dict) and not result.get("tunnel_id")):
            return None
        route = _result(what, envelope, IpRoute)
        return route if route.tunnel_id != NO_ID else None

    # Virtual networks.

    def virtual_networks(self, filters: Mapping[str, str]) -> list[VirtualNetwork]:
        what = "list virtual networks"
        envelope = self._api.call(what, "GET", self._networks, {**filters, **self._page})
        return _result(what, envelope, list[VirtualNetwork])

    def add_virtual_network(self, name: str, comment: str, *, default: bool) -> VirtualNetwork:
        what = f"add the virtual network {name!r}"
        body = {"name": name, "comment": comment, "is_default_network": default}
        envelope = self._api.call(what, "POST", self._networks, body=body)
        return _result(what, envelope, VirtualNetwork)

    def update_virtual_network(self, network_id: uuid.UUID, changes: Mapping[str, Any]) -> None:
        """`changes` are any of name, comment and is_default_network."""
        what = f"update the virtual network {network_id}"
        self._api.call(what, "PATCH", f"{self._networks}/{network_id}", body=changes)

    def delete_virtual_network(self, network_id: uuid.UUID, *, force: bool = False) -> None:
        """`force` deletes it although something depends on it."""
        what = f"delete the virtual network {network_id}"
        query = {"force": "true"} if force else None
        self._api.call(what, "DELETE", f"{self._networks}/{network_id}", query)

    def _list(
        self, what: str, path: str, filters: Mapping[str, str], kind: type[list[T]]
    ) -> list[T]:
        """All pages of a list."""
        rows: list[T] = []
        for number in range(1, MAX_PAGES + 1):
            query = {**filters, **self._page, "page": str(number)}
            envelope = self._api.call(what, "GET", path, query)
            page = _result(what, envelope, kind)
            rows += page
            info = envelope.result_info
            if (
                info is None
                or not page
                or info.count < info.per_page
                or len(rows) >= info.total_count
            ):
                return rows
            if len(rows) > MAX_ROWS:
                break
        raise ApiError(f"cannot {what}: there are more than {MAX_ROWS} of them; filter the list")


def _result(what: str, envelope: Envelope, kind: type[T]) -> T:
    """The result as a model; null is an empty one, as it is to cloudflared."""
    result = envelope.result
    if result is None:
        result = [] if getattr(kind, "__origin__", None) is list else "" if kind is str else {}
    try:
        return convert(result, kind)
    except msgspec.ValidationError as error:
        raise ApiError(
            f"cannot {what}: the answer of the API cannot be understood: {printable(str(error))}"
        ) from None
