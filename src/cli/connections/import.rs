//! `connections import`: take over a grant that exists elsewhere. Tokens come from files or standard input, never from
//! the command line, which every user of the machine can read.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgGroup, Args};

use super::{Named, held, parse_variable};
use crate::cli::client::{Client, request};
use crate::cli::console::Console;
use crate::cli::failure::{Cause, Failure};
use crate::cli::next::Name;
use crate::cli::times;
use crate::clock::Timestamp;
use crate::connection::alphabet;
use crate::grpc::proto::v1::ImportConnectionRequest;
use crate::secret::Secret;

/// The largest token that is read: none in the world is longer.
const LIMIT: u64 = 64 * 1024;

/// Take over a grant that another system obtained with the same client
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("token").required(true).multiple(true).args(["refresh_token_file", "access_token_file"]))]
pub(crate) struct Import {
    #[command(flatten)]
    named: Named,
    /// File with the refresh token; - reads standard input
    #[arg(long, value_name = "FILE")]
    refresh_token_file: Option<PathBuf>,
    /// File with an access token that still lives; - reads standard input
    #[arg(long, value_name = "FILE")]
    access_token_file: Option<PathBuf>,
    /// When the access token dies, e.g. 2026-11-21T15:04:05Z
    #[arg(long, value_name = "TIME", value_parser = times::parse_time, requires = "access_token_file")]
    expire_time: Option<Timestamp>,
    /// How long the access token still lives, e.g. 55m
    #[arg(long, value_name = "SPAN", value_parser = times::parse_span, requires = "access_token_file", conflicts_with = "expire_time")]
    expires_in: Option<Duration>,
    /// A scope that was granted; repeat for more. Default: the provider's configured scopes
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// A value for one of the provider's variables; repeat for more
    #[arg(long = "variable", value_name = "NAME=VALUE", value_parser = parse_variable)]
    variables: Vec<(String, String)>,
    /// Replace the grant of an existing connection
    #[arg(long)]
    replace: bool,
}

impl Import {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console, client: &Client) -> Result<(), Failure> {
        let is_stdin = |file: &Option<PathBuf>| file.as_ref().is_some_and(|path| path.as_os_str() == "-");
        if is_stdin(&self.refresh_token_file) && is_stdin(&self.access_token_file) {
            return Err(Failure::new(Cause::Usage, "standard input can hold one token, not two"));
        }
        let refresh_token = read(console, self.refresh_token_file, alphabet::is_refresh_token)?;
        let access_token = read(console, self.access_token_file, alphabet::is_access_token)?;
        let expire_time = self.expire_time.or(self.expires_in.map(|span| console.now() + span));
        let name = Name::from(self.named);
        let Name { provider, connection, tenant } = name.clone();
        let message = ImportConnectionRequest {
            provider,
            connection,
            tenant,
            refresh_token: refresh_token.map_or_else(String::new, |token| token.expose().clone()),
            access_token: access_token.map_or_else(String::new, |token| token.expose().clone()),
            expire_time: expire_time.map(times::to_wire),
            scopes: self.scopes,
            variables: self.variables.into_iter().collect(),
            replace: self.replace,
        };
        match client.connections().import_connection(request(message)).await {
            Ok(answer) => Ok(console.report(&held(answer.into_inner().connection)?)?),
            Err(status) => Err(client.failure(status, Some(&name), console.now()).await),
        }
    }
}

/// The token in `file`, without the line break that editors and `echo` add.
fn read(
    console: &mut Console,
    file: Option<PathBuf>,
    is_token: fn(&str) -> bool,
) -> Result<Option<Secret<String>>, Failure> {
    let Some(path) = file else { return Ok(None) };
    let text = if path.as_os_str() == "-" {
        console.input.all(LIMIT)
    } else {
        std::fs::File::open(&path).and_then(|file| {
            use std::io::Read as _;
            let mut text = String::new();
            file.take(LIMIT).read_to_string(&mut text).map(|_| text)
        })
    };
    let text = Secret::new(text.map_err(|error| {
        Failure::new(Cause::Machine, format!("{} cannot be read", path.display())).because(error.to_string())
    })?);
    let token = text.expose().trim_end_matches(['\r', '\n']);
    if !is_token(token) {
        return Err(Failure::new(Cause::Usage, format!("{} does not hold one token", path.display()))
            .because("a token is one line of printable ASCII, an access token without spaces"));
    }
    Ok(Some(Secret::new(token.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::console::tests::Desk;

    #[test]
    fn a_token_is_one_line_from_a_file_or_standard_input() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "rt-1\n").unwrap();
        let read = |desk: &mut Desk, path| read(&mut desk.console, Some(path), alphabet::is_refresh_token);
        let token = read(&mut Desk::piped(), path.clone()).unwrap().unwrap();
        assert_eq!(token.expose(), "rt-1");
        let token = read(&mut Desk::terminal("rt-2\r\n"), "-".into()).unwrap().unwrap();
        assert_eq!(token.expose(), "rt-2");
        std::fs::write(&path, "two\nlines").unwrap();
        assert_eq!(read(&mut Desk::piped(), path.clone()).unwrap_err().cause, Cause::Usage);
        assert_eq!(read(&mut Desk::piped(), "/nowhere".into()).unwrap_err().cause, Cause::Machine);
        std::fs::write(&path, "a b\n").unwrap();
        assert_eq!(read(&mut Desk::piped(), path.clone()).unwrap().unwrap().expose(), "a b");
        let access = super::read(&mut Desk::piped().console, Some(path), alphabet::is_access_token);
        assert_eq!(access.unwrap_err().cause, Cause::Usage, "it goes into a header");
    }
}
