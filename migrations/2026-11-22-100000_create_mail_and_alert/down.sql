DROP INDEX upload_refused, upload_redemptions;
DROP TABLE alert, mail, stock_day;
