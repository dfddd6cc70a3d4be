"""Whatever stands in an environment: a proxy is read or refused, and a password is never shown."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st

from underpass.connector.edge_proxy import MAX_CREDENTIAL, is_exempt, parse_proxy

schemes = st.sampled_from(["http", "https", "socks5", "socks5h"])
words = st.text(
    st.characters(min_codepoint=32, exclude_characters="\x7f", exclude_categories=["Cs"]),
    max_size=MAX_CREDENTIAL // 4,
)


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_proxy(text)


@given(schemes, words, words, st.integers(1, 65535))
def test_credentials_come_through_and_do_not_show(
    scheme: str, user: str, password: str, port: int
) -> None:
    credentials = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    proxy = parse_proxy(f"{scheme}://{credentials}proxy.example:{port}")
    assert (proxy.user, proxy.password, proxy.port) == (user, password, port)
    assert str(proxy) == f"{scheme}://proxy.example:{port}"


@given(st.text(max_size=100), st.integers(1, 65535), st.text(max_size=200))
def test_any_exemptions_are_read(host: str, port: int, rules: str) -> None:
    is_exempt(host, port, rules)


@given(st.ip_addresses(), st.integers(0, 128), st.integers(1, 65535))
def test_a_network_exempts_its_addresses_and_no_others(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int, port: int
) -> None:
    length = min(length, address.max_prefixlen)
    network = ipaddress.ip_network((address, length), strict=False)
    assert is_exempt(str(address), port, f"example.com, {network}")
    if length:
        outside = type(address)(int(address) ^ (1 << (address.max_prefixlen - length)))
        assert not is_exempt(str(outside), port, str(network))
