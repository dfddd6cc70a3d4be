"""Logging in to an application behind Access, with our client and with a stock one."""

from __future__ import annotations

import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from peers.access_site import APPLICATION, CERTIFICATE, AccessSite
from peers.access_team import AUDIENCE
from peers.patience import PATIENCE
from peers.processes import UNDERPASS

URL = f"https://{APPLICATION}/some/path?own=1"


@dataclass
class Visitor:
    """Runs a client's `access` commands in a home of its own."""

    site: AccessSite
    home: Path
    program: list[str]
    is_ours: bool
    logs_in: bool = True

    @property
    def directory(self) -> Path:
        return self.home / ".cloudflared"

    def run(self, *arguments: str, exp: int | None = None) -> subprocess.CompletedProcess[str]:
        """The outcome of a command; a login that it asks for is done as a user would."""
        environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
        environment |= self.site.environment | {"HOME": str(self.home)}
        process = subprocess.Popen(
            [*self.program, "access", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stderr is not None
        said: list[str] = []

        def watch() -> None:
            assert process.stderr is not None
            for line in process.stderr:
                said.append(line)
                if self.logs_in and re.match(r"https://\S+/cdn-cgi/access/cli\?", line.strip()):
                    self.site.log_in(line.strip(), exp=exp)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stdout is not None
        with process.stdout, process.stderr:
            output = process.stdout.read()
            watcher.join(PATIENCE)
            code = process.wait(PATIENCE)
        return subprocess.CompletedProcess(process.args, code, output, "".join(said))


@pytest.fixture(params=["underpass", pytest.param("cloudflared", marks=pytest.mark.interop)])
def visitor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Visitor]:
    is_ours = request.param == "underpass"
    if not is_ours and not os.environ.get("UNDERPASS_CLOUDFLARED"):
        pytest.skip("UNDERPASS_CLOUDFLARED names no cloudflared binary")
    program = list(UNDERPASS) if is_ours else [os.environ["UNDERPASS_CLOUDFLARED"]]
    (tmp_path / "home" / ".cloudflared").mkdir(parents=True, mode=0o700)
    with AccessSite(tmp_path).serving() as site:
        assert isinstance(site, AccessSite)
        yield Visitor(site, tmp_path / "home", program, is_ours)


def test_a_login_brings_a_token_that_lasts(visitor: Visitor) -> None:
    done = visitor.run("login", "--no-verbose", URL)
    assert done.returncode == 0, done.stderr
    token = done.stdout
    assert token.count(".") == 2
    (asked,) = visitor.site.logins
    assert asked["aud"] == [AUDIENCE]
    assert asked["own"] == ["1"]
    assert asked["send_org_token"] == asked["edge_token_transfer"] == ["true"]
    assert asked["redirect_url"][0].startswith(f"https://{APPLICATION}/some/path?aud=")
    # It is kept, for this program and the other.
    names = [path.name for path in visitor.directory.iterdir()]
    stored = [name for name in names if name.endswith(f"-{AUDIENCE}-token")]
    assert stored == [f"-.example.com-x-{AUDIENCE}-token"]
    path = visitor.directory / stored[0]
    assert path.read_text() == token
    assert path.stat().st_mode & 0o777 == 0o600
    assert (visitor.directory / "team.cloudflareaccess.com-org-token").exists()
    assert visitor.run("token", URL).stdout == token
    assert visitor.run("login", "--no-verbose", URL).stdout == token
    assert len(visitor.site.logins) == 1


def test_nobody_has_logged_in(visitor: Visitor) -> None:
    done = visitor.run("token", URL)
    assert done.returncode == 1
    assert done.stdout == ""
    assert visitor.site.logins == []


def test_quiet_says_nothing(visitor: Visitor) -> None:
    done = visitor.run("login", "--quiet", URL)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_teams_token_is_exchanged_without_another_login(visitor: Visitor) -> None:
    first = visitor.run("login", "--no-verbose", URL).stdout
    (visitor.directory / f"-.example.com-x-{AUDIENCE}-token").unlink()
    for lock in visitor.directory.glob("*.lock"):
        lock.unlink()
    second = visitor.run("login", "--no-verbose", URL)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count(".") == 2
    assert second.stdout != first
    assert len(visitor.site.logins) == 1
    assert visitor.run("token", URL).stdout == second.stdout


def test_an_expired_token_is_thrown_away(visitor: Visitor) -> None:
    visitor.run("login", "--quiet", URL, exp=int(time.time()) + 1)
    path = visitor.directory / f"-.example.com-x-{AUDIENCE}-token"
    path.write_text(visitor.site.sign(exp=1))
    done = visitor.run("token", URL)
    assert done.stdout == ""
    assert done.returncode == (1 if visitor.is_ours else 0)
    assert not path.exists()


def test_curl_goes_with_the_token(visitor: Visitor) -> None:
    trust = ["--cacert", str(visitor.site.trusted)]
    done = visitor.run("curl", URL, "-s", *trust)
    assert (done.returncode, done.stdout) == (0, "welcome\n"), done.stderr
    assert visitor.run("curl", URL, "-s", "--cacert", "/nonexistent").returncode == 77


def test_curl_for_those_who_cannot_log_in(visitor: Visitor) -> None:
    done = visitor.run(
        "curl", "-ar", URL, "-s", "--cacert", str(visitor.site.trusted), "-o", "/dev/null",
        "-w", "%{http_code}",
    )  # fmt: skip
    # A stock client logs in all the same, and takes the flag to be about what follows.
    assert done.stdout == ("302" if visitor.is_ours else "200"), done.stderr
    assert len(visitor.site.logins) == (0 if visitor.is_ours else 1)


def test_a_certificate_for_ssh(visitor: Visitor) -> None:
    done = visitor.run("ssh-gen", "--hostname", APPLICATION)
    assert done.returncode == 0, done.stderr
    key = visitor.directory / f"{APPLICATION}-cf_key"
    assert b"BEGIN EC PRIVATE KEY" in key.read_bytes()
    assert key.stat().st_mode & 0o777 == 0o600
    public = (visitor.directory / f"{APPLICATION}-cf_key.pub").read_text()
    assert public.startswith("ecdsa-sha2-nistp256 ")
    assert (visitor.directory / f"{APPLICATION}-cf_key-cert.pub").read_text() == CERTIFICATE
    # ssh can read what was written.
    subprocess.run(["ssh-keygen", "-y", "-f", str(key)], check=True, capture_output=True)
    # The key stays, the certificate is made anew.
    visitor.run("ssh-gen", "--hostname", APPLICATION)
    assert (visitor.directory / f"{APPLICATION}-cf_key.pub").read_text() == public


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"auth_domain": "evil.example.com"}, "is no team's host"),
        ({"hostname": "other.example.com"}, "is for 'other.example.com'"),
        ({"iat": 1}, "not of today"),
        ({"type": "other"}, "its type"),
        ({"aud": ""}, "names no audience"),
    ],
)
def test_an_application_that_lies_gets_no_token(
    visitor: Visitor, metadata: dict[str, object], why: str
) -> None:
    visitor.site.metadata = metadata
    done = visitor.run("login", URL)
    assert done.returncode == 1
    assert visitor.site.logins == []
    if visitor.is_ours:
        assert why in done.stderr


def test_a_token_that_is_refused_leads_to_one_more_login(visitor: Visitor) -> None:
    if not visitor.is_ours:
        pytest.skip("it waits for its own lock then, for ten minutes")
    first = visitor.run("login", "--no-verbose", URL).stdout
    visitor.site.revoked.add(first)
    (visitor.directory / "team.cloudflareaccess.com-org-token").unlink()
    second = visitor.run("login", "--no-verbose", URL)
    assert second.returncode == 0, second.stderr
    assert second.stdout != first
    assert len(visitor.site.logins) == 2


def test_the_teams_token_goes_to_the_teams_host_alone(visitor: Visitor) -> None:
    if not visitor.is_ours:
        pytest.skip("it sends it to any host whose path looks like a login")
    visitor.run("login", "--quiet", URL)
    for _, request in visitor.site.asked:
        request.fields.pop("cookie", None)
    visitor.site.asked.clear()
    (visitor.directory / f"-.example.com-x-{AUDIENCE}-token").unlink()
    visitor.run("login", "--quiet", URL)
    with_cookie = {
        host for host, request in visitor.site.asked
        if "CF_Authorization" in request.fields.get("cookie", "")
    }  # fmt: skip
    assert with_cookie == {"team.cloudflareaccess.com"}
