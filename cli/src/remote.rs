//! Finds the coordinator and the credential for it.
//!
//! In this order: the flags, their environment variables, the profile that a coordinator writes where it first starts, and
//! the data directory of a coordinator that the system runs.

use std::{
    env,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use carrick_client::{Api, CoordinatorUrl};
use carrick_types::Credential;
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{output::SECRETS, secret::check_private};

/// The data directory of a coordinator that root runs.
pub(crate) const SYSTEM_DATA_DIR: &str = "/var/lib/carrick/coordinator";

/// Which coordinator to ask.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Finding the coordinator")]
pub(crate) struct Remote {
    /// Where it listens: https://HOST:8443
    #[arg(long, value_name = "URL", env = "CARRICK_COORDINATOR", hide_env_values = true)]
    coordinator: Option<CoordinatorUrl>,
    /// The file that holds a credential for it
    #[arg(long, value_name = "FILE", env = "CARRICK_CREDENTIAL", hide_env_values = true)]
    credential: Option<PathBuf>,
}

/// What a coordinator writes for the command line: `{"coordinator": URL, "credential": PATH}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Profile {
    coordinator: String,
    credential: PathBuf,
}

impl Remote {
    /// The API of the coordinator that was meant.
    pub(crate) fn api(self) -> Result<Api> {
        let (url, credential) = self.find()?;
        Ok(Api::new(url, read_credential(&credential)?))
    }

    /// The directory of the credential: a coordinator's data directory, where it is one of this host.
    pub(crate) fn credential_dir(&self) -> Option<PathBuf> {
        let (_, credential) = self.clone().find().ok()?;
        credential.parent().map(Path::to_owned)
    }

    /// Whether the verbs of this user find this coordinator and this credential of their own accord.
    pub(crate) fn is_default(url: &CoordinatorUrl, credential: &Path) -> bool {
        let found = Self { coordinator: None, credential: None }.find();
        found.is_ok_and(|found| found == (url.clone(), credential.to_owned()))
    }

    fn find(self) -> Result<(CoordinatorUrl, PathBuf)> {
        let own = || profile_path().map_or(Ok(None), |path| read_profile(&path));
        let system = || read_profile(&Path::new(SYSTEM_DATA_DIR).join(PROFILE_FILE));
        resolve(self, &[&own, &system])
    }
}

const PROFILE_FILE: &str = "profile.json";

/// Leaves a profile in a data directory, for those who may read it there and have none of their own.
pub(crate) fn write_profile(data_dir: &Path, url: &CoordinatorUrl, credential: &Path) -> Result<()> {
    let profile = Profile { coordinator: url.to_string(), credential: credential.to_owned() };
    let path = data_dir.join(PROFILE_FILE);
    let draft = path.with_extension("new");
    let json = serde_json::to_vec(&profile)?;
    let mut options = OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .and_then(|mut file| file.write_all(&json))
        .and_then(|()| fs::rename(&draft, &path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Where the profile of this user is; `None` where the environment names no home.
pub(crate) fn profile_path() -> Option<PathBuf> {
    Some(directory("XDG_CONFIG_HOME", ".config")?.join("carrick").join(PROFILE_FILE))
}

/// A directory of the XDG base directory specification.
pub(crate) fn directory(variable: &str, below_home: &str) -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(below_home)))
}

/// A place where a profile may be.
type Place<'a> = &'a dyn Fn() -> Result<Option<Profile>>;

/// Completes what was given from the first place that has a profile. Places are not looked at where nothing is missing.
fn resolve(given: Remote, places: &[Place<'_>]) -> Result<(CoordinatorUrl, PathBuf)> {
    let (url, credential) = match (given.coordinator, given.credential) {
        (Some(url), Some(credential)) => return Ok((url, credential)),
        given => given,
    };
    for place in places {
        if let Some(profile) = place()? {
            let url = match url {
                Some(url) => url,
                None => profile.coordinator.parse().context("the profile is damaged")?,
            };
            return Ok((url, credential.unwrap_or(profile.credential)));
        }
    }
    bail!(match (url, credential) {
        (Some(_), None) => "no credential for the coordinator: give one with --credential FILE",
        (None, Some(_)) => "no coordinator to use the credential with: give one with --coordinator URL",
        _ =>
            "no coordinator is known here: give --coordinator URL and --credential FILE, or run this as the user and on the host that first started `carrick coordinator`",
    })
}

/// The profile in a file; `None` where there is none for this user.
fn read_profile(path: &Path) -> Result<Option<Profile>> {
    let json = match fs::read(path) {
        Ok(json) => json,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read the profile {}", path.display()));
        }
    };
    let profile = serde_json::from_slice(&json).with_context(|| {
        format!(
            "the profile {} is damaged: remove it, or give --coordinator and --credential",
            path.display()
        )
    })?;
    Ok(Some(profile))
}

fn read_credential(path: &Path) -> Result<Credential> {
    // The variable holds a path; whoever puts the credential itself there must not read it again in an error.
    if path.to_str().is_some_and(|text| SECRETS.iter().any(|prefix| text.starts_with(prefix))) {
        bail!(
            "--credential and CARRICK_CREDENTIAL take a file, not the credential itself: put it into a file"
        );
    }
    check_private(path)?;
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read the credential {}", path.display()))?;
    text.trim().parse().with_context(|| format!("{} holds no credential", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(name: &str) -> Profile {
        Profile { coordinator: format!("https://{name}:8443"), credential: PathBuf::from(format!("/{name}")) }
    }

    fn given(url: Option<&str>, credential: Option<&str>) -> Remote {
        Remote { coordinator: url.map(|url| url.parse().unwrap()), credential: credential.map(PathBuf::from) }
    }

    fn resolved(given: Remote, places: &[Place<'_>]) -> Result<(String, String)> {
        resolve(given, places).map(|(url, path)| (url.to_string(), path.display().to_string()))
    }

    fn pair(url: &str, path: &str) -> (String, String) {
        (format!("https://{url}:8443"), path.to_owned())
    }

    #[test]
    fn flags_come_before_the_profile_and_the_profile_before_the_system() {
        let own = || Ok(Some(profile("own")));
        let system = || Ok(Some(profile("system")));
        let nothing = || Ok(None);
        let places: [Place<'_>; 2] = [&own, &system];
        assert_eq!(resolved(given(None, None), &places).unwrap(), pair("own", "/own"));
        assert_eq!(resolved(given(Some("https://flag"), None), &places).unwrap(), pair("flag", "/own"));
        assert_eq!(resolved(given(None, Some("/flag")), &places).unwrap(), pair("own", "/flag"));
        assert_eq!(resolved(given(None, None), &[&nothing, &system]).unwrap(), pair("system", "/system"));
    }

    #[test]
    fn a_damaged_profile_does_not_matter_where_nothing_is_missing() {
        let damaged = || bail!("damaged");
        let places: [Place<'_>; 1] = [&damaged];
        assert_eq!(
            resolved(given(Some("https://flag"), Some("/flag")), &places).unwrap(),
            pair("flag", "/flag")
        );
        resolved(given(Some("https://flag"), None), &places).unwrap_err();
    }

    #[test]
    fn what_is_missing_is_named() {
        let message = |given| resolved(given, &[]).unwrap_err().to_string();
        assert!(message(given(None, None)).contains("--coordinator URL and --credential FILE"));
        assert!(message(given(Some("https://c"), None)).contains("--credential FILE"));
        assert!(message(given(None, Some("/c"))).contains("--coordinator URL"));
    }

    #[test]
    fn a_credential_in_place_of_its_file_is_not_repeated() {
        let pin = carrick_types::CaPin::from_bytes([1; 32]).unwrap();
        let text = Credential::new(carrick_types::Role::Admin, pin, [7; 32]).to_string();
        for given in [text.as_str(), &text[..40]] {
            let error = read_credential(Path::new(given)).unwrap_err();
            assert!(!format!("{error:?}").contains(given));
        }
    }
}
