-- Events are kept for a time, and listed for the whole fleet.
CREATE INDEX events_by_time ON events (at);
