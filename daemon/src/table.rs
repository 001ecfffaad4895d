//! Tables for people: columns as wide as their widest cell, two blanks between them, and a style a
//! cell. Styles are escape codes; the stream that prints them takes them out where they are not wanted.

use std::borrow::Cow;
use std::fmt::Write as _;

use anstyle::{AnsiColor, Style};
use rollcall_report::is_disguising;
use unicode_width::UnicodeWidthStr as _;

/// As it should be.
pub const GOOD: Style = AnsiColor::Green.on_default();
/// Somebody may want to look at it.
pub const NOTABLE: Style = AnsiColor::Yellow.on_default();
/// Somebody must look at it.
pub const BAD: Style = AnsiColor::Red.on_default();
/// What stands above other things.
pub const HEAD: Style = Style::new().bold();
/// What is of less interest.
pub const FAINT: Style = Style::new().dimmed();
/// As everything else.
pub const PLAIN: Style = Style::new();

/// Blanks between columns.
const GAP: usize = 2;

/// How much of a column's text that goes on in the next line counts for the table's width.
const LEAST_OPEN: usize = 24;

/// A table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<Column>,
    header: Style,
    rows: Vec<Vec<Cell>>,
}

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    title: &'static str,
    gives_way: u8,
    is_open: bool,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
    is_number: bool,
}

/// A table as lines.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Laid {
    /// The lines, the header first, with escape codes for styles.
    pub lines: Vec<String>,
    /// The titles of the columns for which there was no room.
    pub left_out: Vec<&'static str>,
}

impl Column {
    /// A column that is always shown.
    pub const fn new(title: &'static str) -> Self {
        Self { title, gives_way: 0, is_open: false }
    }

    /// A column that is left out where there is no room for all; those with the lowest rank first.
    #[must_use]
    pub const fn gives_way(self, rank: u8) -> Self {
        Self { gives_way: rank, ..self }
    }

    /// The last column, of sentences: where there is no room, they go on in the next line.
    #[must_use]
    pub const fn open(self) -> Self {
        Self { is_open: true, ..self }
    }
}

impl Cell {
    /// A text, on one line whatever it holds.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: one_line(text.into()), style: PLAIN, is_number: false }
    }

    /// A text that may have several lines.
    pub fn lines(text: &str) -> Self {
        let text: Vec<Cow<'_, str>> = text.split('\n').map(undisguised).collect();
        Self { text: text.join("\n"), style: PLAIN, is_number: false }
    }

    /// A number, which stands on the right.
    pub fn number(number: u64) -> Self {
        Self { text: number.to_string(), style: PLAIN, is_number: true }
    }

    /// The same in a style.
    #[must_use]
    pub fn styled(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl Table {
    /// A table without rows.
    pub const fn new(columns: Vec<Column>) -> Self {
        Self { columns, header: PLAIN, rows: Vec::new() }
    }

    /// The same with its header in a style.
    #[must_use]
    pub fn headed(self, header: Style) -> Self {
        Self { header, ..self }
    }

    /// Adds a row; columns for which it has no cell stay empty.
    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    /// Lays it out for so many columns of characters, or as wide as it is. It is wider than `room` only
    /// where all columns that may go are gone.
    pub fn lay(&self, room: Option<usize>) -> Laid {
        let mut shown = self.measured();
        let mut left_out = Vec::new();
        while room.is_some_and(|room| needed(&shown) > room) {
            let rank = |(_, (_, column, _)): &(usize, &Shown)| column.gives_way;
            let dispensable = shown.iter().enumerate().filter(|it| rank(it) > 0).min_by_key(rank);
            let Some((index, _)) = dispensable else { break };
            left_out.push(shown.remove(index).1.title);
        }
        let header: Vec<Cell> =
            self.columns.iter().map(|column| Cell::new(column.title).styled(self.header)).collect();
        let rows = std::iter::once(&header).chain(&self.rows);
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        rows.for_each(|row| append_row(&mut lines, row, &shown));
        Laid { lines, left_out }
    }

    /// Each column with its place and its width.
    fn measured(&self) -> Vec<Shown> {
        let mut shown: Vec<Shown> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| (index, *column, width(column.title)))
            .collect();
        for row in &self.rows {
            for ((_, _, widest), cell) in shown.iter_mut().zip(row) {
                let widths = cell.text.split('\n').map(width);
                *widest = widths.fold(*widest, usize::max);
            }
        }
        shown
    }
}

/// A column's place, the column, and its width.
type Shown = (usize, Column, usize);

fn needed(shown: &[Shown]) -> usize {
    let widths = shown.iter().map(
        |(_, column, width)| {
            if column.is_open { (*width).min(LEAST_OPEN) } else { *width }
        },
    );
    widths.sum::<usize>() + GAP * shown.len().saturating_sub(1)
}

/// A row is as many lines as its highest cell.
fn append_row(lines: &mut Vec<String>, row: &[Cell], shown: &[Shown]) {
    let mut number = 0;
    loop {
        let mut line = String::new();
        // Blanks that are due before the next text; after the last one there are none.
        let mut blanks = 0;
        let mut has_more = false;
        for (index, _, room) in shown {
            let cell = row.get(*index);
            let mut texts = cell.iter().flat_map(|cell| cell.text.split('\n')).skip(number);
            let text = texts.next().unwrap_or_default();
            has_more |= texts.next().is_some();
            let free = room.saturating_sub(width(text));
            if let (Some(cell), false) = (cell, text.is_empty()) {
                blanks += if cell.is_number { free } else { 0 };
                line.extend(std::iter::repeat_n(' ', blanks));
                append_painted(&mut line, cell.style, text);
                blanks = if cell.is_number { 0 } else { free };
            } else {
                blanks += free;
            }
            blanks += GAP;
        }
        lines.push(line);
        number += 1;
        if !has_more {
            return;
        }
    }
}

/// How many columns of characters a text takes that holds no control characters.
pub fn width(text: &str) -> usize {
    if text.is_ascii() { text.len() } else { text.width() }
}

/// A text in a style.
pub fn painted(style: Style, text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    append_painted(&mut line, style, text);
    line
}

fn append_painted(line: &mut String, style: Style, text: &str) {
    if style.is_plain() {
        line.push_str(text);
    } else {
        // Writing to a String cannot fail.
        let _ = write!(line, "{style}{text}{style:#}");
    }
}

/// A text that stays on its line and does nothing to a terminal.
pub fn one_line(text: String) -> String {
    if text.contains(is_disguising) { text.replace(is_disguising, " ") } else { text }
}

fn undisguised(text: &str) -> Cow<'_, str> {
    if text.contains(is_disguising) { text.replace(is_disguising, " ").into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec![
            Column::new("NAME"),
            Column::new("STATE").gives_way(3),
            Column::new("MEMORY").gives_way(1),
            Column::new("GPUS").gives_way(2),
            Column::new("MODELS").open(),
        ])
        .headed(HEAD);
        table.row(vec![
            Cell::new("größer"),
            Cell::new("complete").styled(GOOD),
            Cell::number(2_063_923),
            Cell::number(8),
            Cell::new("NVIDIA H100 80GB HBM3, AMD Instinct MI300X"),
        ]);
        table.row(vec![Cell::new("模型"), Cell::new("stale").styled(BAD), Cell::new("?")]);
        table
    }

    fn plain(room: Option<usize>) -> (Vec<String>, Vec<&'static str>) {
        let Laid { lines, left_out } = table().lay(room);
        (lines.iter().map(|line| without_styles(line)).collect(), left_out)
    }

    /// What stands between the escape codes.
    fn without_styles(line: &str) -> String {
        let mut parts = line.split('\u{1b}');
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
    }

    #[test]
    fn columns_are_aligned() {
        let (lines, left_out) = plain(None);
        assert_eq!(
            lines,
            [
                "NAME    STATE     MEMORY   GPUS  MODELS",
                "größer  complete  2063923     8  NVIDIA H100 80GB HBM3, AMD Instinct MI300X",
                "模型    stale     ?",
            ]
        );
        assert_eq!(left_out, [""; 0]);
    }

    #[test]
    fn styles_are_around_words_alone() {
        let lines = table().lay(None).lines;
        let [header, first, second] = lines.as_slice() else { panic!("{lines:?}") };
        assert!(
            header.starts_with("\u{1b}[1mNAME\u{1b}[0m    \u{1b}[1mSTATE\u{1b}[0m"),
            "{header:?}"
        );
        assert!(first.contains("größer  \u{1b}[32mcomplete\u{1b}[0m  2063923"), "{first:?}");
        assert_eq!(second, "模型    \u{1b}[31mstale\u{1b}[0m     ?");
    }

    #[test]
    fn what_has_no_room_goes_in_its_order() {
        // The models go on in the next line: 24 of them count.
        for (room, header, gone) in [
            (57, "NAME    STATE     MEMORY   GPUS  MODELS", &[][..]),
            (56, "NAME    STATE     GPUS  MODELS", &["MEMORY"]),
            (47, "NAME    STATE     MODELS", &["MEMORY", "GPUS"]),
            (41, "NAME    MODELS", &["MEMORY", "GPUS", "STATE"]),
            (32, "NAME    MODELS", &["MEMORY", "GPUS", "STATE"]),
            (1, "NAME    MODELS", &["MEMORY", "GPUS", "STATE"]),
        ] {
            let (lines, left_out) = plain(Some(room));
            assert_eq!(lines.first().map(String::as_str), Some(header), "{room}");
            assert_eq!(left_out, gone, "{room}");
        }
    }

    #[test]
    fn lines_of_a_cell() {
        let mut table = Table::new(vec![Column::new("FIELD"), Column::new("VALUE")]);
        table.row(vec![Cell::new("CA"), Cell::lines("BEGIN\nabc\tdef\nEND")]);
        table.row(vec![Cell::new("a\nb\u{1b}[31m"), Cell::lines("")]);
        let lines: Vec<String> =
            table.lay(None).lines.iter().skip(1).map(|line| without_styles(line)).collect();
        assert_eq!(
            lines,
            ["CA        BEGIN", "          abc def", "          END", "a b [31m"],
            "nothing that is shown does anything to a terminal"
        );
    }

    #[test]
    fn what_disguises_a_text_is_taken_out() {
        for (what, text, shown) in [
            ("ordinary", "größer 模型 é", "größer 模型 é"),
            ("a control", "a\u{1b}b", "a b"),
            ("right to left", "NVIDIA \u{202e}001H\u{202c}", "NVIDIA  001H "),
            ("an isolate", "\u{2067}a\u{2069}", " a "),
            ("marks", "a\u{200f}\u{61c}b", "a  b"),
            ("without width", "a\u{200b}b\u{2060}c\u{feff}d", "a b c d"),
            ("line separators", "a\u{2028}b", "a b"),
        ] {
            assert_eq!(one_line(text.to_owned()), shown, "{what}");
            assert_eq!(Cell::new(text).text, shown, "{what}");
            assert_eq!(Cell::lines(text).text, shown, "{what}");
        }
    }
}
