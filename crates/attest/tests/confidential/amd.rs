//! A test authority that issues what AMD issues, and a guest that shows it.

use std::{collections::BTreeMap, sync::OnceLock};

use carrick_attest::{
    Blob, Hex,
    sev_snp::{Evidence, Policy, Product, ProductPolicy, REPORT_SIZE, Tcb},
};

use crate::der::{self, Certificate, Key, P384, extension, tlv};

pub(crate) const MEASUREMENT: [u8; 48] = [0x11; 48];
pub(crate) const CHIP_ID: [u8; 64] = [0x22; 64];
pub(crate) const FROM: &str = "260101000000Z";
pub(crate) const TO: &str = "360101000000Z";

const PRODUCT_NAME: &str = "1.3.6.1.4.1.3704.1.2";
pub(crate) const HARDWARE_ID: &str = "1.3.6.1.4.1.3704.1.4";
pub(crate) const PROVIDER_ID: &str = "1.3.6.1.4.1.3704.1.5";

/// An authority above a product line's processors.
pub(crate) struct Line {
    product: Product,
    pub(crate) ark: Vec<u8>,
    pub(crate) ask: Vec<u8>,
    pub(crate) asvk: Vec<u8>,
}

/// A processor, and a guest on it: what can be bent before it is signed.
pub(crate) struct Guest {
    pub(crate) report: [u8; REPORT_SIZE],
    pub(crate) certificate: Certificate,
    pub(crate) key: P384,
    pub(crate) issuer: &'static Key,
}

/// The root's key, whatever the line.
pub(crate) fn ark_key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::rsa_pss(include_bytes!("vectors/ark.pk8")))
}

/// The key of what issues VCEKs and VLEKs.
pub(crate) fn ask_key() -> &'static Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::rsa_pss(include_bytes!("vectors/ask.pk8")))
}

impl Line {
    /// The authority of a line; serial numbers: ARK 1, ASK 2, ASVK 3.
    pub(crate) fn of(product: Product) -> &'static Self {
        static LINES: OnceLock<BTreeMap<Product, Line>> = OnceLock::new();
        let lines = LINES.get_or_init(|| {
            let products = [Product::Milan, Product::Genoa, Product::Turin];
            products.into_iter().map(|product| (product, Self::issue(product))).collect()
        });
        &lines[&product]
    }

    fn issue(product: Product) -> Self {
        let ark = format!("ARK-{product}");
        let issue = |subject: &str, serial, key: &Key| {
            let certificate = authority(&ark, subject, serial, key);
            certificate.sign(ark_key())
        };
        Self {
            product,
            ark: issue(&ark, 1, ark_key()),
            ask: issue(&format!("SEV-{product}"), 2, ask_key()),
            asvk: issue(&format!("SEV-VLEK-{product}"), 3, ask_key()),
        }
    }

    pub(crate) fn policy(&self) -> ProductPolicy {
        ProductPolicy {
            ark: der::pem(&self.ark),
            ask: Some(der::pem(&self.ask)),
            asvk: Some(der::pem(&self.asvk)),
            revocation_lists: vec![],
            minimum_tcb: Tcb { fmc: 0, bootloader: 3, tee: 0, snp: 8, microcode: 100 },
        }
    }

    /// A guest with a VCEK.
    pub(crate) fn guest(&self) -> Guest {
        let product = self.product;
        let id = match product {
            Product::Milan | Product::Genoa => &CHIP_ID[..],
            Product::Turin => &CHIP_ID[..8],
        };
        let key = P384::generate();
        let mut extensions = levels(product);
        extensions.push(text(PRODUCT_NAME, &format!("{product}-B1")));
        extensions.push(extension(HARDWARE_ID, false, id));
        let certificate = Certificate {
            serial: 0,
            issuer: format!("SEV-{product}"),
            subject: "SEV-VCEK".to_owned(),
            from: FROM.to_owned(),
            to: TO.to_owned(),
            key: key.info(),
            extensions,
        };
        let mut guest = Guest { report: report(product), certificate, key, issuer: ask_key() };
        guest.set(0x1a0, id);
        guest
    }

    /// A guest with the VLEK of a provider.
    pub(crate) fn guest_of_provider(&self) -> Guest {
        let product = self.product;
        let mut guest = self.guest();
        let mut extensions = levels(product);
        extensions.push(text(PRODUCT_NAME, product.as_str()));
        extensions.push(text(PROVIDER_ID, "CN=cloud.example"));
        guest.certificate.extensions = extensions;
        guest.certificate.issuer = format!("SEV-VLEK-{product}");
        guest.certificate.subject = "SEV-VLEK".to_owned();
        guest.set(0x48, &[0b100]);
        guest.set(0x1a0, &[0; 64]);
        guest
    }
}

impl Guest {
    /// Writes into the report.
    pub(crate) fn set(&mut self, at: usize, bytes: &[u8]) {
        self.report[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Puts an extension in the place of the one with its id.
    pub(crate) fn replace(&mut self, id: &str, content: &[u8]) {
        let new = extension(id, false, content);
        let prefix = &extension(id, false, &[])[2..];
        let prefix = &prefix[..prefix.len() - 2];
        let old = self.certificate.extensions.iter_mut().find(|old| old[2..].starts_with(prefix));
        *old.expect("the certificate has this extension") = new;
    }

    /// What the guest shows, signed.
    pub(crate) fn evidence(&self) -> Evidence {
        let mut report = self.report;
        let signature = self.key.sign(&report[..0x2a0]);
        for (at, byte) in signature[..48].iter().rev().enumerate() {
            report[0x2a0 + at] = *byte;
        }
        for (at, byte) in signature[48..].iter().rev().enumerate() {
            report[0x2e8 + at] = *byte;
        }
        evidence(&report, &self.certificate.sign(self.issuer))
    }
}

pub(crate) fn evidence(report: &[u8], certificate: &[u8]) -> Evidence {
    Evidence {
        report: Blob::new(report.to_vec()).unwrap(),
        certificate: Blob::new(certificate.to_vec()).unwrap(),
    }
}

/// A policy that takes the guests of every line.
pub(crate) fn policy() -> Policy {
    let products = [Product::Milan, Product::Genoa, Product::Turin];
    Policy {
        products: products.into_iter().map(|product| (product, Line::of(product).policy())).collect(),
        measurements: [Hex(MEASUREMENT)].into(),
        ..Policy::default()
    }
}

/// An authority's certificate under a root.
pub(crate) fn authority(issuer: &str, subject: &str, serial: u8, key: &Key) -> Certificate {
    Certificate {
        serial,
        issuer: issuer.to_owned(),
        subject: subject.to_owned(),
        from: FROM.to_owned(),
        to: TO.to_owned(),
        key: key.info(),
        extensions: der::authority(),
    }
}

/// An extension that holds a text.
pub(crate) fn text(id: &str, text: &str) -> Vec<u8> {
    extension(id, false, &tlv(0x16, text.as_bytes()))
}

/// The reported TCB of these guests: boot loader 4, TEE 0, SNP 24, microcode 0xd9; on Turin, fmc 1.
fn levels(product: Product) -> Vec<Vec<u8>> {
    let level =
        |id: &str, value: &[u8]| extension(&format!("1.3.6.1.4.1.3704.1.3.{id}"), false, &tlv(0x02, value));
    let mut levels = vec![level("1", &[4]), level("2", &[0]), level("3", &[24]), level("8", &[0, 0xd9])];
    if product == Product::Turin {
        levels.push(level("9", &[1]));
    }
    levels
}

/// A TCB_VERSION of these guests.
pub(crate) fn tcb(product: Product, microcode: u8) -> [u8; 8] {
    match product {
        Product::Milan | Product::Genoa => [4, 0, 0, 0, 0, 0, 24, microcode],
        Product::Turin => [1, 4, 0, 24, 0, 0, 0, microcode],
    }
}

/// A good report, apart from chip id and signature: version 2 on Milan, 3 on Genoa, 5 on Turin.
fn report(product: Product) -> [u8; REPORT_SIZE] {
    let mut report = [0; REPORT_SIZE];
    let mut set = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    match product {
        Product::Milan => set(0x00, &[2]),
        Product::Genoa => {
            set(0x00, &[3]);
            set(0x188, &[0x19, 0x11, 1]);
        }
        Product::Turin => {
            set(0x00, &[5]);
            set(0x188, &[0x1a, 0x02, 1]);
            set(0x1f8, &[1; 16]);
        }
    }
    set(0x04, &[7]);
    set(0x0a, &[0x02]);
    set(0x34, &[1]);
    set(0x38, &tcb(product, 0xdc));
    set(0x50, crate::TRANSCRIPT.as_bytes());
    set(0x90, &MEASUREMENT);
    set(0x160, &[0xff; 32]);
    set(0x180, &tcb(product, 0xd9));
    set(0x1e0, &tcb(product, 0xdb));
    set(0x1f0, &tcb(product, 0xda));
    report
}
