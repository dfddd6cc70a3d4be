"""The certificates that the operating system believes in, as a TLS client's context."""

from __future__ import annotations

import os
import ssl
import sys

__all__ = ["system_context"]


def system_context() -> ssl.SSLContext:
    """A new client context: the system's roots, names checked.

    SSL_CERT_FILE is honoured on every platform: by OpenSSL itself where the roots are files, and
    beside the system's store elsewhere. Raises OSError when that file cannot be used there. Making
    one takes tens of milliseconds and a megabyte.
    """
    if sys.platform not in ("win32", "darwin"):
        return ssl.create_default_context()
    # OpenSSL does not know these systems' stores.
    import truststore

    context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if given := os.environ.get("SSL_CERT_FILE"):
        context.load_verify_locations(given)
    return context
