-- What a large draw takes out of one lot is packed: some seventy assignments to a row. A row each, with two index entries, was
-- two thirds of what a batch costs. src/store/sheets.rs.

CREATE TABLE assignment_sheet (
    namespace_id integer NOT NULL,
    bank_id integer NOT NULL,
    draw integer NOT NULL,
    lot_id integer NOT NULL,
    channel text NOT NULL,
    batch_id bigint NOT NULL,
    customers integer NOT NULL CHECK (customers >= 0),
    first_seq integer NOT NULL,
    end_seq integer NOT NULL CHECK (end_seq > first_seq),
    PRIMARY KEY (namespace_id, bank_id, draw, lot_id)
);
CREATE UNIQUE INDEX assignment_sheet_seq ON assignment_sheet (namespace_id, bank_id, lot_id, end_seq);
COMMENT ON TABLE assignment_sheet IS 'The assignments that one large draw made out of one lot, packed into pages. Changed only when a customer is erased.';
COMMENT ON COLUMN assignment_sheet.namespace_id IS 'Its namespace.';
COMMENT ON COLUMN assignment_sheet.bank_id IS 'Its bank.';
COMMENT ON COLUMN assignment_sheet.draw IS 'The bank''s draw number of the batch.';
COMMENT ON COLUMN assignment_sheet.lot_id IS 'The codes'' lot.';
COMMENT ON COLUMN assignment_sheet.channel IS 'As in assignment: the campaign''s channel where the bank persists per channel, else empty.';
COMMENT ON COLUMN assignment_sheet.batch_id IS 'The batch that assigned them.';
COMMENT ON COLUMN assignment_sheet.customers IS 'How many assignments its pages have.';
COMMENT ON COLUMN assignment_sheet.first_seq IS 'The first place of the lot that it may have handed out.';
COMMENT ON COLUMN assignment_sheet.end_seq IS 'The place behind the last.';

CREATE TABLE assignment_page (
    namespace_id integer NOT NULL,
    bank_id integer NOT NULL,
    draw integer NOT NULL,
    lot_id integer NOT NULL,
    first_seq integer NOT NULL,
    first_customer text COLLATE "C" NOT NULL,
    customers text[] COLLATE "C" NOT NULL,
    seqs integer[] NOT NULL,
    outcomes smallint[] NOT NULL,
    codes text[] COLLATE "C" NOT NULL,
    PRIMARY KEY (namespace_id, bank_id, lot_id, first_seq)
) WITH (toast_tuple_target = 8160);
-- ANALYZE would count the elements, for a minute's worth of CPU at ten million, and no plan depends on them.
ALTER TABLE assignment_page ALTER customers SET STATISTICS 0, ALTER seqs SET STATISTICS 0, ALTER outcomes SET STATISTICS 0,
    ALTER codes SET STATISTICS 0;
CREATE UNIQUE INDEX assignment_page_customer ON assignment_page (namespace_id, bank_id, draw, lot_id, first_customer);
CREATE INDEX assignment_page_order ON assignment_page (namespace_id, bank_id, first_customer);
COMMENT ON TABLE assignment_page IS 'Some assignments of a sheet, in the order of customers, which is that of places too. The arrays belong together, place by place.';
COMMENT ON COLUMN assignment_page.namespace_id IS 'Its namespace.';
COMMENT ON COLUMN assignment_page.bank_id IS 'Its bank.';
COMMENT ON COLUMN assignment_page.draw IS 'Its sheet''s draw.';
COMMENT ON COLUMN assignment_page.lot_id IS 'Its sheet''s lot.';
COMMENT ON COLUMN assignment_page.first_seq IS 'The first of its places in the lot when it was written.';
COMMENT ON COLUMN assignment_page.first_customer IS 'The first of its customers.';
COMMENT ON COLUMN assignment_page.customers IS 'The opaque customer_ids, in byte order.';
COMMENT ON COLUMN assignment_page.seqs IS 'The codes'' places in the lot, rising.';
COMMENT ON COLUMN assignment_page.outcomes IS 'As in assignment.';
COMMENT ON COLUMN assignment_page.codes IS 'The codes.';

DO $$
DECLARE
    name text;
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        FOREACH name IN ARRAY ARRAY['assignment_sheet', 'assignment_page'] LOOP
            PERFORM create_distributed_table(name::regclass, 'namespace_id', colocate_with => 'bank');
        END LOOP;
    END IF;
END $$;

CREATE VIEW assigned AS
SELECT a.namespace_id, a.bank_id, a.customer, a.channel, a.draw, a.batch_id, a.lot_id, a.seq, a.turn, a.outcome, a.code
FROM assignment a
UNION ALL
SELECT s.namespace_id, s.bank_id, u.customer, s.channel, s.draw, s.batch_id, s.lot_id, u.seq, 0::smallint, u.outcome, u.code
FROM assignment_sheet s
JOIN assignment_page p ON p.namespace_id = s.namespace_id AND p.bank_id = s.bank_id AND p.draw = s.draw AND p.lot_id = s.lot_id
CROSS JOIN LATERAL unnest(p.customers, p.seqs, p.outcomes, p.codes) AS u (customer, seq, outcome, code);
COMMENT ON VIEW assigned IS 'Every assignment, packed or not. For whole draws and banks: it unfolds pages, and finds no customer or code by itself.';
COMMENT ON TABLE assignment IS 'A customer gets a code in a batch, where it is not packed into a page; append-only. Of all of a customer, packed or not, that with the highest draw is the hold. A kept code gets no new row.';
COMMENT ON COLUMN assignment.turn IS 'How often the code had come back to stock before. Unique with seq here: the last word against handing a code out twice, among what is not packed.';
