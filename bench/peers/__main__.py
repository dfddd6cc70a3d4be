"""Underpass beside its peers, on this machine, in one run.

    python -m bench.peers [--peers underpass,cloudflared,nginx,haproxy] [--loads REGEX]
                          [--rounds N] [--json FILE] [--quick]
    python -m bench.peers --report FILE.json [--plots DIR] [--publish docs/performance.md]

Starts origins, an edge and each peer as processes of their own, and takes every load through every
peer, round by round, so that the peers meet the machine in the same moods. CPU time is the figure
to trust on a busy machine, and ratios more than absolute figures. Linux only: the accounts are
those of its kernel.

A stock cloudflared takes part if UNDERPASS_CLOUDFLARED names its binary or it is on PATH; frp,
chisel, rathole and `ssh -R` when asked for with --peers and on PATH.
"""

from __future__ import annotations

import argparse
import datetime as dt
import os
import platform
import re
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.peers import peers as known
from bench.peers.loads import Load, all_loads
from bench.peers.peers import Peer
from bench.peers.processes import raise_file_limit
from bench.peers.report import report
from bench.peers.samples import Document, Reading, Sample
from bench.peers.session import Session
from bench.peers.stage import Stage

FILES_WANTED = 12_000
"""Open files a process may need: ten thousand sockets and a little."""
QUICK = 0.1


def main() -> None:
    arguments = _parse()
    read = arguments.report is not None
    document = Document.read(arguments.report) if read else run(arguments)
    print(report(document))
    _plot(document, arguments.plots)
    if arguments.publish is not None:
        from bench.peers.publish import publish

        publish(document, arguments.publish)


def run(arguments: argparse.Namespace) -> Document:
    """All rounds. What has been measured is written even when it is interrupted."""
    peers = _present(arguments)
    loads = [load for load in all_loads() if re.search(arguments.loads, load.name)]
    rounds = 1 if arguments.quick else arguments.rounds
    _say(f"estimate: {_estimate(loads, peers, rounds, arguments.quick) / 60:.0f} minutes")
    begun = time.monotonic()
    samples: list[Sample] = []
    about = _about(arguments, peers, rounds)
    document = Document(about, samples)
    try:
        with Session(Stage(), peers, QUICK if arguments.quick else 1.0) as session:
            for number in range(1, rounds + 1):
                for load in loads:
                    if number <= load.rounds:
                        samples += _one_load(session, load, number, rounds)
    finally:
        about["minutes"] = round((time.monotonic() - begun) / 60, 1)
        if arguments.json:
            document.write(arguments.json)
    return document


def _one_load(session: Session, load: Load, number: int, rounds: int) -> list[Sample]:
    """Every peer, each round beginning with another."""
    able = [peer for peer in session.peers if peer.kind in load.kinds]
    turn = number % len(able) if able else 0
    samples = []
    for peer in able[turn:] + able[:turn]:
        begun = time.monotonic()
        found = measure(session, load, peer, number)
        samples += found
        took = time.monotonic() - begun
        for sample in found:
            figures = sample.error or ", ".join(
                f"{name} {value:.4g}" for name, value in sample.metrics.items()
            )
            _say(f"{number}/{rounds} {sample.load}: {peer.name}: {figures} ({took:.1f} s)")
    return samples


def measure(session: Session, load: Load, peer: Peer, number: int) -> list[Sample]:
    """One load on one peer, with a second attempt. A failure becomes a sample too."""
    why = ""
    for attempt in range(2):
        readings: list[Reading] = []
        try:
            readings.extend(load.run(session, peer))
        except (RuntimeError, OSError, ValueError) as error:
            why = " ".join(str(error).split())[-400:]
            if lost := session.recover():
                why = f"{lost}: {why}"
            _say(f"{load.name}: {peer.name}: attempt {attempt + 1}: {why}")
        else:
            why = ""
        samples = [
            Sample(
                peer.name, number, r.load, r.metrics, r.curve, r.at, retried=attempt > 0 and not why
            )
            for r in readings
        ]
        if not why:
            return samples
    return [*samples, Sample(peer.name, number, load.name, retried=True, error=why)]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peers", default="underpass,cloudflared,nginx,haproxy")
    parser.add_argument("--loads", default="", metavar="REGEX", help="of the loads' names")
    parser.add_argument("--list", action="store_true", help="name the loads, and stop")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round, a tenth of the work")
    parser.add_argument("--links", type=int, default=1, help="of each connector to its edge")
    parser.add_argument("--workers", type=int, help="of underpass's connector")
    parser.add_argument(
        "--connector-flag",
        action="append",
        default=[],
        metavar="FLAG",
        help="for underpass's connector, as in --connector-flag=--loglevel=warn; repeatable",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every sample")
    parser.add_argument("--report", type=Path, metavar="FILE", help="of an earlier run, and stop")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="where to draw SVG plots")
    parser.add_argument(
        "--publish", type=Path, metavar="FILE.md", help="write the run into a document, with plots"
    )
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(load.name for load in all_loads()))
        parser.exit()
    unknown = set(arguments.peers.split(",")) - set(known.NAMES)
    if unknown:
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    if arguments.report is None:
        for tool in ("nginx", "h2load", "openssl"):
            if shutil.which(tool) is None:
                parser.error(f"{tool} is missing (Debian: nginx-light, nghttp2-client, openssl)")
    return arguments


def _present(arguments: argparse.Namespace) -> list[Peer]:
    flags = list(arguments.connector_flag)
    if arguments.workers is not None:
        flags.append(f"--workers={arguments.workers}")
    present = []
    for name in arguments.peers.split(","):
        peer = known.make(name, arguments.links, flags)
        why = peer.missing()
        if why:
            _say(f"without {name}: {why}")
        else:
            present.append(peer)
    return present


def _estimate(loads: Sequence[Load], peers: Sequence[Peer], rounds: int, quick: bool) -> float:
    whole = sum(
        load.seconds * min(rounds, load.rounds)
        for load in loads
        for peer in peers
        if peer.kind in load.kinds
    )
    return whole * (0.4 if quick else 1.0)


def _about(arguments: argparse.Namespace, peers: Sequence[Peer], rounds: int) -> dict[str, object]:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "date": dt.datetime.now(dt.timezone.utc).isoformat(timespec="minutes"),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": os.cpu_count() or 0,
        "kernel": platform.release().partition("-")[0],
        "open files": raise_file_limit(),
        "rounds": rounds,
        "quick": arguments.quick,
        "links": arguments.links,
        "connector flags": [*arguments.connector_flag],
        "workers": arguments.workers or 1,
        "versions": known.versions(peers),
    }


def _plot(document: Document, directory: Path | None) -> None:
    if directory is not None:
        from bench.peers.plots import draw

        for path in draw(document, directory):
            _say(f"wrote {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(number: int, frame: object) -> None:
    # Once: what is running is being ended.
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, _stop)
    main()
