//! The commands that evidence takes.

use std::{io, thread, time::Duration};

use carrick_attest::tpm::{Credential, Parameters, Public};

use super::{
    command::{Command, Response},
    tcti::{Connection, Tcti},
    templates::{ALG_NULL, ALG_SHA256, Template},
};

pub(super) const OWNER: u32 = 0x4000_0001;
const ENDORSEMENT: u32 = 0x4000_000b;
const NULL: u32 = 0x4000_0007;

/// Where the first handle of a kind is: transient objects, sessions that are loaded.
const TRANSIENT: u32 = 0x8000_0000;
const LOADED_SESSIONS: u32 = 0x0200_0000;

/// Where a vendor or an operator may have left the RSA endorsement key, which takes long to make (TCG, "Reserved handles").
const PERSISTENT_RSA: u32 = 0x8101_0001;

/// Not now, but soon: `TPM_RC_YIELDED`, `TPM_RC_TESTING`, `TPM_RC_RETRY`.
const LATER: [u32; 3] = [0x908, 0x90a, 0x922];
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(50);

/// `TPM_RC_HANDLE` of the first handle: there is nothing there.
const NOTHING_THERE: u32 = 0x18b;

/// How much is read of an NV index at a time; every TPM gives as much.
const NV_CHUNK: u16 = 512;
const NV_OWNER_READ: u32 = 1 << 17;
const NV_AUTH_READ: u32 = 1 << 18;

/// Why a TPM is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum TpmError {
    #[error("cannot open the TPM at {0}: {1}")]
    Open(Tcti, #[source] io::Error),
    #[error("the TPM does not answer {0}: {1}")]
    Transmit(&'static str, #[source] io::Error),
    #[error("the TPM refuses {command} with code {code:#x}")]
    Refused { command: &'static str, code: u32 },
    #[error("the TPM answers {0}")]
    Answer(&'static str),
    #[error("there is no randomness for a session with the TPM")]
    Random,
}

/// A key that is loaded.
pub(super) struct Loaded {
    pub(super) handle: u32,
    /// `TPMT_PUBLIC`.
    pub(super) public: Vec<u8>,
}

/// An open TPM.
#[derive(Debug)]
pub(super) struct Device(Connection);

impl Device {
    /// Opens it. One that nobody else cleans up behind an agent that was killed is cleaned up now: nobody else has it open.
    pub(super) fn open(tcti: &Tcti) -> Result<Self, TpmError> {
        let connection = tcti.connect().map_err(|error| TpmError::Open(tcti.clone(), error))?;
        let mut device = Self(connection);
        if !tcti.is_managed() {
            for kind in [TRANSIENT, LOADED_SESSIONS] {
                for handle in device.handles(kind)? {
                    device.flush(handle)?;
                }
            }
        }
        Ok(device)
    }

    #[cfg(test)]
    pub(super) fn open_as_it_is(tcti: &Tcti) -> Result<Self, TpmError> {
        tcti.connect().map(Self).map_err(|error| TpmError::Open(tcti.clone(), error))
    }

    /// Loads a key as if nobody came to flush it.
    #[cfg(test)]
    pub(super) fn leave_behind(&mut self, template: Template) -> Result<(), TpmError> {
        self.create_primary(template).map(drop)
    }

    /// Does something with a key, which is gone from the TPM afterwards whatever happened.
    pub(super) fn with_key<T>(
        &mut self,
        template: Template,
        work: impl FnOnce(&mut Self, &Loaded) -> Result<T, TpmError>,
    ) -> Result<T, TpmError> {
        if let Some(there) = self.persistent(template)? {
            return work(self, &there);
        }
        let key = self.create_primary(template)?;
        let done = work(self, &key);
        self.flush(key.handle)?;
        done
    }

    fn create_primary(&mut self, template: Template) -> Result<Loaded, TpmError> {
        let command = Command::new("TPM2_CreatePrimary", 0x131)
            .handle(ENDORSEMENT)
            .password()
            // No password and no data of its own.
            .sized(&[0; 4])
            .sized(&template.public())
            .sized(&[])
            .u32(0);
        let mut response = self.run(&command, true)?;
        Ok(Loaded { handle: response.u32()?, public: response.sized()? })
    }

    /// The key, where it is always loaded.
    fn persistent(&mut self, template: Template) -> Result<Option<Loaded>, TpmError> {
        if template != Template::EndorsementRsa {
            return Ok(None);
        }
        let command = Command::new("TPM2_ReadPublic", 0x173).handle(PERSISTENT_RSA);
        let mut response = match self.run(&command, false) {
            Err(TpmError::Refused { .. }) => return Ok(None),
            response => response?,
        };
        let public = response.sized()?;
        let is_it = |key: Public| key.is_endorsement() && matches!(key.parameters, Parameters::Rsa(_));
        let same = Public::parse(&public).is_ok_and(is_it);
        Ok(same.then_some(Loaded { handle: PERSISTENT_RSA, public }))
    }

    /// Recovers the secret of a credential.
    pub(super) fn activate_credential(
        &mut self,
        attestation: u32,
        endorsement: u32,
        credential: &Credential,
    ) -> Result<[u8; 32], TpmError> {
        let session = self.start_policy_session()?;
        let activate = |device: &mut Self| {
            device.policy_secret(session)?;
            let command = Command::new("TPM2_ActivateCredential", 0x147)
                .handle(attestation)
                .handle(endorsement)
                .password()
                .session(session)
                .sized(credential.id_object.as_bytes())
                .sized(credential.encrypted_seed.as_bytes());
            device.run(&command, false)?.sized()
        };
        let secret = activate(self);
        self.flush(session)?;
        secret?.try_into().map_err(|_| TpmError::Answer("a secret of another length"))
    }

    fn start_policy_session(&mut self) -> Result<u32, TpmError> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce).map_err(|_| TpmError::Random)?;
        let command = Command::new("TPM2_StartAuthSession", 0x176)
            .handle(NULL)
            .handle(NULL)
            .sized(&nonce)
            .sized(&[])
            // A policy session, with no encryption of parameters.
            .bytes(&[1])
            .u16(ALG_NULL)
            .u16(ALG_SHA256);
        self.run(&command, true)?.u32()
    }

    /// The policy of an endorsement key: the authorization of its hierarchy.
    fn policy_secret(&mut self, session: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_PolicySecret", 0x151)
            .handle(ENDORSEMENT)
            .handle(session)
            .password()
            .sized(&[])
            .sized(&[])
            .sized(&[])
            .u32(0);
        self.run(&command, false).map(drop)
    }

    /// The values of the first registers of the SHA-256 bank.
    pub(super) fn read_pcrs(&mut self, count: u8) -> Result<Vec<u8>, TpmError> {
        let mut values = Vec::new();
        while values.len() < usize::from(count) * 32 {
            // A TPM gives eight at most, of those that are asked for.
            let from = u8::try_from(values.len() / 32).unwrap_or(u8::MAX);
            let command = Command::new("TPM2_PCR_Read", 0x17e).bytes(&selection(from..count));
            let mut response = self.run(&command, false)?;
            // Update counter, then the selection, of which there is one: what was asked for, less what is too much.
            response.take(4 + selection(0..0).len())?;
            let given = response.u32()?;
            if given == 0 {
                return Err(TpmError::Answer("no registers of the SHA-256 bank"));
            }
            for _ in 0..given {
                let value = response.sized()?;
                if value.len() != 32 {
                    return Err(TpmError::Answer("a register that is not SHA-256"));
                }
                values.extend(value);
            }
        }
        Ok(values)
    }

    /// What a key signs of the first registers of the SHA-256 bank: `TPMS_ATTEST`, and `TPMT_SIGNATURE`.
    pub(super) fn quote(&mut self, key: u32, data: &[u8], count: u8) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        self.quote_selection(key, data, &selection(0..count))
    }

    pub(super) fn quote_selection(
        &mut self,
        key: u32,
        data: &[u8],
        selection: &[u8],
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let command = Command::new("TPM2_Quote", 0x158)
            .handle(key)
            .password()
            .sized(data)
            // By the key's own scheme.
            .u16(ALG_NULL)
            .bytes(selection);
        let mut response = self.run(&command, false)?;
        Ok((response.sized()?, response.rest()))
    }

    /// What an NV index holds, where it is.
    pub(super) fn read_nv(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let command = Command::new("TPM2_NV_ReadPublic", 0x169).handle(index);
        let mut response = match self.run(&command, false) {
            Err(TpmError::Refused { code: NOTHING_THERE, .. }) => return Ok(None),
            response => response?,
        };
        // Length, index and hash algorithm of its public area; then attributes, policy, and how much it holds.
        response.take(8)?;
        let attributes = response.u32()?;
        response.sized()?;
        let size = response.u16()?;
        let reader = match attributes {
            of if of & NV_AUTH_READ != 0 => index,
            of if of & NV_OWNER_READ != 0 => OWNER,
            _ => return Ok(None),
        };
        let mut content = Vec::new();
        while let Some(left) =
            size.checked_sub(u16::try_from(content.len()).unwrap_or(u16::MAX)).filter(|left| *left > 0)
        {
            let offset = size - left;
            let command = Command::new("TPM2_NV_Read", 0x14e)
                .handle(reader)
                .handle(index)
                .password()
                .u16(left.min(NV_CHUNK))
                .u16(offset);
            let chunk = self.run(&command, false)?.sized()?;
            if chunk.is_empty() {
                return Err(TpmError::Answer("nothing of an NV index"));
            }
            content.extend(chunk);
        }
        Ok(Some(content))
    }

    /// The handles of a kind that are in use.
    pub(super) fn handles(&mut self, kind: u32) -> Result<Vec<u32>, TpmError> {
        let command = Command::new("TPM2_GetCapability", 0x17a).u32(1).u32(kind).u32(64);
        let mut response = self.run(&command, false)?;
        // Whether there are more, and the capability.
        response.take(5)?;
        let count = response.u32()?;
        (0..count).map(|_| response.u32()).collect()
    }

    fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        let command = Command::new("TPM2_FlushContext", 0x165).u32(handle);
        self.run(&command, false).map(drop)
    }

    pub(super) fn run(&mut self, command: &Command, has_handle: bool) -> Result<Response, TpmError> {
        let bytes = command.to_bytes();
        for _ in 0..TRIES {
            let response = self.0.transmit(&bytes);
            let response = response.map_err(|error| TpmError::Transmit(command.name(), error))?;
            match command.read(response, has_handle)? {
                Ok(response) => return Ok(response),
                Err(code) if LATER.contains(&code) => thread::sleep(PAUSE),
                Err(code) => return Err(TpmError::Refused { command: command.name(), code }),
            }
        }
        Err(TpmError::Answer("that it is busy, for too long"))
    }
}

/// `TPML_PCR_SELECTION` of registers of the SHA-256 bank.
pub(super) fn selection(registers: std::ops::Range<u8>) -> Vec<u8> {
    selection_of(ALG_SHA256, registers)
}

pub(super) fn selection_of(bank: u16, registers: std::ops::Range<u8>) -> Vec<u8> {
    let bits = registers.filter(|register| *register < 24).fold(0_u32, |bits, register| bits | 1 << register);
    let [first, second, third, _] = bits.to_le_bytes();
    [&1_u32.to_be_bytes()[..], &bank.to_be_bytes(), &[3, first, second, third]].concat()
}
