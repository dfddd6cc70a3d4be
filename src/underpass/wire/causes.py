"""Why requests fail: every cause there is, in one word, with where to look and what to do.

The core, the connector and the edge name a cause wherever they give a request up. It goes into log
lines, metrics, the answer's fields and the edge's pages, and `underpass explain` says the rest. To
add one, add a line here; a test compares these with the words in the code.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from msgspec import Struct

__all__ = ["CAUSES", "Cause", "Hop", "Speaker", "cause_in", "hop_of", "in_words"]


class Hop(enum.Enum):
    """Where on a request's way the trouble is."""

    VISITOR = "visitor"
    EDGE = "edge"
    LINK = "link"
    CONNECTOR = "connector"
    ORIGIN = "origin"


class Speaker(enum.Enum):
    """Who says that a request has failed."""

    EDGE = "edge"
    CONNECTOR = "connector"


class Cause(Struct, frozen=True):
    """One cause. `status` is what a visitor gets, 0 where nothing can be said any more.

    `at_edge` is the hop when it is the edge that says so, if that is another one: the same trouble
    with whoever a request was sent on to.
    """

    word: str
    hop: Hop
    status: int
    meaning: str
    advice: str
    at_edge: Hop | None = None


_VISITOR, _EDGE, _LINK, _CONNECTOR, _ORIGIN = Hop

# One line each, in the order of a request's way: they are read as a table.
# fmt: off
_ALL: Final = (
    Cause("reset_by_client", _VISITOR, 0, "The visitor gave the request up before it was answered, or the edge did for it.", "Nothing, if it is rare: people close pages. Many of them point to an application that is slow."),
    Cause("body_too_large", _VISITOR, 413, "The request has more content than the edge allows.", "Send less at once, or raise the edge's limit (--max-body)."),
    Cause("bad_path", _VISITOR, 400, "The path has a % that two hexadecimal digits do not follow.", "Encode it: a percent sign is written %25."),
    Cause("loop", _VISITOR, 508, "The request has come to edges like this one eight times already (CDN-Loop).", "An application whose own address leads back to the tunnel: let it call its neighbour by an inner name."),
    Cause("unsupported_connect", _VISITOR, 501, "The request asks by CONNECT for something else than a WebSocket.", "The edge is no forward proxy; `underpass access` brings other protocols through a tunnel."),
    Cause("bad_destination", _VISITOR, 502, "A private-network stream asks for an address that is not IP:port, or the visitor of a bastion or SOCKS server names no destination.", "Give the client a host and a port (access tcp: --destination HOST:PORT); for a private network an IP address, as names are resolved before they get here."),
    Cause("unknown_host", _EDGE, 404, "No tunnel has a route for the hostname.", "Check the spelling, and the tunnel's routes. A quick tunnel's name is gone some time after it was stopped."),
    Cause("passed_through", _EDGE, 421, "TLS for the hostname ends at the application (passthrough), and the request has come without it.", "Browsers try again by themselves. Programs: use https, and a connection of its own for the hostname."),
    Cause("too_many_connections", _EDGE, 0, "A public port has as many connections open as it allows, in all or from one address.", "End idle ones, or raise the port's limits."),
    Cause("no_link", _LINK, 503, "The tunnel exists, and no connector holds a connection for it.", "Start the connector, or see in its log why it cannot connect."),
    Cause("link_full", _LINK, 503, "Every link of the tunnel has as many requests under way as it takes, or is about to close.", "Run more connectors, or more links (--ha-connections); see whether the application hangs."),
    Cause("link_lost", _LINK, 502, "The link broke while the request was under way, and it could not be sent again.", "See the connector's log around that time: a restart, or a network that drops connections."),
    Cause("connector", _CONNECTOR, 502, "The connector says that it got no answer, and not why.", "See the connector's log. (cloudflared, for one, does not tell the edge.)"),
    Cause("ambiguous_path", _CONNECTOR, 400, "The path can be read in more ways than one, and different ingress rules match them.", "Send it in its plain form: no %2F, %5C or dot segments, nothing encoded twice. `underpass tunnel ingress rule URL` shows which rules are meant."),
    Cause("access_missing", _CONNECTOR, 403, "The rule is protected by Access, and the request has no token.", "Is the hostname behind an Access application at the edge? An edge of your own gives no tokens."),
    Cause("access_denied", _CONNECTOR, 403, "The request's Access token proves nothing for this rule.", "See the log for what is wrong with it; compare teamName and audTag with the Access application."),
    Cause("access_keys", _CONNECTOR, 502, "Access tokens cannot be checked, because the team's keys cannot be fetched.", "Is teamName right? The connector needs https to TEAM.cloudflareaccess.com, or HTTPS_PROXY."),
    Cause("denied", _CONNECTOR, 502, "originRequest.ipRules do not allow the destination that was asked for.", "Allow it in the rule's ipRules, if it is to be reached."),
    Cause("flow_rate_limited", _CONNECTOR, 502, "There are as many streams to private networks as warp-routing.maxActiveFlows allows.", "End idle ones, or raise the limit."),
    Cause("bad_configuration", _CONNECTOR, 502, "What the edge sent is no update of the configuration.", "See the log. The configuration in force stays."),
    Cause("too_many_updates", _CONNECTOR, 503, "The edge sends updates of the configuration faster than they are put in force.", "Nothing: the edge sends the newest again."),
    Cause("too_many_names", _CONNECTOR, 502, "With matchSNItoHost, the origin is in use under as many names as it may be.", "Give originServerName instead, or run more connectors."),
    Cause("too_many_streams", _CONNECTOR, 502, "The connector has as many raw streams open as it allows.", "End idle ones, or run more connectors."),
    Cause("shutdown", _CONNECTOR, 502, "The connector was being stopped, or its rules changed, before the origin was reached.", "Nothing, if it was meant. A longer --grace-period lets more requests finish."),
    Cause("dns", _ORIGIN, 502, "The origin's name could not be resolved where the connector runs.", "Check the service's address; resolve the name on the connector's machine, or in its container."),
    Cause("dial", _ORIGIN, 502, "The connector could not connect to the origin.", "Is it running, and listening at the address of the rule's service, seen from the connector? The log says what the system said."),
    Cause("dial_timeout", _ORIGIN, 502, "The origin did not take the connection in time.", "A firewall that drops packets, or a machine that is off; else raise originRequest.connectTimeout."),
    Cause("tls_timeout", _ORIGIN, 502, "The TLS handshake with the origin took too long.", "Does it speak TLS at this port? Else raise originRequest.tlsTimeout."),
    Cause("tls", _ORIGIN, 502, "The TLS handshake with the origin failed.", "Does it speak TLS at this port? Give its CA with originRequest.caPool, its name with originServerName, or set noTLSVerify."),
    Cause("reset_by_origin", _ORIGIN, 502, "The origin closed or reset the connection before its response was complete.", "See the application's log: a crash, a worker that was killed, or a keep-alive time shorter than originRequest.keepAliveTimeout."),
    Cause("protocol_error", _ORIGIN, 502, "The origin answered with something that is no well-formed HTTP.", "Does it speak HTTP at this port, and not TLS? A response whose length contradicts its head counts, too.", _CONNECTOR),
    Cause("response_too_large", _ORIGIN, 502, "The head of the origin's response exceeds 128 KiB.", "Look for a cookie or a field that grows with every response."),
    Cause("reset_by_peer", _ORIGIN, 502, "The origin reset the request's HTTP/2 stream.", "See the application's log. Said by an edge: the connector broke the response off; see its log.", _CONNECTOR),
    Cause("refused", _ORIGIN, 502, "The origin took no more HTTP/2 streams on its connection, and the request could not be sent again.", "Nothing, if it is rare: it was restarting, or about to close. Said by an edge: it was the connector.", _CONNECTOR),
    Cause("timeout_first_byte", _ORIGIN, 504, "The edge waited for the beginning of a response, and gave up.", "See what the application waits for. Answers that take minutes need a beginning, or a job that is asked about.", _ORIGIN),
    Cause("not_a_websocket", _ORIGIN, 502, "A WebSocket was asked for, and the application answered with something else, or with the wrong key.", "Is there a WebSocket at this path? See whether something between connector and application answers for it.", _ORIGIN),
    Cause("timeout_idle", _ORIGIN, 504, "After a response had begun, nothing moved for longer than the edge waits (--idle-timeout).", "Have the application send something now and then, a comment or a ping, or raise the limit.", _ORIGIN),
    Cause("timeout_total", _ORIGIN, 504, "The request took longer than the edge allows (--request-timeout).", "Raise the limit, or have long work done by a job that is asked about.", _ORIGIN),
    Cause("broken_off", _CONNECTOR, 0, "The response was broken off where it was made, by a fault or a stop.", "See the log around that time.", _EDGE),
    Cause("internal_error", _CONNECTOR, 500, "A fault in Underpass itself, of one request.", "Report it, with the traceback from the log.", _EDGE),
    Cause("no_handler", _CONNECTOR, 503, "A request came before anything was there to serve it.", "Try again; if it stays, report it.", _EDGE),
    Cause("other", _CONNECTOR, 502, "More different causes were told than are counted apart.", "See the log: each line has its own cause.", _EDGE),
)
# fmt: on

CAUSES: Final = {cause.word: cause for cause in _ALL}
"""By word."""

MAX_PASTED: Final = 65536
"""Characters of what an operator pastes that are looked at."""

_NAMED = re.compile(r"""(?<![a-z])cause["']?\s*[:=]\s*["']?([a-z0-9_]+)""", re.IGNORECASE)


def in_words(word: str) -> str:
    """What a cause means, as the end of a sentence."""
    cause = CAUSES.get(word)
    return word if cause is None else cause.meaning[0].lower() + cause.meaning[1:].rstrip(".")


def hop_of(word: str, speaker: Speaker) -> Hop:
    """Where a failure is to be looked for that `speaker` gave this cause. A word that is not known
    here comes from a newer connector, and is its matter."""
    cause = CAUSES.get(word)
    if cause is None:
        return Hop.CONNECTOR
    return cause.at_edge if speaker is Speaker.EDGE and cause.at_edge is not None else cause.hop


def cause_in(text: str) -> str | None:
    """The cause that a text names: the word, a field (`underpass-cause: dial`), a log line in
    either format, or a metric's line. None if there is none."""
    text = text[:MAX_PASTED].strip()
    if text.lower() in CAUSES:
        return text.lower()
    named = [word.lower() for word in _NAMED.findall(text)]
    return next((word for word in named if word in CAUSES), named[0] if named else None)
