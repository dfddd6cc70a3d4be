"""Asking an ACME authority for certificates (RFC 8555), with certbot's library.

Everything here blocks, and is called in a thread of its own.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import requests
from acme import challenges, client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.errors import Error as JoseError
from josepy.jwa import ES256
from josepy.jwk import JWK, JWKEC

from underpass.edge.certificates import write_private
from underpass.edge.challenges import Challenges
from underpass.edge.errors import CertificateError
from underpass.edge.options import DNS_01, HTTP_01, TLS_ALPN_01, AcmeOptions
from underpass.edge.tls_alpn import TlsAlpnProofs
from underpass.version import VERSION

__all__ = ["AcmeAuthority"]

ORDER_SECONDS: Final = 120.0
"""For one certificate, from the order to the chain; authorities take some ten."""

HOOK_SECONDS: Final = 300.0
"""For a DNS hook, which returns when the record can be seen."""

NETWORK_SECONDS: Final = 30
"""For each request."""


class _TlsAlpnResponse(challenges.KeyAuthorizationChallengeResponse):
    typ = TLS_ALPN_01


@challenges.Challenge.register
class _TlsAlpn(challenges.KeyAuthorizationChallenge):
    """What the library had once: RFC 8737."""

    typ = TLS_ALPN_01
    response_cls = _TlsAlpnResponse

    def validation(self, account_key: JWK, **_: Any) -> str:
        return str(self.key_authorization(account_key))


_ADVICE: Final = {
    HTTP_01: "does the name lead to this edge, and is its --http listener reached on port 80?",
    TLS_ALPN_01: "does the name lead to this edge, and is its --https listener reached on port "
    "443, with nothing before it that ends TLS?",
    DNS_01: "has the DNS hook made a record that everybody can see?",
}

_WAYS: Final = {HTTP_01: challenges.HTTP01, TLS_ALPN_01: _TlsAlpn, DNS_01: challenges.DNS01}


class AcmeAuthority:
    """One account at one authority.

    Args:
        account_key: file of the account's key, made when missing. The account is found by its key.
        by_http: where proofs are put that are fetched by HTTP.
        by_tls: where those are put that are looked for in a TLS handshake.
    """

    def __init__(
        self,
        options: AcmeOptions,
        account_key: Path,
        by_http: Challenges,
        by_tls: TlsAlpnProofs,
    ) -> None:
        self._options = options
        self._account_key = account_key
        self._by_http = by_http
        self._by_tls = by_tls
        self._client: client.ClientV2 | None = None
        self._key: JWK | None = None

    def obtain(self, name: str) -> bytes:
        """A certificate for a hostname or wildcard: key and chain, PEM.

        Raises CertificateError; its text says what went wrong and what to do.
        """
        try:
            return self._obtain(name)
        except errors.ValidationError as error:
            raise CertificateError(self._validation_trouble(name, error)) from error
        except messages.Error as error:
            raise CertificateError(f"the authority refuses: {error.detail or error.typ}") from error
        except (errors.Error, requests.RequestException, JoseError) as error:
            raise CertificateError(
                f"{self._options.directory} cannot be asked: {error or type(error).__name__}"
            ) from error

    def _obtain(self, name: str) -> bytes:
        acme, account = self._account()
        key = ec.generate_private_key(ec.SECP256R1())
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([]))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
            .sign(key, hashes.SHA256())
        )
        order = acme.new_order(request.public_bytes(serialization.Encoding.PEM))
        deadline = datetime.now() + timedelta(seconds=ORDER_SECONDS)
        with self._proving(acme, account, order):
            finished = acme.poll_and_finalize(order, deadline)
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        return private + str(finished.fullchain_pem).encode("ascii")

    @contextmanager
    def _proving(
        self, acme: client.ClientV2, account: JWK, order: messages.OrderResource
    ) -> Iterator[None]:
        """While this holds, the authority finds the proof it asks for."""
        undo: list[Callable[[], None]] = []
        try:
            for authorization in order.authorizations:
                if authorization.body.status == messages.STATUS_VALID:
                    continue
                challenge = self._choose(authorization)
                response, proof = challenge.response_and_validation(account)
                domain = authorization.body.identifier.value
                if isinstance(challenge.chall, challenges.HTTP01):
                    token = challenge.chall.encode("token")
                    undo.append(partial(self._by_http.remove, token))
                    self._by_http.publish(token, proof)
                elif isinstance(challenge.chall, _TlsAlpn):
                    undo.append(partial(self._by_tls.remove, domain))
                    self._by_tls.publish(domain, proof)
                else:
                    record = challenge.chall.validation_domain_name(domain)
                    undo.append(partial(self._hook, "cleanup", record, proof))
                    self._hook("present", record, proof)
                acme.answer_challenge(challenge, response)
            yield
        finally:
            for step in undo:
                step()

    def _choose(self, authorization: Any) -> Any:
        # Nothing else proves a wildcard (RFC 8555 §7.1.3).
        way = DNS_01 if authorization.body.wildcard else self._options.way
        wanted = _WAYS[way]
        for challenge in authorization.body.challenges:
            if isinstance(challenge.chall, wanted):
                return challenge
        raise CertificateError(
            f"the authority offers no {way} challenge for "
            f"{authorization.body.identifier.value}"
            + ("" if self._options.dns_hook else "; a wildcard needs a DNS hook")
        )

    def _hook(self, what: str, record: str, proof: str) -> None:
        """Have the operator's command change a TXT record."""
        command = [*shlex.split(self._options.dns_hook), what, record, proof]
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own command, no shell
                command,
                check=False,
                capture_output=True,
                timeout=HOOK_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CertificateError(f"the DNS hook {command[0]} failed: {error}") from error
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "replace").strip()[-500:]
            raise CertificateError(
                f"the DNS hook {command[0]} {what} ended with {done.returncode}: {said or 'silent'}"
            )

    def _validation_trouble(self, name: str, error: errors.ValidationError) -> str:
        reasons = [
            str(challenge.error.detail)
            for authorization in error.failed_authzrs
            for challenge in authorization.body.challenges
            if challenge.error is not None
        ]
        way = DNS_01 if name.startswith("*.") else self._options.way
        return (
            f"the authority could not see that {name} is ours: "
            f"{'; '.join(reasons) or 'no reason given'} ({_ADVICE[way]})"
        )

    def _account(self) -> tuple[client.ClientV2, JWK]:
        """The client of our account, made when there is none."""
        if self._client is not None and self._key is not None:
            return self._client, self._key
        key = JWKEC(key=self._load_account_key())
        roots = self._options.authority_roots
        network = client.ClientNetwork(
            key,
            alg=ES256,
            # Documented as a truth value, passed on to requests, which takes a file too.
            verify_ssl=str(roots) if roots is not None else True,  # type: ignore[arg-type]
            user_agent=f"underpass/{VERSION}",
            timeout=NETWORK_SECONDS,
        )
        acme = client.ClientV2(
            client.ClientV2.get_directory(self._options.directory, network), network
        )
        wanted = messages.NewRegistration.from_data(
            email=self._options.email or None, terms_of_service_agreed=True
        )
        try:
            acme.new_account(wanted)
        except errors.ConflictError as known:
            network.account = messages.RegistrationResource(
                uri=known.location, body=messages.Registration()
            )
        self._client, self._key = acme, key
        return acme, key

    def _load_account_key(self) -> ec.EllipticCurvePrivateKey:
        path = self._account_key
        try:
            if not path.exists():
                key = ec.generate_private_key(ec.SECP256R1())
                pem = key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
                write_private(path, pem)
                return key
            loaded = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except OSError as error:
            raise CertificateError(
                f"cannot use the account key {path}: {error.strerror or error}"
            ) from error
        except (ValueError, TypeError):
            raise CertificateError(f"{path} is not an unencrypted PEM key") from None
        if not isinstance(loaded, ec.EllipticCurvePrivateKey):
            raise CertificateError(f"{path} is not an elliptic-curve key")
        return loaded
