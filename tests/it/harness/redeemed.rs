//! Which places are redeemed, told by the codes: what the daemon writes down by place must come to the same.

/// How many coupons say by place another thing than by code; the column is `n`.
pub const WRONG_PLACES: &str = "
    SELECT count(*) AS n FROM coupon c LEFT JOIN redemption r USING (namespace_id, code)
    LEFT JOIN redeemed_block b ON (b.namespace_id, b.bank_id, b.lot_id, b.block) = (c.namespace_id, c.bank_id, c.lot_id, c.seq / 32768)
    WHERE (r.redeemed_at IS NOT NULL)
        <> CASE WHEN c.seq % 32768 < 8 * octet_length(b.bits) THEN get_bit(b.bits, c.seq % 32768) = 1 ELSE false END";

/// Finds all places anew, as the migration does that brought them.
pub fn mark_places() -> String {
    let migration = include_str!("../../../migrations/2026-11-28-100000_mark_redeemed_places/up.sql");
    let (_, statement) = migration.split_once("WITH byte AS").unwrap();
    format!("DELETE FROM redeemed_block; WITH byte AS {statement}")
}
