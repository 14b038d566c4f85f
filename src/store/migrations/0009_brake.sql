-- The brake, of which there is one. Mails to administrators wait until `waits_until`, decided at `waits_since`. While `id` is there, they are held
-- until `until`. `hold` of a notice: 0 never held, 1 held, 2 released.
CREATE TABLE brake (
    only_one     INTEGER PRIMARY KEY CHECK (only_one = 1),
    waits_since  INTEGER,
    waits_until  INTEGER,
    id           TEXT,
    since        INTEGER,
    until        INTEGER,
    broken       INTEGER,
    integrations INTEGER,
    -- The last hold that is over: when it began and ended.
    held_from    INTEGER,
    held_until   INTEGER
) STRICT;
INSERT INTO brake (only_one) VALUES (1);

ALTER TABLE notifications ADD COLUMN hold INTEGER NOT NULL DEFAULT 0;
DROP INDEX notifications_waiting;
CREATE INDEX notifications_waiting ON notifications (due_at) WHERE sent_at IS NULL AND given_up_at IS NULL AND hold <> 1;
CREATE INDEX notifications_held ON notifications (id) WHERE hold = 1;
