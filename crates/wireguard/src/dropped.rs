//! What is left of secrets where they were, once they have been dropped. What AWS-LC keeps of them is in its own memory, which is given back by then
//! and not to be looked at.

use std::mem::MaybeUninit;

use carrick_types::WireGuardSecret;

use crate::{PresharedKey, primitives::Secret};

/// The N bytes of a value that begin at an offset, before and after it was dropped. They are one field of it, or several without padding.
pub(crate) fn before_and_after<T, const N: usize>(value: T, offset: usize) -> [[u8; N]; 2] {
    assert!(offset + N <= size_of::<T>());
    let mut place = MaybeUninit::new(value);
    let bytes = place.as_mut_ptr().cast::<u8>().wrapping_add(offset).cast::<[u8; N]>();
    // SAFETY: the bytes are within the value, and initialised, since none of them is padding.
    let before = unsafe { bytes.read() };
    // SAFETY: there is a value, and nobody uses it afterwards.
    unsafe { place.assume_init_drop() };
    // SAFETY: the place is still there. Dropping leaves bytes initialised, whatever they are.
    let after = unsafe { bytes.read() };
    [before, after]
}

#[test]
fn a_secret_that_was_dropped_is_zero_where_it_was() {
    let expected = [[7; 32], [0; 32]];
    assert_eq!(before_and_after(Secret::new([7; 32]), 0), expected);
    assert_eq!(before_and_after(PresharedKey::from_bytes([7; 32]), 0), expected);
    assert_eq!(before_and_after(WireGuardSecret::from_bytes([7; 32]), 0), expected);
}
