//! Crash images: the store exactly as a kill would leave it at the moment at which the provider has received a refresh and
//! done nothing yet (invariant I2), or at which new tokens are about to be given out (I3). The broker is held still while its
//! files are copied.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use token_broker::connection::{Connection, ConnectionId};
use token_broker::entropy::OsEntropy;
use token_broker::sandbox::{Exchange, Sandbox};
use token_broker::store::TokenStore as _;
use token_broker::store::guard::Opening;
use token_broker::store::keyring::KeyRing;
use token_broker::telemetry::Metrics;

use super::home::{Home, PROVIDER};

/// An image, and the refresh whose arrival it was taken at.
type Image = (PathBuf, Exchange);

/// Takes an image at every refresh.
pub(crate) struct Camera {
    taken: Arc<Mutex<Vec<Image>>>,
}

impl Camera {
    /// Watches the broker `process`, whose store is in `home`.
    pub(crate) fn on(sandbox: &Sandbox, process: Pid, home: &Home) -> Self {
        let taken: Arc<Mutex<Vec<Image>>> = Arc::default();
        let (store, images, kept) = (home.path("store"), home.path("images"), Arc::clone(&taken));
        std::fs::create_dir_all(&images).unwrap();
        sandbox.witness(move |exchange| {
            if exchange.is_refresh() {
                // One after the other: a process that is let go on for one image may not be in another.
                let mut kept = kept.lock().unwrap();
                let image = images.join(exchange.id.to_string());
                take(process, &store, &image);
                kept.push((image, exchange.clone()));
            }
        });
        Self { taken }
    }

    /// How many images there are, and what is wrong with them: refreshes that arrived without a durable intent of
    /// theirs.
    pub(crate) async fn developed(self, home: &Home, names: &BTreeMap<u64, String>) -> (usize, Vec<String>) {
        let images = std::mem::take(&mut *self.taken.lock().unwrap());
        let mut wrong = Vec::new();
        for (image, exchange) in &images {
            let grant = exchange.subject.grant.map_or(0, |grant| grant.0);
            let found = intended(image, home, names.get(&grant), exchange).await;
            wrong.extend(found.err().map(|why| format!("request {}: {why}", exchange.id)));
            std::fs::remove_dir_all(image).unwrap();
        }
        (images.len(), wrong)
    }
}

/// The record of connection `name` as a kill of the broker `process` would leave it now.
pub(crate) async fn record_now(home: &Home, process: Pid, name: &str) -> Result<Connection, String> {
    let images = home.path("images");
    std::fs::create_dir_all(&images).unwrap();
    let image = images.join("now");
    take(process, &home.path("store"), &image);
    let record = record(&image, home, name).await;
    std::fs::remove_dir_all(image).unwrap();
    record
}

fn take(process: Pid, store: &Path, image: &Path) {
    kill_process(process, Signal::STOP).unwrap();
    let copied = Command::new("cp").arg("-a").arg(store).arg(image).status().unwrap();
    kill_process(process, Signal::CONT).unwrap();
    assert!(copied.success());
}

async fn intended(
    image: &Path,
    home: &Home,
    name: Option<&String>,
    exchange: &Exchange,
) -> Result<(), String> {
    let record = record(image, home, name.ok_or("it is of no connection of ours")?).await?;
    let intent = record.profile.intent.as_ref().ok_or("no intent is on disk")?;
    let shown = format!("{:016x}", intent.fingerprint);
    let presented = exchange.subject.fingerprint.map(|fingerprint| fingerprint.to_string());
    if presented.as_ref() == Some(&shown) {
        Ok(())
    } else {
        Err(format!("the intent is for {shown}, and {presented:?} was presented"))
    }
}

async fn record(image: &Path, home: &Home, name: &str) -> Result<Connection, String> {
    let opening = Opening {
        allow_throwaway: true,
        ..Opening::new(
            image.to_owned(),
            KeyRing::load(&home.path("seal.key")).map_err(|error| error.to_string())?,
            Arc::new(OsEntropy),
            Arc::new(Metrics::default()),
        )
    };
    let store = home.engine.open(opening).map_err(|error| format!("{error}: {}", error.why()))?;
    let id = ConnectionId::parse(String::new(), PROVIDER.to_owned(), name.to_owned()).unwrap();
    let stored = store.get(&id).await.map_err(|error| error.to_string())?.ok_or("there is no record")?;
    store.close().await;
    Ok(stored.value)
}
