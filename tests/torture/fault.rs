//! The faults (faults.md section 7.4), by number: what each does in a round.

mod answer;
mod beside;
mod between;
mod caller;
mod clock;
mod control;
mod crash;
mod damage;
mod disk;
mod intent;
mod random;
mod restart;
mod revoke;
mod rollback;
mod room;
mod second;
mod stop;
mod sweep;
mod sync;
mod window;
mod wire;

use super::profile::{Habit, Profile};
use super::tally::Row;

/// A fault, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Control,
    I2,
    I3,
    F1,
    F2,
    F5,
    F6,
    F7,
    F8,
    F8Disk,
    F9,
    F9Disk,
    F9Place,
    F10,
    F11,
    F12,
    F13,
    F14,
    F15,
    F16,
    F17,
    F18,
    F23,
    F24,
    F28,
    F30,
    F31,
    Between,
    Beside,
    Window,
    Random,
}

impl Fault {
    pub(crate) const ALL: [Self; 31] = [
        Self::Control,
        Self::I2,
        Self::I3,
        Self::F1,
        Self::F2,
        Self::F5,
        Self::F6,
        Self::F7,
        Self::F8,
        Self::F8Disk,
        Self::F9,
        Self::F9Disk,
        Self::F9Place,
        Self::F10,
        Self::F11,
        Self::F12,
        Self::F13,
        Self::F14,
        Self::F15,
        Self::F16,
        Self::F17,
        Self::F18,
        Self::F23,
        Self::F24,
        Self::F28,
        Self::F30,
        Self::F31,
        Self::Between,
        Self::Beside,
        Self::Window,
        Self::Random,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::I2 => "I2",
            Self::I3 => "I3",
            Self::F1 => "F1",
            Self::F2 => "F2",
            Self::F5 => "F5",
            Self::F6 => "F6",
            Self::F7 => "F7",
            Self::F8 => "F8",
            Self::F8Disk => "F8-disk",
            Self::F9 => "F9",
            Self::F9Disk => "F9-disk",
            Self::F9Place => "F9-place",
            Self::F10 => "F10",
            Self::F11 => "F11",
            Self::F12 => "F12",
            Self::F13 => "F13",
            Self::F14 => "F14",
            Self::F15 => "F15",
            Self::F16 => "F16",
            Self::F17 => "F17",
            Self::F18 => "F18",
            Self::F23 => "F23",
            Self::F24 => "F24",
            Self::F28 => "F28",
            Self::F30 => "F30",
            Self::F31 => "F31",
            Self::Between => "between",
            Self::Beside => "beside",
            Self::Window => "window",
            Self::Random => "random",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Control => "a store that lies is found out",
            Self::I2 => "intent on disk when the request arrives",
            Self::I3 => "answered tokens on disk when they are answered",
            Self::F1 => "killed at a file call",
            Self::F2 => "killed in a refresh or a disconnect",
            Self::F5 => "half-written files lie about",
            Self::F6 => "the store's files are damaged",
            Self::F7 => "an older copy of the store is put back",
            Self::F8 => "disk full before the request",
            Self::F8Disk => "a real disk full before the request",
            Self::F9 => "disk full or failing after the rotation",
            Self::F9Disk => "a real disk full after the rotation",
            Self::F9Place => "the same without ballast, killed, a second place",
            Self::F10 => "syncs fail",
            Self::F11 => "each sync takes 5 s",
            Self::F12 => "answer lost",
            Self::F13 => "request lost",
            Self::F14 => "provider slow, stuck, trickling",
            Self::F15 => "errors and broken answers",
            Self::F16 => "invalid_grant once, then fine",
            Self::F17 => "1000 callers at once",
            Self::F18 => "every caller hangs up",
            Self::F23 => "the clock jumps, the machine stops",
            Self::F24 => "revoked during a refresh",
            Self::F28 => "SIGTERM under load",
            Self::F30 => "restart after restart",
            Self::F31 => "a second broker on the volume",
            Self::Between => "asked between an answer and its being durable",
            Self::Beside => "another provider beside one that is down",
            Self::Window => "from an answer's last byte to durable",
            Self::Random => "faults and kills at random",
        }
    }

    /// Whether it says anything about this provider.
    pub(crate) fn is_for(self, profile: Profile) -> bool {
        match self {
            Self::Control | Self::Window => profile.habit == Habit::Strict && !profile.ends_old,
            Self::Between => profile.ends_old,
            // About what becomes of an answer that was on its way, or of what was written down of it.
            Self::F1
            | Self::F2
            | Self::F5
            | Self::F6
            | Self::F7
            | Self::F9
            | Self::F9Disk
            | Self::F9Place
            | Self::F10
            | Self::F11
            | Self::F12
            | Self::F13
            | Self::F14
            | Self::F15
            | Self::F18
            | Self::F28
            | Self::F30
            | Self::Random => true,
            Self::I2
            | Self::I3
            | Self::F8
            | Self::F8Disk
            | Self::F16
            | Self::F17
            | Self::F23
            | Self::F24
            | Self::F31
            | Self::Beside => !profile.ends_old,
        }
    }

    /// `rounds` rounds of it.
    pub(crate) async fn inflict(self, row: &mut Row, rounds: u64) {
        match self {
            Self::Control => control::inflict(row).await,
            Self::I2 => intent::inflict(row, rounds).await,
            Self::I3 => answer::inflict(row, rounds).await,
            Self::F1 => sweep::inflict(row, rounds).await,
            Self::F2 => crash::inflict(row, rounds).await,
            Self::F5 => damage::leftovers(row, rounds).await,
            Self::F6 => damage::damaged(row, rounds).await,
            Self::F7 => rollback::inflict(row, rounds).await,
            Self::F8 => disk::full_before(row, rounds).await,
            Self::F8Disk => room::full_before(row, rounds).await,
            Self::F9 => disk::failing_after(row, rounds).await,
            Self::F9Disk => room::full_after(row, rounds).await,
            Self::F9Place => room::second_place(row, rounds).await,
            Self::F10 => sync::inflict(row, rounds).await,
            Self::F11 => disk::slow(row, rounds).await,
            Self::F12 => wire::answer_lost(row, rounds).await,
            Self::F13 => wire::request_lost(row, rounds).await,
            Self::F14 => wire::slow(row, rounds).await,
            Self::F15 => wire::errors(row, rounds).await,
            Self::F16 => wire::flaky(row, rounds).await,
            Self::F17 => caller::crowd(row, rounds).await,
            Self::F18 => caller::hung_up(row, rounds).await,
            Self::F23 => clock::inflict(row, rounds).await,
            Self::F24 => revoke::inflict(row, rounds).await,
            Self::F28 => stop::inflict(row, rounds).await,
            Self::F30 if row.profile.habit == Habit::Strict => restart::patient(row, rounds).await,
            Self::F30 => restart::inflict(row, rounds).await,
            Self::F31 => second::inflict(row, rounds).await,
            Self::Between => between::inflict(row, rounds).await,
            Self::Beside => beside::inflict(row, rounds).await,
            Self::Window => window::inflict(row, rounds).await,
            Self::Random => random::inflict(row, rounds).await,
        }
    }
}

/// The next number of a sequence that a seed begins (splitmix64).
pub(crate) fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
