//! The page behind the consent URL that `dev` prints. Opened in any browser it begins a consent, and when the browser
//! comes back it finishes it, in this process: so the URL is short, works again and again, and needs no session of the
//! person who opens it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http::{StatusCode, Uri};

use super::super::client::{Client, request};
use super::super::connect::{Finisher, outcome_page};
use super::super::loopback::{Answer, Returned, html};
use super::super::next::Name;
use super::{PROVIDER, TO_CONNECT};
use crate::clock::Clock;
use crate::entropy::{Entropy, OsEntropy};
use crate::grpc::proto::v1::BeginConnectRequest;
use crate::secret::Secret;

/// How many consents may be under way; beyond that the oldest is forgotten.
const MOST: usize = 16;

/// The pages.
pub(super) struct Pages {
    client: Client,
    clock: Arc<dyn Clock>,
    address: SocketAddr,
    begun: Mutex<VecDeque<(String, Arc<Finisher>)>>,
}

impl Pages {
    /// Pages at `address` for the broker behind `client`.
    pub(super) fn new(client: Client, clock: Arc<dyn Clock>, address: SocketAddr) -> Self {
        Self { client, clock, address, begun: Mutex::default() }
    }

    /// What `uri` is answered.
    pub(super) async fn answer(self: Arc<Self>, uri: Uri) -> Answer {
        match uri.path() {
            "/connect" => self.begin().await,
            path => match (path.strip_prefix("/connected/"), Returned::parse(&uri)) {
                (Some(attempt), Some(returned)) => self.finish(attempt, returned).await,
                _ => Answer::Page(StatusCode::NOT_FOUND, html::nothing_here()),
            },
        }
    }

    async fn begin(&self) -> Answer {
        let entropy: &dyn Entropy = &OsEntropy;
        let attempt = entropy.token::<16>();
        let name =
            Name { provider: PROVIDER.to_owned(), connection: TO_CONNECT.to_owned(), tenant: String::new() };
        let message = BeginConnectRequest {
            provider: name.provider.clone(),
            connection: name.connection.clone(),
            return_url: format!("http://{}/connected/{attempt}", self.address),
            login_hint: TO_CONNECT.to_owned(),
            // Whoever tries things out signs in as whom they like.
            allow_account_change: true,
            ..BeginConnectRequest::default()
        };
        let begun = match self.client.connections().begin_connect(request(message)).await {
            Ok(begun) => begun.into_inner(),
            Err(status) => {
                let failure = self.client.failure(status, Some(&name), self.clock.now()).await;
                return outcome_page(&name, &Err(failure));
            }
        };
        let finisher =
            Finisher::new(self.client.clone(), self.clock.clone(), name, Secret::new(begun.session));
        let mut waiting = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push_back((attempt, Arc::new(finisher)));
        if waiting.len() > MOST {
            waiting.pop_front();
        }
        Answer::See(Secret::new(begun.authorization_url))
    }

    async fn finish(&self, attempt: &str, returned: Returned) -> Answer {
        let waiting = {
            let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            begun.iter().find(|(known, _)| known == attempt).map(|(_, finisher)| finisher.clone())
        };
        match waiting {
            Some(finisher) => {
                let outcome = finisher.finish(returned).await;
                outcome_page(finisher.name(), &outcome)
            }
            None => Answer::Page(StatusCode::NOT_FOUND, html::nothing_here()),
        }
    }
}
