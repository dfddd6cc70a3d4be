"""An edge with one account, its dashboard, and what is behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .owner import ApiClient, certificate_of, edge_command
from .processes import ConnectorProcess, EdgeProcess


@dataclass
class Place:
    """An edge with one account, and somebody who has its cert.pem."""

    edge: EdgeProcess
    cert: Path

    @property
    def address(self) -> str:
        """Of the dashboard."""
        return f"http://{self.edge.api}/dashboard"

    def sign_in_link(self) -> str:
        ran = edge_command(self.edge.data_dir, "sign-in")
        assert ran.code == 0, ran.err
        return ran.out.strip()

    def tunnel(self, name: str, *hostnames: str) -> tuple[str, str]:
        """Id and token of a new tunnel."""
        said = certificate_of(self.cert)
        ask = ApiClient(self.edge.api, said["apiToken"])
        status, made = ask("POST", f"/accounts/{said['accountID']}/cfd_tunnel", {"name": name})
        assert status == 200, made
        tunnel = made["result"]["id"]
        for hostname in hostnames:
            route = {"type": "dns", "user_hostname": hostname}
            path = f"/zones/{said['zoneID']}/tunnels/{tunnel}/routes"
            assert ask("PUT", path, route)[0] == 200
        return tunnel, made["result"]["token"]

    def connector(self, token: str, url: str) -> ConnectorProcess:
        return ConnectorProcess(
            [*self.edge.edge_arguments, "--ha-connections=1", f"--url={url}", "run"],
            environment={"TUNNEL_TOKEN": token},
        ).ready(1)
