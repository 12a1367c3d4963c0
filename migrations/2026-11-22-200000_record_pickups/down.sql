-- Fails where a code was handed out again: the schema before cannot tell that from handing it out twice.
DROP INDEX assignment_seq;
CREATE UNIQUE INDEX assignment_seq ON assignment (namespace_id, bank_id, lot_id, seq);
ALTER TABLE assignment DROP COLUMN turn;
ALTER TABLE lot DROP CONSTRAINT lot_returns;
ALTER TABLE lot DROP COLUMN returns, DROP COLUMN next_return, DROP COLUMN returns_redeemed;
ALTER TABLE batch DROP COLUMN collected_at, DROP COLUMN corrections, DROP COLUMN corrections_seen;
ALTER TABLE upload DROP COLUMN returns_batch;
DROP INDEX redemption_time;
DROP TABLE pickup, returned, suspicion;
