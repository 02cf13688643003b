//! A first look at a file: is it text at all, and what separates its fields.

/// How a CSV file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Format {
    /// Bytes before the header: the length of a byte order mark.
    pub(super) start: u64,
    /// What separates fields.
    pub(super) delimiter: u8,
    /// What ends a line.
    pub(super) line_end: LineEnd,
}

/// What ends a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// `\n`.
    LineFeed,
    /// `\r\n`, or `\r` alone.
    CarriageReturn,
}

/// How much of a file is looked at, in bytes.
pub(super) const HEAD_BYTES: u64 = 64 * 1024;

/// What may separate fields; where a file fits several equally well, the first.
const DELIMITERS: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Records that a delimiter is judged by, header included.
const JUDGED_RECORDS: usize = 32;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// First bytes of what people take for CSV, which no header begins with.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\xfd7zXZ\x00", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"%PDF-", "a PDF document"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"{\"", "JSON"),
    (b"[{", "JSON"),
    (b"<!DOCTYPE", "an HTML page"),
    (b"<html", "an HTML page"),
];

/// First bytes of binary files that may also be the beginning of a column's name.
const WORDS: &[(&[u8], &str)] =
    &[(b"PAR1", "a Parquet file"), (b"BZh", "compressed with bzip2"), (b"ARROW1", "an Arrow file")];

/// Looks at the first bytes of a file; `whole` says whether they are all of it.
///
/// # Errors
/// What it is instead of CSV.
pub(super) fn sniff(head: &[u8], whole: Whole) -> Result<Format, &'static str> {
    let binary = if has_control_bytes(head) { WORDS } else { &[] };
    if let Some((_, what)) = SIGNATURES.iter().chain(binary).find(|(bytes, _)| head.starts_with(bytes)) {
        return Err(what);
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    let line_end = match text.iter().find(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(b'\r') => LineEnd::CarriageReturn,
        _ => LineEnd::LineFeed,
    };
    Ok(Format { start: (head.len() - text.len()) as u64, delimiter: delimiter(text, whole), line_end })
}

/// Whether there is a byte that text does not have.
fn has_control_bytes(head: &[u8]) -> bool {
    head.iter().any(|byte| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n'))
}

/// Whether bytes are all of a file or only its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    /// All of it.
    Yes,
    /// Its beginning.
    No,
}

/// The delimiter under which most records have as many fields as the header, if that has more than one; among
/// equals the one with the most fields.
fn delimiter(text: &[u8], whole: Whole) -> u8 {
    let mut best = (0.0, 1, b',');
    for delimiter in DELIMITERS {
        let counts = field_counts(text, delimiter, whole);
        let Some((&header, rows)) = counts.split_first() else { continue };
        if header < 2 {
            continue;
        }
        let fitting = rows.iter().filter(|count| **count == header).count();
        let share = if rows.is_empty() { 0.0 } else { fitting as f64 / rows.len() as f64 };
        if share > best.0 || (share == best.0 && header > best.1) {
            best = (share, header, delimiter);
        }
    }
    best.2
}

/// Whether a record is a line without any text.
pub(super) fn is_blank(record: &csv::ByteRecord) -> bool {
    record.len() == 1 && record.as_slice().trim_ascii().is_empty()
}

fn field_counts(text: &[u8], delimiter: u8, whole: Whole) -> Vec<usize> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(text);
    let mut counts = Vec::new();
    let mut record = csv::ByteRecord::new();
    while counts.len() < JUDGED_RECORDS && reader.read_byte_record(&mut record).is_ok_and(|more| more) {
        if !is_blank(&record) {
            counts.push(record.len());
        }
    }
    // The last record of a mere beginning is likely cut short.
    if whole == Whole::No && counts.len() > 1 && reader.position().byte() == text.len() as u64 {
        counts.pop();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiter_of(text: &str) -> char {
        char::from(sniff(text.as_bytes(), Whole::Yes).unwrap().delimiter)
    }

    #[test]
    fn delimiters_are_found() {
        assert_eq!(delimiter_of("a,b\n1,2\n"), ',');
        assert_eq!(delimiter_of("a;b\n1,5;2,5\n"), ';');
        assert_eq!(delimiter_of("a\tb c, d\n1\t2\n"), '\t');
        assert_eq!(delimiter_of("a|b\r\n1|2\r\n"), '|');
        assert_eq!(delimiter_of("a\n1\n"), ',');
        assert_eq!(delimiter_of("\"x;y\",b\n\"1;2\",3\n"), ',');
        // Ragged, yet clearly commas.
        assert_eq!(delimiter_of("a,b,c\n1,2,3\n1,2\n1,2,3\n"), ',');
    }

    #[test]
    fn the_cut_record_of_a_beginning_does_not_count() {
        let text = b"a;b,c\n1;2,3\n1";
        assert_eq!(field_counts(text, b',', Whole::No), [2, 2]);
        assert_eq!(field_counts(text, b',', Whole::Yes), [2, 2, 1]);
    }

    #[test]
    fn columns_may_be_called_like_a_format() {
        for header in ["PAR1,PAR2,label", "BZh;y", "ARROW1,y"] {
            assert!(sniff(format!("{header}\n1,2,3\n").as_bytes(), Whole::Yes).is_ok(), "{header}");
        }
        assert_eq!(sniff(b"BZh91AY&SY\x01", Whole::No), Err("compressed with bzip2"));
        assert_eq!(sniff(b"ARROW1\0\0", Whole::No), Err("an Arrow file"));
    }

    #[test]
    fn other_formats_are_named() {
        assert_eq!(sniff(b"PAR1\x00\x01", Whole::No), Err("a Parquet file"));
        assert_eq!(sniff(b"\xff\xfea\x00", Whole::No), Err("text in UTF-16"));
        assert_eq!(
            sniff(b"\xef\xbb\xbfa;b", Whole::Yes),
            Ok(Format { start: 3, delimiter: b';', line_end: LineEnd::LineFeed })
        );
    }
}
