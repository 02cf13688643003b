//! A data set by columns, as it was read: numbers and words, nothing fitted yet.
//!
//! ```text
//! ColumnBuilder:  Empty --number--> Single --number that f32 cannot hold--> Double
//!                   |                  \------------word------------\        /
//!                   +-----word--> Words --too many--> TooManyWords  Again (read once more, as words)
//! ```
//!
//! A number takes 4 bytes, or 8 in the target column and in one with whole numbers past 2^24 (time stamps, ids) or
//! magnitudes that f32 does not reach. A word takes 4 bytes and its text is kept once. Missing numbers are NaN.

use std::collections::HashMap;
use std::sync::Arc;

use super::cells::Cells;

/// A decoded data set.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    pub(super) columns: Vec<Column>,
    pub(super) rows: u32,
    pub(super) notes: Vec<String>,
}

/// One column of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) values: Values,
    /// The first cell that is no number.
    pub(super) first_word: Option<FirstWord>,
}

/// The first cell of a column that is no number, for errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FirstWord {
    /// Its line in the file, from 1.
    pub(super) line: u64,
    /// What it says.
    pub(super) text: String,
}

/// The cells of a column.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Values {
    /// All missing.
    Empty,
    /// Numbers.
    Single(Cells<f32>),
    /// Numbers that need the room.
    Double(Cells<f64>),
    /// Words, and numbers among words.
    Words(Words),
    /// More than [`MAX_WORDS`] different words: not kept.
    TooManyWords,
}

/// Cells as codes into a dictionary.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Words {
    /// One a row: an index into `words`, or [`MISSING`].
    pub(super) codes: Cells<u32>,
    /// In order of appearance.
    pub(super) words: Vec<Arc<str>>,
}

/// The code of a missing word.
pub(super) const MISSING: u32 = u32::MAX;

/// Most different words of a column that are kept: past it a column is free text or an id.
pub(super) const MAX_WORDS: usize = 100_000;

/// Memory that a word takes beside its text and its cells, roughly: two pointers to it with their lengths, its two
/// counters, its entry in the table of known words.
const WORD_BYTES: u64 = 80;

/// Longest part of a first word that is kept, in characters.
const FIRST_WORD_CHARS: usize = 100;

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// Names of the columns, in the order of the file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Memory that its cells take, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.columns.iter().map(|column| column.values.memory_bytes()).sum()
    }
}

impl Values {
    fn memory_bytes(&self) -> u64 {
        match self {
            Self::Single(values) => 4 * values.len() as u64,
            Self::Double(values) => 8 * values.len() as u64,
            Self::Words(Words { codes, words }) => {
                let text = |word: &Arc<str>| word.len() as u64 + WORD_BYTES;
                4 * codes.len() as u64 + words.iter().map(text).sum::<u64>()
            }
            Self::Empty | Self::TooManyWords => 0,
        }
    }

    /// The number in `row`; NaN where it is missing or the column has words.
    pub(super) fn number(&self, row: u32) -> f64 {
        match self {
            Self::Single(values) => values.get(row as usize).map_or(f64::NAN, f64::from),
            Self::Double(values) => values.get(row as usize).unwrap_or(f64::NAN),
            Self::Empty | Self::Words(_) | Self::TooManyWords => f64::NAN,
        }
    }

    /// The code of the word in `row`; [`MISSING`] where it is missing or the column has no words.
    pub(super) fn code(&self, row: u32) -> u32 {
        match self {
            Self::Words(words) => words.codes.get(row as usize).unwrap_or(MISSING),
            Self::Empty | Self::Single(_) | Self::Double(_) | Self::TooManyWords => MISSING,
        }
    }

    /// Gives back the cells of block number `block`; they read as missing from then on.
    pub(super) fn release(&mut self, block: usize) {
        match self {
            Self::Single(values) => values.release(block),
            Self::Double(values) => values.release(block),
            Self::Words(Words { codes, .. }) => codes.release(block),
            Self::Empty | Self::TooManyWords => {}
        }
    }

    /// How a number of this column is written as a word.
    pub(super) fn written(&self, number: f64) -> String {
        match self {
            Self::Single(_) => (number as f32).to_string(),
            _ => number.to_string(),
        }
    }

    /// The same cells as words; `None` where there are too many of them.
    pub(super) fn to_words(&self, rows: u32) -> Option<Words> {
        match self {
            Self::Words(words) => Some(words.clone()),
            Self::TooManyWords => None,
            Self::Empty => Some(Words { codes: missing(rows as usize, MISSING), words: Vec::new() }),
            Self::Single(_) | Self::Double(_) => {
                let mut builder = WordsBuilder::default();
                for row in 0..rows {
                    let number = self.number(row);
                    if number.is_nan() {
                        builder.codes.push(MISSING);
                    } else if !builder.push(&self.written(number)) {
                        return None;
                    }
                }
                Some(builder.finish())
            }
        }
    }
}

/// `rows` cells that stand for nothing.
fn missing<T: Copy>(rows: usize, cell: T) -> Cells<T> {
    std::iter::repeat_n(cell, rows).collect()
}

/// What column number `index` is called when the header does not say.
pub(super) fn unnamed(index: usize) -> String {
    format!("column_{}", index + 1)
}

/// Whether a trimmed cell stands for nothing: empty, `NA`, `N/A`, `NaN`, `null` (in any case), `?` or `-`.
pub(super) fn is_missing(cell: &str) -> bool {
    match cell.len() {
        0 => true,
        1 => cell == "?" || cell == "-",
        2 => cell.eq_ignore_ascii_case("na"),
        3 => cell.eq_ignore_ascii_case("n/a") || cell.eq_ignore_ascii_case("nan"),
        4 => cell.eq_ignore_ascii_case("null"),
        _ => false,
    }
}

/// The finite number that a trimmed cell says.
pub(super) fn parse_number(cell: &str) -> Option<f64> {
    // Words such as "infinity" parse too; no number begins with a letter.
    if !cell.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '-' | '+' | '.')) {
        return None;
    }
    // Adding 0 makes -0 and 0 one value, hence one class.
    cell.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number + 0.0)
}

/// Whether f32 holds `number` well enough: whole numbers exactly, others to seven digits.
fn fits_single(number: f64) -> bool {
    const WHOLE: f64 = 16_777_216.0;
    const SMALL: f64 = 1e-30;
    let magnitude = number.abs();
    magnitude == 0.0 || (SMALL..=WHOLE).contains(&magnitude)
}

/// Cells as codes while they are read.
#[derive(Debug, Default)]
pub(super) struct WordsBuilder {
    codes: Cells<u32>,
    words: Vec<Arc<str>>,
    known: HashMap<Arc<str>, u32>,
    text_bytes: u64,
}

impl WordsBuilder {
    /// Adds a word; `false` where it is one too many.
    pub(super) fn push(&mut self, word: &str) -> bool {
        let code = match self.known.get(word) {
            Some(code) => *code,
            None if self.words.len() == MAX_WORDS => return false,
            None => {
                let (word, code) = (Arc::<str>::from(word), self.words.len() as u32);
                self.text_bytes += word.len() as u64 + WORD_BYTES;
                self.words.push(Arc::clone(&word));
                self.known.insert(word, code);
                code
            }
        };
        self.codes.push(code);
        true
    }

    /// The finished cells.
    pub(super) fn finish(self) -> Words {
        Words { codes: self.codes, words: self.words }
    }
}

/// A column while it is read.
#[derive(Debug)]
pub(super) struct ColumnBuilder {
    state: Building,
    precision: Precision,
    first_word: Option<FirstWord>,
}

/// How numbers are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Precision {
    /// In f32 where that holds them well enough.
    Enough,
    /// In f64, which gives back what the file says.
    Full,
}

#[derive(Debug)]
enum Building {
    Empty { rows: usize },
    Single(Cells<f32>),
    Double(Cells<f64>),
    Words(WordsBuilder),
    TooManyWords,
    Again,
}

impl ColumnBuilder {
    /// A column of which nothing is known.
    pub(super) fn new() -> Self {
        Self { state: Building::Empty { rows: 0 }, precision: Precision::Enough, first_word: None }
    }

    /// As [`Self::new`], for a column whose numbers are shown again.
    pub(super) fn exact() -> Self {
        Self { precision: Precision::Full, ..Self::new() }
    }

    /// A column that is known to have words.
    pub(super) fn words() -> Self {
        Self { state: Building::Words(WordsBuilder::default()), ..Self::new() }
    }

    /// Memory that its cells take so far, in bytes.
    pub(super) fn memory_bytes(&self) -> u64 {
        match &self.state {
            Building::Single(values) => 4 * values.len() as u64,
            Building::Double(values) => 8 * values.len() as u64,
            Building::Words(words) => 4 * words.codes.len() as u64 + words.text_bytes,
            Building::Empty { .. } | Building::TooManyWords | Building::Again => 0,
        }
    }

    /// Adds a trimmed cell; `line` is asked only for the first word.
    pub(super) fn push(&mut self, cell: &str, line: impl FnOnce() -> u64) {
        if is_missing(cell) {
            return self.push_missing();
        }
        match &mut self.state {
            Building::Words(_) => self.push_word(cell, 0),
            Building::TooManyWords | Building::Again => {}
            Building::Empty { .. } | Building::Single(_) | Building::Double(_) => match parse_number(cell) {
                Some(number) => self.push_number(number),
                None => self.push_first_word(cell, line()),
            },
        }
    }

    /// Adds a missing cell.
    pub(super) fn push_missing(&mut self) {
        match &mut self.state {
            Building::Empty { rows } => *rows += 1,
            Building::Single(values) => values.push(f32::NAN),
            Building::Double(values) => values.push(f64::NAN),
            Building::Words(words) => words.codes.push(MISSING),
            Building::TooManyWords | Building::Again => {}
        }
    }

    /// Adds a number to a column of numbers; it is finite.
    pub(super) fn push_number(&mut self, number: f64) {
        if let Building::Empty { rows } = self.state {
            self.state = match self.precision {
                Precision::Enough => Building::Single(missing(rows, f32::NAN)),
                Precision::Full => Building::Double(missing(rows, f64::NAN)),
            };
        }
        if let Building::Single(values) = &mut self.state
            && !fits_single(number)
        {
            self.state = Building::Double(values.iter().map(f64::from).collect());
        }
        match &mut self.state {
            Building::Single(values) => values.push(number as f32),
            Building::Double(values) => values.push(number),
            Building::Empty { .. } | Building::Words(_) | Building::TooManyWords | Building::Again => {}
        }
    }

    /// Adds a word to a column of words, in row `row` of the file, from 1.
    pub(super) fn push_word(&mut self, word: &str, row: u64) {
        match &mut self.state {
            Building::Words(words) => {
                if !words.push(word) {
                    self.state = Building::TooManyWords;
                }
            }
            Building::Empty { .. } => self.push_first_word(word, row),
            Building::Single(_) | Building::Double(_) | Building::TooManyWords | Building::Again => {}
        }
    }

    fn push_first_word(&mut self, cell: &str, line: u64) {
        self.first_word = Some(FirstWord { line, text: cell.chars().take(FIRST_WORD_CHARS).collect() });
        self.state = match self.state {
            Building::Empty { rows } => {
                let mut words = WordsBuilder { codes: missing(rows, MISSING), ..WordsBuilder::default() };
                words.push(cell);
                Building::Words(words)
            }
            _ => Building::Again,
        };
    }

    /// Whether a word came after numbers, so that the text of those is gone.
    pub(super) fn needs_words(&self) -> bool {
        matches!(self.state, Building::Again)
    }

    /// Takes over what a second reading found.
    pub(super) fn replace(&mut self, second: Self) {
        self.state = second.state;
    }

    /// The finished column.
    pub(super) fn finish(self, name: String) -> Column {
        let values = match self.state {
            Building::Empty { .. } => Values::Empty,
            Building::Single(values) => Values::Single(values),
            Building::Double(values) => Values::Double(values),
            Building::Words(words) => Values::Words(words.finish()),
            Building::TooManyWords | Building::Again => Values::TooManyWords,
        };
        Column { name, values, first_word: self.first_word }
    }

    /// The first word, where one came.
    pub(super) fn first_word(&self) -> Option<&FirstWord> {
        self.first_word.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(cells: &[&str]) -> Column {
        let mut builder = ColumnBuilder::new();
        for cell in cells {
            builder.push(cell, || 7);
        }
        builder.finish("c".to_owned())
    }

    #[test]
    fn missing_cells_are_known() {
        for cell in ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?", "-"] {
            assert!(is_missing(cell), "{cell:?}");
        }
        for cell in ["0", "none", "--", "NAN1", "n.a."] {
            assert!(!is_missing(cell), "{cell:?}");
        }
    }

    #[test]
    fn only_finite_numbers_are_numbers() {
        for (cell, number) in [("1", 1.0_f64), ("+1.5", 1.5), ("-.5", -0.5), ("1e3", 1000.0), ("-0", 0.0)] {
            assert_eq!(parse_number(cell).map(f64::to_bits), Some(number.to_bits()), "{cell:?}");
        }
        for cell in ["inf", "-inf", "infinity", "1e999", "0x10", "1,5", "1_000", "abc", "+nan"] {
            assert_eq!(parse_number(cell), None, "{cell:?}");
        }
    }

    #[test]
    fn numbers_that_f32_would_blur_are_kept_in_f64() {
        assert!(matches!(column(&["1", "0.1", "16777216"]).values, Values::Single(_)));
        let stamps = column(&["1", "", "1700000001"]).values;
        assert!(matches!(stamps, Values::Double(_)));
        assert_eq!(stamps.number(2), 1_700_000_001.0);
        assert!(stamps.number(1).is_nan());
        assert!(matches!(column(&["1e-40"]).values, Values::Double(_)));
        assert!(matches!(column(&["1e300"]).values, Values::Double(_)));
    }

    #[test]
    fn words_before_any_number_need_no_second_reading() {
        let mut builder = ColumnBuilder::new();
        for cell in ["", "red", "1", "red"] {
            builder.push(cell, || 3);
        }
        assert!(!builder.needs_words());
        let column = builder.finish("c".to_owned());
        assert_eq!(column.first_word, Some(FirstWord { line: 3, text: "red".to_owned() }));
        let Values::Words(words) = column.values else { panic!("words") };
        assert_eq!(words.codes.iter().collect::<Vec<_>>(), [MISSING, 0, 1, 0]);
    }

    #[test]
    fn numbers_can_be_written_as_words() {
        let words = column(&["0.1", "", "2"]).values.to_words(3).unwrap();
        assert_eq!(words.codes.iter().collect::<Vec<_>>(), [0, MISSING, 1]);
        assert_eq!(words.words.iter().map(AsRef::as_ref).collect::<Vec<&str>>(), ["0.1", "2"]);
    }
}
