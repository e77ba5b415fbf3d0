//! The operator's key on the operator's own machine: where it is found, and how it is written.
//!
//! It is in a file that a passphrase opens ([`sealed`]), or its text comes from elsewhere: from a password manager through stdin.

mod passphrase;
mod sealed;

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use carrick_types::{OperatorKey, OperatorSecret};
use clap::Args;
use zeroize::Zeroizing;

use self::sealed::SealedKey;
pub(crate) use self::{passphrase::Passphrase, sealed::random};
use crate::{remote, scratch, secret::check_private};

/// The longest file that is read.
const MAX_FILE: u64 = 64 * 1024;

/// Which key signs, and how it is opened.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Operator's key")]
pub(crate) struct KeyArgs {
    /// The file with the operator's key, or with its text; `-` reads stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// The file with the passphrase of the key; `-` reads stdin [default: asks on the terminal]
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl KeyArgs {
    /// The key, from the file that was given or from where `carrick operator init` puts it.
    pub(crate) fn load(&self) -> Result<OperatorSecret> {
        load(&self.path()?, self.passphrase_file.as_deref())
    }

    /// The file that was given, or else the usual one.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        self.key_file
            .clone()
            .or_else(default_path)
            .context("there is no home directory: give --key-file FILE")
    }
}

/// Where `carrick operator init` puts the key unless it is told otherwise.
pub(crate) fn default_path() -> Option<PathBuf> {
    Some(remote::directory("XDG_CONFIG_HOME", ".config")?.join("carrick/operator.key"))
}

/// The public half of the key in a file, which takes no passphrase; `None` where there is no such file.
pub(crate) fn public_key(path: &Path) -> Result<Option<OperatorKey>> {
    check_path(path)?;
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => Ok(Some(match parse(path, &read(path)?)? {
            Stored::Sealed(sealed) => sealed.public_key(),
            Stored::Text(secret) => secret.public(),
        })),
    }
}

/// Opens the key in a file.
pub(crate) fn load(path: &Path, passphrase_file: Option<&Path>) -> Result<OperatorSecret> {
    if path == "-" && passphrase_file.is_some_and(|file| file.as_os_str() == "-") {
        bail!("key and passphrase cannot both come from stdin: put one of them into a file");
    }
    check_path(path)?;
    check_private(path)?;
    match parse(path, &read(path)?)? {
        Stored::Text(secret) => Ok(secret),
        Stored::Sealed(sealed) => {
            let passphrase = Passphrase::of(path, passphrase_file)?;
            sealed.open(&passphrase).with_context(|| format!("cannot open {}", path.display()))
        }
    }
}

/// Makes a file that a passphrase opens. What is there already is never written over.
pub(crate) fn store(path: &Path, secret: &OperatorSecret, passphrase: &Passphrase) -> Result<()> {
    let json = serde_json::to_vec_pretty(&SealedKey::seal(secret, passphrase)?)?;
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let draft = scratch::beside(path)?;
    let written = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        let placed = file
            .write_all(&json)
            .and_then(|()| file.write_all(b"\n"))
            .and_then(|()| file.sync_all())
            .and_then(|()| place(&draft, path));
        if placed.is_err() {
            let _ = fs::remove_file(&draft);
        }
        placed?;
        let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    };
    written().with_context(|| format!("cannot write {}", path.display()))
}

/// Gives a file its name, unless there is one of that name.
fn place(draft: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(draft, path) {
        // Unlike a rename, a link does not replace what somebody else put there meanwhile.
        Ok(()) => fs::remove_file(draft),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // A stick that keys are carried on may know no links.
        Err(_) if path.try_exists()? => Err(io::ErrorKind::AlreadyExists.into()),
        Err(_) => fs::rename(draft, path),
    }
}

/// What a key's file holds.
enum Stored {
    Sealed(Box<SealedKey>),
    Text(OperatorSecret),
}

fn parse(path: &Path, text: &str) -> Result<Stored> {
    if OperatorSecret::is_text(text) {
        return Ok(Stored::Text(text.parse()?));
    }
    // What serde_json found may be a secret in the wrong file.
    let sealed = serde_json::from_str(text).ok();
    let sealed = sealed.with_context(|| {
        format!("{} holds no operator's key: `carrick operator init` makes one", path.display())
    })?;
    Ok(Stored::Sealed(Box::new(sealed)))
}

/// Whoever gives the key itself must neither read it again in an error nor find it as the name of a file.
fn check_path(path: &Path) -> Result<()> {
    if path.to_str().is_some_and(OperatorSecret::is_text) {
        bail!(
            "a key's file is asked for, not the key itself: put it into a file, or give it on stdin with `-`"
        );
    }
    Ok(())
}

fn read(path: &Path) -> Result<Zeroizing<String>> {
    check_path(path)?;
    read_secret(path).with_context(|| {
        format!(
            "cannot read the operator's key from {}: give its file with --key-file, or make one with `carrick operator init`",
            path.display()
        )
    })
}

/// Reads a file, or stdin where it is `-`.
fn read_secret(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    if path == "-" {
        io::stdin().take(MAX_FILE).read_to_string(&mut text)?;
    } else {
        File::open(path)?.take(MAX_FILE).read_to_string(&mut text)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_file_is_its_owners_and_is_never_written_over() {
        let directory = scratch("store");
        let path = directory.join("deep/operator.key");
        let (secret, passphrase) = (OperatorSecret::from_bytes([1; 32]), Passphrase::from("correct horse"));
        store(&path, &secret, &passphrase).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(public_key(&path).unwrap(), Some(secret.public()));
        let before = fs::read(&path).unwrap();
        store(&path, &OperatorSecret::from_bytes([2; 32]), &passphrase).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), before);
        assert_eq!(public_key(&directory.join("nothing")).unwrap(), None);
        // Nor is any other file of this directory.
        let neighbour = directory.join("deep/second.new");
        store(&neighbour, &secret, &passphrase).unwrap();
        store(&directory.join("deep/second.key"), &secret, &passphrase).unwrap();
        assert_eq!(public_key(&neighbour).unwrap(), Some(secret.public()));
        assert_eq!(fs::read_dir(directory.join("deep")).unwrap().count(), 3, "no draft is left");
    }

    #[test]
    fn a_key_is_read_as_text_too_and_never_repeated() {
        let directory = scratch("text");
        let secret = OperatorSecret::from_bytes([3; 32]);
        let path = directory.join("key");
        fs::write(&path, format!("{}\n", *secret.to_text())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(load(&path, None).unwrap_err().to_string().contains("chmod 600"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(load(&path, None).unwrap(), secret);
        for given in [secret.to_text().to_string(), "carrick_operator_1_SECRET".to_owned()] {
            let error = format!("{:#}", load(Path::new(&given), None).unwrap_err());
            public_key(Path::new(&given)).unwrap_err();
            assert!(error.contains("file is asked for") && !error.contains(&given), "{error}");
        }
        fs::write(&path, "{\"hunter2\":1}").unwrap();
        let error = format!("{:#}", load(&path, None).unwrap_err());
        assert!(error.contains("holds no operator's key") && !error.contains("hunter2"), "{error}");
    }

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("carrick-operator-key-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        path
    }
}
