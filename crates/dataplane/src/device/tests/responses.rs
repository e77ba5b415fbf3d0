//! Responses while this host has two keys.

use blake2::{
    Blake2s256, Blake2sMac,
    digest::{Digest as _, FixedOutput as _, KeyInit as _, Update as _, consts::U16},
};

use super::{removal::answered, *};

/// A response with its first MAC made for that key (whitepaper, section 5.4.4).
fn for_key(response: &[u8], key: WireGuardKey) -> Vec<u8> {
    let mac_key = Blake2s256::new().chain_update(b"mac1----").chain_update(key.as_bytes()).finalize();
    let mut response = response.to_vec();
    let (before, macs) = response.split_at_mut(60);
    let mac = Blake2sMac::<U16>::new_from_slice(&mac_key).unwrap().chain(&*before).finalize_fixed();
    macs[..16].copy_from_slice(&mac);
    response
}

#[test]
fn a_response_is_for_the_key_that_its_handshake_was_begun_with_and_for_no_other_one_of_this_host() {
    for begun_with_former in [true, false] {
        let (mut one, mut two) = pair();
        two.set_peer(secret(5).public(), peer(&["10.1.0.0/16"], &[ONE]));
        let now = Instant::now_for_tests();
        let response = if begun_with_former {
            let response = answered(&mut one, &mut two, now);
            one.rotate(&secret(5), now);
            response
        } else {
            one.rotate(&secret(5), now);
            answered(&mut one, &mut two, now)
        };
        std::iter::from_fn(|| one.poll_transmit()).for_each(drop);
        let (right, wrong) = if begun_with_former { (1, 5) } else { (5, 1) };
        assert_eq!(for_key(&response, secret(right).public()), response);

        let refused = one.counters().refused;
        one.handle_datagram(TWO.parse().unwrap(), &for_key(&response, secret(wrong).public()), now);
        assert_eq!((one.poll_transmit(), one.counters().refused), (None, refused + 1));
        assert_eq!(one.links().next(), None, "nobody was heard of");
        one.handle_datagram(TWO.parse().unwrap(), &response, now);
        assert!(one.poll_transmit().is_some() && one.links().next().is_some());
        assert_eq!(one.counters().refused, refused + 1);
    }
}
