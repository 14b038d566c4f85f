-- What operators were notified of about a cause: number of notices, time of the last one, number of members, and when the integration that
-- the last mail names left.
ALTER TABLE causes ADD COLUMN notices INTEGER NOT NULL DEFAULT 1;
ALTER TABLE causes ADD COLUMN notified_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE causes ADD COLUMN size INTEGER NOT NULL DEFAULT 1;
ALTER TABLE causes ADD COLUMN named_left INTEGER;
UPDATE causes SET notified_at = since, size = max(1, (SELECT count(*) FROM cause_members m WHERE m.key = causes.key));
