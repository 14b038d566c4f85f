-- Links become invalid by generation: a link contains the generation in which it was made, and a success or a revocation begins the next
-- one. `not_after` still counts for links of the first version, which have no generation.
ALTER TABLE revocations ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

-- Which link began a sign-in (a hash), in which generation it was made, and from which network the browser came: for the quotas, and so
-- that an invalid link ends the sign-ins that it began. `granted_before` says whether the tenant granted everything when the sign-in began,
-- if known.
ALTER TABLE authorizations ADD COLUMN link TEXT NOT NULL DEFAULT '';
ALTER TABLE authorizations ADD COLUMN link_generation INTEGER;
ALTER TABLE authorizations ADD COLUMN source TEXT NOT NULL DEFAULT '';
ALTER TABLE authorizations ADD COLUMN origin TEXT NOT NULL DEFAULT '';
ALTER TABLE authorizations ADD COLUMN granted_before INTEGER;
CREATE INDEX authorizations_open ON authorizations (source, used_at);
CREATE INDEX authorizations_by_link ON authorizations (link, used_at);

-- Every success: when, by whom, from which address, and when it was verified or the last of its probes had ended.
CREATE TABLE reauthentications (
    sign_in     TEXT PRIMARY KEY,
    integration TEXT NOT NULL,
    at          INTEGER NOT NULL,
    person      TEXT,
    origin      TEXT NOT NULL,
    proved_at   INTEGER
) STRICT;
CREATE INDEX reauthentications_by_integration ON reauthentications (integration, at);
