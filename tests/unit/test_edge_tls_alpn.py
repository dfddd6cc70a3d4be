"""Proofs that an authority looks for in a handshake: for whom there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpass.edge.client_hello import ClientHello
from underpass.edge.errors import OptionsError
from underpass.edge.options import AcmeOptions
from underpass.edge.tls_alpn import PROTOCOL, TlsAlpnProofs

NAME = "app.public-site.dev"


@pytest.fixture
def proofs(tmp_path: Path) -> TlsAlpnProofs:
    proofs = TlsAlpnProofs(tmp_path / "challenges")
    proofs.publish(NAME, "token.thumbprint")
    # Whatever else may lie about.
    (tmp_path / "elsewhere.pem").write_bytes((tmp_path / "challenges" / f"{NAME}.pem").read_bytes())
    return proofs


def test_who_comes_for_it_gets_it(proofs: TlsAlpnProofs) -> None:
    assert proofs.context_for(ClientHello(NAME, (PROTOCOL,))) is not None
    proofs.remove(NAME)
    assert proofs.context_for(ClientHello(NAME, (PROTOCOL,))) is None
    proofs.remove(NAME)  # twice is no harm


@pytest.mark.parametrize(
    "hello",
    [
        ClientHello(NAME),
        ClientHello(NAME, (PROTOCOL, b"h2")),
        ClientHello(NAME, (b"h2", PROTOCOL)),
        ClientHello(NAME, (b"acme-tls/2",)),
        ClientHello(None, (PROTOCOL,)),
        ClientHello("", (PROTOCOL,)),
        ClientHello("other.public-site.dev", (PROTOCOL,)),
        ClientHello("../elsewhere", (PROTOCOL,)),
        ClientHello(f"./{NAME}", (PROTOCOL,)),
        ClientHello(f"{NAME}.", (PROTOCOL,)),
        ClientHello(f"{NAME}\n", (PROTOCOL,)),
        ClientHello("a." * 126 + "a" * 200, (PROTOCOL,)),
    ],
)
def test_others_get_none(proofs: TlsAlpnProofs, hello: ClientHello) -> None:
    assert proofs.context_for(hello) is None


def test_a_name_that_is_none_is_not_published(proofs: TlsAlpnProofs) -> None:
    for name in ("../x", "localhost", "a/b.c", ""):
        with pytest.raises(ValueError, match="not a public hostname"):
            proofs.publish(name, "token.thumbprint")


def test_a_file_that_cannot_be_used_is_no_proof(
    proofs: TlsAlpnProofs, caplog: pytest.LogCaptureFixture
) -> None:
    (proofs.directory / f"{NAME}.pem").write_text("nonsense")
    assert proofs.context_for(ClientHello(NAME, (PROTOCOL,))) is None
    assert [record.message for record in caplog.records] == ["a proof cannot be shown"]


def test_how_names_are_proved() -> None:
    assert AcmeOptions().way == "http-01"
    assert AcmeOptions(dns_hook="hook").way == "dns-01"
    assert AcmeOptions(dns_hook="hook", challenge="tls-alpn-01").way == "tls-alpn-01"
    with pytest.raises(OptionsError, match="needs a DNS hook"):
        AcmeOptions(challenge="dns-01")
    with pytest.raises(OptionsError, match="choose one of"):
        AcmeOptions(challenge="tls-sni-01")
