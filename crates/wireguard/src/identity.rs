//! A key of this host.

use carrick_types::{WireGuardKey, WireGuardSecret};

use crate::{
    Refused,
    message::Initiation,
    noise::{self, Transcript},
    primitives::{DhSecret, Secret, dh},
};

/// A static key of this host. Its tunnels share it; the secret is zeroised with the last of them.
pub struct Identity {
    secret: DhSecret,
    public: WireGuardKey,
}

impl Identity {
    /// The identity that a secret makes.
    pub fn new(secret: &WireGuardSecret) -> Self {
        Self { public: secret.public(), secret: DhSecret::new(secret.expose()) }
    }

    /// The public half.
    pub const fn public(&self) -> &WireGuardKey {
        &self.public
    }

    /// Whose an initiation is, for the price of one Diffie-Hellman. To be called after [`crate::CookieChecker::check`].
    ///
    /// Who it is is not proven yet, nor that the initiation is no replay: [`crate::Tunnel::handle_initiation`] finds out.
    ///
    /// # Errors
    /// [`Refused`] where it is for another key, or its keys are no usable points.
    pub fn identify(&self, initiation: Initiation) -> Result<Identified, Refused> {
        let (initiator, transcript) = noise::identify(&self.secret, &self.public, &initiation)?;
        let initiator = WireGuardKey::from_bytes(initiator).map_err(|_| Refused::LowOrder)?;
        Ok(Identified { responder: self.public, initiator, initiation, transcript })
    }

    pub(crate) fn agree(&self, public: &[u8; 32]) -> Result<Secret, Refused> {
        dh(&self.secret, public)
    }
}

/// An initiation of which is known who claims to have made it.
pub struct Identified {
    pub(crate) responder: WireGuardKey,
    pub(crate) initiator: WireGuardKey,
    pub(crate) initiation: Initiation,
    pub(crate) transcript: Transcript,
}

impl Identified {
    /// The key that claims it.
    pub const fn initiator(&self) -> &WireGuardKey {
        &self.initiator
    }

    /// The key of this host that it is for.
    pub const fn responder(&self) -> &WireGuardKey {
        &self.responder
    }
}
