//! The four messages (whitepaper, section 5.4). Each parser is total: bytes of any length and content become a message or [`Refused::Malformed`].

use crate::Refused;

/// The length of an initiation, in bytes.
pub const INITIATION: usize = 148;
/// The length of a response, in bytes.
pub const RESPONSE: usize = 92;
/// The length of a cookie reply, in bytes.
pub const COOKIE_REPLY: usize = 64;
/// The length of the shortest data message, a keepalive, in bytes.
pub const KEEPALIVE: usize = 32;

/// What a datagram claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageType {
    /// The first message of a handshake.
    Initiation = 1,
    /// The second.
    Response = 2,
    /// Instead of a response: prove your address first.
    CookieReply = 3,
    /// A packet, or none: a keepalive.
    Data = 4,
}

impl MessageType {
    /// What a datagram claims to be: the type with its three reserved zero bytes, and a length that such a message can have.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it can be none.
    pub fn of(datagram: &[u8]) -> Result<Self, Refused> {
        match (datagram.first_chunk::<4>(), datagram.len()) {
            (Some([1, 0, 0, 0]), INITIATION) => Ok(Self::Initiation),
            (Some([2, 0, 0, 0]), RESPONSE) => Ok(Self::Response),
            (Some([3, 0, 0, 0]), COOKIE_REPLY) => Ok(Self::CookieReply),
            (Some([4, 0, 0, 0]), KEEPALIVE..) => Ok(Self::Data),
            _ => Err(Refused::Malformed),
        }
    }

    const fn bytes(self) -> [u8; 4] {
        [self as u8, 0, 0, 0]
    }
}

/// The first message of a handshake. Its MACs are [`crate::CookieChecker`]'s affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Initiation {
    /// The index that the response is to name.
    pub sender: u32,
    /// The initiator's ephemeral key.
    pub ephemeral: [u8; 32],
    /// The initiator's static key, sealed.
    pub sealed_static: [u8; 48],
    /// A TAI64N timestamp, sealed.
    pub sealed_timestamp: [u8; 28],
}

impl Initiation {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no initiation.
    pub fn parse(datagram: &[u8]) -> Result<Self, Refused> {
        let mut fields = Fields::of(datagram, MessageType::Initiation)?;
        Ok(Self {
            sender: u32::from_le_bytes(fields.take()?),
            ephemeral: fields.take()?,
            sealed_static: fields.take()?,
            sealed_timestamp: fields.take()?,
        })
    }

    /// The datagram, its MACs yet zero.
    pub fn encode(&self) -> [u8; INITIATION] {
        join(&[
            &MessageType::Initiation.bytes(),
            &self.sender.to_le_bytes(),
            &self.ephemeral,
            &self.sealed_static,
            &self.sealed_timestamp,
        ])
    }
}

/// The second message of a handshake. Its MACs are [`crate::CookieChecker`]'s affair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The index that the initiator's data messages are to name.
    pub sender: u32,
    /// The index that the initiation gave.
    pub receiver: u32,
    /// The responder's ephemeral key.
    pub ephemeral: [u8; 32],
    /// Nothing, sealed.
    pub sealed_nothing: [u8; 16],
}

impl Response {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no response.
    pub fn parse(datagram: &[u8]) -> Result<Self, Refused> {
        let mut fields = Fields::of(datagram, MessageType::Response)?;
        Ok(Self {
            sender: u32::from_le_bytes(fields.take()?),
            receiver: u32::from_le_bytes(fields.take()?),
            ephemeral: fields.take()?,
            sealed_nothing: fields.take()?,
        })
    }

    /// The datagram, its MACs yet zero.
    pub fn encode(&self) -> [u8; RESPONSE] {
        join(&[
            &MessageType::Response.bytes(),
            &self.sender.to_le_bytes(),
            &self.receiver.to_le_bytes(),
            &self.ephemeral,
            &self.sealed_nothing,
        ])
    }
}

/// What a host under load answers to a handshake message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieReply {
    /// The index that the handshake message gave.
    pub receiver: u32,
    /// The nonce that the cookie is sealed with.
    pub nonce: [u8; 24],
    /// The cookie, sealed.
    pub sealed_cookie: [u8; 32],
}

impl CookieReply {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no cookie reply.
    pub fn parse(datagram: &[u8]) -> Result<Self, Refused> {
        let mut fields = Fields::of(datagram, MessageType::CookieReply)?;
        Ok(Self {
            receiver: u32::from_le_bytes(fields.take()?),
            nonce: fields.take()?,
            sealed_cookie: fields.take()?,
        })
    }

    /// The datagram.
    pub fn encode(&self) -> [u8; COOKIE_REPLY] {
        join(&[
            &MessageType::CookieReply.bytes(),
            &self.receiver.to_le_bytes(),
            &self.nonce,
            &self.sealed_cookie,
        ])
    }
}

/// The header of a data message. What follows is opened in place: see [`crate::Message`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// The session's index at the receiver.
    pub receiver: u32,
    /// The nonce.
    pub counter: u64,
}

impl DataHeader {
    /// Parses a datagram.
    ///
    /// # Errors
    /// [`Refused::Malformed`] where it is no data message.
    pub fn parse(datagram: &[u8]) -> Result<Self, Refused> {
        let mut fields = Fields::of(datagram, MessageType::Data)?;
        Ok(Self { receiver: u32::from_le_bytes(fields.take()?), counter: u64::from_le_bytes(fields.take()?) })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; crate::HEADER] {
        join(&[&MessageType::Data.bytes(), &self.receiver.to_le_bytes(), &self.counter.to_le_bytes()])
    }
}

/// The index that a message names: for all but an initiation, which names a key.
pub fn receiver(datagram: &[u8]) -> Option<u32> {
    let at = match MessageType::of(datagram).ok()? {
        MessageType::Initiation => return None,
        MessageType::Response => 8,
        MessageType::CookieReply | MessageType::Data => 4,
    };
    datagram.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// What of a message is not parsed yet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn of(datagram: &'a [u8], expected: MessageType) -> Result<Self, Refused> {
        if MessageType::of(datagram)? == expected {
            let mut fields = Self(datagram);
            fields.take::<4>()?;
            Ok(fields)
        } else {
            Err(Refused::Malformed)
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refused> {
        let (field, rest) = self.0.split_first_chunk().ok_or(Refused::Malformed)?;
        self.0 = rest;
        Ok(*field)
    }
}

/// The fields one after the other; what they do not fill is zero.
fn join<const N: usize>(fields: &[&[u8]]) -> [u8; N] {
    let mut message = [0; N];
    for (to, byte) in message.iter_mut().zip(fields.iter().copied().flatten()) {
        *to = *byte;
    }
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bytes_of_any_kind_are_parsed_or_refused(mut bytes: Vec<u8>, claims in 0..6_u8, length in 0..200_usize) {
            bytes.resize(length, 0);
            if let Some(header) = bytes.first_chunk_mut::<4>() {
                *header = [claims, 0, 0, 0];
            }
            let kind = MessageType::of(&bytes);
            let parsed = [
                (MessageType::Initiation, Initiation::parse(&bytes).is_ok()),
                (MessageType::Response, Response::parse(&bytes).is_ok()),
                (MessageType::CookieReply, CookieReply::parse(&bytes).is_ok()),
                (MessageType::Data, DataHeader::parse(&bytes).is_ok()),
            ];
            for (expected, parsed) in parsed {
                prop_assert_eq!(parsed, kind == Ok(expected));
            }
            prop_assert_eq!(receiver(&bytes).is_some(), kind.is_ok() && kind != Ok(MessageType::Initiation));
        }

        #[test]
        fn a_message_comes_back_from_its_bytes(bytes in prop::array::uniform32(any::<u8>()), a: u32, b: u32, counter: u64) {
            let initiation = Initiation {
                sender: a,
                ephemeral: bytes,
                sealed_static: join(&[&bytes, &bytes]),
                sealed_timestamp: join(&[&bytes]),
            };
            prop_assert_eq!(Initiation::parse(&initiation.encode()), Ok(initiation));
            let response = Response { sender: a, receiver: b, ephemeral: bytes, sealed_nothing: join(&[&bytes]) };
            prop_assert_eq!(receiver(&response.encode()), Some(b));
            prop_assert_eq!(Response::parse(&response.encode()), Ok(response));
            let reply = CookieReply { receiver: a, nonce: join(&[&bytes]), sealed_cookie: bytes };
            prop_assert_eq!(receiver(&reply.encode()), Some(a));
            prop_assert_eq!(CookieReply::parse(&reply.encode()), Ok(reply));
            let header = DataHeader { receiver: a, counter };
            let message: [u8; 32] = join(&[&header.encode()]);
            prop_assert_eq!(DataHeader::parse(&message), Ok(header));
        }
    }

    #[test]
    fn a_reserved_byte_that_is_not_zero_makes_no_message() {
        for at in 1..4 {
            let mut bytes = [0; RESPONSE];
            bytes[0] = 2;
            MessageType::of(&bytes).unwrap();
            bytes[at] = 1;
            assert_eq!(MessageType::of(&bytes), Err(Refused::Malformed));
        }
    }
}
