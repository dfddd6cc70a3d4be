"""An application behind Access, its team, and the transfer service: all that a login meets."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from nacl.public import Box, PrivateKey, PublicKey

from .access_team import AUDIENCE, HOST, Answer, Request, Team
from .patience import PATIENCE

APPLICATION = "app.example.com"
TRANSFER = "login.cloudflareaccess.org"
CERTIFICATE = "ecdsa-sha2-nistp256-cert-v01@openssh.com AAAA"


class AccessSite(Team):
    """`log_in` does what a user does at the address that a client shows."""

    hosts = (HOST, APPLICATION, TRANSFER)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.metadata: dict[str, Any] = {}
        """Replaces claims of the application's word about itself."""
        self.revoked: set[str] = set()
        self.asked: list[tuple[str, Request]] = []
        self.logins: list[dict[str, list[str]]] = []
        self._sealed: dict[str, tuple[bytes, str]] = {}
        self._changed = threading.Condition()

    def log_in(self, url: str, *, exp: int | None = None) -> None:
        """Log in at `url`, and put the tokens where the client looks for them."""
        query = parse_qs(urlsplit(url).query, keep_blank_values=True)
        assert urlsplit(url).netloc == APPLICATION
        assert urlsplit(url).path == "/cdn-cgi/access/cli"
        self.logins.append(query)
        public = query["token"][0]
        claims = {} if exp is None else {"exp": exp}
        tokens = {
            "app_token": self.sign(aud=query["aud"], n=time.monotonic_ns(), **claims),
            "org_token": self.sign(aud=["team"], type="org"),
        }
        ours = PrivateKey.generate()
        box = Box(ours, PublicKey(base64.urlsafe_b64decode(public)))
        sealed = base64.b64encode(bytes(box.encrypt(json.dumps(tokens).encode())))
        sender = base64.urlsafe_b64encode(bytes(ours.public_key)).decode()
        with self._changed:
            self._sealed[public] = (sealed, sender)
            self._changed.notify_all()

    def answer(self, host: str, request: Request) -> Answer | None:
        self.asked.append((host, request))
        if host == TRANSFER:
            return self._transfer(request)
        if host == APPLICATION:
            return self._application(request)
        if request.path == "/cdn-cgi/access/cert_sign":
            asked = json.loads(request.body)
            assert asked["issuer"] == f"https://{HOST}"
            if asked["jwt"] in self.revoked:
                return Answer(403, json.dumps({"status": 403, "message": "revoked"}).encode())
            return Answer(200, json.dumps({"id": "1", "certificate": CERTIFICATE}).encode())
        if request.path.startswith("/cdn-cgi/access/login/"):
            if "CF_Authorization=" not in request.fields.get("cookie", ""):
                return Answer(200)
            back = f"https://{APPLICATION}/cdn-cgi/access/authorized?x=1"
            return Answer(302, fields=[("Location", back)])
        return super().answer(host, request)

    def _transfer(self, request: Request) -> Answer:
        public = request.path.removeprefix("/transfer/")
        with self._changed:
            self._changed.wait_for(lambda: public in self._sealed, PATIENCE / 2)
            found = self._sealed.get(public)
        if found is None:
            return Answer(200)
        return Answer(200, found[0], [("service-public-key", found[1])])

    def _application(self, request: Request) -> Answer:
        if "cf-access-metadata-request" in request.fields:
            claims = {
                "type": "match",
                "hostname": APPLICATION,
                "auth_domain": HOST,
                "aud": AUDIENCE,
                "app_hostname": "*.example.com/x",
                "iat": int(time.time()),
                **self.metadata,
            }
            return Answer(200, fields=[("Cf-Access-Metadata", self.sign(**claims))])
        if request.path == "/cdn-cgi/access/authorized":
            if "CF_AppSession=s" not in request.fields.get("cookie", ""):
                return Answer(400)
            cookie = f"CF_Authorization={self.sign(n=time.monotonic_ns())}; Path=/; Secure"
            expires = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 600))
            return Answer(
                302, fields=[("Location", "/"), ("Set-Cookie", f"{cookie}; Expires={expires}")]
            )
        token = request.fields.get("cf-access-token", "")
        if not token or token in self.revoked:
            login = f"https://{HOST}/cdn-cgi/access/login/{APPLICATION}?kid={AUDIENCE}"
            session = ("Set-Cookie", "CF_AppSession=s; Path=/")
            return Answer(302, fields=[("Location", login), session])
        return Answer(200, b"welcome\n")
