-- Alerts of which nobody is reminded for a while.
CREATE TABLE snoozes (
    integration TEXT PRIMARY KEY,
    alert       TEXT NOT NULL,
    until       INTEGER NOT NULL,
    since       INTEGER NOT NULL
) STRICT;
