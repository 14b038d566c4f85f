-- Times are milliseconds since 1970-01-01T00:00:00Z. JSON columns are written and read by this module only.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- What is known of an integration between probes. `identity` is tenant and client id: a name that is given to another customer starts
-- without a state.
CREATE TABLE integrations (
    name         TEXT PRIMARY KEY,
    identity     TEXT NOT NULL,
    state        TEXT NOT NULL,
    tenant_guid  TEXT,
    alert        TEXT,
    alert_reason TEXT,
    alert_since  INTEGER,
    alert_notices INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Causes that operators are notified of, and the integrations that they affect.
CREATE TABLE causes (
    key     TEXT PRIMARY KEY,
    alert   TEXT NOT NULL,
    reason  TEXT NOT NULL,
    story   TEXT NOT NULL,
    since   INTEGER NOT NULL
) STRICT;

CREATE TABLE cause_members (
    key         TEXT NOT NULL REFERENCES causes (key) ON DELETE CASCADE,
    integration TEXT NOT NULL,
    PRIMARY KEY (key, integration)
) STRICT;

CREATE TABLE events (
    id          INTEGER PRIMARY KEY,
    integration TEXT NOT NULL,
    at          INTEGER NOT NULL,
    kind        TEXT NOT NULL,
    detail      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_integration ON events (integration, id);

-- Mails, from the decision to the delivery. One row per recipient.
CREATE TABLE notifications (
    id           INTEGER PRIMARY KEY,
    alert        TEXT NOT NULL,
    sequence     INTEGER NOT NULL,
    recipient    TEXT NOT NULL,
    kind         TEXT NOT NULL,
    story        TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    due_at       INTEGER NOT NULL,
    attempts     INTEGER NOT NULL DEFAULT 0,
    rejections   INTEGER NOT NULL DEFAULT 0,
    sent_at      INTEGER,
    given_up_at  INTEGER,
    UNIQUE (alert, sequence, recipient)
) STRICT;
CREATE INDEX notifications_waiting ON notifications (due_at) WHERE sent_at IS NULL AND given_up_at IS NULL;

-- Refresh tokens, encrypted. `previous` has worked before and stays until `current` has worked. `generation` changes with every write, so
-- that a probe never overwrites a token that was imported meanwhile.
CREATE TABLE tokens (
    integration TEXT PRIMARY KEY,
    client_id   TEXT NOT NULL,
    tenant      TEXT NOT NULL,
    current     BLOB NOT NULL,
    previous    BLOB,
    generation  INTEGER NOT NULL,
    source      TEXT NOT NULL,
    updated_at  INTEGER NOT NULL
) STRICT;
