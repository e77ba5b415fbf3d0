//! A TDX quote, read to its last byte (Intel TDX DCAP Quoting Library API, appendix 3).

/// The header, in bytes.
const HEADER: usize = 48;

/// `qe_vendor_id` of Intel's quoting enclaves.
pub(super) const INTEL_QE: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// `att_key_type`: ECDSA with P-256.
const ECDSA_P256: u16 = 2;

/// `tee_type`: TDX.
const TDX: u32 = 0x81;

/// Certification data that holds a QE report and more certification data.
const QE_REPORT: u16 = 6;

/// Certification data that holds the PCK certificate's chain in PEM.
const PCK_CHAIN: u16 = 5;

/// A quote whose shape was checked, and nothing else.
#[derive(Debug)]
pub(super) struct Quote<'a> {
    /// 4 or 5.
    pub(super) version: u16,
    /// What the attestation key signed: the header and the body.
    pub(super) signed: &'a [u8],
    /// What the TD says of itself.
    pub(super) td: TdReport,
    /// `r` and `s` over [`Quote::signed`].
    pub(super) signature: &'a [u8; 64],
    /// The attestation key: `x` and `y` on P-256.
    pub(super) attestation_key: &'a [u8; 64],
    /// The quoting enclave's report, as the PCK signed it.
    pub(super) qe_report: &'a [u8; 384],
    /// `r` and `s` over [`Quote::qe_report`].
    pub(super) qe_signature: &'a [u8; 64],
    /// What the quoting enclave's report vouches for, beside the attestation key.
    pub(super) qe_auth_data: &'a [u8],
    /// The PCK certificate and its issuers, in PEM.
    pub(super) pck_chain: &'a [u8],
}

/// The body of a quote.
#[derive(Debug)]
pub(super) struct TdReport {
    pub(super) tee_tcb_svn: [u8; 16],
    pub(super) mr_seam: [u8; 48],
    pub(super) mr_signer_seam: [u8; 48],
    pub(super) seam_attributes: [u8; 8],
    pub(super) td_attributes: u64,
    pub(super) xfam: [u8; 8],
    pub(super) mr_td: [u8; 48],
    pub(super) mr_config_id: [u8; 48],
    pub(super) mr_owner: [u8; 48],
    pub(super) mr_owner_config: [u8; 48],
    pub(super) rtmrs: [[u8; 48]; 4],
    pub(super) report_data: [u8; 64],
    /// What TDX 1.5 adds.
    pub(super) later: Option<Later>,
}

/// What a body of TDX 1.5 has and one of TDX 1.0 has not.
#[derive(Debug)]
pub(super) struct Later {
    /// The TCB of now, where [`TdReport::tee_tcb_svn`] is the one that the TD was launched on.
    pub(super) tee_tcb_svn: [u8; 16],
    /// Zero where no service TD, such as one that migrates, is bound to this one.
    pub(super) mr_service_td: [u8; 48],
    /// What its extended form adds.
    pub(super) extended: Option<Extended>,
}

/// What an extended body of TDX 1.5 adds, as far as it is looked at.
#[derive(Debug)]
pub(super) struct Extended {
    /// Zero for the TD itself, another number for a VM that the TD runs.
    pub(super) vm: u8,
    /// [`Later::mr_service_td`] of now, where that one is of when the TD was made.
    pub(super) service_td_now: [u8; 48],
}

/// The bodies that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Body {
    Tdx10,
    Tdx15,
    Tdx15Extended,
}

/// The fields of a quoting enclave's report that its identity speaks of.
#[derive(Debug)]
pub(super) struct QeReport {
    pub(super) misc_select: [u8; 4],
    pub(super) attributes: [u8; 16],
    pub(super) mr_signer: [u8; 32],
    pub(super) product: u16,
    pub(super) svn: u16,
    pub(super) report_data: [u8; 64],
}

impl<'a> Quote<'a> {
    /// Reads a quote: version 4 with a body of TDX 1.0, or version 5 with one of TDX 1.0 or 1.5, extended or not.
    ///
    /// # Errors
    /// What it is instead, for people.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, &'static str> {
        let mut reader = Reader(bytes);
        let version = reader.u16()?;
        let key_type = reader.u16()?;
        let tee = reader.u32()?;
        if !matches!(version, 4 | 5) {
            return Err("not a quote of version 4 or 5");
        }
        if tee != TDX {
            return Err("a quote of another TEE");
        }
        if key_type != ECDSA_P256 {
            return Err("a quote whose attestation key is not on P-256");
        }
        // The SVNs of QE and PCE are reserved from version 4 on; their signed copies are in the QE report and the PCK certificate.
        reader.array::<4>()?;
        if *reader.array()? != INTEL_QE {
            return Err("a quote of another vendor's quoting enclave");
        }
        reader.array::<20>()?;
        let (start, body) = match version {
            4 => (HEADER, Body::Tdx10),
            _ => match (reader.u16()?, reader.u32()?) {
                (2, 584) => (HEADER + 6, Body::Tdx10),
                (3, 648) => (HEADER + 6, Body::Tdx15),
                (4, 885) => (HEADER + 6, Body::Tdx15Extended),
                _ => return Err("a body that is neither of TDX 1.0 nor of TDX 1.5"),
            },
        };
        let td = TdReport::read(&mut reader, body)?;
        let signed = bytes.get(..start + body.length()).ok_or(CUT)?;
        let length = reader.u32()?;
        let mut reader = reader.exactly(length)?;
        let (signature, attestation_key) = (reader.array()?, reader.array()?);
        if reader.u16()? != QE_REPORT {
            return Err("certification data without a QE report");
        }
        let length = reader.u32()?;
        let mut reader = reader.exactly(length)?;
        let (qe_report, qe_signature) = (reader.array()?, reader.array()?);
        let length = reader.u16()?;
        let qe_auth_data = reader.take(length.into())?;
        if reader.u16()? != PCK_CHAIN {
            return Err("certification data without a PCK certificate's chain");
        }
        let length = reader.u32()?;
        let pck_chain = reader.exactly(length)?.0;
        Ok(Self {
            version,
            signed,
            td,
            signature,
            attestation_key,
            qe_report,
            qe_signature,
            qe_auth_data,
            pck_chain,
        })
    }

    /// The quoting enclave's report, field by field.
    pub(super) fn qe(&self) -> Result<QeReport, &'static str> {
        let mut reader = Reader(self.qe_report);
        reader.array::<16>()?;
        let misc_select = *reader.array()?;
        reader.array::<28>()?;
        let attributes = *reader.array()?;
        reader.array::<64>()?;
        let mr_signer = *reader.array()?;
        reader.array::<96>()?;
        let (product, svn) = (reader.u16()?, reader.u16()?);
        reader.array::<60>()?;
        let report_data = *reader.array()?;
        Ok(QeReport { misc_select, attributes, mr_signer, product, svn, report_data })
    }
}

/// A quote without the zeros that some quoting services leave behind it, as far as the buffer went. `None` where something else is there.
pub(super) fn without_padding(bytes: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader(bytes);
    let body = match reader.u16().ok()? {
        4 => 584,
        5 => {
            reader = Reader(bytes.get(HEADER + 2..)?);
            6 + usize::try_from(reader.u32().ok()?).ok()?
        }
        _ => return None,
    };
    let start = body.checked_add(HEADER)?;
    let length = Reader(bytes.get(start..)?).u32().ok()?;
    let end = start.checked_add(4)?.checked_add(usize::try_from(length).ok()?)?;
    let (quote, padding) = bytes.split_at_checked(end)?;
    padding.iter().all(|byte| *byte == 0).then_some(quote)
}

impl TdReport {
    fn read(reader: &mut Reader<'_>, body: Body) -> Result<Self, &'static str> {
        Ok(Self {
            tee_tcb_svn: *reader.array()?,
            mr_seam: *reader.array()?,
            mr_signer_seam: *reader.array()?,
            seam_attributes: *reader.array()?,
            td_attributes: u64::from_le_bytes(*reader.array()?),
            xfam: *reader.array()?,
            mr_td: *reader.array()?,
            mr_config_id: *reader.array()?,
            mr_owner: *reader.array()?,
            mr_owner_config: *reader.array()?,
            rtmrs: [*reader.array()?, *reader.array()?, *reader.array()?, *reader.array()?],
            report_data: *reader.array()?,
            later: if body >= Body::Tdx15 { Some(Later::read(reader, body)?) } else { None },
        })
    }
}

impl Later {
    fn read(reader: &mut Reader<'_>, body: Body) -> Result<Self, &'static str> {
        Ok(Self {
            tee_tcb_svn: *reader.array()?,
            mr_service_td: *reader.array()?,
            extended: if body >= Body::Tdx15Extended { Some(Extended::read(reader)?) } else { None },
        })
    }
}

impl Extended {
    fn read(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let [vm] = *reader.array()?;
        // The TD's id, its devices, its first service TDs and their attributes, and the platform that it was made on.
        reader.array::<{ 32 + 48 + 48 + 8 + 16 + 16 + 12 }>()?;
        let service_td_now = *reader.array()?;
        reader.array::<8>()?;
        Ok(Self { vm, service_td_now })
    }
}

impl Body {
    const fn length(self) -> usize {
        match self {
            Self::Tdx10 => 584,
            Self::Tdx15 => 648,
            Self::Tdx15Extended => 885,
        }
    }
}

const CUT: &str = "a quote that ends too early";

/// What is still to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], &'static str> {
        let (array, rest) = self.0.split_first_chunk().ok_or(CUT)?;
        self.0 = rest;
        Ok(array)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(taken)
    }

    /// All that is left, which is `length` bytes long.
    fn exactly(self, length: u32) -> Result<Self, &'static str> {
        match usize::try_from(length) {
            Ok(length) if length == self.0.len() => Ok(self),
            Ok(length) if length < self.0.len() => Err("a quote with something behind it"),
            Ok(_) | Err(_) => Err(CUT),
        }
    }

    fn u16(&mut self) -> Result<u16, &'static str> {
        Ok(u16::from_le_bytes(*self.array()?))
    }

    fn u32(&mut self) -> Result<u32, &'static str> {
        Ok(u32::from_le_bytes(*self.array()?))
    }
}
