-- Several notices to one person are sent as one mail. Notices with the same `group_key` may share one. `message_id` is the Message-ID of the mail
-- with which a notice was handed over, or the one that the server gave it instead: notices to one recipient with the same Message-ID are one mail.
-- `for_admin` says that the recipient is an administrator.
--
-- The table is built anew for AUTOINCREMENT: notices are deleted now, and the id of a deleted one must never become that of another, which would
-- otherwise be taken for sent with the mail of the deleted one.
CREATE TABLE notices (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
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
    suspended    INTEGER NOT NULL DEFAULT 0,
    pause        INTEGER NOT NULL DEFAULT 0,
    unanswered   INTEGER NOT NULL DEFAULT 0,
    first_rejected_at INTEGER,
    problem      TEXT,
    group_key    TEXT,
    message_id   TEXT,
    for_admin    INTEGER NOT NULL DEFAULT 0,
    UNIQUE (alert, sequence, recipient)
) STRICT;
INSERT INTO notices (id, alert, sequence, recipient, kind, story, created_at, due_at, attempts, rejections, sent_at, given_up_at, suspended, pause,
                     unanswered, first_rejected_at, problem)
    SELECT id, alert, sequence, recipient, kind, story, created_at, due_at, attempts, rejections, sent_at, given_up_at, suspended, pause,
           unanswered, first_rejected_at, problem
    FROM notifications;
DROP TABLE notifications;
ALTER TABLE notices RENAME TO notifications;
CREATE INDEX notifications_waiting ON notifications (due_at) WHERE sent_at IS NULL AND given_up_at IS NULL;
CREATE INDEX notifications_about ON notifications (json_extract(story, '$.integration'), id);
CREATE INDEX notifications_to ON notifications (recipient, id) WHERE sent_at IS NULL AND given_up_at IS NULL;
