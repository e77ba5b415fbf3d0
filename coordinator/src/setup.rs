//! The data directory: made at the first start, read at every later one.
//!
//! Every file is there whole or not at all, and the database comes last. As long as there is none, the mesh does not exist, and
//! whatever files a first start left behind when it was killed are taken up by the next.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use carrick_attest::{
    Bundle, Signed, SignedBundle,
    policy::{ClusterPolicy, LIFETIME},
};
use carrick_types::{CaPin, Cidr, CoordinatorSecret, Credential, MeshId, OperatorSecret, Role, UnixTime};
use carrick_wire::log::{Decision, Entry};
use sha2::{Digest as _, Sha256};
use tracing::{info, warn};

use crate::{
    error::StartError,
    files::{self, failed},
    operator::HeldOperator,
    state::Overlay,
    store::{CredentialRecord, Founding, Store},
    tls::{self, Authority, TlsError},
};

/// The operator's key, until `carrick operator init` names another operator.
const OPERATOR_KEY: &str = "operator.key";

/// A data directory that this process alone uses.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked for as long as it is open.
    _lock: File,
}

/// What the data directory holds.
pub(crate) struct Contents {
    pub(crate) authority: Authority,
    pub(crate) signing_key: CoordinatorSecret,
    pub(crate) operator: HeldOperator,
    pub(crate) store: Store,
    pub(crate) first_start: bool,
}

/// What the command line needs to find its coordinator.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Profile<'a> {
    pub(crate) coordinator: &'a str,
    pub(crate) credential: &'a Path,
}

impl DataDir {
    /// Makes the directory where there is none, closes it to others, and locks it.
    pub(crate) fn open(path: &Path) -> Result<Self, StartError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            if path.exists() {
                StartError::NotADirectory(path.to_owned())
            } else {
                failed("make", path)(error)
            }
        })?;
        // Absolute, since the profile names a file within.
        let path = path.canonicalize().map_err(failed("find", path))?;
        let metadata = fs::metadata(&path).map_err(failed("read", &path))?;
        if !metadata.is_dir() {
            return Err(StartError::NotADirectory(path));
        }
        let user = nix::unistd::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(StartError::ForeignDirectory { dir: path, owner: metadata.uid(), user });
        }
        if metadata.mode() & 0o777 != 0o700 {
            let mode = format!("{:o}", metadata.mode() & 0o777);
            info!(dir = %path.display(), %mode, "closing the data directory to others");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).map_err(failed("close", &path))?;
        }
        let lock = lock(&path)?;
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.path.join("carrick.db")
    }

    pub(crate) fn admin_credential(&self) -> PathBuf {
        self.path.join("admin.credential")
    }

    pub(crate) fn viewer_credential(&self) -> PathBuf {
        self.path.join("viewer.credential")
    }

    /// Reads the directory; makes what a new mesh needs where the database is not there yet. `profile` is called after
    /// everything else of a first start is in place but the database.
    pub(crate) fn read_or_found(
        &self,
        overlay: Option<Cidr>,
        now: UnixTime,
        profile: impl FnOnce(),
    ) -> Result<Contents, StartError> {
        let database = self.database();
        let first_start = !database.try_exists().map_err(failed("read", &database))?;
        if first_start {
            self.found(overlay, now, profile)?;
        }
        let authority = self.authority()?;
        let signing_key = self.signing_key()?;
        let store = Store::open(&database)?;
        if let (Some(asked), fixed) = (overlay, store.overlay()?)
            && asked != fixed
        {
            return Err(StartError::OverlayFixed(fixed));
        }
        let operator = HeldOperator::new(self.path.join(OPERATOR_KEY), self.operator()?);
        operator.retire(&store.bundle()?.operator);
        Ok(Contents { authority, signing_key, operator, store, first_start })
    }

    fn found(&self, overlay: Option<Cidr>, now: UnixTime, profile: impl FnOnce()) -> Result<(), StartError> {
        let mesh = MeshId::from_bytes(random()?);
        let overlay = overlay.unwrap_or_else(Overlay::default_v4);
        if Overlay::new(mesh, overlay).is_none() {
            return Err(StartError::Overlay(overlay));
        }
        let key = self.text_or("ca.key", || tls::new_key().map_err(certificate))?;
        self.text_or("ca.crt", || tls::new_authority(&key).map_err(certificate))?;
        let ca = self.authority()?.pin();
        for name in ["signing.key", OPERATOR_KEY] {
            let path = self.path.join(name);
            if files::read(&path)?.is_none() {
                files::write_private(&path, &random::<32>()?)?;
            }
        }
        let operator = self.operator()?.ok_or(StartError::MissingFile(self.path.join(OPERATOR_KEY)))?;
        let bundle = first_bundle(mesh, &self.signing_key()?, &operator, now);
        let credentials = vec![
            self.credential(&self.viewer_credential(), Role::Viewer, ca)?,
            self.credential(&self.admin_credential(), Role::Admin, ca)?,
        ];
        profile();
        let entry = Entry { at: now, decision: Decision::bundle_published(1, &bundle) };
        Store::create(&self.database(), &Founding { mesh, overlay, credentials, bundle, entry })?;
        info!(%mesh, dir = %self.path.display(), "mesh made");
        Ok(())
    }

    fn authority(&self) -> Result<Authority, StartError> {
        let (key, certificate) = (self.text("ca.key")?, self.text("ca.crt")?);
        Authority::read(&key, &certificate).map_err(|error| self.damaged("ca.crt", &error.to_string()))
    }

    fn signing_key(&self) -> Result<CoordinatorSecret, StartError> {
        let key = self.key("signing.key")?.ok_or(StartError::MissingFile(self.path.join("signing.key")))?;
        Ok(CoordinatorSecret::from_bytes(key))
    }

    /// The operator's key, where it is held here.
    fn operator(&self) -> Result<Option<OperatorSecret>, StartError> {
        Ok(self.key(OPERATOR_KEY)?.map(OperatorSecret::from_bytes))
    }

    fn key(&self, name: &str) -> Result<Option<[u8; 32]>, StartError> {
        let Some(bytes) = files::read(&self.path.join(name))? else { return Ok(None) };
        bytes.try_into().map(Some).map_err(|_| self.damaged(name, "not 32 bytes"))
    }

    /// The credential that a first start before this one left, or a new one.
    fn credential(&self, path: &Path, role: Role, ca: CaPin) -> Result<CredentialRecord, StartError> {
        let left =
            files::read(path)?.and_then(|bytes| String::from_utf8(bytes).ok()?.parse::<Credential>().ok());
        let credential = match left.filter(|left| left.role() == role && left.ca() == ca) {
            Some(left) => left,
            None => {
                let new = Credential::new(role, ca, random()?);
                files::write_private(path, format!("{new}\n").as_bytes())?;
                new
            }
        };
        Ok(CredentialRecord { role, hash: Sha256::digest(credential.expose()).into() })
    }

    fn text_or(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<String, StartError>,
    ) -> Result<String, StartError> {
        let path = self.path.join(name);
        if files::read(&path)?.is_none() {
            files::write_private(&path, make()?.as_bytes())?;
        }
        self.text(name)
    }

    fn text(&self, name: &str) -> Result<String, StartError> {
        let path = self.path.join(name);
        let bytes = files::read(&path)?.ok_or(StartError::MissingFile(path))?;
        String::from_utf8(bytes).map_err(|_| self.damaged(name, "not text"))
    }

    fn damaged(&self, name: &str, why: &str) -> StartError {
        StartError::DamagedFile { path: self.path.join(name), why: why.to_owned() }
    }
}

/// A policy under which a join token admits to every cluster.
fn first_bundle(
    mesh: MeshId,
    signing_key: &CoordinatorSecret,
    operator: &OperatorSecret,
    now: UnixTime,
) -> SignedBundle {
    let bundle = Bundle {
        mesh,
        version: 1,
        expires_at: now.saturating_add(LIFETIME),
        coordinator_key: signing_key.public(),
        former_operators: vec![],
        // Only where an operator asks for it.
        rotate_keys_s: u32::MAX,
        log_restart: None,
        default: ClusterPolicy::default(),
        clusters: std::collections::BTreeMap::new(),
    };
    SignedBundle { operator: operator.public(), successions: vec![], bundle: Signed::seal(&bundle, operator) }
}

/// Writes the command line's profile, unless there is one. Without it an operator has to name coordinator and credential, so a
/// failure is worth a warning and no more.
pub(crate) fn write_profile(path: &Path, profile: &Profile<'_>) {
    let write = || -> Result<(), StartError> {
        if path.try_exists().map_err(failed("read", path))? {
            info!(profile = %path.display(), "profile kept");
            return Ok(());
        }
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("make", dir))?;
        }
        let json = serde_json::to_vec_pretty(profile).map_err(|error| failed("write", path)(error.into()))?;
        files::write_private(path, &json)
    };
    if let Err(error) = write() {
        warn!(profile = %path.display(), %error, "profile not written");
    }
}

/// Random bytes from the system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], StartError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| StartError::System { action: "get random bytes", source: error.into() })?;
    Ok(bytes)
}

fn lock(dir: &Path) -> Result<File, StartError> {
    let path = dir.join("lock");
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed("write", &path))?;
    match file.try_lock() {
        Ok(()) => {
            // For people only; the lock is what counts. On a full disk it has to do without.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            Err(StartError::Locked { dir: dir.to_owned(), pid })
        }
        Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
    }
}

fn certificate(error: TlsError) -> StartError {
    StartError::Certificate(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::from_millis(1000);
    const FILES: [&str; 7] = [
        "ca.key",
        "ca.crt",
        "signing.key",
        "operator.key",
        "viewer.credential",
        "admin.credential",
        "carrick.db",
    ];

    #[test]
    fn a_first_start_that_was_killed_at_any_file_is_completed_by_the_next() {
        for kept in 0..FILES.len() {
            let dir = tempfile::tempdir().unwrap();
            start(dir.path());
            let survives: Vec<_> =
                FILES[..kept].iter().map(|name| fs::read(dir.path().join(name)).unwrap()).collect();
            for name in &FILES[kept..] {
                fs::remove_file(dir.path().join(name)).unwrap();
                fs::write(dir.path().join(format!("{name}.new")), "half a fi").unwrap();
            }
            assert!(start(dir.path()), "{kept} files were there");
            for (name, content) in FILES.iter().zip(survives) {
                assert_eq!(fs::read(dir.path().join(name)).unwrap(), content, "{name} was kept");
            }
            assert!(!start(dir.path()), "the mesh exists now");
        }
    }

    #[test]
    fn everything_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        start(dir.path());
        assert_eq!(fs::metadata(dir.path()).unwrap().mode() & 0o777, 0o700);
        for name in FILES.iter().chain(&["lock"]) {
            assert_eq!(fs::metadata(dir.path().join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn the_database_holds_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path());
        let database = fs::read(dir.path().join("carrick.db")).unwrap();
        for name in ["admin.credential", "viewer.credential"] {
            let text = fs::read_to_string(dir.path().join(name)).unwrap();
            let secret = *text.parse::<Credential>().unwrap().expose();
            assert!(!database.windows(32).any(|window| window == secret), "{name}");
        }
    }

    #[test]
    fn a_lost_authority_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        start(dir.path());
        fs::remove_file(dir.path().join("ca.key")).unwrap();
        let error = DataDir::open(dir.path()).unwrap().read_or_found(None, NOW, || {}).err().unwrap();
        assert!(error.to_string().contains("ca.key is missing"), "{error}");
    }

    #[test]
    fn the_overlay_range_is_fixed_when_the_mesh_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let read = |overlay: &str| {
            DataDir::open(dir.path())
                .unwrap()
                .read_or_found(Some(overlay.parse().unwrap()), NOW, || {})
                .map(drop)
        };
        assert!(matches!(read("fd00::/48"), Err(StartError::Overlay(_))));
        read("10.200.0.0/16").unwrap();
        assert!(matches!(read("10.201.0.0/16"), Err(StartError::OverlayFixed(_))));
    }

    /// Whether this was a first start.
    fn start(dir: &Path) -> bool {
        DataDir::open(dir).unwrap().read_or_found(None, NOW, || {}).unwrap().first_start
    }
}
