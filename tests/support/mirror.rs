//! Whether the mirror is what it must be.

use serde_json::Value;

use super::portal::Portal;

/// Rows that only a table or only its mirror has, as text; empty: every mirror is its table.
pub(crate) fn differences(portal: &Portal) -> String {
    let tables = portal.sql("SELECT jsonb_array_elements(plan::jsonb -> 'tables') FROM portalhook.plan");
    let mut checked = 0;
    let mut all = String::new();
    for table in tables.lines() {
        let table: Value = serde_json::from_str(table).expect("a table of the plan");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        let columns: Vec<String> = (table["columns"].as_array().expect("columns").iter())
            .filter(|column| column["generated"].is_null())
            .map(|column| quote(&text(&column["name"])))
            .map(|name| format!("CASE WHEN {name} IS DISTINCT FROM NULL THEN format('%s', {name}) END"))
            .collect();
        let rows = |schema: &str, name: &str| {
            format!("SELECT ROW({})::text FROM {}.{}", columns.join(", "), quote(schema), quote(name))
        };
        let source = rows(&text(&table["schema"]), &text(&table["name"]));
        // Rows of tables that inherit from it are not its own.
        let source = if table["only"] == true { source.replace("::text FROM ", "::text FROM ONLY ") } else { source };
        let mirror = rows("portalhook_mirror", &text(&table["mirror"]));
        all += &portal.sql(&format!(
            "SELECT '{name}: only in the table:  ' || row FROM ({source} EXCEPT ALL {mirror}) AS d (row)
             UNION ALL SELECT '{name}: only in the mirror: ' || row FROM ({mirror} EXCEPT ALL {source}) AS d (row)",
            name = text(&table["name"]).replace('\'', "''"),
        ));
        checked += 1;
    }
    assert!(checked > 0, "the plan names the tables that the SELECTs read");
    all
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
