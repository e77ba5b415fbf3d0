//! The Internet checksum (RFC 1071).

/// A sum in one's complement, not folded yet. The sum of parts is the sum of the whole where every part but the last has an even length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Adds bytes, as 16-bit words in network order.
    pub(crate) fn add(self, bytes: &[u8]) -> Self {
        // Words are summed in host order, as RFC 1071 (section 2B) allows; `fold` turns the sum round. Long ones, in sums that do not wait
        // for each other.
        let (blocks, rest) = bytes.as_chunks::<32>();
        let mut sums = [0_u128; 4];
        for block in blocks {
            for (sum, word) in sums.iter_mut().zip(block.as_chunks().0) {
                *sum += u128::from(u64::from_ne_bytes(*word));
            }
        }
        let (words, last) = rest.as_chunks::<4>();
        let rest: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
        let mut word = [0; 4];
        word.iter_mut().zip(last).for_each(|(to, from)| *to = *from);
        Self(self.0 + folded(sums.iter().sum()) + rest + u64::from(u32::from_ne_bytes(word)))
    }

    /// Adds a number in network order.
    pub(crate) fn add_u16(self, number: u16) -> Self {
        Self(self.0 + u64::from(number.to_be()))
    }

    /// The sum, folded to 16 bits, not complemented.
    pub(crate) fn fold(self) -> u16 {
        let mut sum = self.0;
        while let high @ 1.. = sum >> 16 {
            sum = (sum & 0xffff) + high;
        }
        u16::from_be(u16::try_from(sum).unwrap_or(u16::MAX))
    }

    /// The checksum.
    pub(crate) fn checksum(self) -> u16 {
        !self.fold()
    }
}

/// Puts another 16-bit number at `at`, and into the checksum at `checksum` what that changes (RFC 1624): a right one stays right, and a wrong one
/// wrong. What is summed begins at `start`.
pub(crate) fn replace_word(packet: &mut [u8], start: usize, at: usize, word: u16, checksum: usize) {
    let read = |packet: &[u8], at: usize| {
        packet.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    };
    let (Some(old), Some(sum)) = (read(packet, at), read(packet, checksum)) else { return };
    // At an odd place it is the lower byte of one word of the sum, and the upper one of the next.
    let turned = |word: u16| if (at - start).is_multiple_of(2) { word } else { word.swap_bytes() };
    let new_sum = Sum::default().add_u16(!sum).add_u16(!turned(old)).add_u16(turned(word)).checksum();
    for (at, number) in [(at, word), (checksum, new_sum)] {
        if let Some(bytes) = packet.get_mut(at..at + 2) {
            bytes.copy_from_slice(&number.to_be_bytes());
        }
    }
}

/// A sum of 64-bit words, as one of 32-bit words: 2^32 counts as one, as 2^16 does.
fn folded(sum: u128) -> u64 {
    let word = |at: u32| u64::from((sum >> (32 * at)) as u32);
    word(0) + word(1) + word(2) + word(3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Word by word, as the RFC says it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        assert_eq!(Sum::default().add(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    }

    proptest! {
        #[test]
        fn it_is_the_naive_sum(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::default().add(&bytes).checksum(), naive(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up(a in prop::collection::vec(any::<[u8; 2]>(), 0..50), b: Vec<u8>) {
            let whole = [a.as_flattened(), &b].concat();
            prop_assert_eq!(Sum::default().add(a.as_flattened()).add(&b).fold(), Sum::default().add(&whole).fold());
        }
    }
}
