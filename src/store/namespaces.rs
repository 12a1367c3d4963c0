//! The `namespace` table, and the lock that lets one daemon migrate at a time.

use diesel::prelude::*;

use super::{StoreError, Transaction, schema::namespace, shelves};
use crate::config::Name;

/// The id of `name`, made when it is new, with the shelf that its codes go to.
pub(super) fn ensure(connection: &mut Transaction, name: &Name) -> Result<i32, StoreError> {
    diesel::insert_into(namespace::table)
        .values(namespace::name.eq(name.as_str()))
        .on_conflict_do_nothing()
        .execute(connection)?;
    let id = namespace::table.filter(namespace::name.eq(name.as_str())).select(namespace::id).first(connection)?;
    shelves::ensure(connection, id)?;
    Ok(id)
}

/// Any constant will do, as long as every daemon uses the same: "coupond" in ASCII.
const MIGRATION_LOCK: i64 = 0x0063_6f75_706f_6e64;

/// Waits until no other daemon migrates.
pub(super) fn lock_migrations(connection: &mut Transaction) -> Result<(), StoreError> {
    diesel::sql_query("SELECT pg_advisory_lock($1)")
        .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK)
        .execute(connection)?;
    Ok(())
}

/// Lets the next daemon migrate.
pub(super) fn unlock_migrations(connection: &mut Transaction) -> Result<(), StoreError> {
    diesel::sql_query("SELECT pg_advisory_unlock($1)")
        .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK)
        .execute(connection)?;
    Ok(())
}
