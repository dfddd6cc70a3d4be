"""What an operator does to an edge from its machine, whether it runs or not.

A running edge sees within a second what was changed here (`Registry.follow`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from underpass.edge.accounts import Accounts
from underpass.edge.certificates import CertificateAuthority
from underpass.edge.data_directory import DataDirectory
from underpass.edge.errors import AccountError, DataDirectoryError, DataDirectoryInUseError
from underpass.edge.registry import Author, Registry
from underpass.edge.router import Router
from underpass.edge.status import RunningEdge
from underpass.edge.store import Account, ApiToken, Store
from underpass.edge.store.sqlite import SqliteStore
from underpass.wire.origin_certificate import encode_origin_certificate

__all__ = ["Administration", "administer", "initialize", "make_sign_in_link", "write_secret_file"]

T = TypeVar("T")


class Administration:
    """An edge's accounts, tokens and audit log, opened by `administer`."""

    def __init__(self, registry: Registry, store: Store) -> None:
        self.registry = registry
        self.store = store
        self.accounts = Accounts(registry)
        self.author = Author(_actor())

    def certificate(self, token: ApiToken, text: str) -> bytes:
        """The cert.pem by which command lines use a token."""
        account = self.registry.accounts[token.account_id]
        return encode_origin_certificate(account.zone_id, account.id, text)


def administer(data_dir: Path, work: Callable[[Administration], Awaitable[T]]) -> T:
    """Do `work` on the edge with this data directory.

    Raises:
        EdgeError: there is none, it cannot be read or changed, or `work` failed.
    """

    async def run() -> T:
        directory = DataDirectory.of_any_edge(data_dir)
        async with _opened(directory) as administration:
            return await work(administration)

    return asyncio.run(run())


def initialize(data_dir: Path, account_name: str, domain: str) -> tuple[Account, bytes]:
    """Make the data directory, the certificate authority, the first account and its token; the
    account, and the content of its cert.pem.

    Raises:
        EdgeError: it was done before, or cannot be done.
    """

    async def run() -> tuple[Account, bytes]:
        try:
            directory = DataDirectory.open(data_dir)
        except DataDirectoryInUseError:
            # An edge that runs already has made all of it but the account.
            directory = DataDirectory.of_any_edge(data_dir)
        with contextlib.closing(directory):
            CertificateAuthority.open(directory)
            async with _opened(directory) as edge:
                if edge.registry.accounts:
                    names = ", ".join(account.name for account in edge.registry.accounts.values())
                    raise AccountError(
                        f"{data_dir} was set up before, for account {names}: "
                        "`underpass edge token create` makes another token"
                    )
                account = await edge.accounts.create_account(account_name, domain, edge.author)
                token, text = await edge.accounts.create_token(
                    account, "administrator", edge.author
                )
                return account, edge.certificate(token, text)

    return asyncio.run(run())


def make_sign_in_link(data_dir: Path, account_name: str) -> str:
    """The address that signs a browser in to the dashboard of the edge that runs there.

    Raises:
        EdgeError: there is none, or no such account.
    """
    # No edge needs it to run.
    from underpass.edge.dashboard.sessions import SignInLinks

    directory = DataDirectory.of_any_edge(data_dir)
    running = RunningEdge.read(directory)
    if running is None or running.dashboard is None:
        raise DataDirectoryError(
            f"no edge runs with the data directory {data_dir}: `underpass edge run` starts one"
        )
    address = running.dashboard

    async def work(edge: Administration) -> str:
        account = edge.accounts.account(account_name)
        secret = SignInLinks(directory.sign_in_links).make(account)
        await edge.registry.commit((), edge.author.did("session.link", account.name, account.id))
        return f"{address}/sign-in?link={secret}"

    return administer(data_dir, work)


def write_secret_file(path: Path, content: bytes) -> None:
    """A new file for its owner alone (0600), its directory made if need be; no part of it is left
    behind when that fails.

    Raises:
        DataDirectoryError: it exists, or cannot be written.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise DataDirectoryError(f"{path} exists already: move it away, or name another") from error
    except OSError as error:
        raise DataDirectoryError(f"cannot write {path}: {error.strerror}") from error
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise DataDirectoryError(f"cannot write {path}: {error.strerror}") from error


@contextlib.asynccontextmanager
async def _opened(directory: DataDirectory) -> AsyncIterator[Administration]:
    store = await SqliteStore.open(directory.database)
    try:
        yield Administration(await Registry.load(store, Router()), store)
    finally:
        await store.close()


def _actor() -> str:
    """Which user, where the system has such."""
    user = getattr(os, "getuid", None)
    return "command line" if user is None else f"command line (uid {user()})"
