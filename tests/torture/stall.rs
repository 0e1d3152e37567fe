//! A device that takes nothing more: from now on every sync of a running broker fails, by a tracer that is attached to
//! it, until it is well again.

use std::sync::Once;

use super::stage::Stage;
use super::tracer::Tracer;

static TOLD: Once = Once::new();

/// As long as this lives, no sync works.
pub(crate) enum Failing {
    /// The calls themselves fail.
    Traced(Tracer),
    /// Where no tracer may attach: the failpoint before the store's sync.
    Ordered,
}

impl Failing {
    pub(crate) async fn on(stage: &Stage) -> Self {
        if let Some(tracer) = Tracer::on(stage, "fsync,fdatasync,?sync_file_range", "error=EIO").await {
            return Self::Traced(tracer);
        }
        TOLD.call_once(|| {
            println!("failing calls of sync: NOT RUN: no tracer can attach here; a failpoint stands in");
        });
        stage.home.order("store.sync.before=error:EIO");
        Self::Ordered
    }

    /// The device is well again.
    pub(crate) async fn end(self, stage: &Stage) {
        match self {
            Self::Traced(tracer) => tracer.detach().await,
            Self::Ordered => stage.home.order(""),
        }
    }
}
