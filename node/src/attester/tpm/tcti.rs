//! Where a TPM is, in the words of the TSS: a device, or swtpm's socket.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

/// The longest command or response.
const MAX: usize = 4096;

/// How long swtpm may take for one command.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where a TPM is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tcti {
    /// A character device: `device:/dev/tpmrm0`, or the path alone.
    Device(PathBuf),
    /// swtpm on a UNIX socket: `swtpm:PATH`.
    Unix(PathBuf),
    /// swtpm on TCP: `swtpm:HOST:PORT`.
    Tcp(String, u16),
}

/// Why a text says of no TPM where it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no TPM: use device:/dev/tpmrm0, swtpm:PATH or swtpm:HOST:PORT, with absolute paths")]
pub struct ParseTctiError(String);

impl Tcti {
    /// Where the kernel's resource manager is, on a host with a TPM.
    pub const DEFAULT: &str = "/dev/tpmrm0";

    /// Whether somebody keeps its users apart, and cleans up behind them.
    pub(super) fn is_managed(&self) -> bool {
        match self {
            Self::Device(path) => {
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"tpmrm"))
            }
            Self::Unix(_) | Self::Tcp(..) => false,
        }
    }

    pub(super) fn connect(&self) -> io::Result<Connection> {
        Ok(match self {
            Self::Device(path) => Connection::Device(OpenOptions::new().read(true).write(true).open(path)?),
            Self::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Connection::Stream(Box::new(stream))
            }
            Self::Tcp(host, port) => {
                let address = (host.as_str(), *port).to_socket_addrs()?.next();
                let address = address.ok_or_else(|| io::Error::other("its host has no address"))?;
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Connection::Stream(Box::new(stream))
            }
        })
    }
}

impl FromStr for Tcti {
    type Err = ParseTctiError;

    fn from_str(text: &str) -> Result<Self, ParseTctiError> {
        let path = |text: &str| Path::new(text).is_absolute().then(|| PathBuf::from(text));
        let parsed = if let Some(place) = text.strip_prefix("swtpm:") {
            match path(place.strip_prefix("path=").unwrap_or(place)) {
                Some(path) => Some(Self::Unix(path)),
                None => {
                    let pair = match place.strip_prefix("host=") {
                        Some(rest) => rest.split_once(",port="),
                        None => place.rsplit_once(':'),
                    };
                    pair.filter(|(host, _)| !host.is_empty() && !host.contains(['/', ',', '=']))
                        .and_then(|(host, port)| Some(Self::Tcp(host.to_owned(), port.parse().ok()?)))
                }
            }
        } else {
            path(text.strip_prefix("device:").unwrap_or(text)).map(Self::Device)
        };
        parsed.ok_or_else(|| ParseTctiError(text.to_owned()))
    }
}

impl fmt::Display for Tcti {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(path) => write!(f, "device:{}", path.display()),
            Self::Unix(path) => write!(f, "swtpm:{}", path.display()),
            Self::Tcp(host, port) => write!(f, "swtpm:{host}:{port}"),
        }
    }
}

/// An open TPM.
pub(super) enum Connection {
    Device(File),
    Stream(Box<dyn Stream>),
}

pub(super) trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl Connection {
    /// Sends one command, and reads its response.
    pub(super) fn transmit(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut response = vec![0; MAX];
        let length = match self {
            Self::Device(file) => {
                // The kernel takes a command in one write, and gives a response in one read.
                if file.write(command)? != command.len() {
                    return Err(io::Error::other("it did not take the whole command"));
                }
                file.read(&mut response)?
            }
            Self::Stream(stream) => {
                stream.write_all(command)?;
                stream.read_exact(&mut response[..10])?;
                let length = u32::from_be_bytes([response[2], response[3], response[4], response[5]]);
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let rest = response.get_mut(10..length);
                stream.read_exact(rest.ok_or_else(|| io::Error::other("a response of no length"))?)?;
                length
            }
        };
        response.truncate(length);
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tcti_names_a_device_or_a_socket() {
        for (text, tcti) in [
            ("/dev/tpm0", Tcti::Device("/dev/tpm0".into())),
            ("device:/dev/tpmrm0", Tcti::Device("/dev/tpmrm0".into())),
            ("swtpm:/run/tpm/s", Tcti::Unix("/run/tpm/s".into())),
            ("swtpm:path=/run/tpm/s", Tcti::Unix("/run/tpm/s".into())),
            ("swtpm:localhost:2321", Tcti::Tcp("localhost".to_owned(), 2321)),
            ("swtpm:host=::1,port=2321", Tcti::Tcp("::1".to_owned(), 2321)),
        ] {
            assert_eq!(text.parse(), Ok(tcti.clone()), "{text}");
            assert_eq!(tcti.to_string().parse(), Ok(tcti), "{text}");
        }
        for bad in [
            "",
            "tpm0",
            "device:",
            "device:tpm0",
            "swtpm:",
            "swtpm:here",
            "swtpm:a:b",
            "mssim:a:1",
            "swtpm::1",
        ] {
            bad.parse::<Tcti>().expect_err(bad);
        }
        assert!(Tcti::Device("/dev/tpmrm0".into()).is_managed());
        assert!(!Tcti::Device("/dev/tpm0".into()).is_managed());
    }
}
