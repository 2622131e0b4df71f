//! Lines of a file that may be large, or hostile: one at a time, none longer than a limit.

use std::io::{self, BufRead};

/// Reads lines. Blank ones are counted, but not given out.
#[derive(Debug)]
pub(super) struct Lines<R> {
    reader: R,
    /// Longest line, in bytes.
    limit: usize,
    number: u64,
    offset: u64,
    buffer: Vec<u8>,
}

/// A line that is not blank.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// From 1.
    pub(super) number: u64,
    /// Where it begins in the file, in bytes.
    pub(super) offset: u64,
    /// Without the line end; `None` if it is longer than the limit.
    pub(super) text: Option<&'a [u8]>,
    /// Whether a line end follows.
    pub(super) ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(reader: R, limit: usize) -> Self {
        Self {
            reader,
            limit,
            number: 0,
            offset: 0,
            buffer: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            let offset = self.offset;
            let Some((ended, fits)) = self.fill()? else {
                return Ok(None);
            };
            self.number += 1;
            if self.number == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3); // a byte order mark, as some editors write it
            }
            if fits && self.buffer.trim_ascii().is_empty() {
                continue;
            }
            return Ok(Some(Line {
                number: self.number,
                offset,
                text: fits.then_some(self.buffer.as_slice()),
                ended,
            }));
        }
    }

    /// Reads a line into the buffer; whether a line end followed, and whether the line is within the limit.
    fn fill(&mut self) -> io::Result<Option<(bool, bool)>> {
        self.buffer.clear();
        let (mut any, mut fits) = (false, true);
        loop {
            let bytes = match self.reader.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                bytes => bytes?,
            };
            if bytes.is_empty() {
                return Ok(any.then_some((false, fits)));
            }
            any = true;
            let end = bytes.iter().position(|&byte| byte == b'\n');
            let text = &bytes[..end.unwrap_or(bytes.len())];
            fits &= self.buffer.len() + text.len() <= self.limit;
            if fits {
                self.buffer.extend_from_slice(text);
            }
            let used = end.map_or(bytes.len(), |end| end + 1);
            self.reader.consume(used);
            self.offset += used as u64;
            if end.is_some() {
                return Ok(Some((true, fits)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::BufReader;

    fn read(text: &[u8], limit: usize, buffer: usize) -> Vec<(u64, u64, Option<Vec<u8>>, bool)> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text), limit);
        let mut all = Vec::new();
        while let Some(line) = lines.next().unwrap() {
            let text = line.text.map(<[u8]>::to_vec);
            all.push((line.number, line.offset, text, line.ended));
        }
        all
    }

    #[test]
    fn blank_lines_count_and_the_last_needs_no_end() {
        let lines = read(b"\xef\xbb\xbfa\r\n\n \r\nbc\nlonger\nd", 3, 2);
        let expected = [
            (1, 0, Some(b"a\r".to_vec()), true),
            (4, 10, Some(b"bc".to_vec()), true),
            (5, 13, None, true),
            (6, 20, Some(b"d".to_vec()), false),
        ];
        // The mark is longer than this limit, and counts.
        assert_eq!(lines[1..], expected[1..]);
        assert_eq!(read(b"\xef\xbb\xbfa\r\n", 5, 2), expected[..1]);
        assert_eq!(read(b"", 3, 2), []);
    }

    proptest! {
        #[test]
        fn the_size_of_the_buffer_does_not_matter(text in "[ab\n ]{0,40}", limit in 0..8usize, buffer in 1..9usize) {
            let lines = text.split('\n').zip(1..);
            let expected: Vec<_> = lines
                .filter(|(line, _)| line.len() > limit || !line.trim().is_empty())
                .map(|(line, number)| (number, (line.len() <= limit).then(|| line.as_bytes().to_vec())))
                .collect();
            let found: Vec<_> = read(text.as_bytes(), limit, buffer)
                .into_iter()
                .map(|(number, _, text, _)| (number, text))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
