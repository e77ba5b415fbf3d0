//! `/dev/sev-guest`, for kernels without configfs-tsm (Linux, `include/uapi/linux/sev-guest.h`).

use std::{fs::OpenOptions, io, os::fd::AsRawFd as _, path::PathBuf};

use super::{Device, DeviceError, Report};

/// The kernel's `SEV_FW_BLOB_MAX_SIZE`: the most certificates, in bytes, that it hands on.
const MAX_CERTIFICATES: u32 = 0x4000;

/// The length of a report, in bytes.
const REPORT: usize = 1184;

/// What stands before the report in a response: status, size, reserved.
const HEADER: usize = 32;

/// `struct snp_report_req`.
#[repr(C)]
struct ReportRequest {
    user_data: [u8; 64],
    vmpl: u32,
    reserved: [u8; 28],
}

/// `struct snp_report_resp`.
#[repr(C)]
struct ReportResponse {
    data: [u8; 4000],
}

/// `struct snp_ext_report_req`.
#[repr(C)]
struct ExtendedRequest {
    data: ReportRequest,
    certs_address: u64,
    certs_len: u32,
}

/// `struct snp_guest_request_ioctl`.
#[repr(C)]
struct GuestRequest {
    msg_version: u8,
    req_data: u64,
    resp_data: u64,
    /// The firmware's error below, the hypervisor's above.
    exitinfo2: u64,
}

nix::ioctl_readwrite!(snp_get_report, b'S', 0x0, GuestRequest);
nix::ioctl_readwrite!(snp_get_ext_report, b'S', 0x2, GuestRequest);

/// Reports by the guest device.
#[derive(Debug)]
pub(super) struct SevGuest(PathBuf);

impl SevGuest {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self(path)
    }
}

impl Device for SevGuest {
    fn report(&self, data: &[u8; 64]) -> Result<Report, DeviceError> {
        let opened = OpenOptions::new().read(true).write(true).open(&self.0);
        let file = opened.map_err(DeviceError::io(format!("opening {}", self.0.display())))?;
        let fd = file.as_raw_fd();
        let mut certificates = vec![0u8; MAX_CERTIFICATES as usize];
        let mut request = ExtendedRequest {
            data: ReportRequest { user_data: *data, vmpl: 0, reserved: [0; 28] },
            certs_address: certificates.as_mut_ptr() as u64,
            certs_len: MAX_CERTIFICATES,
        };
        let mut response = ReportResponse { data: [0; 4000] };
        let mut guest = GuestRequest {
            msg_version: 1,
            req_data: &raw mut request as u64,
            resp_data: &raw mut response as u64,
            exitinfo2: 0,
        };
        // SAFETY: the kernel reads the request and writes the response and the certificates, all of which outlive the call and
        // have the lengths that it is told or knows.
        match unsafe { snp_get_ext_report(fd, &raw mut guest) } {
            Ok(_) => return Ok(Report { bytes: report(&response.data)?, auxiliary: certificates }),
            Err(error) => {
                let error = failed(error, guest.exitinfo2);
                if error.is_transient() {
                    return Err(error);
                }
                tracing::debug!(%error, "no certificates with the report");
            }
        }
        guest.req_data = &raw mut request.data as u64;
        guest.exitinfo2 = 0;
        // SAFETY: as above; nothing of the certificates is touched.
        match unsafe { snp_get_report(fd, &raw mut guest) } {
            Ok(_) => Ok(Report { bytes: report(&response.data)?, auxiliary: Vec::new() }),
            Err(error) => Err(failed(error, guest.exitinfo2)),
        }
    }
}

fn failed(error: nix::Error, exitinfo2: u64) -> DeviceError {
    // SNP_GUEST_VMM_ERR_BUSY: the kernel may pass it on as another error.
    let busy = exitinfo2 >> 32 == 2;
    let source = io::Error::from_raw_os_error(if busy { libc::EBUSY } else { error as i32 });
    DeviceError::io(format!("asking the SEV-SNP firmware for a report (status {exitinfo2:#x})"))(source)
}

/// The report in a firmware's response (SEV-SNP firmware ABI, `MSG_REPORT_RSP`).
fn report(response: &[u8]) -> Result<Vec<u8>, DeviceError> {
    let number = |at: usize| {
        let bytes = response.get(at..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    if number(0) != Some(0) || number(4).and_then(|size| usize::try_from(size).ok()) != Some(REPORT) {
        let status = number(0).unwrap_or(u32::MAX);
        return Err(DeviceError::Answer(format!(
            "the SEV-SNP firmware answers with status {status}, and no report"
        )));
    }
    let report = response.get(HEADER..).and_then(|rest| rest.get(..REPORT));
    report
        .map(<[u8]>::to_vec)
        .ok_or_else(|| DeviceError::Answer("the SEV-SNP firmware's answer is cut".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<ReportRequest>(), 96);
        assert_eq!(size_of::<ReportResponse>(), 4000);
        assert_eq!(size_of::<ExtendedRequest>(), 112);
        assert_eq!(size_of::<GuestRequest>(), 32);
        assert_eq!(nix::request_code_readwrite!(b'S', 0x0, size_of::<GuestRequest>()), 0xc020_5300);
        assert_eq!(nix::request_code_readwrite!(b'S', 0x2, size_of::<GuestRequest>()), 0xc020_5302);
    }

    #[test]
    fn a_report_is_what_stands_behind_the_header() {
        let mut response = vec![0; 4000];
        response[4..8].copy_from_slice(&1184u32.to_le_bytes());
        response[32..1216].fill(7);
        assert_eq!(report(&response).unwrap(), vec![7; 1184]);
        for length in 0..1216 {
            report(&response[..length]).unwrap_err();
        }
        response[0] = 0x16;
        report(&response).unwrap_err();
        response[0] = 0;
        response[5] = 0xff;
        report(&response).unwrap_err();
    }

    #[test]
    fn a_busy_hypervisor_is_asked_again_and_a_missing_device_is_an_error() {
        assert!(failed(nix::Error::EIO, 2 << 32).is_transient());
        assert!(failed(nix::Error::EINTR, 0).is_transient());
        assert!(!failed(nix::Error::EIO, 1 << 32).is_transient());
        let error = SevGuest::new("/nonexistent/sev-guest".into()).report(&[0; 64]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/sev-guest"));
        // No SEV-SNP guest device: it knows none of the requests.
        SevGuest::new("/dev/null".into()).report(&[0; 64]).unwrap_err();
    }
}
