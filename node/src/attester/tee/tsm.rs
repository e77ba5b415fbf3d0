//! configfs-tsm: one directory for each report (Linux, `Documentation/ABI/testing/configfs-tsm-report`).

use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::PathBuf,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use carrick_attest::Kind;

use super::{Device, DeviceError, Report};

/// The longest attribute that is read, in bytes; the kernel's own bound is lower.
pub(super) const MAX_ATTRIBUTE: usize = 64 * 1024;

/// How often a report is made again when somebody else wrote into its directory.
const ROUNDS: u32 = 3;

/// What the kernel does with a report's directory.
pub(super) trait Files: fmt::Debug + Send + Sync {
    /// Makes the directory of a report.
    fn make(&self, report: &str) -> io::Result<()>;

    /// Removes it.
    fn remove(&self, report: &str) -> io::Result<()>;

    /// Reads an attribute, at most one byte more than [`MAX_ATTRIBUTE`].
    fn read(&self, report: &str, attribute: &str) -> io::Result<Vec<u8>>;

    /// Writes an attribute, in one go.
    fn write(&self, report: &str, attribute: &str, bytes: &[u8]) -> io::Result<()>;
}

/// The kernel's.
#[derive(Debug)]
pub(super) struct Configfs(PathBuf);

/// Who makes the reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Provider {
    SevGuest,
    TdxGuest,
}

/// Reports by configfs-tsm.
#[derive(Debug)]
pub(super) struct Tsm<F> {
    files: F,
    provider: Provider,
}

impl Configfs {
    pub(super) const fn new(root: PathBuf) -> Self {
        Self(root)
    }
}

impl Files for Configfs {
    fn make(&self, report: &str) -> io::Result<()> {
        fs::create_dir(self.0.join(report))
    }

    fn remove(&self, report: &str) -> io::Result<()> {
        fs::remove_dir(self.0.join(report))
    }

    fn read(&self, report: &str, attribute: &str) -> io::Result<Vec<u8>> {
        let file = File::open(self.0.join(report).join(attribute))?;
        let mut bytes = Vec::new();
        file.take(MAX_ATTRIBUTE as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, report: &str, attribute: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).open(self.0.join(report).join(attribute))?;
        // One write is one value: what is written in two parts would be two.
        if file.write(bytes)? == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }
}

impl Provider {
    pub(super) const fn kind(self) -> Kind {
        match self {
            Self::SevGuest => Kind::SevSnp,
            Self::TdxGuest => Kind::Tdx,
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        match name.trim_ascii() {
            b"sev_guest" => Some(Self::SevGuest),
            b"tdx_guest" => Some(Self::TdxGuest),
            _ => None,
        }
    }
}

/// Who makes reports here; `None` where nobody does, or somebody that is not known.
///
/// # Errors
/// Where the kernel lets nobody ask.
pub(super) fn provider(files: &impl Files) -> Result<Option<Provider>, DeviceError> {
    let entry = match Entry::make(files) {
        Ok(entry) => entry,
        // No configfs, no configfs-tsm, or none with a provider.
        Err(DeviceError::Io { source, .. })
            if source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::ENXIO) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    Ok(Provider::named(&entry.read("provider")?))
}

impl<F: Files> Tsm<F> {
    pub(super) const fn new(files: F, provider: Provider) -> Self {
        Self { files, provider }
    }

    /// A report; `None` where somebody else wrote into its directory meanwhile.
    fn undisturbed(&self, data: &[u8; 64]) -> Result<Option<Report>, DeviceError> {
        let entry = Entry::make(&self.files)?;
        let name = entry.read("provider")?;
        if Provider::named(&name) != Some(self.provider) {
            let name = String::from_utf8_lossy(&name).trim().to_owned();
            return Err(DeviceError::Answer(format!("configfs-tsm has another provider now: {name:?}")));
        }
        let before = entry.generation()?;
        entry.write("inblob", data)?;
        let bytes = entry.read("outblob")?;
        let auxiliary = match entry.read("auxblob") {
            Err(DeviceError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Vec::new(),
            auxiliary => auxiliary?,
        };
        let mine = before.checked_add(1) == Some(entry.generation()?);
        Ok(mine.then_some(Report { bytes, auxiliary }))
    }
}

impl<F: Files> Device for Tsm<F> {
    fn report(&self, data: &[u8; 64]) -> Result<Report, DeviceError> {
        for _ in 0..ROUNDS {
            if let Some(report) = self.undisturbed(data)? {
                return Ok(report);
            }
        }
        Err(DeviceError::Answer("somebody else keeps writing into our reports of configfs-tsm".to_owned()))
    }
}

/// The directory of one report, which goes when this does.
struct Entry<'a, F: Files> {
    files: &'a F,
    name: String,
}

impl<'a, F: Files> Entry<'a, F> {
    fn make(files: &'a F) -> Result<Self, DeviceError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("carrick-{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let made = match files.make(&name) {
            // Of an agent that was killed, and had the same process id.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                files.remove(&name).and_then(|()| files.make(&name))
            }
            made => made,
        };
        made.map_err(DeviceError::io("making a report of configfs-tsm"))?;
        Ok(Self { files, name })
    }

    fn read(&self, attribute: &str) -> Result<Vec<u8>, DeviceError> {
        let bytes = self.files.read(&self.name, attribute);
        let bytes = bytes.map_err(DeviceError::io(format!("reading {attribute} of configfs-tsm")))?;
        if bytes.len() > MAX_ATTRIBUTE {
            return Err(DeviceError::Answer(format!("{attribute} has more than {MAX_ATTRIBUTE} bytes")));
        }
        Ok(bytes)
    }

    fn write(&self, attribute: &str, bytes: &[u8]) -> Result<(), DeviceError> {
        let written = self.files.write(&self.name, attribute, bytes);
        written.map_err(DeviceError::io(format!("writing {attribute} of configfs-tsm")))
    }

    fn generation(&self) -> Result<u64, DeviceError> {
        let text = self.read("generation")?;
        let number = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
        number.ok_or_else(|| DeviceError::Answer("the generation of configfs-tsm is no number".to_owned()))
    }
}

impl<F: Files> Drop for Entry<'_, F> {
    fn drop(&mut self) {
        if let Err(error) = self.files.remove(&self.name) {
            tracing::warn!(%error, report = self.name, "a report of configfs-tsm stays behind");
        }
    }
}
