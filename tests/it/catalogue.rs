//! The live catalogue: the rules that keep one store for PostgreSQL and Citus, and the tables as the code sees them.

use std::collections::BTreeMap;

use diesel::sql_types::{Bool, Text};
use diesel::{Connection as _, PgConnection, QueryableByName, RunQueryDsl as _, sql_query};
use diesel_migrations::{FileBasedMigrations, MigrationHarness as _};

use coupond::store::Store;

use crate::harness::postgres::Database;
use crate::harness::workshop::acme;

#[derive(QueryableByName, Debug, PartialEq, Eq)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

fn lines(database: &Database, query: &str) -> Vec<String> {
    let found: Vec<Line> = sql_query(query).load(&mut database.connection()).unwrap();
    found.into_iter().map(|found| found.line).collect()
}

/// A migrated database with a namespace, and so with a shelf.
fn with_a_shelf() -> Database {
    let database = Database::new();
    let store = Store::connect(&database.url, 1).unwrap();
    store.ensure_namespaces([acme()].iter()).unwrap();
    let shelves = "SELECT relname || '' AS line FROM pg_class WHERE relispartition AND relkind = 'r'";
    assert_eq!(lines(&database, shelves), ["coupon_1_0"]);
    database
}

const OURS: &str = "relnamespace = 'public'::regnamespace AND relname <> '__diesel_schema_migrations'";

#[test]
fn every_key_leads_with_the_namespace() {
    let database = with_a_shelf();
    let unique = "FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_class n ON n.oid = i.indexrelid \
                  JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0] \
                  WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace \
                  AND t.relname NOT IN ('namespace', '__diesel_schema_migrations')";
    let bad = lines(
        &database,
        &format!("SELECT n.relname || ' begins with ' || a.attname AS line {unique} AND a.attname <> 'namespace_id'"),
    );
    assert_eq!(bad, Vec::<String>::new(), "unique indexes that do not lead with namespace_id");
    let all = lines(&database, &format!("SELECT n.relname || '' AS line {unique}"));
    assert!(all.len() >= 9, "{all:?}");
    let bad = lines(
        &database,
        "SELECT c.conname || ' on ' || t.relname AS line FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid \
         JOIN pg_class f ON f.oid = c.confrelid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = c.conkey[1] \
         JOIN pg_attribute r ON r.attrelid = f.oid AND r.attnum = c.confkey[1] \
         WHERE c.contype = 'f' AND NOT (a.attname = 'namespace_id' \
         AND r.attname = CASE f.relname WHEN 'namespace' THEN 'id' ELSE 'namespace_id' END)",
    );
    assert_eq!(bad, Vec::<String>::new(), "foreign keys that do not lead with namespace_id");
    let bad = lines(
        &database,
        &format!(
            "SELECT relname || '' AS line FROM pg_class t WHERE relkind IN ('r', 'p') AND relname <> 'namespace' AND {OURS} \
             AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = t.oid AND a.attname = 'namespace_id' AND a.attnotnull)"
        ),
    );
    assert_eq!(bad, Vec::<String>::new(), "tables without namespace_id");
    let bad = lines(&database, "SELECT tgname || '' AS line FROM pg_trigger WHERE NOT tgisinternal");
    assert_eq!(bad, Vec::<String>::new(), "triggers, which Citus does not take");
}

#[test]
fn every_table_and_column_is_explained() {
    let database = with_a_shelf();
    let bad = lines(
        &database,
        &format!(
            "SELECT relname || coalesce('.' || attname, '') AS line FROM pg_class t LEFT JOIN LATERAL \
             (SELECT attname, attnum FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped \
             UNION ALL SELECT NULL, 0) a ON true WHERE relkind IN ('r', 'p') AND {OURS} \
             AND NOT EXISTS (SELECT FROM pg_description d WHERE d.objoid = t.oid AND d.classoid = 'pg_class'::regclass \
             AND d.objsubid = attnum AND length(d.description) > 5)"
        ),
    );
    assert_eq!(bad, Vec::<String>::new(), "without COMMENT ON");
}

/// Tables of `src/store/schema.rs`: columns in order as `name type`, and the key.
fn declared() -> BTreeMap<String, (String, Vec<String>)> {
    let source = include_str!("../../src/store/schema.rs");
    let mut tables = BTreeMap::new();
    for table in source.split("diesel::table! {").skip(1) {
        let mut lines = table.lines().map(str::trim).filter(|line| !line.is_empty());
        let (name, key) = lines.next().unwrap().split_once(" (").unwrap();
        let columns = lines.take_while(|line| *line != "}").map(|line| line.trim_end_matches(',').replace(" -> ", " "));
        tables.insert(name.to_owned(), (key.trim_end_matches(") {").to_owned(), columns.collect()));
    }
    tables
}

#[derive(QueryableByName)]
struct Column {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = Text)]
    column_name: String,
    #[diesel(sql_type = Text)]
    udt_name: String,
    #[diesel(sql_type = Bool)]
    nullable: bool,
}

#[test]
fn the_code_sees_the_tables_as_they_are() {
    let database = with_a_shelf();
    let columns: Vec<Column> = sql_query(
        "SELECT table_name::text, column_name::text, udt_name::text, is_nullable = 'YES' AS nullable \
         FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> '__diesel_schema_migrations' \
             AND table_name NOT LIKE 'coupon\\_%' AND table_name <> 'assigned' \
         ORDER BY table_name, ordinal_position",
    )
    .load(&mut database.connection())
    .unwrap();
    let mut live: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for column in columns {
        let (array, element) = match column.udt_name.strip_prefix('_') {
            Some(element) => (true, element),
            None => (false, column.udt_name.as_str()),
        };
        let mut letters = element.chars();
        let kind: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
        let kind = if array { format!("Array<{kind}>") } else { kind };
        let kind = if column.nullable { format!("Nullable<{kind}>") } else { kind };
        live.entry(column.table_name).or_default().push(format!("{} {kind}", column.column_name));
    }
    let declared = declared();
    let seen: BTreeMap<String, Vec<String>> =
        declared.iter().map(|(table, (_, columns))| (table.clone(), columns.clone())).collect();
    assert_eq!(seen, live);
    // The key that diesel is told is unique in the store.
    let unique = lines(
        &database,
        "SELECT regexp_replace(t.relname, '^coupon_.*', 'coupon') || ' (' || string_agg(a.attname, ', ' ORDER BY k.place) || ')' AS line FROM pg_index i \
         JOIN pg_class t ON t.oid = i.indrelid CROSS JOIN LATERAL unnest(i.indkey::int[]) WITH ORDINALITY k (number, place) \
         JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number \
         WHERE i.indisunique AND t.relnamespace = 'public'::regnamespace GROUP BY i.indexrelid, t.relname",
    );
    for (table, (key, _)) in declared {
        assert!(unique.contains(&format!("{table} ({key})")), "{table} ({key}) is not unique; these are: {unique:#?}");
    }
}

#[test]
fn up_then_down_then_up() {
    let database = Database::empty();
    let mut connection = PgConnection::establish(&database.url).unwrap();
    let migrations = FileBasedMigrations::from_path(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let everything = "SELECT pg_describe_object(classid, objid, objsubid) AS line FROM (SELECT DISTINCT classid, objid, objsubid \
                      FROM pg_depend WHERE refobjid = 'public'::regnamespace) d ORDER BY 1";
    connection.run_pending_migrations(migrations.clone()).unwrap();
    let first = lines(&database, everything);
    assert!(first.iter().any(|line| line == "table coupon"), "{first:?}");
    connection.revert_all_migrations(migrations.clone()).unwrap();
    let left = lines(&database, everything);
    assert!(left.iter().all(|line| line.contains("__diesel_schema_migrations")), "{left:?}");
    connection.run_pending_migrations(migrations).unwrap();
    assert_eq!(lines(&database, everything), first);
}
