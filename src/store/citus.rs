//! Whether the store is distributed. Citus joins a temporary table with a distributed one only as a whole, so that statements
//! that look rows up one by one have another form for it beside them.

use diesel::prelude::*;
use diesel::sql_types::Bool;

/// Whether the server has Citus.
pub(super) fn is_citus(connection: &mut PgConnection) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Answer {
        #[diesel(sql_type = Bool)]
        citus: bool,
    }
    let answer: Answer =
        diesel::sql_query("SELECT EXISTS (SELECT FROM pg_extension AS e WHERE e.extname = 'citus') AS citus")
            .get_result(connection)?;
    Ok(answer.citus)
}
