-- What attempts to send a mail have come to. `pause` is what was waited for when `due_at` was set, in milliseconds: a due time that lies further
-- ahead than that was written while the wall clock was wrong. `unanswered` counts how often the mail was handed over without an answer.
-- `first_rejected_at` is when the server first refused recipient or mail for good. `problem` is why the mail still waits, for people.
ALTER TABLE notifications ADD COLUMN pause INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN unanswered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE notifications ADD COLUMN first_rejected_at INTEGER;
ALTER TABLE notifications ADD COLUMN problem TEXT;
