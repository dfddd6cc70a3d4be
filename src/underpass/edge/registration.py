"""Registration of one link: who may, as which connection, and what becomes of it in the router.

Implements `underpass.wire.registration.RegistrationHandler`. Docs: wire protocol §3.5 and §3.6.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import Enum
from typing import Protocol
from uuid import UUID, uuid4

from underpass.edge.errors import Unauthorized
from underpass.edge.registry import Registry
from underpass.edge.router import DuplicateLink, Link, Router, TooManyLinks
from underpass.wire.registration import (
    DUPLICATE_CONNECTION,
    ClientInfo,
    ConnectionDetails,
    RegistrationRefused,
    RegistrationRequest,
)

log = logging.getLogger("underpass.edge.registration")


class RegistrableLink(Link, Protocol):
    """A link that can be told which connection of which tunnel it is."""

    def identify(
        self, tunnel_id: UUID, connection_id: UUID, conn_index: int, client: ClientInfo
    ) -> None:
        """Take an identity: `tunnel_id`, `conn_index` and, from `client`, `connector_id` answer
        with it from now on. Called before the link is added to the router."""
        ...


class _State(Enum):
    NEW = "new"
    REGISTERED = "registered"
    REFUSED = "refused"
    UNREGISTERED = "unregistered"


class LinkRegistration:
    """The registration calls on one link's control stream.

    The owner closes the connection after `refused` has turned true, since connectors wait for
    that, and calls `Router.remove_link` when the link is gone.

    Args:
        location: told to the connector.
        on_duplicate: called with the link that holds the index when a duplicate is refused: the
            moment to find out whether that link is still alive.
        on_local_configuration: called with the connector's JSON document, not parsed.
    """

    def __init__(
        self,
        registry: Registry,
        router: Router,
        link: RegistrableLink,
        *,
        location: str,
        on_duplicate: Callable[[Link], None] | None = None,
        on_local_configuration: Callable[[bytes], None] | None = None,
    ) -> None:
        self._registry = registry
        self._router = router
        self._link = link
        self._location = location
        self._on_duplicate = on_duplicate
        self._on_local_configuration = on_local_configuration
        self._state = _State.NEW

    @property
    def registered(self) -> bool:
        """Whether the link is registered and has not unregistered."""
        return self._state is _State.REGISTERED

    @property
    def refused(self) -> bool:
        """Whether a registration was refused: the connection is of no more use."""
        return self._state is _State.REFUSED

    @property
    def unregistered(self) -> bool:
        """Whether the connector has unregistered: close once what is in flight has ended."""
        return self._state is _State.UNREGISTERED

    def register_connection(self, request: RegistrationRequest) -> ConnectionDetails:
        """Check the credentials and let the link take requests.

        `replace_existing` is not honoured: no connector sets it, and a stolen index would be a
        way to cut somebody's link.

        Raises:
            RegistrationRefused: with what the connector is told.
        """
        if self._state is not _State.NEW:
            raise RegistrationRefused("this connection has registered already")
        # Whatever comes below, this stream has had its attempt.
        self._state = _State.REFUSED
        client, index = request.options.client, request.conn_index
        try:
            tunnel = self._registry.authenticate(
                request.auth.account_tag, request.auth.tunnel_secret, request.tunnel_id
            )
            connection_id = uuid4()
            self._link.identify(tunnel.id, connection_id, index, client)
            self._router.add_link(tunnel.id, self._link)
        except Unauthorized as error:
            # At debug: a connector with old credentials repeats this for ever.
            log.debug("refused a connection to tunnel %s: %s", request.tunnel_id, error)
            raise RegistrationRefused(str(error)) from error
        except DuplicateLink as error:
            log.info("refused connection %d to tunnel %s: %s", index, tunnel.id, error)
            if self._on_duplicate is not None:
                self._on_duplicate(error.holder)
            raise RegistrationRefused(DUPLICATE_CONNECTION, should_retry=True) from error
        except TooManyLinks as error:
            log.warning("refused connection %d: %s", index, error)
            raise RegistrationRefused(str(error), should_retry=True) from error
        self._state = _State.REGISTERED
        log.info(
            "registered connection %d of connector %s to tunnel %s (version %r, %r)",
            index,
            client.client_id,
            tunnel.id,
            client.version,
            client.arch,
        )
        is_managed = tunnel.id in self._registry.configurations
        return ConnectionDetails(connection_id, self._location, is_managed)

    def unregister_connection(self) -> None:
        """Send the link no new requests. Before a registration there is nothing to do."""
        if self._state is _State.REGISTERED:
            self._state = _State.UNREGISTERED
            self._router.drain(self._link)
            log.info("connection %d unregistered", self._link.conn_index)

    def update_local_configuration(self, config: bytes) -> None:
        """Hand the connector's configuration on, if it has registered."""
        if self._state is _State.REGISTERED and self._on_local_configuration is not None:
            self._on_local_configuration(config)
