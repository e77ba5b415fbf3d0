//! A TPM 2.0 in software, made by `swtpm_setup` and run by `swtpm`, with a vendor of its own: nothing of this host is used or changed.
//!
//! Takes the Debian packages `swtpm`, `swtpm-tools` and `tpm2-tools`.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    Process, Result,
    error::{Doing as _, invalid},
    harness::eventually,
};

/// More than starting a TPM takes.
const START: Duration = Duration::from_secs(60);

/// Which endorsement key has a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certified {
    /// RSA with 2048 bits, as `swtpm_setup` makes it.
    Rsa,
    /// ECC on P-256, which `swtpm_setup` does not know.
    Ecc,
    /// None of those that are looked for.
    Nothing,
}

/// A TPM. Dropped, it ends; its state stays.
pub struct Swtpm {
    directory: PathBuf,
    process: Option<Process>,
}

impl Swtpm {
    /// Makes a TPM whose state, socket and vendor are in `directory`, an absolute path, and starts it.
    pub fn make(directory: &Path, certified: Certified) -> Result<Self> {
        for part in ["state", "vendor"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).doing(|| format!("make {}", path.display()))?;
        }
        let mut tpm = Self { directory: directory.to_owned(), process: None };
        tpm.configure()?;
        let mut setup = Command::new("swtpm_setup");
        setup.args(["--tpm2", "--overwrite", "--pcr-banks", "sha1,sha256", "--tpmstate"]);
        setup.arg(tpm.path("state")).arg("--config").arg(tpm.path("setup.conf"));
        setup.arg("--create-ek-cert");
        run(setup)?;
        tpm.start()?;
        if certified != Certified::Rsa {
            tpm.tool("tpm2_nvundefine", &["-C", "p", "0x1c00002"])?;
        }
        if certified == Certified::Ecc {
            tpm.certify_ecc()?;
        }
        Ok(tpm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The vendor: what `swtpm_localca` keeps in this directory instead of the host's own.
    fn configure(&self) -> Result<()> {
        let at = self.directory.display();
        let files = [
            (
                "setup.conf",
                format!(
                    "create_certs_tool = /usr/bin/swtpm_localca\n\
                     create_certs_tool_config = {at}/localca.conf\n\
                     create_certs_tool_options = {at}/localca.options\n"
                ),
            ),
            (
                "localca.conf",
                format!(
                    "statedir = {at}/vendor\nsigningkey = {at}/vendor/signkey.pem\n\
                     issuercert = {at}/vendor/issuercert.pem\ncertserial = {at}/vendor/certserial\n"
                ),
            ),
            (
                "localca.options",
                "--platform-manufacturer Carrick\n--platform-version 1\n--platform-model lab\n".to_owned(),
            ),
        ];
        for (name, text) in files {
            fs::write(self.path(name), text).doing(|| format!("write {name}"))?;
        }
        Ok(())
    }

    /// Where it is, for `carrick node --tpm`.
    pub fn tcti(&self) -> String {
        format!("swtpm:{}", self.path("tpm").display())
    }

    /// The certificates of its vendor, in PEM: the root, and the authority that signs for it.
    pub fn roots(&self) -> Result<Vec<String>> {
        let read = |name| fs::read_to_string(self.path("vendor").join(name)).doing(|| format!("read {name}"));
        Ok(vec![read("swtpm-localca-rootca-cert.pem")?, read("issuercert.pem")?])
    }

    /// Starts it, as a machine that was switched on: its count of resets rises.
    pub fn start(&mut self) -> Result<()> {
        let mut command = Command::new("swtpm");
        let socket = self.path("tpm");
        command.args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--tpmstate"]);
        command.arg(format!("dir={}", self.path("state").display()));
        command.args(["--server", &format!("type=unixio,path={}", socket.display())]);
        command.args(["--ctrl", &format!("type=unixio,path={}.ctrl", socket.display())]);
        self.process = Some(Process::start("swtpm", command)?);
        // It listens before it is switched on, and answers when it is.
        eventually(START, "swtpm to answer", || {
            let process = self.process.as_ref()?;
            assert!(process.try_wait().ok()?.is_none(), "swtpm has ended: {}", process.output());
            answers(&socket).ok()
        })
    }

    /// Ends it at once, as a machine that loses its power.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill()?;
        }
        match fs::remove_file(self.path("tpm")) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => removed.doing(|| "remove its socket".to_owned()),
        }
    }

    /// Loses its power, and has it again.
    pub fn reset(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// What it remembers, while it is [stopped](Self::stop): as whoever has the disk can copy it.
    pub fn save(&self) -> Result<Vec<u8>> {
        fs::read(self.path("state/tpm2-00.permall")).doing(|| "read its state".to_owned())
    }

    /// Sets it back to what it remembered, while it is stopped.
    pub fn restore(&self, state: &[u8]) -> Result<()> {
        fs::write(self.path("state/tpm2-00.permall"), state).doing(|| "write its state".to_owned())
    }

    /// Measures something into a register.
    pub fn extend(&self, register: u8) -> Result<()> {
        self.tool("tpm2_pcrextend", &[&format!("{register}:sha256={}", "5a".repeat(32))])
    }

    /// Gives the ECC endorsement key a certificate of the vendor.
    fn certify_ecc(&self) -> Result<()> {
        let file = |name: &str| self.path(name).display().to_string();
        let (public, context, certificate) = (file("ek.der"), file("ek.ctx"), file("ek.cert"));
        self.tool("tpm2_createek", &["-G", "ecc", "-c", &context])?;
        self.tool("tpm2_readpublic", &["-c", &context, "-f", "der", "-o", &public])?;
        self.tool("tpm2_flushcontext", &["-t"])?;
        let der = fs::read(&public).doing(|| "read the public key".to_owned())?;
        // A SubjectPublicKeyInfo ends with the point: 4, x and y.
        let point =
            der.last_chunk::<64>().ok_or_else(|| invalid("read the public key", "it is too short"))?;
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut certify = Command::new("swtpm_localca");
        certify.args(["--type", "ek", "--tpm2", "--dir", &file("")]);
        certify.args(["--ek", &format!("x={},y={},id=secp256r1", hex(&point[..32]), hex(&point[32..]))]);
        certify.args(["--configfile", &file("localca.conf"), "--optsfile", &file("localca.options")]);
        certify.args(["--tpm-spec-family", "2.0", "--tpm-spec-level", "0", "--tpm-spec-revision", "164"]);
        certify.args([
            "--tpm-manufacturer",
            "id:00001014",
            "--tpm-model",
            "swtpm",
            "--tpm-version",
            "id:20191023",
        ]);
        run(certify)?;
        let size = fs::metadata(&certificate).doing(|| format!("read {certificate}"))?.len().to_string();
        let attributes = "ppwrite|ppread|ownerread|authread|no_da|platformcreate";
        self.tool("tpm2_nvdefine", &["-C", "p", "-s", &size, "-a", attributes, "0x1c0000a"])?;
        self.tool("tpm2_nvwrite", &["-C", "p", "-i", &certificate, "0x1c0000a"])
    }

    fn tool(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new(program);
        command.args(arguments).env("TPM2TOOLS_TCTI", format!("swtpm:path={}", self.path("tpm").display()));
        run(command)
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        // Nothing can be done here about a process that does not end.
        let _ = self.stop();
    }
}

/// Asks for a few random bytes.
fn answers(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(START))?;
    // TPM2_GetRandom, without sessions.
    stream.write_all(&[0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7b, 0, 2])?;
    stream.read_exact(&mut [0; 14])
}

fn run(mut command: Command) -> Result<()> {
    let doing = format!("run {command:?} (of Debian's swtpm, swtpm-tools and tpm2-tools)");
    let output = command.output().doing(|| doing.clone())?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(invalid(doing, String::from_utf8_lossy(&said).trim().to_owned()))
}
