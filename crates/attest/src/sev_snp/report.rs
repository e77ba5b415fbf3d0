//! The attestation report, byte for byte (56860, table ATTESTATION_REPORT).

use super::Product;

/// How long a report is, in bytes.
pub const REPORT_SIZE: usize = 1184;

/// How much of it is signed, from the start.
const SIGNED_SIZE: usize = 0x2a0;

/// A report that reads as one; who signed it is yet to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report<'a> {
    /// VERSION: 2, 3 or 5.
    pub version: u32,
    /// GUEST_SVN: the version of the guest, by its owner.
    pub guest_svn: u32,
    /// POLICY: what the guest's owner allowed at launch.
    pub policy: GuestPolicy,
    /// FAMILY_ID, by the guest's owner.
    pub family_id: [u8; 16],
    /// IMAGE_ID, by the guest's owner.
    pub image_id: [u8; 16],
    /// VMPL: the privilege level in the guest that asked; all ones where the host asked.
    pub vmpl: u32,
    /// CURRENT_TCB: what runs.
    pub current_tcb: [u8; 8],
    /// PLATFORM_INFO: bits about the host.
    pub platform_info: u64,
    /// AUTHOR_KEY_EN: whether the key that signed the ID block was itself signed.
    pub has_author_key: bool,
    /// SIGNING_KEY: which key signed the report.
    pub signing_key: SigningKey,
    /// REPORT_DATA: what the guest asked to be signed.
    pub report_data: [u8; 64],
    /// MEASUREMENT: SHA-384 of the guest's memory and registers at launch.
    pub measurement: [u8; 48],
    /// HOST_DATA: what the host said of the guest at launch.
    pub host_data: [u8; 32],
    /// ID_KEY_DIGEST: SHA-384 of the key that signed the guest's ID block; zero where it has none.
    pub id_key_digest: [u8; 48],
    /// AUTHOR_KEY_DIGEST: SHA-384 of the key that signed the ID key; zero where none did.
    pub author_key_digest: [u8; 48],
    /// REPORT_ID_MA: the guest's migration agent; all ones where it has none.
    pub report_id_ma: [u8; 32],
    /// REPORTED_TCB: what the signing key was derived for.
    pub reported_tcb: [u8; 8],
    /// CPUID_FAM_ID, CPUID_MOD_ID and CPUID_STEP, from version 3 on.
    pub cpu: Option<Cpu>,
    /// CHIP_ID; zero where the host masks it.
    pub chip_id: [u8; 64],
    /// COMMITTED_TCB: what the host cannot go back behind.
    pub committed_tcb: [u8; 8],
    /// LAUNCH_TCB: what ran when the guest was launched.
    pub launch_tcb: [u8; 8],
    /// r and s, 48 bytes each, big-endian.
    signature: [u8; 96],
    signed: &'a [u8],
}

/// POLICY: what the owner of a guest allowed at launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestPolicy(u64);

/// A processor, as CPUID names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// Extended and base family, combined.
    pub family: u8,
    /// Extended and base model, combined.
    pub model: u8,
    /// The stepping.
    pub stepping: u8,
}

/// Which key signed a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SigningKey {
    /// One processor's.
    Vcek,
    /// A cloud provider's.
    Vlek,
}

/// Why bytes are no report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReportError {
    /// Not as long as a report.
    #[error("a report has {REPORT_SIZE} bytes, this has {0}")]
    Length(usize),
    /// A version whose fields are not known.
    #[error("version 2, 3 or 5, not {0}")]
    Version(u32),
    /// An algorithm that does not exist.
    #[error("1, which is ECDSA on P-384 with SHA-384, not {0}")]
    Algorithm(u32),
    /// A signing key that does not exist, or none.
    #[error("0 for a VCEK or 1 for a VLEK, not {0}")]
    SigningKey(u32),
    /// Something where the specification has nothing.
    #[error("the reserved field at offset {0:#x} is not as the specification says")]
    Reserved(usize),
}

impl<'a> Report<'a> {
    /// Reads a report.
    ///
    /// # Errors
    /// [`ReportError`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ReportError> {
        let all: &[u8; REPORT_SIZE] = bytes.try_into().map_err(|_| ReportError::Length(bytes.len()))?;
        let version = u32::from_le_bytes(field::<0x00, 4>(all));
        if !matches!(version, 2 | 3 | 5) {
            return Err(ReportError::Version(version));
        }
        let algorithm = u32::from_le_bytes(field::<0x34, 4>(all));
        if algorithm != 1 {
            return Err(ReportError::Algorithm(algorithm));
        }
        zero::<0x4c, 4>(all)?;
        zero::<0x18b, 21>(all)?;
        zero::<0x1eb, 1>(all)?;
        zero::<0x1ef, 1>(all)?;
        if version < 5 {
            // The mitigation vectors of version 5.
            zero::<0x1f8, 16>(all)?;
        }
        zero::<0x208, 0x98>(all)?;
        zero::<0x330, 0x170>(all)?;
        let [family, model, stepping] = field::<0x188, 3>(all);
        let cpu = (version >= 3).then_some(Cpu { family, model, stepping });
        if cpu.is_none() {
            zero::<0x188, 3>(all)?;
        }
        let keys = u32::from_le_bytes(field::<0x48, 4>(all));
        if keys >> 5 != 0 {
            return Err(ReportError::Reserved(0x48));
        }
        let signing_key = match keys >> 2 & 0b111 {
            0 => SigningKey::Vcek,
            1 => SigningKey::Vlek,
            other => return Err(ReportError::SigningKey(other)),
        };
        Ok(Self {
            version,
            guest_svn: u32::from_le_bytes(field::<0x04, 4>(all)),
            policy: GuestPolicy::parse(u64::from_le_bytes(field::<0x08, 8>(all)))?,
            family_id: field::<0x10, 16>(all),
            image_id: field::<0x20, 16>(all),
            vmpl: u32::from_le_bytes(field::<0x30, 4>(all)),
            current_tcb: field::<0x38, 8>(all),
            platform_info: u64::from_le_bytes(field::<0x40, 8>(all)),
            has_author_key: keys & 1 == 1,
            signing_key,
            report_data: field::<0x50, 64>(all),
            measurement: field::<0x90, 48>(all),
            host_data: field::<0xc0, 32>(all),
            id_key_digest: field::<0xe0, 48>(all),
            author_key_digest: field::<0x110, 48>(all),
            report_id_ma: field::<0x160, 32>(all),
            reported_tcb: field::<0x180, 8>(all),
            cpu,
            chip_id: field::<0x1a0, 64>(all),
            committed_tcb: field::<0x1e0, 8>(all),
            launch_tcb: field::<0x1f0, 8>(all),
            signature: signature(all)?,
            signed: &all[..SIGNED_SIZE],
        })
    }

    /// The bytes that the signature covers.
    pub const fn signed_bytes(&self) -> &'a [u8] {
        self.signed
    }

    /// r and s, 48 bytes each, big-endian.
    pub const fn signature(&self) -> &[u8; 96] {
        &self.signature
    }

    /// Whether the host hides which processor this is.
    pub fn masks_chip_id(&self) -> bool {
        self.chip_id == [0; 64]
    }

    /// Whether another guest may take this one, with its memory, to another host.
    pub fn may_migrate(&self) -> bool {
        self.policy.allows_migration_agent() || self.report_id_ma != [0xff; 32]
    }
}

impl GuestPolicy {
    /// Bit 17 is always one; from bit 26 on there is nothing yet, and what is not known might allow anything.
    const fn parse(bits: u64) -> Result<Self, ReportError> {
        if bits >> 17 & 1 == 1 && bits >> 26 == 0 { Ok(Self(bits)) } else { Err(ReportError::Reserved(0x08)) }
    }

    /// Whether it may run where hyperthreads are on.
    pub const fn allows_smt(self) -> bool {
        self.0 >> 16 & 1 == 1
    }

    /// Whether it may be given a migration agent.
    pub const fn allows_migration_agent(self) -> bool {
        self.0 >> 18 & 1 == 1
    }

    /// Whether the host may read and write its memory.
    pub const fn allows_debug(self) -> bool {
        self.0 >> 19 & 1 == 1
    }

    /// All its bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl Cpu {
    /// The line that it belongs to.
    pub const fn product(&self) -> Option<Product> {
        Product::of_cpuid(self.family, self.model)
    }
}

impl SigningKey {
    /// As AMD writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vcek => "VCEK",
            Self::Vlek => "VLEK",
        }
    }
}

/// `N` bytes at `AT`; that they lie within a report is checked when this is compiled.
fn field<const AT: usize, const N: usize>(report: &[u8; REPORT_SIZE]) -> [u8; N] {
    const { assert!(AT + N <= REPORT_SIZE, "a field lies within the report") };
    std::array::from_fn(|at| report[AT + at])
}

fn zero<const AT: usize, const N: usize>(report: &[u8; REPORT_SIZE]) -> Result<(), ReportError> {
    if field::<AT, N>(report) == [0; N] { Ok(()) } else { Err(ReportError::Reserved(AT)) }
}

/// r and s stand little-endian in 72 bytes each, of which P-384 fills 48.
fn signature(report: &[u8; REPORT_SIZE]) -> Result<[u8; 96], ReportError> {
    zero::<0x2d0, 24>(report)?;
    zero::<0x318, 24>(report)?;
    let (r, s) = (field::<0x2a0, 48>(report), field::<0x2e8, 48>(report));
    let mut both = [0; 96];
    for (byte, value) in both.iter_mut().zip(r.iter().rev().chain(s.iter().rev())) {
        *byte = *value;
    }
    Ok(both)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The least that reads as a report of a version.
    fn blank(version: u8) -> [u8; REPORT_SIZE] {
        let mut bytes = [0; REPORT_SIZE];
        (bytes[0], bytes[0x0a], bytes[0x34]) = (version, 0x02, 1);
        bytes
    }

    fn with(version: u8, at: usize, value: u8) -> Result<(), ReportError> {
        let mut bytes = blank(version);
        bytes[at] = value;
        Report::parse(&bytes).map(|_| ())
    }

    #[test]
    fn a_report_has_one_length_and_a_version_that_is_known() {
        for version in 0..=255 {
            let parsed = Report::parse(&blank(version)).map(|report| report.version);
            match version {
                2 | 3 | 5 => assert_eq!(parsed, Ok(u32::from(version))),
                _ => assert_eq!(parsed, Err(ReportError::Version(u32::from(version)))),
            }
        }
        for length in (0..REPORT_SIZE).chain([REPORT_SIZE + 1]) {
            assert_eq!(Report::parse(&vec![2; length]), Err(ReportError::Length(length)));
        }
    }

    #[test]
    fn reserved_fields_are_as_the_specification_says_for_the_version() {
        let reserved = |version, at| matches!(with(version, at, 0xff), Err(ReportError::Reserved(_)));
        for version in [2, 3, 5] {
            let everywhere = [0x0b..0x10, 0x4c..0x50, 0x18b..0x1a0, 0x1eb..0x1ec, 0x1ef..0x1f0, 0x208..0x2a0];
            for at in everywhere.into_iter().flatten().chain(0x49..0x4c).chain(0x330..REPORT_SIZE) {
                assert!(reserved(version, at), "version {version}, {at:#x}");
            }
            assert!((0x1f8..0x208).all(|at| reserved(version, at) == (version < 5)));
            assert!((0x188..0x18b).all(|at| reserved(version, at) == (version < 3)));
            assert!((0x2d0..0x2e8).chain(0x318..0x330).all(|at| reserved(version, at)), "of r and s");
            assert_eq!(with(version, 0x0a, 0x00), Err(ReportError::Reserved(8)), "bit 17 is one");
        }
    }

    #[test]
    fn algorithm_and_signing_key_are_those_that_exist() {
        assert_eq!(with(3, 0x34, 2), Err(ReportError::Algorithm(2)));
        assert_eq!(with(3, 0x48, 0b1_1100), Err(ReportError::SigningKey(7)), "7 is for unsigned reports");
        let mut bytes = blank(3);
        bytes[0x48] = 0b101;
        let report = Report::parse(&bytes).unwrap();
        assert_eq!((report.signing_key, report.has_author_key), (SigningKey::Vlek, true));
    }

    #[test]
    fn r_and_s_are_turned_round() {
        let mut bytes = blank(2);
        (bytes[0x2a0], bytes[0x2cf], bytes[0x2e8]) = (1, 2, 3);
        let report = Report::parse(&bytes).unwrap();
        let signature = report.signature();
        assert_eq!((signature[47], signature[0], signature[95]), (1, 2, 3));
        assert_eq!(report.signed_bytes(), &bytes[..0x2a0]);
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_what_stands_there(noise in proptest::collection::vec(any::<u8>(), 0x1a0 - 0x50)) {
            let mut bytes = blank(3);
            bytes[0x50..0x188].copy_from_slice(&noise[..0x138]);
            let report = Report::parse(&bytes).unwrap();
            prop_assert_eq!(&report.report_data[..], &bytes[0x50..0x90]);
            prop_assert_eq!(&report.measurement[..], &bytes[0x90..0xc0]);
            prop_assert_eq!(&report.author_key_digest[..], &bytes[0x110..0x140]);
            prop_assert_eq!(&report.reported_tcb[..], &bytes[0x180..0x188]);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..1400)) {
            let _ = Report::parse(&bytes);
        }
    }
}
