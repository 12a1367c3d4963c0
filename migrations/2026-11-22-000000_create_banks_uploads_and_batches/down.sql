DROP TABLE unassigned, batch, campaign, assignment, redemption, coupon, lot, upload, bank, namespace;
