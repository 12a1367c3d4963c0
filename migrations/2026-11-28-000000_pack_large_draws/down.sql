DROP VIEW assigned;
-- What is packed would be lost, and its codes be handed out twice.
INSERT INTO assignment (namespace_id, bank_id, customer, channel, draw, batch_id, lot_id, seq, outcome, code)
SELECT s.namespace_id, s.bank_id, u.customer, s.channel, s.draw, s.batch_id, s.lot_id, u.seq, u.outcome, u.code
FROM assignment_sheet s
JOIN assignment_page p ON p.namespace_id = s.namespace_id AND p.bank_id = s.bank_id AND p.draw = s.draw AND p.lot_id = s.lot_id
CROSS JOIN LATERAL unnest(p.customers, p.seqs, p.outcomes, p.codes) AS u (customer, seq, outcome, code);
DROP TABLE assignment_page, assignment_sheet;
COMMENT ON TABLE assignment IS 'A customer gets a code in a batch; append-only, the row with the highest draw is the hold. A kept code gets no new row.';
COMMENT ON COLUMN assignment.turn IS 'How often the code had come back to stock before. Unique with seq here: the last word against handing a code out twice.';
