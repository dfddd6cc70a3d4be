"""The account certificate, cert.pem, as it is made (docs: API §1).

Despite its name it is an API token with the account and the zone it is for, as JSON in a PEM block.
"""

from __future__ import annotations

import base64
from typing import Final

import msgspec

__all__ = ["KIND", "encode_origin_certificate"]

KIND: Final = "ARGO TUNNEL TOKEN"
"""What its block is called."""
_LINE: Final = 64


def encode_origin_certificate(
    zone_id: str, account_id: str, api_token: str, endpoint: str = ""
) -> bytes:
    """The content of a cert.pem. It is as secret as the token."""
    fields = {"zoneID": zone_id, "accountID": account_id, "apiToken": api_token}
    if endpoint:
        fields["endpoint"] = endpoint
    payload = base64.b64encode(msgspec.json.encode(fields)).decode("ascii")
    lines = [payload[start : start + _LINE] for start in range(0, len(payload), _LINE)]
    text = "\n".join([f"-----BEGIN {KIND}-----", *lines, f"-----END {KIND}-----", ""])
    return text.encode("ascii")
