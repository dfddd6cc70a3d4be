-- One row. `value` is the revision of the latest change; `horizon` is the latest revision whose
-- tombstones may have been purged: changes since an earlier one can no longer be told.
CREATE TABLE revision (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    value    INTEGER NOT NULL,
    horizon  INTEGER NOT NULL CHECK (horizon <= value)
);
INSERT INTO revision (only_row, value, horizon) VALUES (1, 0, 0);

-- Times are microseconds since 1970 in UTC. A deleted row stays as a tombstone until it is purged.
CREATE TABLE tunnel (
    id          TEXT PRIMARY KEY,
    account_tag TEXT NOT NULL,
    name        TEXT NOT NULL,
    secret      BLOB NOT NULL,
    quick       INTEGER NOT NULL CHECK (quick IN (0, 1)),
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    revision    INTEGER NOT NULL
);
CREATE UNIQUE INDEX tunnel_name ON tunnel (account_tag, name) WHERE deleted_at IS NULL;
CREATE INDEX tunnel_revision ON tunnel (revision);

CREATE TABLE route (
    hostname   TEXT PRIMARY KEY,
    tunnel_id  TEXT NOT NULL REFERENCES tunnel (id),
    created_at INTEGER NOT NULL,
    deleted_at INTEGER,
    revision   INTEGER NOT NULL
);
CREATE INDEX route_tunnel ON route (tunnel_id);
CREATE INDEX route_revision ON route (revision);
