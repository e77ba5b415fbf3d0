//! The passphrase of the operator's key: from a file or from the terminal, where nobody reads over a shoulder.

use std::{
    fmt,
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::read_secret;
use crate::secret::check_private;

/// The shortest that a new key is sealed with, in characters.
const SHORTEST: usize = 8;

/// The longest that is read, in bytes.
const LONGEST: usize = 1024;

/// What opens the key. Prints as `…`.
pub(crate) struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// That of the key in a file.
    pub(crate) fn of(key_file: &Path, passphrase_file: Option<&Path>) -> Result<Self> {
        match passphrase_file {
            Some(file) => Self::from_file(file),
            None => ask(&format!("Passphrase of {}: ", key_file.display())),
        }
    }

    /// For a key that is new: long enough, and on a terminal typed twice.
    pub(crate) fn new_for(key_file: &Path, passphrase_file: Option<&Path>) -> Result<Self> {
        let passphrase = match passphrase_file {
            Some(file) => Self::from_file(file)?,
            None => {
                let passphrase = ask(&format!("New passphrase for {}: ", key_file.display()))?;
                let again = ask("The same again: ")?;
                ensure!(*passphrase.0 == *again.0, "the two passphrases differ: try again");
                passphrase
            }
        };
        ensure!(
            passphrase.0.chars().count() >= SHORTEST,
            "the passphrase is too short: take at least {SHORTEST} characters"
        );
        Ok(passphrase)
    }

    pub(super) fn expose(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn from_file(file: &Path) -> Result<Self> {
        check_private(file)?;
        let text = read_secret(file)
            .with_context(|| format!("cannot read the passphrase from {}", file.display()))?;
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        ensure!(!line.is_empty(), "{} holds no passphrase", file.display());
        ensure!(line.len() <= LONGEST, "{} holds no passphrase: it is too long", file.display());
        Ok(Self(Zeroizing::new(line.to_owned())))
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

#[cfg(test)]
impl From<&str> for Passphrase {
    fn from(text: &str) -> Self {
        Self(Zeroizing::new(text.to_owned()))
    }
}

/// Asks on the terminal of this process, whatever stdin and stdout are.
fn ask(prompt: &str) -> Result<Passphrase> {
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty");
    let mut terminal = terminal
        .ok()
        .context("there is no terminal to ask for the passphrase: give --passphrase-file FILE")?;
    let silent = Silent::on(terminal.try_clone()?)?;
    terminal.write_all(prompt.as_bytes())?;
    let line = read_line(&mut terminal);
    drop(silent);
    terminal.write_all(b"\n")?;
    Ok(Passphrase(line?))
}

/// Byte by byte: the terminal neither shows nor edits the line.
fn read_line(terminal: &mut File) -> Result<Zeroizing<String>> {
    const INTERRUPT: u8 = 0x03;
    const END: u8 = 0x04;
    const KILL: u8 = 0x15;
    let mut line = Zeroizing::new(Vec::with_capacity(LONGEST));
    let mut byte = [0];
    loop {
        let read = terminal.read(&mut byte).context("cannot read the passphrase")?;
        match byte[0] {
            _ if read == 0 => bail!("interrupted"),
            b'\n' | b'\r' => break,
            INTERRUPT | END => bail!("interrupted"),
            KILL => line.clear(),
            0x08 | 0x7f => {
                // The whole character.
                while line.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            _ if line.len() == LONGEST => bail!("the passphrase is too long"),
            byte => line.push(byte),
        }
    }
    let text = std::str::from_utf8(&line).context("the passphrase is not UTF-8")?;
    ensure!(!text.is_empty(), "no passphrase was given");
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Silent {
    terminal: File,
    before: Termios,
}

impl Silent {
    fn on(terminal: File) -> Result<Self> {
        let before = tcgetattr(&terminal).context("cannot read the terminal's settings")?;
        let mut silent = before.clone();
        // Without signals, so that an interrupt cannot leave the terminal silent.
        silent.local_flags &=
            !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        silent.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        silent.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(&terminal, SetArg::TCSANOW, &silent).context("cannot silence the terminal")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::*;

    #[test]
    fn a_passphrase_is_a_files_text_without_its_line_end() {
        for (text, expected) in [("a b c d e\n", Some("a b c d e")), ("ä\r\n", Some("ä")), ("\n", None)] {
            let file = file(text);
            let read = Passphrase::of(Path::new("key"), Some(&file));
            assert_eq!(read.ok().as_ref().map(|read| read.0.as_str()), expected);
        }
    }

    #[test]
    fn a_new_passphrase_is_not_a_short_one_and_none_is_printed() {
        let file = file("seven77\n");
        let error = Passphrase::new_for(Path::new("key"), Some(&file)).unwrap_err();
        assert!(error.to_string().contains("too short"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let error = Passphrase::of(Path::new("key"), Some(&file)).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(format!("{:?}", Passphrase::of(Path::new("key"), Some(&file)).unwrap()), "…");
    }

    fn file(text: &str) -> PathBuf {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("carrick-passphrase-{}-{number}", std::process::id()));
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }
}
