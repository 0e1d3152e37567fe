//! A refresh that an earlier run of the process left unanswered. Pure. Invariant: what is known of it, its time and how
//! often it was tried, stays as it is; only what is said of the connection changes.

use super::history::Happening;
use super::step::{Moment, Others};
use super::{Connection, Status};

/// Why the outcome of a refresh is unknown whose process ended before its answer was written down.
const PROCESS_ENDED: &str = "process_ended";

impl Connection {
    /// The record that says that the outcome of such a refresh is unknown. `None` where none was left, and where the record
    /// says so or says more. For what cannot be found out at once: whoever tries says it by that.
    pub fn left_unanswered(mut self, moment: &Moment<'_>) -> Option<Self> {
        let intent = self.profile.intent.as_ref()?;
        let is_over = intent.holder != moment.holder && moment.others == Others::Gone;
        if !is_over || self.profile.status != Status::Active {
            return None;
        }
        self.profile.status = Status::Ambiguous;
        self.profile.updated_at = moment.now;
        self.note(Happening::Ambiguous, Some(PROCESS_ENDED), moment.now);
        Some(self)
    }
}
