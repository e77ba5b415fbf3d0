//! Mutations without guidance: the same ones every time, from a seed.

/// What happens to an input.
const KINDS: u64 = 7;

/// An endless series of mutated inputs.
#[derive(Debug)]
pub struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    random: u64,
}

impl<'a> Mutations<'a> {
    /// Of these inputs, of which there is one at least.
    pub const fn of(seeds: &'a [Vec<u8>]) -> Self {
        Self { seeds, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// xorshift64: enough to look random.
    const fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.random() % end.max(1) as u64).unwrap_or(0)
    }

    fn step(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len());
        match self.random() % KINDS {
            0 if !input.is_empty() => input[at] ^= 1 << (self.random() % 8),
            1 if !input.is_empty() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'='][self.below(8)],
            2 => input.truncate(at),
            3 => input.insert(at, self.random().to_le_bytes()[0]),
            4 if !input.is_empty() => drop(input.remove(at)),
            5 => {
                let end = at + self.below(input.len() - at);
                let piece = input[at..end].to_vec();
                let to = self.below(input.len());
                input.splice(to..to, piece);
            }
            _ => {
                let other = &self.seeds[self.below(self.seeds.len())];
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut input = self.seeds.get(self.below(self.seeds.len()))?.clone();
        for _ in 0..=self.random() % 4 {
            self.step(&mut input);
        }
        input.truncate(1 << 17);
        Some(input)
    }
}
