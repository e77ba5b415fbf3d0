//! Quotes: `TPMS_ATTEST` of the type `TPM_ST_ATTEST_QUOTE`.

use std::fmt;

use super::{Malformed, read::Reader};

/// How many registers a bank has.
pub const PCRS: u8 = 24;

/// `TPM_GENERATED_VALUE`: what a restricted key signs begins so if and only if the TPM made it.
const GENERATED: u32 = 0xff54_4347;
const ATTEST_QUOTE: u16 = 0x8018;
const ALG_SHA256: u16 = 0x000b;

/// What a TPM says of its platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quote {
    /// The qualified name of the key that signs.
    pub signer: Vec<u8>,
    /// What the quote was asked for.
    pub extra_data: Vec<u8>,
    /// When.
    pub clock: Clock,
    /// The TPM's firmware, in the vendor's own numbers.
    pub firmware_version: u64,
    /// Which registers.
    pub selection: PcrSelection,
    /// SHA-256 over their values.
    pub pcr_digest: Vec<u8>,
}

/// A TPM's sense of time: `TPMS_CLOCK_INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that the TPM has been powered, ever.
    pub clock: u64,
    /// How often it was reset, ever.
    pub reset_count: u32,
    /// How often it was restarted or resumed since it was reset.
    pub restart_count: u32,
    /// Whether the clock has never been ahead of this.
    pub safe: bool,
}

/// Registers of the SHA-256 bank, one bit each.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PcrSelection(u32);

/// Why a quote is refused before anything is compared: the claim and what it should be.
pub(super) type Refused = (&'static str, String, &'static str);

impl Quote {
    /// Reads a quote, and nothing behind it.
    ///
    /// # Errors
    /// The claim that does not hold, what it says, and what it should be.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Refused> {
        let malformed = |error: Malformed| ("quote", error.to_string(), "a TPMS_ATTEST");
        let mut reader = Reader::new(bytes);
        let magic = reader.u32().map_err(malformed)?;
        if magic != GENERATED {
            return Err(("magic", format!("{magic:#010x}"), "TPM_GENERATED: what the TPM itself made"));
        }
        let kind = reader.u16().map_err(malformed)?;
        if kind != ATTEST_QUOTE {
            return Err(("type", format!("{kind:#06x}"), "a quote, 0x8018"));
        }
        let mut head = || {
            let signer = reader.sized()?.to_vec();
            let extra_data = reader.sized()?.to_vec();
            let (clock, reset_count, restart_count) = (reader.u64()?, reader.u32()?, reader.u32()?);
            let safe = match reader.u8()? {
                0 => false,
                1 => true,
                _ => return Err(Malformed::Value("clock's safety")),
            };
            let clock = Clock { clock, reset_count, restart_count, safe };
            Ok((signer, extra_data, clock, reader.u64()?))
        };
        let (signer, extra_data, clock, firmware_version) = head().map_err(malformed)?;
        let selection = selection(&mut reader)?;
        let pcr_digest = reader.sized().map_err(malformed)?.to_vec();
        reader.end().map_err(malformed)?;
        Ok(Self { signer, extra_data, clock, firmware_version, selection, pcr_digest })
    }
}

/// One bank, and that of SHA-256.
fn selection(reader: &mut Reader<'_>) -> Result<PcrSelection, Refused> {
    let malformed = |error: Malformed| ("pcr selection", error.to_string(), "a TPML_PCR_SELECTION");
    let banks = reader.u32().map_err(malformed)?;
    if banks != 1 {
        return Err(("pcr selection", format!("{banks} banks"), "one bank, of SHA-256"));
    }
    let hash = reader.u16().map_err(malformed)?;
    if hash != ALG_SHA256 {
        let name = if hash == 0x0004 { "SHA-1".to_owned() } else { format!("algorithm {hash:#06x}") };
        return Err(("pcr bank", name, "SHA-256"));
    }
    let length = reader.u8().map_err(malformed)?;
    if usize::from(length) != usize::from(PCRS) / 8 {
        return Err(("pcr selection", format!("{length} bytes"), "one bit for each of 24 registers"));
    }
    let bits = reader.take(usize::from(length)).map_err(malformed)?;
    Ok(PcrSelection(bits.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))))
}

impl PcrSelection {
    /// Whether a register is among them.
    pub const fn has(self, register: u8) -> bool {
        register < PCRS && self.0 >> register & 1 == 1
    }

    /// The registers, lowest first.
    pub fn registers(self) -> impl Iterator<Item = u8> {
        (0..PCRS).filter(move |register| self.has(*register))
    }
}

impl fmt::Debug for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for PcrSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        for (at, register) in self.registers().enumerate() {
            write!(f, "{}{register}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}
