//! What runs beside the doors: first the work that an earlier run left, then house-keeping.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::broker::{Ahead, Broker, Trust};
use crate::readiness::ReadinessGuard;

/// How often consents that ran out of time are swept away and connections are counted.
const EVERY: Duration = Duration::from_secs(60);

/// How long after the store could not say what was left it is asked again, at first and at most.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(1);

/// Takes up what was left, lets go of `starting`, refreshes `ahead` where that is wanted, and keeps house until
/// `closing`.
pub(super) async fn keep(
    broker: Arc<Broker>,
    starting: ReadinessGuard,
    ahead: Option<Ahead>,
    closing: CancellationToken,
) {
    let mut pause = FIRST_RETRY;
    // Who is served before these are under way may be told of a dead grant that could have been saved.
    while !recover(&broker).await {
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LAST_RETRY),
            () = closing.cancelled() => return,
        }
    }
    let mut is_resumed = resume(&broker).await;
    drop(starting);
    if let Some(ahead) = ahead {
        broker.start_ahead(ahead);
    }
    loop {
        if let Err(error) = broker.sweep().await {
            tracing::warn!(%error, reason = %error.reason(), "house-keeping failed; it is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = closing.cancelled() => return,
        }
        is_resumed = is_resumed || resume(&broker).await;
    }
}

/// Refreshes that were left unfinished come first: the time in which they can be saved may be running out.
async fn recover(broker: &Arc<Broker>) -> bool {
    match broker.recover(Trust::Sound).await {
        Ok(_) => true,
        Err(error) => {
            tracing::error!(%error, reason = %error.reason(), "unfinished refreshes wait; tried again");
            false
        }
    }
}

async fn resume(broker: &Arc<Broker>) -> bool {
    match broker.resume_revocations().await {
        Ok(0) => true,
        Ok(resumed) => {
            tracing::info!(resumed, "took up revocations that were left");
            true
        }
        Err(error) => {
            tracing::error!(%error, reason = %error.reason(), "revocations that were left wait; tried again");
            false
        }
    }
}

#[cfg(test)]
mod tests;
