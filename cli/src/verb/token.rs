//! `carrick token`.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use carrick_attest::{Signed, token::Capability};
use carrick_client::Api;
use carrick_types::{
    Cidr, ClusterName, JoinToken, OperatorPin, OperatorSecret, TokenId, TokenSeed, UnixTime,
};
use carrick_wire::api::{self, CreateToken, CreatedToken, RegisterToken, RegisteredToken, TokenState};
use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::bundle::{InForce, Signer};
use crate::{
    human::{count, parse_duration, relative},
    operator_key::{self, KeyArgs},
    output::{Format, Output, Paint, Tone, note, print, print_json, state_cell, table},
    remote::Remote,
    runtime,
};

/// The longest that a token may be good: a year.
const MAX_TTL: Duration = Duration::from_secs(31_536_000);

/// Make, list and revoke join tokens
#[derive(Debug, Args)]
pub(crate) struct Token {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

impl Token {
    pub(super) fn run(self) -> Result<()> {
        match self.action {
            Action::Create(action) => action.run(),
            Action::List(action) => action.run(),
            Action::Revoke(action) => action.run(),
        }
    }
}

/// Make a join token
///
/// Prints the token, which is shown this once, to stdout, and what to do with it to stderr.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  carrick token create --cluster east --uses 10 --ttl 30m
  carrick token create --cluster east | ssh HOST sudo carrick join --host --token-file -
  carrick token create --cluster east --key-file operator.key")]
struct Create {
    /// The cluster that nodes join with it
    #[arg(long, value_name = "NAME")]
    cluster: ClusterName,
    /// How long it is good: 90s, 30m, 1h, 7d; at most 365d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// How many nodes may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    uses: u32,
    /// A network within which nodes may claim prefixes, public ones included; may be repeated [default: any private network]
    #[arg(long = "prefix", value_name = "CIDR")]
    prefixes: Vec<Cidr>,
    #[command(flatten)]
    key: KeyArgs,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Create {
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let (key, output) = (self.key, self.output);
        let request = CreateToken {
            cluster: self.cluster,
            ttl_seconds: Some(self.ttl.as_secs()),
            uses: Some(self.uses),
            prefixes: (!self.prefixes.is_empty()).then_some(self.prefixes),
        };
        let in_force = runtime::call(InForce::of(&api))?;
        let created = match Signer::choose(&in_force, &key, "make the token on the host where it is")? {
            // The secret of the token, like the key, stays on this host.
            Signer::Key(key) => {
                runtime::call(sign(&api, request, in_force, &key.load()?, SystemTime::now().into()))?
            }
            Signer::Coordinator | Signer::Nobody => {
                runtime::call(async { Ok(api.post("/v1/tokens", &request).await?) })?
            }
        };
        match output.format {
            Format::Json => print_json(&created),
            Format::Table => {
                print(&format!("{}\n", created.token))?;
                note(&next_step(&created, SystemTime::now().into(), io::stdout().is_terminal()));
                Ok(())
            }
        }
    }
}

/// Makes a token whose capability the operator's key signs here, and has the coordinator take it.
async fn sign(
    api: &Api,
    request: CreateToken,
    in_force: InForce,
    secret: &OperatorSecret,
    now: UnixTime,
) -> Result<CreatedToken> {
    ensure!(
        in_force.operator() == secret.public(),
        "--key-file holds {}, and the operator is {}: give the file with that key",
        secret.public(),
        in_force.operator()
    );
    let seed = TokenSeed::from_bytes(operator_key::random()?);
    let capability = Capability {
        mesh: in_force.bundle.mesh,
        token: TokenId::from_bytes(operator_key::random()?),
        key: seed.public(),
        cluster: request.cluster,
        uses: request.uses.unwrap_or(1),
        expires_at: now.saturating_add(Duration::from_secs(request.ttl_seconds.unwrap_or(3600))),
        prefixes: request.prefixes,
    };
    let register = RegisterToken { capability: Signed::seal(&capability, secret) };
    let registered: RegisteredToken = api.post("/v1/tokens/signed", &register).await?;
    let Capability { mesh, token: id, cluster, uses, expires_at, .. } = capability;
    let operator = OperatorPin::of(&secret.public());
    let urls = registered.urls;
    let token = JoinToken {
        id,
        mesh,
        cluster: cluster.clone(),
        ca: api.ca(),
        operator,
        policy_version: in_force.bundle.version,
        seed,
        urls,
    };
    Ok(CreatedToken { id, token: token.to_string(), cluster, expires_at, uses })
}

/// What to do with a new token. The token itself is in it only where stdout shows it to the same eyes.
fn next_step(created: &CreatedToken, now: UnixTime, on_terminal: bool) -> String {
    let token = if on_terminal { created.token.as_str() } else { "TOKEN" };
    format!(
        "\nGood for {} of cluster {}, until {} ({}). On each host that shall join, as root:\n\n  carrick join {token} --host",
        count(created.uses.into(), "node"),
        created.cluster,
        created.expires_at,
        relative(created.expires_at, now),
    )
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(|ttl| {
        if (Duration::from_secs(1)..=MAX_TTL).contains(&ttl) {
            Ok(ttl)
        } else {
            Err("a token is good for 1s to 365d".to_owned())
        }
    })
}

/// List join tokens, without their secrets
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl List {
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        let tokens: Vec<api::Token> = runtime::call(async { Ok(api.get("/v1/tokens").await?) })?;
        if tokens.is_empty() {
            note("there is no token: make one with `carrick token create --cluster NAME`");
        }
        self.output
            .print(&tokens, |tokens| tokens_table(tokens, SystemTime::now().into(), Paint::on_stdout()))
    }
}

fn tokens_table(tokens: &[api::Token], now: UnixTime, paint: Paint) -> String {
    let rows = tokens.iter().map(|token| {
        [
            Cell::new(token.id),
            Cell::new(&token.cluster),
            match token.state {
                TokenState::Active => state_cell("active", Tone::Good),
                TokenState::Expired => state_cell("expired", Tone::Fair),
                TokenState::UsedUp => state_cell("used-up", Tone::Fair),
                TokenState::Revoked => state_cell("revoked", Tone::Bad),
            },
            Cell::new(format!("{}/{}", token.used, token.uses)),
            Cell::new(relative(token.created_at, now)),
            Cell::new(relative(token.expires_at, now)),
        ]
    });
    table(["ID", "CLUSTER", "STATE", "USED", "CREATED", "EXPIRES"], rows, paint)
}

/// Take a join token back: nodes that joined with it stay
#[derive(Debug, Args)]
struct Revoke {
    /// Its id, as `carrick token list` shows it
    id: TokenId,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    remote: Remote,
}

impl Revoke {
    fn run(self) -> Result<()> {
        let api = self.remote.api()?;
        runtime::call(async { Ok(api.delete(&format!("/v1/tokens/{}", self.id)).await?) })?;
        let answer = serde_json::json!({"id": self.id, "state": TokenState::Revoked});
        self.output.print(&answer, |_| format!("token {} is revoked\n", self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::NOW;

    #[test]
    fn a_token_is_good_for_a_second_to_a_year() {
        assert_eq!(parse_ttl("365d"), Ok(MAX_TTL));
        for bad in ["0s", "366d", "soon"] {
            parse_ttl(bad).expect_err(bad);
        }
    }

    #[test]
    fn tokens_are_a_table() {
        let token = |state, used, id| api::Token {
            id: TokenId::from_bytes([id; 10]),
            cluster: "east".parse().unwrap(),
            created_at: "2026-01-31T11:30:00Z".parse().unwrap(),
            expires_at: "2026-01-31T12:30:00Z".parse().unwrap(),
            uses: 10,
            used,
            state,
        };
        let tokens = [token(TokenState::Active, 2, 0), token(TokenState::UsedUp, 10, 1)];
        assert_eq!(
            tokens_table(&tokens, NOW, Paint::Plain),
            "\
ID                CLUSTER  STATE    USED   CREATED  EXPIRES
aaaaaaaaaaaaaaaa  east     active   2/10   30m ago  in 30m
aeaqcaibaeaqcaib  east     used-up  10/10  30m ago  in 30m
"
        );
    }

    #[test]
    fn the_next_step_repeats_the_token_only_to_a_terminal() {
        let created = CreatedToken {
            id: TokenId::from_bytes([0; 10]),
            token: "carrick_join_1_secret".to_owned(),
            cluster: "east".parse().unwrap(),
            expires_at: "2026-01-31T13:00:00Z".parse().unwrap(),
            uses: 1,
        };
        assert_eq!(
            next_step(&created, NOW, true),
            "
Good for 1 node of cluster east, until 2026-01-31T13:00:00Z (in 60m). On each host that shall join, as root:

  carrick join carrick_join_1_secret --host"
        );
        assert!(!next_step(&created, NOW, false).contains("secret"));
    }
}
