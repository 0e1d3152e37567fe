//! The contract holds what it promises: one vocabulary, no refresh token in an answer, no secret that prints.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use prost::Message as _;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use token_broker::error::{Fault, Reason, Rule};
use token_broker::grpc::proto::{FOR_APPS, FOR_OPERATORS, admin_v1, v1};

const CANARY: &str = "canary-7f3a";

/// Our own files of the contract.
fn files() -> Vec<FileDescriptorProto> {
    let files: Vec<_> = [FOR_APPS, FOR_OPERATORS]
        .into_iter()
        .flat_map(|set| FileDescriptorSet::decode(set).unwrap().file)
        .filter(|file| file.package().starts_with("tokenbroker."))
        .collect();
    assert_eq!(files.len(), 5, "a file was added: does every test here see it?");
    files
}

/// Every method of ours with the full name of its service.
pub(crate) fn methods() -> Vec<(String, String)> {
    let of = |file: FileDescriptorProto| {
        let package = file.package().to_owned();
        file.service.into_iter().flat_map(move |service| {
            let name = format!("{package}.{}", service.name());
            service.method.into_iter().map(move |method| (method.name().to_owned(), name.clone()))
        })
    };
    files().into_iter().flat_map(of).collect()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn proto_sources() -> Vec<(PathBuf, String)> {
    files()
        .iter()
        .map(|file| Path::new("proto").join(file.name()))
        .map(|path| (path.clone(), read(path)))
        .collect()
}

/// Words in capitals with an underscore, as reasons are written.
fn words_in_capitals(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|word| word.contains('_') && word.starts_with(|c: char| c.is_ascii_uppercase()))
}

fn reasons() -> BTreeSet<&'static str> {
    Reason::ALL.into_iter().map(Reason::as_str).collect()
}

#[test]
fn comments_of_the_contract_name_every_reason_and_no_other() {
    let mut values = BTreeSet::new();
    for file in files() {
        let nested = file.enum_type.iter().flat_map(|kind| &kind.value);
        values.extend(nested.map(|value| value.name().to_owned()));
    }
    // Statuses are named without their prefix, as people say them.
    let said = |word: &str| values.iter().any(|value| value == word || value.ends_with(&format!("_{word}")));
    let mut named = BTreeSet::new();
    for (path, source) in proto_sources() {
        let comments = source.lines().filter_map(|line| line.trim_start().strip_prefix("//"));
        for word in comments.flat_map(words_in_capitals) {
            if let Some(reason) = Reason::parse(word) {
                named.insert(reason.as_str());
            } else {
                assert!(said(word) || word == "UPPER_SNAKE", "{}: {word} is no reason", path.display());
            }
        }
        // The one reason of a single word.
        if source.contains("INTERNAL.") {
            named.insert(Reason::Internal.as_str());
        }
    }
    assert_eq!(named, reasons());
}

#[test]
fn the_pages_for_people_name_every_reason_and_no_other() {
    // Where the page's table has its reasons: the README has several in a cell, the other has one a row.
    for (page, header, column) in [("README.md", "| whose move |", 2), ("docs/errors.md", "| reason |", 1)] {
        let text = read(page);
        let at = text.find(header).unwrap_or_else(|| panic!("{page} has no table of {header}"));
        let cells = text[at..].lines().skip(2).map_while(|row| row.strip_prefix('|'));
        let mut listed: Vec<_> =
            cells.filter_map(|row| row.split('|').nth(column - 1)).flat_map(in_backticks).collect();
        listed.sort_unstable();
        assert_eq!(listed, Vec::from_iter(reasons()), "the table of {page} lists each reason once");
        let named = in_backticks(&text).filter(|word| Reason::parse(word).is_some());
        assert_eq!(BTreeSet::from_iter(named), reasons(), "{page}");
    }
}

#[test]
fn the_pages_for_people_say_whose_move_it_is() {
    let readme = read("README.md");
    let rows = readme[readme.find("| whose move |").unwrap()..].lines().skip(2);
    for row in rows.map_while(|row| row.strip_prefix("| ")) {
        let (whose, words) = row.split_once(" | ").unwrap();
        let fault = match whose.split(':').next().unwrap() {
            "the caller" => Fault::Caller,
            "the account's owner" => Fault::Owner,
            "the provider" => Fault::Provider,
            "whoever runs the broker" => Fault::Operator,
            "the broker" => Fault::Broker,
            other => panic!("{other}"),
        };
        for word in in_backticks(words) {
            assert_eq!(Reason::parse(word).unwrap().fault(), fault, "README.md: {word}");
        }
    }
    let page = read("docs/errors.md");
    let rows = page[page.find("| reason |").unwrap()..].lines().skip(2);
    for row in rows.map_while(|row| row.strip_prefix("| `")) {
        let cells: Vec<&str> = row.split(" | ").collect();
        let reason = Reason::parse(cells[0].trim_end_matches('`')).unwrap();
        assert_eq!(cells[2], reason.fault().as_str(), "docs/errors.md: {reason}");
    }
}

#[test]
fn the_page_of_errors_names_every_rule_for_calls_in_order() {
    let text = read("docs/errors.md");
    let at = text.find("| rule |").unwrap();
    let rows = text[at..].lines().skip(2).map_while(|row| row.strip_prefix("| `"));
    let listed: Vec<&str> = rows.filter_map(|row| row.split('`').next()).collect();
    assert_eq!(listed, Rule::ALL.iter().map(|rule| rule.as_str()).collect::<Vec<_>>());
}

fn in_backticks(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn no_answer_holds_a_refresh_token() {
    let answers: BTreeSet<String> = files()
        .iter()
        .flat_map(|file| file.service.clone())
        .flat_map(|service| service.method)
        .map(|method| method.output_type().trim_start_matches('.').to_owned())
        .collect();
    let messages: Vec<(String, DescriptorProto)> = files()
        .into_iter()
        .flat_map(|file| {
            let package = file.package().to_owned();
            file.message_type
                .into_iter()
                .map(move |message| (format!("{package}.{}", message.name()), message))
        })
        .collect();
    let mut open: Vec<String> = answers.into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some((_, message)) = messages.iter().find(|(known, _)| *known == name) else { continue };
        for field in &message.field {
            let is_token = field.name().contains("refresh_token") || field.name().contains("client_secret");
            assert!(!is_token, "{name}.{}", field.name());
            open.push(field.type_name().trim_start_matches('.').to_owned());
        }
    }
    assert!(
        seen.contains("tokenbroker.v1.GetAccessTokenResponse") && seen.contains("tokenbroker.v1.Connection")
    );
}

/// A field that holds a secret by its name says so in the contract, and so its message cannot print it (`build.rs`).
#[test]
fn every_field_that_sounds_secret_is_marked() {
    let sounds_secret =
        ["access_token", "refresh_token", "client_secret", "code", "state", "body", "session", "user_code"];
    let mut marked = 0;
    for (path, source) in proto_sources() {
        for line in source.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
            let mut words = line.split_whitespace();
            let (Some("string" | "bytes"), Some(name)) = (words.next(), words.next()) else { continue };
            if sounds_secret.contains(&name) {
                assert!(line.contains("[debug_redact = true]"), "{}: {line}", path.display());
                marked += 1;
            }
        }
    }
    assert!(marked >= 12, "{marked} fields found: the test reads nothing");
}

#[test]
fn messages_with_secrets_do_not_print_them() {
    let text = || CANARY.to_owned();
    let bytes = || CANARY.as_bytes().to_vec();
    let header = v1::Header { name: "x".into(), value: text() };
    let call = v1::CallProviderRequest {
        path: text(),
        body: bytes(),
        headers: vec![header.clone()],
        query: vec![v1::QueryParameter { name: "q".into(), value: text() }],
        ..Default::default()
    };
    let chunk = v1::BodyChunk { data: bytes().into(), end: true };
    let printed = [
        format!("{:?}", v1::GetAccessTokenResponse { access_token: text(), ..Default::default() }),
        format!(
            "{:?}",
            v1::WatchAccessTokenResponse {
                event: Some(v1::watch_access_token_response::Event::Token(v1::AccessToken {
                    access_token: text(),
                    ..Default::default()
                })),
            }
        ),
        format!(
            "{:?}",
            v1::ImportConnectionRequest { refresh_token: text(), access_token: text(), ..Default::default() }
        ),
        format!(
            "{:#?}",
            v1::BeginConnectResponse {
                session: text(),
                authorization_url: text(),
                device: Some(v1::DevicePrompt {
                    user_code: text(),
                    verification_uri_complete: text(),
                    ..Default::default()
                }),
                ..Default::default()
            }
        ),
        format!(
            "{:?}",
            v1::CompleteConnectRequest {
                state: text(),
                code: text(),
                error_description: text(),
                ..Default::default()
            }
        ),
        format!("{:?}", v1::FinishConnectRequest { session: text(), code: text() }),
        format!("{call:?}"),
        format!(
            "{:?}",
            v1::CallProviderResponse { body: bytes().into(), headers: vec![header], ..Default::default() }
        ),
        format!(
            "{:?}",
            v1::StreamProviderCallRequest {
                part: Some(v1::stream_provider_call_request::Part::Chunk(chunk)),
            }
        ),
        format!("{:?}", v1::WebhookDelivery { body: bytes(), ..Default::default() }),
        format!("{:?}", admin_v1::ExportStoreResponse { data: bytes() }),
    ];
    // A list of numbers would be the secret, too.
    let as_numbers = format!("{:?}", CANARY.as_bytes());
    for line in printed {
        assert!(!line.contains(CANARY) && !line.contains(as_numbers.trim_matches(['[', ']'])), "{line}");
        assert!(line.contains("Secret(…)"), "{line}");
    }
}

#[test]
fn every_element_of_the_contract_has_a_comment() {
    for file in files() {
        let comments: BTreeSet<Vec<i32>> = file
            .source_code_info
            .as_ref()
            .unwrap()
            .location
            .iter()
            .filter(|place| !place.leading_comments().trim().is_empty())
            .map(|place| place.path.clone())
            .collect();
        let check = |path: Vec<i32>, name: &str| {
            assert!(comments.contains(&path), "{}: {name} has no comment", file.name());
        };
        // Field numbers of descriptor.proto: message_type 4, enum_type 5, service 6; field 2, oneof_decl 8; value 2;
        // method 2.
        for (i, message) in (0..).zip(&file.message_type) {
            check(vec![4, i], message.name());
            for (j, field) in (0..).zip(&message.field) {
                check(vec![4, i, 2, j], field.name());
            }
            // Synthetic ones, of `optional` fields, are named with an underscore.
            for (j, oneof) in
                (0..).zip(&message.oneof_decl).filter(|(_, oneof)| !oneof.name().starts_with('_'))
            {
                check(vec![4, i, 8, j], oneof.name());
            }
        }
        for (i, kind) in (0..).zip(&file.enum_type) {
            check(vec![5, i], kind.name());
            for (j, value) in (0..).zip(&kind.value) {
                check(vec![5, i, 2, j], value.name());
            }
        }
        for (i, service) in (0..).zip(&file.service) {
            check(vec![6, i], service.name());
            for (j, method) in (0..).zip(&service.method) {
                check(vec![6, i, 2, j], method.name());
            }
        }
    }
}

/// buf's STANDARD rules that are about names, for machines without buf.
#[test]
fn names_follow_the_standard() {
    for file in files() {
        let directory = file.package().replace('.', "/");
        assert!(file.name().starts_with(&format!("{directory}/")), "{}", file.name());
        for service in &file.service {
            assert!(service.name().ends_with("Service"), "{}", service.name());
            for method in &service.method {
                for (kind, of) in [("Request", method.input_type()), ("Response", method.output_type())] {
                    assert!(of.ends_with(&format!(".{}{kind}", method.name())), "{}: {of}", method.name());
                }
            }
        }
        for kind in &file.enum_type {
            let mut prefix = String::new();
            for (place, c) in kind.name().char_indices() {
                if place > 0 && c.is_ascii_uppercase() {
                    prefix.push('_');
                }
                prefix.push(c.to_ascii_uppercase());
            }
            assert_eq!(kind.value[0].name(), format!("{prefix}_UNSPECIFIED"));
            for value in &kind.value {
                assert!(value.name().starts_with(&format!("{prefix}_")), "{}", value.name());
            }
        }
    }
}
