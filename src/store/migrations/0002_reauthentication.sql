-- A sign-in in progress. `id` is the hash of the OAuth 2.0 state, `cookie` the hash of the cookie that binds it to a browser; `sealed`
-- contains verifier, nonce and link, encrypted, and is emptied with the first use.
CREATE TABLE authorizations (
    id          TEXT PRIMARY KEY,
    integration TEXT NOT NULL,
    cookie      TEXT NOT NULL,
    sealed      BLOB NOT NULL,
    link_issued INTEGER NOT NULL,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    used_at     INTEGER,
    outcome     TEXT,
    foreign_tenant INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX authorizations_by_integration ON authorizations (integration, created_at);

-- Links that were made until this time are invalid.
CREATE TABLE revocations (
    integration TEXT PRIMARY KEY,
    not_after   INTEGER NOT NULL
) STRICT;

-- Renewed refresh tokens that wait for their delivery to the product. One per integration: the newest counts. `sealed` is the encrypted
-- message, emptied once it was accepted.
CREATE TABLE deliveries (
    integration  TEXT PRIMARY KEY,
    message      TEXT NOT NULL,
    sealed       BLOB NOT NULL,
    created_at   INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    delivered_at INTEGER,
    failure      TEXT
) STRICT;

ALTER TABLE tokens ADD COLUMN consented_by TEXT;
