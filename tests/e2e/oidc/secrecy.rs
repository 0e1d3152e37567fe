//! The real binary with its log at trace, all threads of it: nothing that a client, a browser or the provider was told
//! in confidence is in the log or on the disk.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use token_broker::grpc::proto::v1;
use url::Url;

use super::provider::{CLIENT_SECRET, Provider};
use super::{LONG, begin, token};
use crate::broker::{Home, PROVIDER, RETURN_URL};

fn holds(bytes: &[u8], secret: &[u8]) -> bool {
    bytes.windows(secret.len()).any(|part| part == secret)
}

#[tokio::test]
async fn neither_log_nor_disk_shows_a_secret() {
    let provider = Provider::start(LONG);
    let home = Home::new(&provider.client());
    let broker = home.start();
    let mut connections = broker.connections().await;

    let request = v1::BeginConnectRequest { return_url: RETURN_URL.to_owned(), ..begin("user-9") };
    let begun = connections.begin_connect(request).await.unwrap().into_inner();
    let authorization = Url::parse(&begun.authorization_url).unwrap();
    let state = authorization.query_pairs().find(|(name, _)| name == "state").unwrap().1.into_owned();
    let returned = provider.consent(&begun.authorization_url, "ivan", RETURN_URL).await;
    let one_time_code = returned.query("code").unwrap();
    let finish = v1::FinishConnectRequest { session: begun.session.clone(), code: one_time_code.clone() };
    connections.finish_connect(finish).await.unwrap();
    let first = token(&broker, "user-9").await;
    let refresh = v1::RefreshConnectionRequest {
        provider: PROVIDER.to_owned(),
        connection: "user-9".to_owned(),
        ..Default::default()
    };
    connections.refresh_connection(refresh).await.unwrap();
    let second = token(&broker, "user-9").await;
    assert_ne!(first.access_token, second.access_token);
    drop(connections);

    let log = broker.stop();

    let mut secrets = provider.secrets().await;
    for name in ["credentials", "code", "code_verifier", "access_token", "refresh_token"] {
        assert!(secrets.iter().any(|(known, _)| known == name), "the provider was told no {name}");
    }
    for token in [&first, &second] {
        assert!(secrets.iter().any(|(_, secret)| *secret == token.access_token));
    }
    let key = std::fs::read_to_string(home.path("seal.key")).unwrap();
    let key = key.split("base64:").last().unwrap().split_whitespace().next().unwrap();
    for (name, secret) in [
        ("client secret", CLIENT_SECRET),
        ("session", &begun.session),
        ("state", &state),
        ("one-time code", &one_time_code),
        ("ring key", key),
    ] {
        secrets.push((name.to_owned(), secret.to_owned()));
    }
    let stored = home.stored();
    assert!(!stored.is_empty());
    assert!(log.contains(PROVIDER), "a log without a word of what was done proves nothing:\n{log}");
    for (name, secret) in &secrets {
        assert!(secret.len() >= 16, "{name} is too short to be looked for");
        assert!(!log.contains(secret), "the log shows {name}");
        for (path, bytes) in &stored {
            assert!(!holds(bytes, secret.as_bytes()), "{} shows {name}", path.display());
        }
    }
    // The key itself is bytes; its text is how the key file writes them.
    let key = STANDARD.decode(key).unwrap();
    assert!(!stored.values().any(|bytes| holds(bytes, &key)), "the ring key is stored");
    assert!(!holds(log.as_bytes(), &key), "the ring key is logged");
}
