-- For the history of one integration; without this index every query reads all mails.
CREATE INDEX notifications_about ON notifications (json_extract(story, '$.integration'), id);
