//! The certificate of the key that signs reports, and what AMD says in it (57230).

use super::{Product, SigningKey, Tcb};
use crate::x509::{Certificate, PublicKey, X509Error};

const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
const BOOTLOADER: &str = "1.3.6.1.4.1.3704.1.3.1";
const TEE: &str = "1.3.6.1.4.1.3704.1.3.2";
const SNP: &str = "1.3.6.1.4.1.3704.1.3.3";
const MICROCODE: &str = "1.3.6.1.4.1.3704.1.3.8";
const FMC: &str = "1.3.6.1.4.1.3704.1.3.9";
const HARDWARE_ID: &str = "1.3.6.1.4.1.3704.1.4";
const PROVIDER_ID: &str = "1.3.6.1.4.1.3704.1.5";

/// A VCEK's or VLEK's certificate that reads as one; who issued it is yet to be checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate.
    pub certificate: Certificate,
    /// The product line.
    pub product: Product,
    /// The product's name, for people: with the stepping, of a VCEK.
    pub product_name: String,
    /// What the key was derived for.
    pub tcb: Tcb,
    /// Whose key it is.
    pub endorsement: Endorsement,
}

/// Whose key AMD certified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endorsement {
    /// That of one processor (VCEK), by its id. From Turin on an id has 8 bytes; the rest is zero.
    Chip([u8; 64]),
    /// That of a cloud provider (VLEK), by its name.
    Provider(String),
}

/// Why a certificate is not one for keys that sign reports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    /// No certificate.
    #[error(transparent)]
    X509(#[from] X509Error),
    /// A key of another kind.
    #[error("its key is not one on P-384")]
    Key,
    /// A certificate authority's.
    #[error("it is a certificate authority's")]
    Authority,
    /// An extension is missing, or holds something else.
    #[error("extension {0} is missing, or not as AMD writes it")]
    Extension(&'static str),
    /// A product that no policy can name.
    #[error("{0:?} is no product line that is known")]
    Product(String),
}

impl Leaf {
    /// Reads a certificate in DER.
    ///
    /// # Errors
    /// [`LeafError`].
    pub fn parse(der: &[u8]) -> Result<Self, LeafError> {
        let certificate = Certificate::parse(der)?;
        if !matches!(certificate.public_key(), PublicKey::P384(_)) {
            return Err(LeafError::Key);
        }
        if certificate.is_ca() {
            return Err(LeafError::Authority);
        }
        let product_name = required(&certificate, PRODUCT_NAME, text)?;
        let product = Product::of_name(&product_name).ok_or(LeafError::Product(product_name.clone()))?;
        let level = |oid| required(&certificate, oid, level);
        let tcb = Tcb {
            // A component of its own from Turin on; before, there is no such extension.
            fmc: match product {
                Product::Turin => level(FMC)?,
                Product::Milan | Product::Genoa => absent(&certificate, FMC).map(|()| 0)?,
            },
            bootloader: level(BOOTLOADER)?,
            tee: level(TEE)?,
            snp: level(SNP)?,
            microcode: level(MICROCODE)?,
        };
        let endorsement = if certificate.extension(PROVIDER_ID).is_some() {
            absent(&certificate, HARDWARE_ID)?;
            Endorsement::Provider(required(&certificate, PROVIDER_ID, text)?)
        } else {
            Endorsement::Chip(required(&certificate, HARDWARE_ID, |content| chip_id(content, product))?)
        };
        Ok(Self { certificate, product, product_name, tcb, endorsement })
    }
}

impl Endorsement {
    /// The kind of key.
    pub const fn signing_key(&self) -> SigningKey {
        match self {
            Self::Chip(_) => SigningKey::Vcek,
            Self::Provider(_) => SigningKey::Vlek,
        }
    }
}

fn required<T>(
    certificate: &Certificate,
    oid: &'static str,
    read: impl Fn(&[u8]) -> Option<T>,
) -> Result<T, LeafError> {
    certificate.extension(oid).and_then(read).ok_or(LeafError::Extension(oid))
}

fn absent(certificate: &Certificate, oid: &'static str) -> Result<(), LeafError> {
    if certificate.extension(oid).is_none() { Ok(()) } else { Err(LeafError::Extension(oid)) }
}

/// An INTEGER of one byte.
const fn level(content: &[u8]) -> Option<u8> {
    match content {
        [0x02, 1, value @ 0..=0x7f] | [0x02, 2, 0, value @ 0x80..=0xff] => Some(*value),
        _ => None,
    }
}

/// An IA5String that can be shown.
fn text(content: &[u8]) -> Option<String> {
    match content {
        [0x16, length @ 1..=0x7f, text @ ..] if usize::from(*length) == text.len() => {
            let shown = text.iter().all(|byte| matches!(byte, b' '..=b'~'));
            shown.then(|| text.iter().copied().map(char::from).collect())
        }
        _ => None,
    }
}

/// The id's bytes as they are; where they stand in an OCTET STRING, that is taken too.
fn chip_id(content: &[u8], product: Product) -> Option<[u8; 64]> {
    let length = match product {
        Product::Milan | Product::Genoa => 64,
        Product::Turin => 8,
    };
    let id = match content {
        id if id.len() == length => id,
        [0x04, stated, id @ ..] if id.len() == length && usize::from(*stated) == length => id,
        _ => return None,
    };
    let mut padded = [0; 64];
    padded[..length].copy_from_slice(id);
    Some(padded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_names_have_one_spelling() {
        assert_eq!(level(&[2, 1, 0x73]), Some(0x73));
        assert_eq!(level(&[2, 2, 0, 0xd9]), Some(0xd9));
        for bad in
            [&[2, 1, 0xd9][..], &[2, 2, 0, 0x73], &[2, 2, 1, 0], &[2, 1], &[4, 1, 1], &[2, 1, 1, 0], &[]]
        {
            assert_eq!(level(bad), None, "{bad:?}");
        }
        assert_eq!(text(b"\x16\x05Milan").unwrap(), "Milan");
        for bad in
            [&b"\x16\x04Milan"[..], b"\x0c\x05Milan", b"\x16\x06Milan", b"\x16\x00", b"\x16\x02a\n", b""]
        {
            assert_eq!(text(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_chip_id_has_the_length_of_its_line() {
        assert_eq!(chip_id(&[7; 64], Product::Milan), Some([7; 64]));
        assert_eq!(chip_id(&[&[4, 64][..], &[7; 64]].concat(), Product::Genoa), Some([7; 64]));
        let turin = chip_id(&[7; 8], Product::Turin).unwrap();
        assert_eq!((&turin[..8], &turin[8..]), (&[7; 8][..], &[0; 56][..]));
        for bad in [&[7; 8][..], &[7; 63], &[7; 65], &[]] {
            assert_eq!(chip_id(bad, Product::Milan), None);
        }
        assert_eq!(chip_id(&[7; 64], Product::Turin), None);
    }
}
