//! Columns by their place in the row. [`QueryableByName`](diesel::QueryableByName) asks for each by its name, for each row anew,
//! which is a tenth of reading a million of them.

use diesel::deserialize::{self, FromSql};
use diesel::pg::Pg;
use diesel::row::{Field as _, NamedRow, Row};

/// The value of the column at `place`, from 0, as the SQL type `S`.
pub(super) fn column<'a, S, T: FromSql<S, Pg>>(row: &impl NamedRow<'a, Pg>, place: usize) -> deserialize::Result<T> {
    let field = Row::get(row, place).ok_or_else(|| format!("there is no column {place}"))?;
    T::from_nullable_sql(field.value())
}
