//! The certificate that the TPM's vendor made, where it left it (TCG EK Credential Profile, "NV index").

use super::{
    device::{Device, TpmError},
    templates::Template,
};

const ECC: u32 = 0x01c0_000a;
const RSA: u32 = 0x01c0_0002;

/// Where the certificates are that lead to the vendor's root; one may be in several of these.
const CHAIN: std::ops::Range<u32> = 0x01c0_0100..0x01c0_0110;

/// The most certificates that are shown beside that of the key.
const MAX_INTERMEDIATES: usize = carrick_attest::tpm::MAX_INTERMEDIATES;

/// The endorsement key that is shown, with its certificate.
#[derive(Debug, Clone)]
pub(super) struct Endorsement {
    pub(super) template: Template,
    pub(super) certificate: Option<Vec<u8>>,
    pub(super) intermediates: Vec<Vec<u8>>,
}

impl Endorsement {
    /// The ECC key, which is made in no time, where it has a certificate; else the RSA key, where that has one; else the ECC key as
    /// it is, which an operator may have enrolled.
    pub(super) fn find(device: &mut Device) -> Result<Self, TpmError> {
        let mut found = None;
        for (index, template) in [(ECC, Template::EndorsementEcc), (RSA, Template::EndorsementRsa)] {
            let content = device.read_nv(index)?;
            if let Some(certificate) = content.and_then(|content| certificates(&content).into_iter().next()) {
                found = Some((template, certificate));
                break;
            }
        }
        let Some((template, certificate)) = found else {
            return Ok(Self {
                template: Template::EndorsementEcc,
                certificate: None,
                intermediates: Vec::new(),
            });
        };
        let mut chain = Vec::new();
        for index in CHAIN {
            match device.read_nv(index)? {
                Some(content) => chain.extend(content),
                None => break,
            }
        }
        let mut intermediates = certificates(&chain);
        intermediates.truncate(MAX_INTERMEDIATES);
        Ok(Self { template, certificate: Some(certificate), intermediates })
    }
}

/// The certificates that stand one behind the other, without what fills up the rest of an index.
fn certificates(mut content: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let [0x30, 0x82, high, low, ..] = content {
        let length = 4 + usize::from(u16::from_be_bytes([*high, *low]));
        let Some((certificate, rest)) = content.split_at_checked(length) else { break };
        found.push(certificate.to_vec());
        content = rest;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_end_where_they_say_and_what_fills_up_is_left_out() {
        let (first, second) = ([&[0x30, 0x82, 1, 0], &[7; 256][..]].concat(), [0x30, 0x82, 0, 1, 9].to_vec());
        let content = [first.clone(), second.clone(), vec![0xff; 9]].concat();
        assert_eq!(certificates(&content), [first.clone(), second]);
        assert_eq!(certificates(&content[..100]), Vec::<Vec<u8>>::new());
        assert_eq!(certificates(&[]), Vec::<Vec<u8>>::new());
    }
}
