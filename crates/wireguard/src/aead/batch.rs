//! ChaCha20-Poly1305 of many messages under one key, in one go, by kernels of our own.

mod avx2;
mod poly1305;
#[cfg(test)]
mod tests;

use super::Message;

/// The best kernel that this processor has.
#[derive(Clone, Copy)]
pub(super) enum Batch {
    Avx2(avx2::Kernel),
}

impl Batch {
    /// `None` where AWS-LC is as fast for so many messages, or the processor lacks something.
    pub(super) fn worthwhile(messages: &[Message<'_>]) -> Option<Self> {
        if messages.len() >= avx2::FEW { avx2::Kernel::detect().map(Self::Avx2) } else { None }
    }

    /// Seals the texts in place, each under the counter in its header.
    pub(super) fn seal(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        match self {
            Self::Avx2(kernel) => kernel.seal(key, messages),
        }
    }

    /// Opens the texts in place, those that are authentic.
    pub(super) fn open(self, key: &[u8; 32], messages: &mut [Message<'_>]) {
        match self {
            Self::Avx2(kernel) => kernel.open(key, messages),
        }
    }
}
