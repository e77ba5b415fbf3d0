//! What people and programs read: tables, JSON, notes and errors.

use std::{
    env, fmt,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum, error::ErrorKind};
use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

/// The `-o` of a verb.
pub(crate) type Output = OutputAs<Format>;

/// The `-o` of a verb with formats of its own.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OutputAs<F: ValueEnum + Default + Send + Sync + 'static> {
    /// How to print it
    #[arg(short = 'o', long = "output", value_enum, value_name = "FORMAT", default_value_t)]
    pub(crate) format: F,
}

/// For whom output is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// Whether text may carry colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// It may.
    Colour,
    /// It may not.
    Plain,
}

/// How good a state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// On its way to something else, or worth a look.
    Fair,
    /// Over.
    Bad,
}

/// Stdout is a pipe, and its reader has left.
#[derive(Debug)]
pub(crate) struct ReaderGone;

impl Output {
    /// Prints the answer as JSON, or else what `table` makes of it.
    pub(crate) fn print<A: Serialize>(self, answer: &A, table: impl FnOnce(&A) -> String) -> Result<()> {
        match self.format {
            Format::Table => print(&table(answer)),
            Format::Json => print_json(answer),
        }
    }
}

impl Paint {
    /// Colour where the output is a terminal and `NO_COLOR` (<https://no-color.org>) does not forbid it.
    pub(crate) fn on(terminal: bool) -> Self {
        let forbidden = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        if terminal && !forbidden { Self::Colour } else { Self::Plain }
    }

    /// For stdout.
    pub(crate) fn on_stdout() -> Self {
        Self::on(io::stdout().is_terminal())
    }
}

/// Writes text that ends in a newline to stdout.
///
/// # Errors
/// [`ReaderGone`] where nobody reads it any more.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ReaderGone.into()),
        written => written.context("cannot write to stdout"),
    }
}

/// Writes JSON to stdout.
pub(crate) fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)?;
    text.push('\n');
    print(&text)
}

/// Says on stderr what the reader of a table may want to know beside it.
pub(crate) fn note(text: &str) {
    // There is nowhere to report that stderr is closed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Says on stderr, in one line, why a verb failed.
pub(crate) fn report(error: &anyhow::Error) {
    note(&format!("carrick: error: {}", one_line(error)));
}

/// Prints help where it is asked for, or says in one line what is wrong with the arguments. A secret among them is nobody's to read
/// again.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if SECRETS.iter().any(|prefix| text.contains(prefix)) {
        note(
            "carrick: error: a token, key or credential stands where none is expected: see `carrick --help`",
        );
    } else if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        // There is nowhere to report that stdout or stderr is closed.
        let _ = error.print();
    } else {
        note(&format!("carrick: error: {}", usage_line(&text)));
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

/// What clap says in paragraphs, in one line: what is wrong, its tips, and whose help to read.
fn usage_line(text: &str) -> String {
    let (mut parts, mut verb) = (Vec::new(), "carrick".to_owned());
    for paragraph in text.split("\n\n") {
        if let Some(usage) = paragraph.trim_start().strip_prefix("Usage:") {
            let is_verb = |word: &&str| {
                word.bytes().all(|c| c.is_ascii_lowercase() || c == b'-') && !word.starts_with('-')
            };
            verb = usage.split_whitespace().take_while(is_verb).collect::<Vec<_>>().join(" ");
        } else if !paragraph.trim_start().starts_with("For more information") {
            let words: Vec<&str> = paragraph.split_whitespace().collect();
            parts.push(printable(words.join(" ").trim_start_matches("error: ").trim_start_matches("tip: ")));
        }
    }
    format!("{}: see `{verb} --help`", parts.join("; "))
}

/// How the text of every secret begins.
pub(crate) const SECRETS: [&str; 4] =
    ["carrick_join_1_", "carrick_admin_1_", "carrick_view_1_", "carrick_operator_1_"];

/// A row of a table without borders: `header` in upper case, then `rows`, columns aligned.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [Cell; N]>,
    paint: Paint,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header).add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    match paint {
        Paint::Colour => table.enforce_styling(),
        Paint::Plain => table.force_no_tty(),
    };
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

/// A cell that says how good a state is.
pub(crate) fn state_cell(state: &str, tone: Tone) -> Cell {
    Cell::new(state).fg(match tone {
        Tone::Good => Color::Green,
        Tone::Fair => Color::Yellow,
        Tone::Bad => Color::Red,
    })
}

/// The values with commas between them, `-` where there are none.
pub(crate) fn list<T: fmt::Display>(values: &[T]) -> String {
    if values.is_empty() {
        "-".to_owned()
    } else {
        values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
    }
}

/// What others say of themselves, in one line, without what could steer a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !c.is_control()).collect()
}

/// An error and its sources, each said once: many errors name their source in their own text, and some what a node said of itself.
pub(crate) fn one_line(error: &anyhow::Error) -> String {
    let mut line = String::new();
    for cause in error.chain().map(|cause| printable(&cause.to_string())) {
        if line.is_empty() {
            line = cause;
        } else if !line.contains(&cause) {
            line = format!("{line}: {cause}");
        }
    }
    line
}

impl fmt::Display for ReaderGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads stdout any more")
    }
}

impl std::error::Error for ReaderGone {}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_and_says_nothing_twice() {
        let error =
            anyhow!("permission denied").context("cannot read x: permission denied").context("no\nprofile");
        assert_eq!(one_line(&error), "no profile: cannot read x: permission denied");
        assert_eq!(one_line(&anyhow!("1.0\u{1b}[2J\u{7}")), "1.0[2J", "a node cannot steer the terminal");
    }

    #[test]
    fn what_is_wrong_with_arguments_is_one_line_with_what_to_read() {
        let text = "error: unexpected argument '--foo' found\n\n  tip: to pass '--foo' as a value, use '-- --foo'\n\n\
                    Usage: carrick token create [OPTIONS] --cluster <NAME>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage_line(text),
            "unexpected argument '--foo' found; to pass '--foo' as a value, use '-- --foo': see `carrick token create --help`"
        );
        let text = "error: the following required arguments were not provided:\n  --cluster <NAME>\n\n\
                    Usage: carrick token create --cluster <NAME>\n\nFor more information, try '--help'.\n";
        assert_eq!(
            usage_line(text),
            "the following required arguments were not provided: --cluster <NAME>: see `carrick token create --help`"
        );
    }

    #[test]
    fn a_table_is_aligned_without_borders_or_trailing_space() {
        let rows = || [["east-1", "active"], ["a", "revoked"]].map(|row| row.map(Cell::new));
        assert_eq!(
            table(["NAME", "STATE"], rows(), Paint::Plain),
            "NAME    STATE\neast-1  active\na       revoked\n"
        );
    }

    #[test]
    fn colour_does_not_move_a_column() {
        let rows = [[state_cell("ok", Tone::Good), Cell::new("x")]];
        let text = table(["STATE", "NAME"], rows, Paint::Colour);
        assert!(text.contains("\u{1b}["), "{text:?}");
        let header = text.lines().next().unwrap();
        assert_eq!(header.find("NAME"), Some(7));
    }
}
