"""One run: the stage, the peers on it, and the accounts of what each load costs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import final

from bench.peers import h2load
from bench.peers.peers import USUAL, Kind, Peer, Running, Variation
from bench.peers.processes import Usage, end, forget_peak, started, usage
from bench.peers.stage import Origin, Stage

GIB = 1 << 30
MIB = 1 << 20
GENERATOR_SECONDS = 180.0
"""Longest wait for an answer of a generator."""


class Account:
    """What a peer and the process at its other end use while a block runs."""

    def __init__(self, running: Running) -> None:
        self._near = [running.child.pid]
        self._far = [running.far.pid] if running.far else []
        forget_peak(self._near)
        self._before = usage(self._near), usage(self._far)

    def close(self) -> None:
        """Stop counting."""
        self._after = usage(self._near), usage(self._far)

    def per_request(self, requests: int) -> dict[str, float]:
        """CPU in microseconds and context switches, per request; memory in MiB."""
        near, far = zip(self._before, self._after, strict=True)
        return {
            **self._memory(),
            "cpu_s": near[1].cpu - near[0].cpu,
            "cpu_us": (near[1].cpu - near[0].cpu) / requests * 1e6,
            "far_cpu_us": (far[1].cpu - far[0].cpu) / requests * 1e6,
            "voluntary": (near[1].voluntary - near[0].voluntary) / requests,
            "involuntary": (near[1].involuntary - near[0].involuntary) / requests,
        }

    def per_gib(self, size: int) -> dict[str, float]:
        """CPU in seconds and context switches, per GiB; memory in MiB."""
        near, far = zip(self._before, self._after, strict=True)
        gib = size / GIB
        return {
            **self._memory(),
            "cpu_s": near[1].cpu - near[0].cpu,
            "cpu_s_per_gib": (near[1].cpu - near[0].cpu) / gib,
            "far_cpu_s_per_gib": (far[1].cpu - far[0].cpu) / gib,
            "voluntary": (near[1].voluntary - near[0].voluntary) / gib,
            "involuntary": (near[1].involuntary - near[0].involuntary) / gib,
        }

    def _memory(self) -> dict[str, float]:
        after: Usage = self._after[0]
        return {"rss_mib": after.rss / MIB, "peak_rss_mib": after.peak_rss / MIB}


class Crowd:
    """A process of `bench.peers.many`, spoken to in lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def tell(self, command: str) -> str:
        """Give a command; the answer without its first word.

        Raises:
            RuntimeError: it could not be done.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith("failed"):
            raise RuntimeError(f"{command}: {answer or 'the generator ended'}")
        return answer.partition(" ")[2]


@final
class Session:
    """The stage and the peers, which are started when first needed, until the `with` block ends.

    Args:
        scale: 1 for a real run, less for a quick one.
    """

    def __init__(self, stage: Stage, peers: Sequence[Peer], scale: float) -> None:
        self.stage = stage
        self.peers = peers
        self._scale = scale
        self._running: dict[tuple[str, Origin], tuple[Running, ExitStack]] = {}
        self._remembered: dict[str, float] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Session:
        self._stack.enter_context(self.stage)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        with self._stack:
            # Connectors before the edge that they say goodbye to.
            for _, running in self._running.values():
                self._stack.push(running)
        self._running.clear()

    def recover(self) -> str:
        """If the edge or an origin has ended, begin with new ones. Returns what had."""
        lost = self.stage.lost
        if lost:
            self._close()
            self._stack.enter_context(self.stage)
        return lost

    def scaled(self, number: int, least: int = 1) -> int:
        """A number of requests for this run."""
        return max(least, int(number * self._scale))

    def running(self, peer: Peer, origin: Origin) -> Running:
        """The peer in front of an origin; started again if it has died."""
        key = peer.name, origin
        known = self._running.get(key)
        if known is not None:
            if known[0].alive:
                return known[0]
            del self._running[key]
            known[1].close()
        with ExitStack() as stack:
            running = stack.enter_context(peer.start(self.stage, origin))
            self._running[key] = running, stack.pop_all()
        return running

    def remember(self, name: str, find: Callable[[], float]) -> float:
        """A figure that is found once a run."""
        if name not in self._remembered:
            self._remembered[name] = find()
        return self._remembered[name]

    @contextmanager
    def fresh(self, peer: Peer, origin: Origin, variation: Variation = USUAL) -> Iterator[Running]:
        """A peer of this block's own."""
        with peer.start(self.stage, origin, variation) as running:
            yield running

    @contextmanager
    def account(self, running: Running) -> Iterator[Account]:
        account = Account(running)
        yield account
        account.close()

    def closed_loop(
        self,
        running: Running,
        path: str,
        requests: int,
        concurrent: int,
        *,
        body: int = 0,
        headers: Sequence[str] = (),
    ) -> tuple[h2load.Outcome, Account]:
        """Run h2load, and account for it. `body` is the size of what is posted."""
        content = self.stage.body(body) if body else None
        with self.account(running) as account:
            outcome = h2load.run(
                running,
                path,
                requests=requests,
                concurrent=concurrent,
                log=self.stage.files / "h2load.log",
                body=content,
                headers=headers,
            )
        return outcome, account

    def open_loop(
        self, running: Running, path: str, rate: float, seconds: float
    ) -> dict[str, float]:
        """Run the generator of `bench.peers.open_loop`."""
        command = [
            sys.executable, "-m", "bench.peers.open_loop",
            running.address, running.host, path, str(rate), str(seconds),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=GENERATOR_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"open loop: {(done.stderr.strip() or '?').splitlines()[-1]}")
        found: dict[str, float] = json.loads(done.stdout)
        return found

    @contextmanager
    def crowd(self, running: Running, path: str, *options: str) -> Iterator[Crowd]:
        """Many visitors, for the length of the block."""
        process = subprocess.Popen(
            [
                sys.executable, "-m", "bench.peers.many",
                running.address, running.host, path, *options,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )  # fmt: skip
        try:
            yield Crowd(process)
        finally:
            end(process)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    @contextmanager
    def far_away(self, peer: Peer, origin: Origin, milliseconds: float) -> Iterator[Running]:
        """A fresh tunnel peer whose edge answers so much later."""
        if peer.kind is not Kind.TUNNEL:
            raise ValueError(f"{peer.name} is no tunnel")
        command = (
            sys.executable, "-m", "bench.peers.delay",
            self.stage.edge.tunnel, str(milliseconds / 2),
        )  # fmt: skip
        with started(
            "delay", command, self.stage.path("delay.log"), r"listening on \d+\n"
        ) as relay:
            port = relay.said.strip().rpartition(" ")[2]
            variation = Variation(edge=f"127.0.0.1:{port}")
            with self.fresh(peer, origin, variation) as running:
                yield running
