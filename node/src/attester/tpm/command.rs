//! Commands and responses as a TPM reads and writes them (Library, Part 3).

use super::device::TpmError;

const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// The session that is a password, and always there.
const PASSWORD: u32 = 0x4000_0009;

/// A command in the making.
pub(super) struct Command {
    name: &'static str,
    code: u32,
    handles: Vec<u8>,
    sessions: Vec<u8>,
    parameters: Vec<u8>,
}

/// A response without its head: handle, then parameters.
pub(super) struct Response(Vec<u8>, usize);

impl Command {
    pub(super) const fn new(name: &'static str, code: u32) -> Self {
        Self { name, code, handles: Vec::new(), sessions: Vec::new(), parameters: Vec::new() }
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn handle(mut self, handle: u32) -> Self {
        self.handles.extend(handle.to_be_bytes());
        self
    }

    /// Authorizes the next handle by the empty password.
    pub(super) fn password(self) -> Self {
        self.session(PASSWORD)
    }

    /// Authorizes the next handle by a session without a key of its own, which goes on.
    pub(super) fn session(mut self, session: u32) -> Self {
        self.sessions.extend(session.to_be_bytes());
        // No nonce, to be continued, no HMAC.
        self.sessions.extend([0, 0, 1, 0, 0]);
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.parameters.extend(bytes);
        self
    }

    /// A `TPM2B`.
    pub(super) fn sized(self, bytes: &[u8]) -> Self {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        self.u16(length).bytes(bytes)
    }

    pub(super) fn u16(self, value: u16) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn u32(self, value: u32) -> Self {
        self.bytes(&value.to_be_bytes())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let length = |part: &[u8]| u32::try_from(part.len()).unwrap_or(u32::MAX);
        let with_sessions = !self.sessions.is_empty();
        let tag = if with_sessions { SESSIONS } else { NO_SESSIONS };
        let mut body = self.handles.clone();
        if with_sessions {
            body.extend(length(&self.sessions).to_be_bytes());
            body.extend(&self.sessions);
        }
        body.extend(&self.parameters);
        let total = length(&body).saturating_add(10);
        [&tag.to_be_bytes()[..], &total.to_be_bytes(), &self.code.to_be_bytes(), &body].concat()
    }

    /// What a response to this says, where it says anything; else its code. `has_handle`: whether a handle comes first.
    pub(super) fn read(
        &self,
        response: Vec<u8>,
        has_handle: bool,
    ) -> Result<Result<Response, u32>, TpmError> {
        let mut reader = Response(response, 0);
        let (tag, length, code) = (reader.u16()?, reader.u32()?, reader.u32()?);
        if usize::try_from(length) != Ok(reader.0.len()) {
            return Err(TpmError::Answer("a response of another length than it says"));
        }
        if code != 0 {
            return Ok(Err(code));
        }
        if tag == SESSIONS {
            // The length of the parameters; behind them come the sessions, which say nothing that is used here.
            let at = reader.1 + if has_handle { 4 } else { 0 };
            if reader.0.len() < at + 4 {
                return Err(TpmError::Answer("a response that is too short"));
            }
            let length: Vec<u8> = reader.0.drain(at..at + 4).collect();
            let length = length.iter().fold(0_usize, |all, byte| all << 8 | usize::from(*byte));
            reader.0.truncate(at.saturating_add(length));
        }
        Ok(Ok(reader))
    }
}

impl Response {
    pub(super) fn take(&mut self, length: usize) -> Result<&[u8], TpmError> {
        let from = self.1;
        let taken = self.0.get(from..from.saturating_add(length));
        self.1 += length.min(self.0.len());
        taken.ok_or(TpmError::Answer("a response that is too short"))
    }

    pub(super) fn u16(&mut self) -> Result<u16, TpmError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    pub(super) fn u32(&mut self) -> Result<u32, TpmError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub(super) fn sized(&mut self) -> Result<Vec<u8>, TpmError> {
        let length = self.u16()?;
        Ok(self.take(usize::from(length))?.to_vec())
    }

    /// Everything else.
    pub(super) fn rest(mut self) -> Vec<u8> {
        self.0.split_off(self.1.min(self.0.len()))
    }
}
