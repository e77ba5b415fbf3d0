//! A reader of CBOR (RFC 8949) for input that is not trusted.
//!
//! It is asked for what comes next and refuses anything else, so that nothing nests deeper than the reader's own code goes.
//! Lengths are definite, in their shortest form, and never more than is there.

/// Reads one item after the other.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    length: usize,
}

/// Why bytes are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborError {
    /// It ends within an item.
    #[error("it ends too early")]
    End,
    /// Another item than the one that belongs there.
    #[error("at byte {at}: not {expected}")]
    Unexpected {
        /// Where.
        at: usize,
        /// What belongs there.
        expected: &'static str,
    },
    /// A number that is not in its shortest form, of indefinite length, or reserved.
    #[error("at byte {at}: a number that is not in its shortest form")]
    Number {
        /// Where.
        at: usize,
    },
    /// More than is taken.
    #[error("at byte {at}: {length} where at most {max} are taken")]
    Long {
        /// Where.
        at: usize,
        /// How many bytes or items it declares.
        length: u64,
        /// How many are taken.
        max: usize,
    },
    /// Something behind the end.
    #[error("{0} bytes too many")]
    Trailing(usize),
}

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const NULL: u8 = 0xf6;

impl<'a> Reader<'a> {
    /// Reads from the start.
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, length: bytes.len() }
    }

    /// Where the next item starts.
    pub(super) const fn at(&self) -> usize {
        self.length - self.rest.len()
    }

    /// An array of at most `max` items, which follow: how many.
    pub(super) fn array(&mut self, max: usize) -> Result<usize, CborError> {
        self.counted(ARRAY, "an array", max)
    }

    /// A map of at most `max` pairs, which follow: how many.
    pub(super) fn map(&mut self, max: usize) -> Result<usize, CborError> {
        self.counted(MAP, "a map", max)
    }

    /// At most `max` bytes.
    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], CborError> {
        let length = self.counted(BYTES, "bytes", max)?;
        self.take(length)
    }

    /// At most `max` bytes, or null.
    pub(super) fn bytes_or_null(&mut self, max: usize) -> Result<Option<&'a [u8]>, CborError> {
        if let [NULL, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(None);
        }
        self.bytes(max).map(Some)
    }

    /// A text of at most `max` printable ASCII characters: nothing here needs more.
    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, CborError> {
        let at = self.at();
        let length = self.counted(TEXT, "a text", max)?;
        let text = std::str::from_utf8(self.take(length)?).ok();
        let plain = text.filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~')));
        plain.ok_or(CborError::Unexpected { at, expected: "a text in printable ASCII" })
    }

    /// A number that is not negative.
    pub(super) fn unsigned(&mut self) -> Result<u64, CborError> {
        self.head(UNSIGNED, "a number")
    }

    /// A number.
    pub(super) fn integer(&mut self) -> Result<i64, CborError> {
        let at = self.at();
        let negative = self.rest.first().is_some_and(|first| first >> 5 == NEGATIVE);
        let value = if negative { self.head(NEGATIVE, "a number")? } else { self.unsigned()? };
        let value = i64::try_from(value).map_err(|_| CborError::Number { at })?;
        Ok(if negative { -1 - value } else { value })
    }

    /// The end.
    pub(super) const fn end(self) -> Result<(), CborError> {
        if self.rest.is_empty() { Ok(()) } else { Err(CborError::Trailing(self.rest.len())) }
    }

    fn counted(&mut self, kind: u8, expected: &'static str, max: usize) -> Result<usize, CborError> {
        let at = self.at();
        let length = self.head(kind, expected)?;
        usize::try_from(length).ok().filter(|length| *length <= max).ok_or(CborError::Long {
            at,
            length,
            max,
        })
    }

    /// The head of an item of a kind: its argument.
    fn head(&mut self, kind: u8, expected: &'static str) -> Result<u64, CborError> {
        let at = self.at();
        let first = *self.rest.first().ok_or(CborError::End)?;
        if first >> 5 != kind {
            return Err(CborError::Unexpected { at, expected });
        }
        self.take(1)?;
        let (width, least) = match first & 0x1f {
            small @ 0..=23 => return Ok(small.into()),
            24 => (1, 24),
            25 => (2, 1 << 8),
            26 => (4, 1 << 16),
            27 => (8, 1 << 32),
            _ => return Err(CborError::Number { at }),
        };
        let value = self.take(width)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        if value >= least { Ok(value) } else { Err(CborError::Number { at }) }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], CborError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(CborError::End)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Appends bytes as an item.
pub(super) fn push_bytes(into: &mut Vec<u8>, bytes: &[u8]) {
    let length = bytes.len() as u64;
    let width = match length {
        0..=23 => 0,
        24..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8_usize,
    };
    let first = match width {
        0 => bytes.len() as u8,
        _ => 24 + width.trailing_zeros() as u8,
    };
    into.push(BYTES << 5 | first);
    into.extend_from_slice(&length.to_be_bytes()[8 - width..]);
    into.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_have_one_spelling() {
        let read = |bytes: &[u8]| Reader::new(bytes).unsigned();
        assert_eq!(read(&[0x17]), Ok(23));
        assert_eq!(read(&[0x18, 24]), Ok(24));
        assert_eq!(read(&[0x19, 1, 0]), Ok(256));
        assert_eq!(read(&[0x1b, 0, 0, 0, 1, 0, 0, 0, 0]), Ok(1 << 32));
        for long in
            [&[0x18, 23][..], &[0x19, 0, 255], &[0x1a, 0, 0, 255, 255], &[0x1b, 0, 0, 0, 0, 1, 1, 1, 1]]
        {
            assert_eq!(read(long), Err(CborError::Number { at: 0 }));
        }
        for reserved in 28..=31 {
            assert_eq!(read(&[reserved]), Err(CborError::Number { at: 0 }), "indefinite or reserved");
        }
        assert_eq!(Reader::new(&[0x38, 0x22]).integer(), Ok(-35));
        let least = [0x3b, 0x80, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(Reader::new(&least).integer(), Err(CborError::Number { at: 0 }));
    }

    #[test]
    fn a_declared_length_reserves_nothing_and_is_refused_beyond_what_is_taken() {
        let huge = [0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let long = CborError::Long { at: 0, length: u64::MAX, max: 9 };
        assert_eq!(Reader::new(&huge).bytes(9), Err(long));
        let huge = [0x9a, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Reader::new(&huge).array(9), Err(CborError::Long { at: 0, length: 0xffff_ffff, max: 9 }));
        assert_eq!(Reader::new(&[0x43, 1, 2]).bytes(9), Err(CborError::End));
    }

    #[test]
    fn texts_are_printable_and_nothing_is_left() {
        assert_eq!(Reader::new(b"\x63abc").text(3), Ok("abc"));
        for bad in [&b"\x63a\x1bc"[..], b"\x62\xc3\xa4", b"\x61\xff"] {
            assert!(matches!(Reader::new(bad).text(3), Err(CborError::Unexpected { .. })), "{bad:?}");
        }
        let mut reader = Reader::new(&[0xf6, 0x00]);
        assert_eq!(reader.bytes_or_null(1), Ok(None));
        assert_eq!(reader.end(), Err(CborError::Trailing(1)));
    }

    proptest! {
        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..70_000)) {
            let mut item = vec![];
            push_bytes(&mut item, &bytes);
            let mut reader = Reader::new(&item);
            prop_assert_eq!(reader.bytes(70_000), Ok(&bytes[..]));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
