-- The results of attempts to send a mail. `pause` is the pause with which `due_at` was set, in milliseconds: a due time that is further
-- ahead was saved while the wall clock was wrong. `unanswered` counts how often the mail was handed over without a response.
-- `first_rejected_at` is when the server first permanently rejected recipient or mail. `problem` says for people why the mail still waits.
ALTER TABLE notifications ADD COLUMN pause INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN first_rejected_at INTEGER;
ALTER TABLE notifications ADD COLUMN problem TEXT;
