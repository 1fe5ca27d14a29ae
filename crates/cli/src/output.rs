//! How results are shown: a table or pairs for people, one JSON document for programs. Must not know any command.

use crate::failure::{Outcome, While};
use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::Write;

/// What the reader of the output is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Audience {
    Person,
    Program,
}

impl Audience {
    #[must_use]
    pub const fn of(json: bool) -> Self {
        if json { Self::Program } else { Self::Person }
    }

    /// Prints `value` as JSON for a program, or what `show` makes of it for a person.
    ///
    /// # Errors
    /// When standard output is gone.
    pub fn show<T: Serialize>(self, value: &T, show: impl FnOnce(&T) -> String) -> Outcome {
        let text = match self {
            Self::Program => serde_json::to_string_pretty(value).doing("write JSON")?,
            Self::Person => show(value),
        };
        say(&text)
    }
}

/// Prints a line. A closed pipe (`weft ... | head`) ends the program quietly, as other tools do.
///
/// # Errors
/// When standard output fails otherwise.
pub fn say(text: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.doing("write to standard output"),
    }
}

/// Prints a line if anybody reads it. For what must go on all the same: a command that has started processes must not
/// end before it has stopped them, whatever became of its output (`weft dev | tee`, and Ctrl-C ends both).
pub fn tell(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}").and_then(|()| out.flush());
}

/// A table under construction: headings, then rows; numbers stand on the right.
pub struct Listing {
    table: Table,
    empty: &'static str,
    rows: usize,
}

impl Listing {
    /// A heading that starts with `>` is right-aligned. `empty` is shown instead of a table without rows.
    #[must_use]
    pub fn new(headings: &[&str], empty: &'static str) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(headings.iter().map(|h| Cell::new(h.trim_start_matches('>')).add_attribute(Attribute::Bold)));
        for (index, heading) in headings.iter().enumerate() {
            if let (true, Some(column)) = (heading.starts_with('>'), table.column_mut(index)) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { table, empty, rows: 0 }
    }

    pub fn row<I: IntoIterator<Item = String>>(&mut self, cells: I) {
        self.table.add_row(cells);
        self.rows += 1;
    }

    #[must_use]
    pub fn finish(self) -> String {
        if self.rows == 0 { self.empty.to_owned() } else { self.table.to_string() }
    }
}

/// `name  value` lines with the values in one column.
#[must_use]
pub fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines: Vec<String> = rows.iter().map(|(name, value)| format!("{name:width$}  {value}")).collect();
    lines.join("\n")
}
