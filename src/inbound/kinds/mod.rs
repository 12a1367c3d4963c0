//! What each kind of file may hold: columns and row rules, one file a kind. Pure: rows in, values or findings out.

pub mod code;
pub mod coupons;
pub mod damage;
pub mod first_row;
pub mod header;
pub mod redemptions;
