//! A device that listens nowhere.

use std::time::Instant;

use carrick_dataplane::Device;
use carrick_types::{WireGuardKey, WireGuardSecret};

use super::set::Set;

/// A device without sockets has no sessions, begins none, and keeps no time; its administrator sees nothing of that. It has no key
/// meanwhile, which has just this effect: here is the key.
#[derive(Debug)]
pub(crate) struct AtRest {
    secret: Option<WireGuardSecret>,
}

impl AtRest {
    /// Ends every session, and what waits for one.
    pub(crate) fn begin(device: &mut Device, now: Instant) -> Self {
        let secret = device.secret().cloned();
        device.set_secret(None, now);
        Self { secret }
    }

    /// Begins anew with every peer that is to be kept in touch with.
    pub(crate) fn end(self, device: &mut Device, now: Instant) {
        device.set_secret(self.secret.as_ref(), now);
    }

    /// The key that the device will have.
    pub(super) const fn secret(&self) -> Option<&WireGuardSecret> {
        self.secret.as_ref()
    }

    /// Takes a key that the device is to be given, and what is said of a peer that would be the device itself.
    pub(super) fn take(&mut self, device: &mut Device, set: &mut Set) {
        if let Some(secret) = set.private_key.take() {
            self.secret = secret;
            if let Some(own) = self.own() {
                device.remove_peer(&own);
            }
        }
        if let Some(own) = self.own() {
            set.peers.retain(|peer| peer.public_key != own);
        }
    }

    fn own(&self) -> Option<WireGuardKey> {
        self.secret.as_ref().map(WireGuardSecret::public)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use carrick_dataplane::Outside;

    use super::*;
    use crate::uapi::{configure, set::SetPeer};

    #[test]
    fn a_device_is_not_its_own_peer_while_it_rests_either() {
        let now = Instant::now();
        let mut device = Device::stand_alone(Nothing);
        let [one, two] = [1, 2].map(|byte| WireGuardSecret::from_bytes([byte; 32]));
        let secret =
            |secret: &WireGuardSecret| Set { private_key: Some(Some(secret.clone())), ..Set::default() };
        let peer =
            |secret: &WireGuardSecret| Set { peers: vec![SetPeer::new(secret.public())], ..Set::default() };
        configure(&mut device, None, secret(&one), now);
        let mut at_rest = AtRest::begin(&mut device, now);
        let mut set = |set| {
            configure(&mut device, Some(&mut at_rest), set, now);
            let known = [&one, &two].map(|secret| device.has_peer(&secret.public()));
            assert_eq!(device.secret(), None);
            known
        };
        assert_eq!(set(peer(&one)), [false, false]);
        assert_eq!(set(peer(&two)), [false, true]);
        assert_eq!(set(secret(&two)), [false, false], "it is gone when its key becomes the device's");
        assert_eq!(set(peer(&two)), [false, false]);
        assert_eq!(set(peer(&one)), [true, false]);
        at_rest.end(&mut device, now);
        assert_eq!(device.secret(), Some(&two));
    }

    struct Nothing;

    impl Outside for Nothing {
        fn random(&mut self, _: &mut [u8]) {}

        fn wall_clock(&mut self) -> Duration {
            Duration::ZERO
        }
    }
}
