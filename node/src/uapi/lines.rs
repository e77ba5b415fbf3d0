//! Lines of bounded length in a stream of bytes.

use zeroize::Zeroizing;

/// No line of the protocol is longer, in bytes.
const MAX_LINE: usize = 256;

/// A line without its end.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    Text(&'a [u8]),
    /// It was too long, and what it said is forgotten.
    Overlong,
}

/// Cuts a stream into lines. Keys may be in them: the memory is wiped.
#[derive(Debug)]
pub(crate) struct Lines {
    line: Zeroizing<[u8; MAX_LINE]>,
    length: usize,
}

impl Default for Lines {
    fn default() -> Self {
        Self { line: [0; MAX_LINE].into(), length: 0 }
    }
}

impl Lines {
    /// Hands every line that ends in `bytes` to `take`.
    pub(crate) fn push(&mut self, bytes: &[u8], mut take: impl FnMut(Line<'_>)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = part.strip_suffix(b"\n").map_or((part, false), |text| (text, true));
            if let Some(room) = self.line.get_mut(self.length..self.length.saturating_add(text.len())) {
                room.copy_from_slice(text);
            }
            self.length = self.length.saturating_add(text.len());
            if ends {
                take(self.line.get(..self.length).map_or(Line::Overlong, Line::Text));
                self.length = 0;
            }
        }
    }

    /// Whether a line has begun and not ended.
    pub(crate) const fn is_cut(&self) -> bool {
        self.length > 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines(pieces: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
        let (mut lines, mut found) = (Lines::default(), Vec::new());
        for piece in pieces {
            lines.push(piece, |line| {
                found.push(match line {
                    Line::Text(text) => Some(text.to_vec()),
                    Line::Overlong => None,
                });
            });
        }
        found
    }

    #[test]
    fn a_line_that_is_too_long_is_one_line_and_the_next_is_whole() {
        let long = [b'x'; 10 * MAX_LINE];
        assert_eq!(lines(&[&long, &long, b"\nget=1\n"]), [None, Some(b"get=1".to_vec())]);
        let fits = [[b'x'; MAX_LINE].as_slice(), b"\n"].concat();
        assert_eq!(lines(&[&fits]), [Some(vec![b'x'; MAX_LINE])]);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_a_stream_is_cut(text in "[a-c\n]{0,600}", cut in 0..600_usize) {
            let text = text.as_bytes();
            let (one, two) = text.split_at(cut.min(text.len()));
            prop_assert_eq!(lines(&[one, two]), lines(&[text]));
        }
    }
}
