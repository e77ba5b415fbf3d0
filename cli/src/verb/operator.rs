//! `carrick operator`.

use std::{
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail, ensure};
use carrick_attest::{
    Bundle, Signed, SignedBundle,
    policy::{LIFETIME, Succession},
};
use carrick_client::Api;
use carrick_types::{OperatorKey, OperatorPin, OperatorSecret, Role, UnixTime};
use carrick_wire::api::{AppraisalPolicy, NameOperator, NamedOperator, PutAppraisalPolicy};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::bundle::{InForce, confirm};
use crate::{
    human::relative,
    operator_key::{self, KeyArgs, Passphrase},
    output::{Output, note, print},
    remote::Remote,
    runtime,
};

/// Take over the operator's key, whose word nodes believe, and show whose it is
#[derive(Debug, Args)]
pub(crate) struct Operator {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Init(Init),
    Show(Show),
}

impl Operator {
    pub(super) fn run(self) -> Result<()> {
        match self.action {
            Action::Init(action) => action.run(),
            Action::Show(action) => action.run(),
        }
    }
}

/// Make an operator's key, and take the mesh over with it
///
/// A fresh coordinator makes the operator's key itself. This makes another one on this host, has the former one name it, signs the
/// policy bundle with it, and puts that into force. The coordinator then removes its own: whoever takes the coordinator over can
/// admit nobody any more. Join tokens that were made before still hold. Where it was interrupted, run it again: it goes on with the
/// key that is there.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrick operator init
  carrick operator init --print | pass insert --multiline carrick/operator
  carrick operator init --key-file new.key --former-key-file old.key")]
struct Init {
    #[command(flatten)]
    key: KeyArgs,
    /// Print the key's text once, and write it to no file
    #[arg(long, conflicts_with_all = ["key_file", "passphrase_file"])]
    print: bool,
    /// The file with the key of the operator so far, where the coordinator does not hold it
    #[arg(long, value_name = "FILE")]
    former_key_file: Option<PathBuf>,
    /// The file with the passphrase of that key [default: asks on the terminal]
    #[arg(long, value_name = "FILE", requires = "former_key_file")]
    former_passphrase_file: Option<PathBuf>,
    #[command(flatten)]
    remote: Remote,
}

/// The new operator's key, and where its owner finds it again.
struct NewKey {
    secret: OperatorSecret,
    place: String,
    /// What to give to `operator init` to go on with this key.
    again: String,
}

impl Init {
    fn run(self) -> Result<()> {
        let api = self.remote.clone().api()?;
        ensure!(
            api.role() == Role::Admin,
            "this credential may only read, and cannot take the mesh over: give --credential FILE with an admin's"
        );
        let files = [
            &self.key.key_file,
            &self.key.passphrase_file,
            &self.former_key_file,
            &self.former_passphrase_file,
        ];
        ensure!(
            files.into_iter().flatten().filter(|file| file.as_os_str() == "-").count() < 2,
            "only one of the keys and passphrases can come from stdin: put the others into files"
        );
        let former = self.former_key_file.as_deref();
        let former = former.map(|file| operator_key::load(file, self.former_passphrase_file.as_deref()));
        let former = former.transpose()?;
        // Nothing is made where nothing can be taken over.
        let before = runtime::call(InForce::of(&api))?;
        let known = before.operator();
        let key = self.key(known, before.answer.operator_key_held || former.is_some())?;
        let go_on = || {
            format!(
                "the key is made and the mesh is not taken over: run `carrick operator init{}{}` again",
                key.again,
                self.former_again()
            )
        };
        if key.secret.public() == known {
            return print(&format!(
                "{known} is this mesh's operator already, {}\nPolicy bundle version {} is signed by it\n",
                key.place, before.bundle.version
            ));
        }
        let next =
            runtime::call(take_over(&api, &before, &key.secret, former.as_ref())).with_context(go_on)?;
        let text = taken_over(&key, &next, self.former_key_file.is_some(), SystemTime::now().into());
        // Stdout is the key's alone.
        if self.print {
            note(&text);
            Ok(())
        } else {
            print(&format!("{text}\n"))
        }
    }

    /// How to give the former operator's key again.
    fn former_again(&self) -> String {
        let files = [
            ("--former-key-file", &self.former_key_file),
            ("--former-passphrase-file", &self.former_passphrase_file),
        ];
        let given =
            files.iter().filter_map(|(flag, file)| Some(format!(" {flag} {}", file.as_ref()?.display())));
        given.collect()
    }

    /// The key that is there already, or else a new one, which is kept before anything is done with it.
    fn key(&self, known: OperatorKey, can_follow: bool) -> Result<NewKey> {
        let refuse = || -> Result<()> {
            ensure!(
                can_follow,
                "the operator is {known}, whose key the coordinator does not hold: give it with --former-key-file FILE"
            );
            Ok(())
        };
        if self.print {
            refuse()?;
            return printed();
        }
        let path = self.key.path()?;
        let passphrase_file = self.key.passphrase_file.as_deref();
        let again = match &self.key.key_file {
            Some(path) => format!(" --key-file {}", path.display()),
            None => String::new(),
        };
        if path.as_os_str() == "-" || operator_key::public_key(&path)?.is_some() {
            let secret = operator_key::load(&path, passphrase_file)?;
            let place = if path.as_os_str() == "-" { "from stdin".to_owned() } else { in_file(&path) };
            return Ok(NewKey { secret, place, again });
        }
        refuse()?;
        let passphrase = Passphrase::new_for(&path, passphrase_file)?;
        let secret = OperatorSecret::from_bytes(operator_key::random()?);
        operator_key::store(&path, &secret, &passphrase)?;
        note(&format!("operator's key {} made, {}", secret.public(), in_file(&path)));
        Ok(NewKey { secret, place: in_file(&path), again })
    }
}

fn in_file(path: &Path) -> String {
    format!("in {}", path.display())
}

fn printed() -> Result<NewKey> {
    let secret = OperatorSecret::from_bytes(operator_key::random()?);
    print(&format!("{}\n", *secret.to_text()))?;
    note(
        "This is the operator's key. It is shown this once: keep it where nobody else reads it, and where it is not lost.",
    );
    if io::stdin().is_terminal()
        && io::stdout().is_terminal()
        && !confirm("Is it kept, and may it take over?")?
    {
        bail!("nothing was changed");
    }
    Ok(NewKey { secret, place: "as it was printed".to_owned(), again: " --key-file -".to_owned() })
}

/// Has the operator so far name this one, and puts a first bundle that this one signed.
async fn take_over(
    api: &Api,
    before: &InForce,
    secret: &OperatorSecret,
    former: Option<&OperatorSecret>,
) -> Result<Bundle> {
    let (from, to) = (before.operator(), secret.public());
    let mesh = before.bundle.mesh;
    let succession = match former {
        Some(former) => {
            ensure!(
                former.public() == from,
                "--former-key-file holds {}, and the operator is {from}: give the file with that key",
                former.public()
            );
            Signed::seal(&Succession { mesh, from, to }, former)
        }
        None => {
            let named: NamedOperator = api.post("/v1/operator", &NameOperator { operator: to }).await?;
            named.succession
        }
    };
    let step = succession.open(&from).context("the coordinator did not name this key")?;
    ensure!(step == Succession { mesh, from, to }, "the coordinator named another operator: see who runs it");
    let signed = first_bundle(before, secret, succession, SystemTime::now().into());
    let bundle = signed.open(&OperatorPin::of(&to), &mesh)?.get().clone();
    let put = PutAppraisalPolicy { signed: Some(signed), draft: None };
    let _: AppraisalPolicy = api.put("/v1/appraisal-policy", &put).await?;
    // Also where the answer to the former was lost, this is what counts.
    let after = InForce::of(api).await?;
    ensure!(after.operator() == to, "somebody else changed the policy bundle meanwhile");
    Ok(bundle)
}

/// The bundle in force, under another operator and with a year to live, or as long as it had where that is longer.
fn first_bundle(
    before: &InForce,
    secret: &OperatorSecret,
    succession: Signed<Succession>,
    now: UnixTime,
) -> SignedBundle {
    let mut bundle = Bundle {
        version: before.bundle.version + 1,
        expires_at: now.saturating_add(LIFETIME).max(before.bundle.expires_at),
        ..before.bundle.clone()
    };
    if !bundle.former_operators.contains(&before.operator()) {
        bundle.former_operators.push(before.operator());
    }
    let mut successions = before.answer.signed.successions.clone();
    successions.push(succession);
    SignedBundle { operator: secret.public(), successions, bundle: Signed::seal(&bundle, secret) }
}

fn taken_over(key: &NewKey, bundle: &Bundle, from_file: bool, now: UnixTime) -> String {
    let former = if from_file {
        "The former operator's key signs nothing any more; join tokens that it signed still hold."
    } else {
        "The coordinator's own key signs nothing any more and is removed; join tokens that it signed still hold."
    };
    let public = key.secret.public();
    format!(
        "{public} is this mesh's operator, {}\nPolicy bundle version {} is in force, signed by it, until {} ({})\n{former}\n\
         Keep a copy of the key elsewhere: whoever loses it sets the mesh up anew. Sign the bundle again before it expires.",
        key.place,
        bundle.version,
        bundle.expires_at,
        relative(bundle.expires_at, now)
    )
}

/// Show who the operator is, and who holds the key
#[derive(Debug, Args)]
struct Show {
    /// The file in which to look for the operator's key [default: where `carrick operator init` puts it]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, Serialize)]
struct Shown {
    operator: OperatorKey,
    pin: OperatorPin,
    operator_key_held: bool,
    /// Where the key is on this host.
    key_file: Option<PathBuf>,
    former_operators: Vec<OperatorKey>,
    policy_version: u64,
    policy_expires_at: UnixTime,
}

impl Show {
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let in_force = runtime::call(InForce::of(&api))?;
        let operator = in_force.operator();
        if let Some(path) = &self.key_file {
            match operator_key::public_key(path)? {
                Some(found) if found == operator => {}
                Some(found) => bail!(
                    "{} holds {found}, and the operator is {operator}: give the file with that key",
                    path.display()
                ),
                None => bail!("{} is not there: give the file with the key of {operator}", path.display()),
            }
        }
        let path = self.key_file.or_else(operator_key::default_path);
        // A file of something else is not this verb's business.
        let is_it = |path: &PathBuf| operator_key::public_key(path).ok().flatten() == Some(operator);
        let shown = Shown {
            operator,
            pin: OperatorPin::of(&operator),
            operator_key_held: in_force.answer.operator_key_held,
            key_file: path.filter(is_it),
            former_operators: in_force.bundle.former_operators,
            policy_version: in_force.bundle.version,
            policy_expires_at: in_force.bundle.expires_at,
        };
        self.output.print(&shown, |shown| shown.text(SystemTime::now().into()))
    }
}

impl Shown {
    fn text(&self, now: UnixTime) -> String {
        let held = match (&self.key_file, self.operator_key_held) {
            (_, true) => "held by the coordinator: `carrick operator init` takes it over".to_owned(),
            (Some(path), false) => format!("in {}; the coordinator does not hold it", path.display()),
            (None, false) => "kept elsewhere; the coordinator does not hold it".to_owned(),
        };
        let former = match self.former_operators.len() {
            0 => "none".to_owned(),
            count => format!("{count}, whose join tokens still hold"),
        };
        let expires = relative(self.policy_expires_at, now);
        format!(
            "Operator     {}\nPin          {}\nKey          {held}\nFormer       {former}\nBundle       version {}, expires {expires}\n",
            self.operator, self.pin, self.policy_version
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, NOW};

    #[test]
    fn the_first_bundle_of_a_new_operator_is_believed_by_those_who_know_the_former() {
        let (former, secret) = (fixture::operator(), OperatorSecret::from_bytes([8; 32]));
        let before = fixture::in_force();
        let step = Succession { mesh: before.bundle.mesh, from: before.operator(), to: secret.public() };
        let signed = first_bundle(&before, &secret, Signed::seal(&step, &former), NOW);
        let opened = signed.open(&OperatorPin::of(&former.public()), &before.bundle.mesh).unwrap();
        assert_eq!(opened.get().version, before.bundle.version + 1);
        assert_eq!(opened.operators(), [secret.public(), former.public()]);
        assert_eq!(opened.get().clusters, before.bundle.clusters, "nothing else changes");
    }

    #[test]
    fn a_take_over_shortens_no_bundle() {
        let (former, secret) = (fixture::operator(), OperatorSecret::from_bytes([8; 32]));
        let mut before = fixture::in_force();
        before.bundle.expires_at = NOW.saturating_add(LIFETIME * 3);
        let step = Succession { mesh: before.bundle.mesh, from: before.operator(), to: secret.public() };
        let signed = first_bundle(&before, &secret, Signed::seal(&step, &former), NOW);
        let opened = signed.open(&OperatorPin::of(&former.public()), &before.bundle.mesh).unwrap();
        assert_eq!(opened.get().expires_at, before.bundle.expires_at);
    }

    #[test]
    fn whoever_is_told_to_try_again_is_told_with_the_former_key() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            init: Init,
        }
        let line = ["init", "--former-key-file", "old.key", "--former-passphrase-file", "pass"];
        let Line { init } = clap::Parser::parse_from(line);
        assert_eq!(init.former_again(), " --former-key-file old.key --former-passphrase-file pass");
    }

    #[test]
    fn whoever_holds_the_key_is_said() {
        let operator = fixture::operator().public();
        let shown = |key_file: Option<&str>, operator_key_held| {
            Shown {
                operator,
                pin: OperatorPin::of(&operator),
                operator_key_held,
                key_file: key_file.map(PathBuf::from),
                former_operators: vec![operator],
                policy_version: 7,
                policy_expires_at: "2026-02-10T12:00:00Z".parse().unwrap(),
            }
            .text(NOW)
        };
        assert_eq!(
            shown(Some("/k"), false),
            "\
Operator     iojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIAbQPb1w=
Pin          NHUPmL1Z/PyUbaRaqr6TO+FUpLUJThxKv0KGZQXzyX4=
Key          in /k; the coordinator does not hold it
Former       1, whose join tokens still hold
Bundle       version 7, expires in 10d
"
        );
        assert!(shown(None, true).contains("held by the coordinator: `carrick operator init`"));
        assert!(shown(None, false).contains("kept elsewhere"));
    }
}
