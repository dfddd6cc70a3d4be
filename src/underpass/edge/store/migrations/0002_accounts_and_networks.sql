ALTER TABLE route ADD COLUMN pool TEXT NOT NULL DEFAULT '';

CREATE TABLE account (
    id         TEXT PRIMARY KEY,
    zone_id    TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    domain     TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
);
CREATE UNIQUE INDEX account_name ON account (name) WHERE deleted_at IS NULL;
CREATE INDEX account_revision ON account (revision);

-- `scopes` and `hostnames` are JSON lists. Digests are SHA-256; empty ones are nobody's.
CREATE TABLE api_token (
    id                  TEXT PRIMARY KEY,
    account_id          TEXT NOT NULL REFERENCES account (id),
    name                TEXT NOT NULL,
    scopes              TEXT NOT NULL,
    hostnames           TEXT NOT NULL,
    digest              BLOB NOT NULL,
    created_at          INTEGER NOT NULL,
    expires_at          INTEGER,
    previous_digest     BLOB NOT NULL,
    previous_expires_at INTEGER,
    deleted_at          INTEGER,
    revision            INTEGER NOT NULL
);
CREATE INDEX api_token_account ON api_token (account_id);
CREATE INDEX api_token_revision ON api_token (revision);

CREATE TABLE virtual_network (
    id         TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id),
    name       TEXT NOT NULL,
    comment    TEXT NOT NULL,
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
);
CREATE UNIQUE INDEX virtual_network_name ON virtual_network (account_id, name)
    WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX virtual_network_default ON virtual_network (account_id)
    WHERE is_default = 1 AND deleted_at IS NULL;
CREATE INDEX virtual_network_revision ON virtual_network (revision);

CREATE TABLE network_route (
    id                 TEXT PRIMARY KEY,
    account_id         TEXT NOT NULL REFERENCES account (id),
    virtual_network_id TEXT NOT NULL REFERENCES virtual_network (id),
    network            TEXT NOT NULL,
    tunnel_id          TEXT NOT NULL REFERENCES tunnel (id),
    comment            TEXT NOT NULL,
    created_at         INTEGER NOT NULL,
    deleted_at         INTEGER,
    revision           INTEGER NOT NULL
);
CREATE UNIQUE INDEX network_route_network ON network_route (virtual_network_id, network)
    WHERE deleted_at IS NULL;
CREATE INDEX network_route_tunnel ON network_route (tunnel_id);
CREATE INDEX network_route_revision ON network_route (revision);

CREATE TABLE configuration (
    tunnel_id  TEXT PRIMARY KEY REFERENCES tunnel (id),
    version    INTEGER NOT NULL,
    document   BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
);
CREATE INDEX configuration_revision ON configuration (revision);

-- Numbers are never used again, so that a missing one shows.
CREATE TABLE audit (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    at         INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    source     TEXT NOT NULL,
    action     TEXT NOT NULL,
    target     TEXT NOT NULL,
    account_id TEXT NOT NULL,
    detail     TEXT NOT NULL
);
CREATE INDEX audit_at ON audit (at);
CREATE TRIGGER audit_is_never_rewritten BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only ever added to');
END;
