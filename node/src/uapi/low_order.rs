//! Peers whose keys are points of low order. No handshake with them can be; the kernel takes them all the same, shows them, and sends them
//! nothing.
//!
//! A [`WireGuardKey`] is never such a point. Their peers go by other names where they are not spoken of to a client.

use carrick_types::WireGuardKey;

/// What makes one of the two names of the other. As a key it would mean another peer, which nobody happens to have.
const TURN: [u8; 32] = *b"carrick: a point of low order...";

/// The key by which a peer is known, whatever its administrator calls it.
pub(crate) fn known_by(bytes: [u8; 32]) -> Option<WireGuardKey> {
    WireGuardKey::from_bytes(bytes).or_else(|_| WireGuardKey::from_bytes(turned(bytes))).ok()
}

/// What its administrator calls a peer that is known by a key.
pub(crate) fn called(key: &WireGuardKey) -> [u8; 32] {
    if is_low_order(key) { turned(*key.as_bytes()) } else { *key.as_bytes() }
}

/// Whether the peer that is known by a key is called by a point of low order.
pub(crate) fn is_low_order(key: &WireGuardKey) -> bool {
    WireGuardKey::from_bytes(turned(*key.as_bytes())).is_err()
}

fn turned(bytes: [u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| bytes[at] ^ TURN[at])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn points_of_low_order_have_a_key_to_be_known_by() {
        let near_zero = [0, 1].map(|first| {
            let mut bytes = [0; 32];
            bytes[0] = first;
            bytes
        });
        let near_prime = [0xec, 0xed, 0xee].map(|first| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[31]) = (first, 0x7f);
            bytes
        });
        for bytes in near_zero.into_iter().chain(near_prime) {
            let key = known_by(bytes).unwrap();
            assert!(is_low_order(&key));
            assert_eq!(called(&key), bytes);
        }
    }

    proptest! {
        #[test]
        fn any_other_key_is_known_by_itself(bytes: [u8; 32]) {
            let key = known_by(bytes).unwrap();
            prop_assert_eq!((key.as_bytes(), called(&key)), (&bytes, bytes));
            prop_assert!(!is_low_order(&key));
        }
    }
}
