-- Mails about integrations that have left the configuration wait, in case the integrations come back.
ALTER TABLE notifications ADD COLUMN suspended INTEGER NOT NULL DEFAULT 0;
