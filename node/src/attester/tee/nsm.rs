//! The Nitro security module, `/dev/nsm` (Linux, `include/uapi/linux/nsm.h`): CBOR in, CBOR out.

use std::{fs::OpenOptions, io, os::fd::AsRawFd as _, path::PathBuf};

use super::{Device, DeviceError, Report};

/// The kernel's `NSM_RESPONSE_MAX_SIZE`.
const MAX_RESPONSE: usize = 0x3000;

/// `struct nsm_iovec`.
#[repr(C)]
struct IoVec {
    addr: u64,
    len: u64,
}

/// `struct nsm_raw`.
#[repr(C)]
struct Raw {
    request: IoVec,
    response: IoVec,
}

nix::ioctl_readwrite!(nsm_raw, 0x0a, 0x0, Raw);

/// Documents by the security module.
#[derive(Debug)]
pub(super) struct Nsm(PathBuf);

impl Nsm {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Device for Nsm {
    fn report(&self, data: &[u8; 64]) -> Result<Report, DeviceError> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.0);
        let file = opened.map_err(DeviceError::io(format!("opening {}", self.0.display())))?;
        let request = request(data);
        let mut response = vec![0u8; MAX_RESPONSE];
        let mut raw = Raw {
            request: IoVec { addr: request.as_ptr() as u64, len: request.len() as u64 },
            response: IoVec { addr: response.as_mut_ptr() as u64, len: response.len() as u64 },
        };
        // SAFETY: the kernel reads the request and writes the response, both of which outlive the call and have the lengths given.
        unsafe { nsm_raw(file.as_raw_fd(), &raw mut raw) }
            .map_err(|error| io::Error::from_raw_os_error(error as i32))
            .map_err(DeviceError::io("asking the Nitro security module"))?;
        let length = usize::try_from(raw.response.len).unwrap_or(usize::MAX);
        let response = response.get(..length).ok_or_else(|| answer("it answers more than fits"))?;
        Ok(Report { bytes: document(response)?, auxiliary: Vec::new() })
    }
}

/// `{"Attestation": {"user_data": data, "nonce": null, "public_key": null}}`.
fn request(data: &[u8; 64]) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    out.push(0xa1);
    push_text(&mut out, "Attestation");
    out.push(0xa3);
    push_text(&mut out, "user_data");
    out.extend_from_slice(&[0x58, 64]);
    out.extend_from_slice(data);
    for absent in ["nonce", "public_key"] {
        push_text(&mut out, absent);
        out.push(0xf6);
    }
    out
}

/// A text of at most 23 bytes.
fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(0x60 | u8::try_from(text.len()).unwrap_or(0));
    out.extend_from_slice(text.as_bytes());
}

/// The document in `{"Attestation": {"document": document}}`.
fn document(response: &[u8]) -> Result<Vec<u8>, DeviceError> {
    if let Some(error) = response.strip_prefix(b"\xa1\x65Error") {
        let name: String = error.iter().skip(1).take(40).map(|byte| char::from(*byte)).collect();
        return Err(answer(&format!("it refuses: {}", name.escape_default())));
    }
    let bytes = response.strip_prefix(b"\xa1\x6bAttestation\xa1\x68document");
    let bytes = bytes.ok_or_else(|| answer("it answers something else than a document"))?;
    let (length, content) = match bytes {
        [0x58, length, content @ ..] => (u64::from(*length), content),
        [0x59, high, low, content @ ..] => (u64::from(u16::from_be_bytes([*high, *low])), content),
        [0x5a, a, b, c, d, content @ ..] => (u64::from(u32::from_be_bytes([*a, *b, *c, *d])), content),
        _ => return Err(answer("its document is no byte string")),
    };
    if length != content.len() as u64 {
        return Err(answer("its document is cut, or has something behind it"));
    }
    Ok(content.to_vec())
}

fn answer(what: &str) -> DeviceError {
    DeviceError::Answer(format!("the Nitro security module: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(length: &[u8], document: &[u8]) -> Vec<u8> {
        [b"\xa1\x6bAttestation\xa1\x68document".as_slice(), length, document].concat()
    }

    #[test]
    fn the_request_is_what_the_kernel_and_the_module_take() {
        assert_eq!(size_of::<Raw>(), 32);
        assert_eq!(nix::request_code_readwrite!(0x0a, 0x0, size_of::<Raw>()), 0xc020_0a00);
        let request = request(&[7; 64]);
        let head = b"\xa1\x6bAttestation\xa3\x69user_data\x58\x40";
        let tail = b"\x65nonce\xf6\x6apublic_key\xf6";
        assert_eq!(request, [head.as_slice(), &[7; 64], tail].concat());
    }

    #[test]
    fn a_document_is_read_whatever_the_width_of_its_length() {
        assert_eq!(document(&response(&[0x58, 3], b"abc")).unwrap(), b"abc");
        assert_eq!(document(&response(&[0x59, 0, 3], b"abc")).unwrap(), b"abc");
        assert_eq!(document(&response(&[0x5a, 0, 0, 0, 3], b"abc")).unwrap(), b"abc");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        let whole = response(&[0x59, 0, 3], b"abc");
        for length in 0..whole.len() {
            document(&whole[..length]).unwrap_err();
        }
        document(&[whole.as_slice(), b"\0"].concat()).unwrap_err();
        let refused = document(b"\xa1\x65Error\x70InvalidOperation").unwrap_err();
        assert!(refused.to_string().contains("InvalidOperation"), "{refused}");
    }

    #[test]
    fn a_missing_device_is_an_error() {
        Nsm::new("/nonexistent/nsm".into()).report(&[0; 64]).unwrap_err();
        // No security module: it knows none of the requests.
        Nsm::new("/dev/null".into()).report(&[0; 64]).unwrap_err();
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = document(&bytes);
            let _ = document(&response(&bytes, b""));
        }
    }
}
