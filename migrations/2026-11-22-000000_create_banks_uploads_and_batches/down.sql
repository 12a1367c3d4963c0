DROP TABLE unassigned, batch, assignment, redemption, coupon, lot, upload, bank, namespace;
DROP SEQUENCE lot_id_seq;
