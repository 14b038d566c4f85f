-- Several notices to one person are sent as one mail. Notices with the same `group_key` may share one. `message_id` is the Message-ID of the mail
-- with which a notice was handed over, or the one that the server gave it instead: notices to one recipient with the same Message-ID are one mail.
-- `for_admin` says that the recipient is an administrator.
ALTER TABLE notifications ADD COLUMN group_key TEXT;
ALTER TABLE notifications ADD COLUMN message_id TEXT;
ALTER TABLE notifications ADD COLUMN for_admin INTEGER NOT NULL DEFAULT 0;
CREATE INDEX notifications_to ON notifications (recipient, id) WHERE sent_at IS NULL AND given_up_at IS NULL;
