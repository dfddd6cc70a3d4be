-- A hostname may lead to several tunnels. `others` is a JSON list of those beside the first, each
-- [tunnel id, weight]; `sticky` says by what visitors are recognized: none, cookie or address.
ALTER TABLE route ADD COLUMN weight INTEGER NOT NULL DEFAULT 1 CHECK (weight >= 0);
ALTER TABLE route ADD COLUMN others TEXT NOT NULL DEFAULT '[]';
ALTER TABLE route ADD COLUMN sticky TEXT NOT NULL DEFAULT 'none'
    CHECK (sticky IN ('none', 'cookie', 'address'));
