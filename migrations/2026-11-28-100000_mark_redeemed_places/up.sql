-- Which places of a lot are redeemed, a bit each. To look every code of a batch up among the redemptions cost about as much as
-- all else that is done to keep it. src/store/redeemed.rs.

-- What another daemon is at the moment writing must be among what is marked.
LOCK TABLE coupon, redemption, lot IN SHARE ROW EXCLUSIVE MODE;

CREATE TABLE redeemed_block (
    namespace_id integer NOT NULL,
    bank_id integer NOT NULL,
    lot_id integer NOT NULL,
    block integer NOT NULL,
    bits bytea NOT NULL CHECK (octet_length(bits) <= 4096),
    PRIMARY KEY (namespace_id, bank_id, lot_id, block)
) WITH (toast_tuple_target = 8160);
COMMENT ON TABLE redeemed_block IS 'Which places of a lot are redeemed, 32768 to a row. Says by place what redemption says by code; a row that is not there has none.';
COMMENT ON COLUMN redeemed_block.namespace_id IS 'Its namespace.';
COMMENT ON COLUMN redeemed_block.bank_id IS 'Its bank.';
COMMENT ON COLUMN redeemed_block.lot_id IS 'Its lot.';
COMMENT ON COLUMN redeemed_block.block IS 'Its places begin at 32768 times this.';
COMMENT ON COLUMN redeemed_block.bits IS 'A bit for each place, as get_bit counts them; those behind the end are 0.';

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        PERFORM create_distributed_table('redeemed_block'::regclass, 'namespace_id', colocate_with => 'bank');
    END IF;
END $$;

WITH byte AS (
    SELECT c.namespace_id, c.bank_id, c.lot_id, c.seq / 32768 AS block, (c.seq % 32768) / 8 AS nth,
        bit_or(1 << (c.seq % 8)) AS value
    FROM coupon c JOIN redemption r ON r.namespace_id = c.namespace_id AND r.code = c.code
    GROUP BY 1, 2, 3, 4, 5
)
INSERT INTO redeemed_block (namespace_id, bank_id, lot_id, block, bits)
SELECT b.namespace_id, b.bank_id, b.lot_id, b.block,
    string_agg(set_byte('\x00'::bytea, 0, coalesce(v.value, 0)), ''::bytea ORDER BY n.nth)
FROM (SELECT namespace_id, bank_id, lot_id, block, max(nth) AS last FROM byte GROUP BY 1, 2, 3, 4) b
CROSS JOIN LATERAL generate_series(0, b.last) AS n (nth)
LEFT JOIN byte v ON v.namespace_id = b.namespace_id AND v.bank_id = b.bank_id AND v.lot_id = b.lot_id AND v.block = b.block
    AND v.nth = n.nth
GROUP BY 1, 2, 3, 4;
