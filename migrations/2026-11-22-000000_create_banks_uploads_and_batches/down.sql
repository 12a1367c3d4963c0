DROP TABLE unassigned, batch, assignment, redemption, coupon, lot, upload, bank, namespace;
