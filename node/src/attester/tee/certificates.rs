//! The certificates that a host hands to an SEV-SNP guest (GHCB specification, section 4.1.8.1, `MSG_REPORT_REQ`).

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// The most entries that are looked at; hosts have five kinds.
const MAX_ENTRIES: usize = 64;

/// The longest certificate that is taken, in bytes.
const MAX_CERTIFICATE: usize = 16 * 1024;

/// 63da758d-e664-4564-adc5-f4b93be8accd
const VCEK: [u8; 16] =
    [0x63, 0xda, 0x75, 0x8d, 0xe6, 0x64, 0x45, 0x64, 0xad, 0xc5, 0xf4, 0xb9, 0x3b, 0xe8, 0xac, 0xcd];

/// a8074bc2-a25a-483e-aae6-39c045a0b8a1
const VLEK: [u8; 16] =
    [0xa8, 0x07, 0x4b, 0xc2, 0xa2, 0x5a, 0x48, 0x3e, 0xaa, 0xe6, 0x39, 0xc0, 0x45, 0xa0, 0xb8, 0xa1];

/// The certificate, in DER, of the key that signed a report; `None` where the table, which may be empty, does not have it.
///
/// # Errors
/// Where the report names a key that it is not known how to find, or the table points outside of itself.
pub(super) fn endorsement(report: &[u8], table: &[u8]) -> Result<Option<Vec<u8>>, String> {
    // SIGNING_KEY, bits 2 to 4 of the flags behind PLATFORM_INFO.
    let flags = report.get(0x48..).and_then(|rest| rest.first()).ok_or("the report is cut")?;
    let guid = match flags >> 2 & 7 {
        0 => VCEK,
        1 => VLEK,
        other => return Err(format!("the report is signed by key {other}, neither VCEK nor VLEK")),
    };
    let Some(entry) = find(table, guid)? else { return Ok(None) };
    der(entry.to_vec())
        .map(Some)
        .ok_or_else(|| "the host's table holds no certificate where it says".to_owned())
}

/// What the table has under a GUID.
fn find(table: &[u8], wanted: [u8; 16]) -> Result<Option<&[u8]>, String> {
    let (entries, _) = table.as_chunks::<24>();
    for entry in entries.iter().take(MAX_ENTRIES) {
        let (guid, place) = entry.split_at(16);
        let ([offset, length], _) = place.as_chunks::<4>() else { break };
        if guid == [0; 16] {
            break;
        }
        if guid == wanted {
            let number = |bytes| usize::try_from(u32::from_le_bytes(bytes)).ok();
            let content = number(*offset).zip(number(*length)).and_then(|(offset, length)| {
                table.get(offset..)?.get(..length).filter(|content| !content.is_empty())
            });
            return content.map(Some).ok_or_else(|| "the host's table of certificates is cut".to_owned());
        }
    }
    Ok(None)
}

/// A certificate in DER, out of DER or the first block of PEM. `None` where it is neither, or too long.
pub(super) fn der(bytes: Vec<u8>) -> Option<Vec<u8>> {
    let der = match bytes.strip_prefix(b"-----BEGIN CERTIFICATE-----") {
        None => bytes,
        Some(_) if bytes.len() > 2 * MAX_CERTIFICATE => return None,
        Some(rest) => {
            let text = std::str::from_utf8(rest).ok()?;
            let (lines, _) = text.split_once("-----END CERTIFICATE-----")?;
            let base64: String = lines.split_ascii_whitespace().collect();
            STANDARD.decode(base64).ok()?
        }
    };
    (der.first() == Some(&0x30) && der.len() <= MAX_CERTIFICATE).then_some(der)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn report(key: u8) -> Vec<u8> {
        let mut report = vec![0; 1184];
        report[0x48] = key << 2;
        report
    }

    /// A table as hosts write it: entries, an empty one, contents.
    fn table(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut head = Vec::new();
        let mut contents = Vec::new();
        for (guid, content) in entries {
            let offset = (entries.len() + 1) * 24 + contents.len();
            head.extend_from_slice(guid);
            head.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            head.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
            contents.extend_from_slice(content);
        }
        head.extend_from_slice(&[0; 24]);
        [head, contents].concat()
    }

    #[test]
    fn the_certificate_of_the_key_that_signed_is_taken() {
        let table = table(&[([9; 16], b"0ask"), (VCEK, b"0vcek"), (VLEK, b"0vlek")]);
        assert_eq!(endorsement(&report(0), &table).unwrap().unwrap(), b"0vcek");
        assert_eq!(endorsement(&report(1), &table).unwrap().unwrap(), b"0vlek");
        endorsement(&report(7), &table).unwrap_err();
        endorsement(b"", &table).unwrap_err();
    }

    #[test]
    fn a_table_without_it_has_none_and_one_that_points_outside_is_refused() {
        assert_eq!(endorsement(&report(0), b"").unwrap(), None);
        assert_eq!(endorsement(&report(0), &[0; 4096]).unwrap(), None);
        assert_eq!(endorsement(&report(0), &table(&[(VLEK, b"0vlek")])).unwrap(), None);
        let whole = table(&[(VCEK, b"0vcek")]);
        endorsement(&report(0), &whole[..whole.len() - 1]).unwrap_err();
        let mut far = whole;
        far[16..20].fill(0xff);
        endorsement(&report(0), &far).unwrap_err();
        endorsement(&report(0), &table(&[(VCEK, b"")])).unwrap_err();
        let end_first = [[0; 24].as_slice(), &table(&[(VCEK, b"0vcek")])].concat();
        assert_eq!(endorsement(&report(0), &end_first).unwrap(), None, "behind the end of the table");
    }

    #[test]
    fn pem_is_read_and_what_is_no_certificate_is_not() {
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\r\n{}\r\n-----END CERTIFICATE-----\r\n",
            STANDARD.encode(b"0abc")
        );
        assert_eq!(der(pem.into_bytes()).unwrap(), b"0abc");
        assert_eq!(der(b"0abc".to_vec()).unwrap(), b"0abc");
        assert_eq!(der(b"".to_vec()), None);
        assert_eq!(der(b"-----BEGIN CERTIFICATE-----\n".to_vec()), None);
        assert_eq!(der(vec![0x30; MAX_CERTIFICATE + 1]), None);
    }

    proptest! {
        #[test]
        fn no_table_makes_it_panic(table in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..24) {
            let entry = [VCEK.as_slice(), &table].concat();
            let _ = endorsement(&report(0), &table);
            let _ = endorsement(&report(0), entry.get(..16 + cut).unwrap_or(&entry));
            let _ = endorsement(&report(0), &entry);
        }
    }
}
