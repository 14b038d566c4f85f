-- The history of one integration asks for its mails; without this every look reads all of them.
CREATE INDEX notifications_about ON notifications (json_extract(story, '$.integration'), id);
