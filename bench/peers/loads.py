"""The loads: what is done to each peer, and what it is divided by."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench.peers import h2load
from bench.peers.figures import percentile
from bench.peers.peers import Kind, Peer, Variation
from bench.peers.processes import usage
from bench.peers.samples import Reading
from bench.peers.session import GIB, MIB, Session
from bench.peers.stage import BULK, FAR, Origin

TUNNELS = frozenset({Kind.TUNNEL})
HTTP1 = frozenset({Kind.TUNNEL, Kind.FORWARDER})
ALL = frozenset(Kind)
SETTLE_SECONDS = 2.0
"""From the last event to when memory is looked at."""
ROUND_TRIP_MS = 100.0
MANY = 10_000

Run = Callable[[Session, Peer], Iterator[Reading]]


@dataclass(frozen=True)
class Load:
    """One thing that is measured.

    Attributes:
        kinds: the kinds of peers it makes sense for.
        seconds: about what it takes for one peer, for the estimate.
        rounds: at most so many rounds, for what hardly varies or takes long.
    """

    name: str
    run: Run
    kinds: frozenset[Kind]
    seconds: float
    rounds: int = 1000


def get(name: str, path: str, requests: int, concurrent: int, seconds: float) -> Load:
    """Small requests in a closed loop."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.FILES)
        count = session.scaled(requests, concurrent * 4)
        outcome, account = session.closed_loop(running, path, count, concurrent)
        yield Reading(
            name,
            {
                "per_second": outcome.requests / outcome.seconds,
                **outcome.latency,
                **account.per_request(outcome.requests),
            },
        )

    return Load(name, run, ALL, seconds)


def post(name: str, requests: int, concurrent: int, seconds: float) -> Load:
    """Small uploads in a closed loop."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.LIVE)
        count = session.scaled(requests, concurrent * 4)
        outcome, account = session.closed_loop(running, "/", count, concurrent, body=1024)
        yield Reading(
            name,
            {
                "per_second": outcome.requests / outcome.seconds,
                **outcome.latency,
                **account.per_request(outcome.requests),
            },
        )

    return Load(name, run, ALL, seconds)


def open_loop(name: str, rate: int, seconds: float) -> Load:
    """Small requests begun at a fixed rate, or at half load with a `rate` of 0. Not for proxies:
    h2load, which drives them, keeps to a rate on the average only, in bursts that cost less."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.FILES)
        wanted = rate or int(half_load(session))
        lasting = max(1.0, session.scaled(int(seconds * 1000)) / 1000)
        with session.account(running) as account:
            metrics = session.open_loop(running, "/1k", wanted, lasting)
        requests = int(metrics.pop("requests"))
        metrics["per_second"] = requests / metrics.pop("seconds")
        yield Reading(name, {**metrics, **account.per_request(requests)})

    return Load(name, run, HTTP1, seconds + 1)


def half_load(session: Session) -> float:
    """Half of the requests a second that the slowest of the tunnels can do here, found once."""

    def find() -> float:
        rates = []
        for peer in session.peers:
            if peer.kind is Kind.TUNNEL:
                running = session.running(peer, Origin.FILES)
                tries = [session.closed_loop(running, "/1k", 5000, 64)[0] for _ in range(3)]
                rates.append(max(outcome.requests / outcome.seconds for outcome in tries))
        return max(100.0, min(rates) / 2)

    return session.remember("half load", find)


def bulk(
    name: str, upload: bool, transfers: int, concurrent: int, size: int, seconds: float
) -> Load:
    """Large bodies, so many at once."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        count = session.scaled(transfers, concurrent)
        if upload:
            running = session.running(peer, Origin.LIVE)
            outcome, account = session.closed_loop(running, "/", count, concurrent, body=size)
        else:
            running = session.running(peer, Origin.FILES)
            outcome, account = session.closed_loop(running, "/bulk", count, concurrent)
        moved = count * size
        yield Reading(
            name,
            {"mbit_s": moved * 8 / 1e6 / outcome.seconds, **account.per_gib(moved)},
        )

    return Load(name, run, ALL, seconds)


def mixed(name: str, seconds: float) -> Load:
    """Small requests while eight downloads never end."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.FILES)
        with h2load.background(running, "/bulk", concurrent=8) as downloads:
            outcome, _ = session.closed_loop(running, "/1k", session.scaled(10_000, 500), 64)
            if downloads.poll() is not None:
                raise RuntimeError("the downloads ended too early")
        metrics = {"per_second": outcome.requests / outcome.seconds, **outcome.latency}
        yield Reading(name, metrics)

    return Load(name, run, HTTP1, seconds)


def websocket_echo(name: str, messages: int, seconds: float) -> Load:
    """Small messages to and fro on 64 WebSockets."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.LIVE)
        with session.crowd(running, "/echo", "--websocket") as crowd:
            crowd.tell("open 64")
            with session.account(running) as account:
                echoed = json.loads(crowd.tell(f"echo {session.scaled(messages, 1000)}"))
        requests = echoed.pop("requests")
        echoed["per_second"] = requests / echoed.pop("seconds")
        yield Reading(name, {**echoed, **account.per_request(requests)})

    return Load(name, run, HTTP1, seconds)


def idle_websockets(seconds: float) -> Load:
    """Resident memory for each WebSocket that only stays open."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        with session.fresh(peer, Origin.LIVE) as running:
            time.sleep(SETTLE_SECONDS)
            before = usage([running.child.pid]).rss
            with session.crowd(running, "/echo", "--websocket") as crowd:
                for number in (1000, 5000, MANY):
                    wanted = session.scaled(number)
                    crowd.tell(f"open {wanted}")
                    time.sleep(SETTLE_SECONDS)
                    grown = usage([running.child.pid]).rss - before
                    yield Reading(
                        f"idle WebSockets x{number}",
                        {
                            "kib_per_socket": grown / 1024 / wanted,
                            "rss_mib": (before + grown) / MIB,
                        },
                        "idle WebSockets",
                        wanted,
                    )

    return Load("idle WebSockets", run, HTTP1, seconds, rounds=3)


def slow_requests(name: str, seconds: float) -> Load:
    """Requests that are all under way together before the first is answered."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        wanted = session.scaled(MANY)
        with session.fresh(peer, Origin.LIVE) as running:
            with session.crowd(running, f"/barrier/{wanted}") as crowd:
                begun = time.monotonic()
                with session.account(running) as account:
                    crowd.tell(f"together {wanted}")
                took = time.monotonic() - begun
            yield Reading(name, {"per_second": wanted / took, **account.per_request(wanted)})

    return Load(name, run, HTTP1, seconds, rounds=3)


def cold_burst(name: str, concurrent: int, seconds: float) -> Load:
    """Requests at once when there is no connection to the origin yet."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        with session.fresh(peer, Origin.LIVE) as running, session.crowd(running, "/1k") as crowd:
            begun = time.monotonic()
            failed = int(crowd.tell(f"burst {concurrent}"))
            took = time.monotonic() - begun
        yield Reading(name, {"failed": failed, "per_second": (concurrent - failed) / took})

    return Load(name, run, HTTP1, seconds, rounds=3)


def open_streams(seconds: float) -> Load:
    """What small requests cost while other streams stay open on the same link."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        with session.fresh(peer, Origin.LIVE) as running:
            session.closed_loop(running, "/1k", session.scaled(5000, 500), 64)
            with session.crowd(running, "/hold") as crowd:
                for number in (100, 1000, 3000, MANY):
                    wanted = session.scaled(number)
                    crowd.tell(f"open {wanted}")
                    count = session.scaled(20_000, 1000)
                    outcome, account = session.closed_loop(running, "/1k", count, 64)
                    yield Reading(
                        f"GET 1 KiB x64, {number} open streams",
                        {
                            "per_second": outcome.requests / outcome.seconds,
                            **outcome.latency,
                            **account.per_request(count),
                        },
                        "open streams",
                        wanted,
                    )

    return Load("growth with open streams", run, HTTP1, seconds, rounds=3)


def header_fields(seconds: float) -> Load:
    """What small requests cost with many fields in the request."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        running = session.running(peer, Origin.FILES)
        for number in (5, 20, 50, 100):
            # h2load sends about three of its own.
            headers = [f"x-field-{at}: value-{at:020}" for at in range(number - 3)]
            count = session.scaled(10_000, 1000)
            outcome, account = session.closed_loop(running, "/1k", count, 64, headers=headers)
            yield Reading(
                f"GET 1 KiB x64, {number} header fields",
                {"per_second": outcome.requests / outcome.seconds, **account.per_request(count)},
                "header fields",
                number,
            )

    return Load("growth with header fields", run, ALL, seconds, rounds=3)


def ingress_rules(seconds: float) -> Load:
    """What small requests cost when many rules come before the one that counts."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        for number in (10, 100, 1000, 10_000):
            with session.fresh(peer, Origin.FILES, Variation(hosts=number - 1)) as running:
                session.closed_loop(running, "/1k", session.scaled(1000, 200), 64)
                count = session.scaled(10_000, 1000)
                outcome, account = session.closed_loop(running, "/1k", count, 64)
            yield Reading(
                f"GET 1 KiB x64, {number} ingress rules",
                {"per_second": outcome.requests / outcome.seconds, **account.per_request(count)},
                "ingress rules",
                number,
            )

    return Load("growth with ingress rules", run, TUNNELS, seconds, rounds=3)


def idle_pool(seconds: float) -> Load:
    """What small requests cost with many idle connections to the origin in the pool."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        with session.fresh(peer, Origin.LIVE) as running:
            session.closed_loop(running, "/1k", session.scaled(1000, 200), 1)
            for number in (1, 10, 100, 1000):
                with session.crowd(running, f"/barrier/{number}") as crowd:
                    crowd.tell(f"together {number}")
                count = session.scaled(5000, 500)
                outcome, account = session.closed_loop(running, "/1k", count, 1)
                yield Reading(
                    f"GET 1 KiB x1, {number} idle pool connections",
                    {
                        "per_second": outcome.requests / outcome.seconds,
                        **account.per_request(count),
                    },
                    "idle pool connections",
                    number,
                )

    return Load("growth with idle pool connections", run, TUNNELS, seconds, rounds=3)


def far(name: str, upload: bool, seconds: float) -> Load:
    """One stream over a long way."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        origin = Origin.LIVE if upload else Origin.FILES
        with session.far_away(peer, origin, ROUND_TRIP_MS) as running:
            if upload:
                outcome, account = session.closed_loop(running, "/", 1, 1, body=FAR)
            else:
                outcome, account = session.closed_loop(running, "/far", 1, 1)
            metrics = {"mbit_s": FAR * 8 / 1e6 / outcome.seconds, **account.per_gib(FAR)}
        yield Reading(name, metrics)

    return Load(name, run, TUNNELS, seconds)


def start(name: str, times: int, seconds: float) -> Load:
    """From starting the process until its first link is registered; and its memory then."""

    def run(session: Session, peer: Peer) -> Iterator[Reading]:
        waits, sizes = [], []
        for _ in range(session.scaled(times, 2)):
            with session.fresh(peer, Origin.FILES) as running:
                waits.append(running.child.ready_after * 1000)
                time.sleep(SETTLE_SECONDS)
                sizes.append(usage([running.child.pid]).rss / MIB)
        metrics = {
            "start_ms": percentile(sorted(waits), 0.5),
            "idle_rss_mib": percentile(sorted(sizes), 0.5),
        }
        yield Reading(name, metrics)

    return Load(name, run, HTTP1, seconds)


def all_loads() -> list[Load]:
    """Every load, sized so that each consumes about half a second of a lean peer's CPU time."""
    assert BULK * 4 == GIB
    return [
        start("start, one link", 3, 8),
        get("GET 1 KiB x1", "/1k", 5000, 1, 3),
        get("GET 1 KiB x64", "/1k", 40_000, 64, 3),
        get("GET 1 KiB x256", "/1k", 40_000, 256, 3),
        get("GET 1 KiB x1024", "/1k", 40_000, 1024, 3),
        open_loop("GET 1 KiB, open loop 1000/s", 1000, 5),
        open_loop("GET 1 KiB, open loop 4000/s", 4000, 3),
        open_loop("GET 1 KiB, open loop at half load", 0, 3),
        post("POST 1 KiB x64", 30_000, 64, 3),
        get("GET 16 KiB x64", "/16k", 15_000, 64, 2),
        bulk("download x1", False, 4, 1, BULK, 3),
        bulk("download x8", False, 8, 8, BULK, 5),
        bulk("upload x1", True, 8, 1, BULK // 2, 2),
        bulk("upload x8", True, 16, 8, BULK // 2, 4),
        mixed("GET 1 KiB x64 beside 8 downloads", 4),
        websocket_echo("WebSocket echo x64", 30_000, 3),
        idle_websockets(15),
        slow_requests(f"{MANY} slow requests", 5),
        cold_burst("burst of 1000 requests, cold", 1000, 2),
        open_streams(15),
        header_fields(4),
        ingress_rules(6),
        idle_pool(10),
        far("download, 100 ms round trip", False, 10),
        far("upload, 100 ms round trip", True, 10),
    ]
