//! Candidates for names, asked of the broker while somebody types. Invariant: a shell never waits long for them and
//! never sees an error: without a broker there are simply no candidates.

use std::ffi::OsStr;
use std::time::Duration;

use clap_complete::engine::CompletionCandidate;

use super::client::{Client, request};
use super::console::Environment;
use crate::grpc::proto::v1::{ListConnectionsRequest, ListProvidersRequest};

/// How long a person waits at a Tab.
const PATIENCE: Duration = Duration::from_millis(500);

/// Providers whose key begins with `typed`.
pub(crate) fn providers(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    asked(async move |client| {
        let answer = client.providers().list_providers(request(ListProvidersRequest {})).await.ok()?;
        let all = answer.into_inner().providers.into_iter();
        let named = all.filter(|provider| provider.provider.starts_with(&typed));
        Some(named.map(|p| CompletionCandidate::new(p.provider).help(Some(p.display_name.into()))).collect())
    })
}

/// Connections whose id begins with `typed`; of a provider that stands earlier on the line, if one does.
pub(crate) fn connections(typed: &OsStr) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy().into_owned();
    let line: Vec<String> = std::env::args().collect();
    asked(async move |client| {
        let message = ListConnectionsRequest {
            connection_prefix: typed,
            page_size: 1000,
            ..ListConnectionsRequest::default()
        };
        let found =
            client.connections().list_connections(request(message)).await.ok()?.into_inner().connections;
        let is_named = |provider: &str| line.iter().any(|word| word == provider);
        let is_any_named = found.iter().any(|connection| is_named(&connection.provider));
        let wanted = found.into_iter().filter(|c| !is_any_named || is_named(&c.provider));
        Some(wanted.map(|c| CompletionCandidate::new(c.connection).help(Some(c.provider.into()))).collect())
    })
}

fn asked(ask: impl AsyncFnOnce(Client) -> Option<Vec<CompletionCandidate>>) -> Vec<CompletionCandidate> {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let candidates = runtime.block_on(async {
        let found = async {
            let client = Client::find(None, &Environment::of_process()).await.ok()?;
            ask(client).await
        };
        tokio::time::timeout(PATIENCE, found).await.ok().flatten()
    });
    candidates.unwrap_or_default()
}
