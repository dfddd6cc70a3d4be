"""edge.yml: what it says, and what is said of one that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from underpass.edge import options_file
from underpass.edge.dashboard.options import DashboardOptions
from underpass.edge.options import AcmeOptions, Address, EdgeOptions
from underpass.edge.options_file import EdgeFile, find_edge_file, load_edge_file, read_edge_file
from underpass.edge.passthrough import Passthrough
from underpass.edge.sites import Site
from underpass.edge.timeouts import Timeouts
from underpass.edge.trusted_hops import TrustedHops
from underpass.ops.document import ConfigError, parse_yaml

BASE = Path("/etc/underpass")


def read(text: str) -> EdgeFile:
    return read_edge_file(parse_yaml(text, "edge.yml"), BASE / "edge.yml")


def options(text: str) -> EdgeOptions:
    return EdgeOptions.parse(read(text).options)


def test_an_empty_file_changes_nothing() -> None:
    for text in ("", "# nothing\n", "listen:\nhostnames:\ntimeouts:\n"):
        assert options(text) == EdgeOptions()


def test_everything_that_can_be_said() -> None:
    said = options("""
data-dir: data
domain: Tunnels.Example.com
location: fra01
management-hostname: manage.example.com
workers: 2
listen:
  https: ":443"
  http: ":80"
  tunnel: [":7844", "[::1]:7845"]
  api: 127.0.0.1:1
  metrics: 127.0.0.1:2
certificates:
  - chain: site.pem
  - {chain: /a/chain.pem, key: key.pem}
acme: {email: ops@example.com, dns-hook: hook, roots: roots.pem, directory: "https://ca/d",
       challenge: tls-alpn-01}
redirect: true
hsts: 3600
trusted-hops: [10.0.0.0/8, "2001:db8::1"]
passthrough: [secret.example.com, "*.vault.example.com"]
max-body: 100MB
timeouts: {first-byte: 30s, idle: 5m, total: 1h}
""")
    assert said == EdgeOptions(
        data_dir=BASE / "data",
        domain="tunnels.example.com",
        location="fra01",
        management_hostname="manage.example.com",
        workers=2,
        https=Address("", 443),
        http=Address("", 80),
        tunnels=(Address("", 7844), Address("::1", 7845)),
        api=Address("127.0.0.1", 1),
        metrics=Address("127.0.0.1", 2),
        certificates=(
            (BASE / "site.pem", BASE / "site.pem"),
            (Path("/a/chain.pem"), BASE / "key.pem"),
        ),
        acme=AcmeOptions(
            "https://ca/d", "ops@example.com", BASE / "roots.pem", "hook", "tls-alpn-01"
        ),
        redirect=True,
        hsts_seconds=3600,
        trusted_hops=TrustedHops(("10.0.0.0/8", "2001:db8::1")),
        passthrough=Passthrough(("secret.example.com", "*.vault.example.com")),
        max_body=100_000_000,
        timeouts=Timeouts(30, 300, 3600),
    )


def test_one_address_for_connectors_needs_no_list() -> None:
    assert options("listen: {tunnel: ':1'}").tunnels == (Address("", 1),)


@pytest.mark.parametrize("text", ["acme:", "acme: {}"])
def test_acme_needs_nothing_but_to_be_there(text: str) -> None:
    assert options(text).acme == AcmeOptions()


def test_a_hostname_has_what_it_does_not_say_from_all() -> None:
    said = options("""
max-body: 5MB
hsts: 60
timeouts: {idle: 10s, total: 1m}
hostnames:
  App.example.com.:
    timeouts: {total: 5m}
    redirect: true
  "*.example.com":
    max-body: 1GiB
    hsts: 0
  plain.example.com:
""")
    allowed = Timeouts(idle=10, total=60)
    assert said.sites == (
        Site("app.example.com", Timeouts(idle=10, total=300), 5_000_000, True, 60),
        Site("*.example.com", allowed, 2**30, False, 0),
        Site("plain.example.com", allowed, 5_000_000, False, 60),
    )
    assert said.common == Site("", allowed, 5_000_000, False, 60)


def test_the_dashboard_may_have_a_name_and_no_memory() -> None:
    said = options("dashboard: {hostname: Dash.Example.com, recent-requests: false}").dashboard
    assert said == DashboardOptions("dash.example.com", recent_requests=False)
    assert options("dashboard:").dashboard == DashboardOptions()


def test_what_is_about_logs_has_the_names_of_flags() -> None:
    said = read("""
log: {level: debug, format: json, file: e.log, directory: /var/log}
access-log: {file: "-", format: combined, query: mask}
""")
    assert said.logging == {
        "loglevel": "debug",
        "output": "json",
        "logfile": "e.log",
        "log-directory": "/var/log",
        "access-log": "-",
        "access-log-format": "combined",
        "access-log-query": "mask",
    }


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("- a", "edge.yml, line 1: expected a mapping"),
        ("a: 1\nredirct: true", "line 1: a: unknown key"),
        ("redirct: true", "line 1: redirct: unknown key; did you mean 'redirect'?"),
        ("listen:\n  htps: ':1'", "line 2: listen.htps: unknown key; did you mean 'https'?"),
        ("listen:\n  https: 443", "listen.https: expected a string, found the number 443"),
        ("listen:\n  https: '443'", "listen.https: address '443' has no port"),
        ("listen: {tunnel: []}", "listen.tunnel: an edge needs at least one address"),
        ("listen: {tunnel: ['a']}", "listen.tunnel: address 'a' has no port"),
        ("listen: {https: 'h:1', http: 'h:1'}", "edge.yml: address h:1 is given to two listeners"),
        ("domain: a..b", "domain: hostname 'a..b' has the malformed label"),
        ("domain: '*.a'", "domain: hostname '*.a' is a wildcard"),
        ("workers: 0", "workers: 0 is not auto or between 1 and 64"),
        ("workers: many", "workers: many is not auto"),
        ("location: A B", "edge.yml: location 'A B'"),
        ("redirect: yes", "redirect: expected true or false, found the string 'yes'; write true"),
        ("hsts: 1h", "hsts: expected a whole number"),
        ("hsts: -1", "hsts: -1: give between 0 and"),
        ("max-body: -5", "max-body: '-5' is not a size"),
        ("max-body: lots", "max-body: 'lots' is not a size; write it like 500kB"),
        ("timeouts: {idle: 5}", "timeouts.idle: expected a duration such as 30s"),
        (
            "timeouts: {first-byte: 0s}",
            "timeouts: --first-byte-timeout 0: nothing would ever be answered",
        ),
        ("timeouts: {idle: -1s}", "timeouts: --idle-timeout -1: give a number of seconds"),
        ("timeouts: {connect: 1s}", "timeouts.connect: unknown key"),
        ("certificates: [{key: k}]", "certificates[0].chain: is missing"),
        ("certificates: {chain: k}", "certificates: expected a list, found a mapping"),
        ("certificates: [{chain: c, keys: k}]", "did you mean 'key'?"),
        ("acme: {directory: 'http://a'}", "acme.directory: 'http://a' is not an https address"),
        ("acme: {challenge: tls-sni-01}", "acme.challenge: ACME challenge 'tls-sni-01': choose"),
        ("acme: {challenge: dns-01}", "acme.challenge: ACME challenge dns-01 needs a DNS hook"),
        ("trusted-hops: 10.0.0.0/8", "trusted-hops: expected a list of strings"),
        ("trusted-hops: [10.0.0.1/8]", "trusted-hops: '10.0.0.1/8' is no network"),
        ("passthrough: [a..b]", "passthrough: hostname 'a..b' has the malformed label"),
        ("passthrough: [A.example]", "passthrough: write a.example, not A.example"),
        ("acme: true", "acme: expected a mapping, found the boolean true"),
        ("error-pages: /nowhere", "error-pages: /nowhere has no error pages"),
        ("hostnames: [a]", "hostnames: expected a mapping, found a list"),
        ("hostnames:\n  a_b.c:\n    hst: 1", "line 3: hostnames.a_b.c.hst: unknown key"),
        ("hostnames: {'': {}}", "hostname cannot be empty"),
        ("hostnames: {'a.*': {}}", "'a.*'"),
        ("hostnames: {A.b: {}, a.b.: {}}", "hostnames.a.b.: is there twice, in another spelling"),
        ("hostnames: {a.b: {timeouts: {total: x}}}", "hostnames.a.b.timeouts.total: 'x' is not"),
        ("hostnames: {a.b: {error-pages: no}}", "hostnames.a.b.error-pages: /etc/underpass/no has"),
        (
            "access-log: {format: xml}",
            "edge.yml: --access-log-format 'xml' is not json or combined",
        ),
        ("log: {levle: info}", "did you mean 'level'?"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert complaint in str(refused.value)
    assert str(refused.value).startswith("edge.yml")


def test_hostnames_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options_file, "MAX_SITES", 2)
    assert len(options("hostnames: {a: , b: }").sites) == 2
    with pytest.raises(ConfigError, match="hostnames: more than 2"):
        read("hostnames: {a: , b: , c: }")


def test_a_flag_goes_before_the_file() -> None:
    said = read("listen: {https: ':1', http: ':2'}\nmax-body: 5\nredirect: true").options
    merged = EdgeOptions.parse(said, https=":3", max_body=None, redirect=None)
    assert (merged.https.port, merged.http.port, merged.max_body) == (3, 2, 5)
    assert merged.redirect


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration file .*: No such file"):
        load_edge_file(tmp_path / "edge.yml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "error.html").write_text("x")
    path = tmp_path / "edge.yml"
    path.write_text("error-pages: pages\ndata-dir: .\n")
    said = load_edge_file(path)
    assert said.options["error_pages"] == tmp_path / "pages"
    assert said.options["data_dir"] == tmp_path
    assert said.state is not None


def test_where_it_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert find_edge_file() in (None, BASE / "edge.yml")
    (tmp_path / ".underpass").mkdir()
    path = tmp_path / ".underpass" / "edge.yml"
    path.write_text("")
    assert find_edge_file() == path
