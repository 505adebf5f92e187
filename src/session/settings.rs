//! The settings that every session of ours pins, whatever the database, the role or the server say.

/// Name and value, in PostgreSQL's spelling.
const PINNED: [(&str, &str); 23] = [
    // How values are printed and read.
    ("DateStyle", "ISO,MDY"),
    ("TimeZone", "UTC"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
    ("lc_monetary", "C"),
    ("lc_numeric", "C"),
    // Localized names of months and days.
    ("lc_time", "C"),
    // Whether the word NULL in an array's text is a null, and what text makes an xml value.
    ("array_nulls", "on"),
    ("xmloption", "content"),
    ("xmlbinary", "base64"),
    ("standard_conforming_strings", "on"),
    // Names as the catalog's functions print them are compared and parsed.
    ("quote_all_identifiers", "off"),
    // A table under row-level security must fail rather than look empty.
    ("row_security", "off"),
    // Only qualified names mean anything.
    ("search_path", ""),
    // Our statements are short and many: compiling one costs more than running it.
    ("jit", "off"),
    // Limits that an operator sets for the application, not for us.
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("default_transaction_deferrable", "off"),
];

/// Pins what older servers do not know, and so cannot stand among the options: PostgreSQL 17's `transaction_timeout`.
pub(super) const PIN_NEWER: &str = "SET transaction_timeout = 0";

/// The version from which on `PIN_NEWER` is known.
pub(super) const NEWER: u32 = 17;

/// The `options` of a startup message: the operator's own first, then ours, which win.
pub(super) fn options(own: Option<&str>) -> String {
    let mut options = own.map(|own| format!("{own} ")).unwrap_or_default();
    for (name, value) in PINNED {
        // Spaces end an option unless escaped (manual, "Client Connection Defaults", options).
        options.push_str(&format!("-c {name}={} ", value.replace(' ', "\\ ")));
    }
    options.truncate(options.trim_end().len());
    options
}

/// The major version in a `server_version` such as `15.20 (Debian 15.20-1)` or `18beta1`.
pub(super) fn major_version(server_version: &str) -> Option<u32> {
    let digits = server_version.find(|c: char| !c.is_ascii_digit()).unwrap_or(server_version.len());
    server_version.get(..digits)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_come_after_the_operators() {
        let options = options(Some("-c work_mem=8MB"));
        assert!(options.starts_with("-c work_mem=8MB -c DateStyle=ISO,MDY "), "{options}");
        assert!(options.contains("-c search_path= -c"), "{options}");
        assert!(options.contains("-c default_transaction_isolation=read\\ committed -c"), "{options}");
    }

    #[test]
    fn reads_the_major_version() {
        for (text, major) in
            [("15.20 (Debian 15.20-1)", Some(15)), ("18beta1", Some(18)), ("17", Some(17)), ("x", None)]
        {
            assert_eq!(major_version(text), major, "{text}");
        }
    }
}
