//! The documents that `--json` prints, as JSON Schema: docs/cli.schema.json is this, and a test says so.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::call::CallView;
use super::connections::history::Timeline;
use super::connections::watch::WatchLine;
use super::connections::{ConnectionView, disconnect::Disconnected, list::ConnectionList};
use super::dev::Banner;
use super::providers::{list::ProviderList, retry::Retried, show::Setup};
use super::store::{ExportView, ImportView, VerifyView};
use super::{check_config::Effective, keys::KeyList, status::Status, token::TokenView};

fn document() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let mut commands = Map::new();
    fn add<T: JsonSchema>(generator: &mut SchemaGenerator, into: &mut Map<String, Value>, commands: &[&str]) {
        let schema = generator.subschema_for::<T>().to_value();
        into.extend(commands.iter().map(|command| ((*command).to_owned(), schema.clone())));
    }
    add::<Status>(&mut generator, &mut commands, &["token-broker"]);
    add::<Banner>(&mut generator, &mut commands, &["dev"]);
    let shows_one =
        ["connect", "connections show", "connections import", "connections refresh", "connections retry"];
    add::<ConnectionView>(&mut generator, &mut commands, &shows_one);
    add::<ConnectionList>(&mut generator, &mut commands, &["connections list"]);
    add::<Timeline>(&mut generator, &mut commands, &["connections history"]);
    add::<WatchLine>(&mut generator, &mut commands, &["connections watch"]);
    add::<Disconnected>(&mut generator, &mut commands, &["connections disconnect"]);
    add::<ProviderList>(&mut generator, &mut commands, &["providers list"]);
    add::<Setup>(&mut generator, &mut commands, &["providers show"]);
    add::<Retried>(&mut generator, &mut commands, &["providers retry"]);
    add::<TokenView>(&mut generator, &mut commands, &["token"]);
    add::<CallView>(&mut generator, &mut commands, &["call"]);
    add::<Effective>(&mut generator, &mut commands, &["check-config"]);
    add::<KeyList>(&mut generator, &mut commands, &["keys generate", "keys list"]);
    add::<ExportView>(&mut generator, &mut commands, &["store export"]);
    add::<ImportView>(&mut generator, &mut commands, &["store import"]);
    add::<VerifyView>(&mut generator, &mut commands, &["store verify"]);
    let definitions = generator.take_definitions(true);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "What each command of token-broker prints with --json",
        "properties": commands,
        "$defs": definitions,
    })
}

/// After a change that adds a field, write the file anew with `BLESS=1 cargo test --lib cli::schema`.
#[test]
fn the_published_schema_is_what_the_program_prints() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.schema.json");
    let made = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap_or_default(), made);
}
