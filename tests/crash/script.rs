//! What each writer thread does, from (seed, thread, number) alone, and what the store must hold afterwards.

use std::collections::{BTreeMap, VecDeque};

use token_broker::clock::Timestamp;
use token_broker::connection::{
    AccessToken, CodeWait, ConnectSession, Connection, ConnectionId, Phase, Scopes, Status, TokenSet,
};
use token_broker::secret::Secret;
use token_broker::store::SessionKey;

pub(crate) const THREADS: usize = 8;
const KEYS: u64 = 40;

/// One step of a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Put {
        key: u64,
    },
    Remove {
        key: u64,
    },
    PutSession,
    /// Takes the session that step `0` put.
    TakeSession {
        put_at: u64,
    },
    /// What was drawn cannot be done (nothing there to remove or to take).
    Nothing,
}

/// What a thread has in the store after a number of steps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Key to the step that last put it.
    pub(crate) records: BTreeMap<u64, u64>,
    /// The steps whose sessions are still there.
    pub(crate) sessions: VecDeque<u64>,
}

/// A thread's script.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) thread: usize,
}

impl Script {
    /// The state after `steps` steps.
    pub(crate) fn after(self, steps: u64) -> Model {
        let mut model = Model::default();
        (1..=steps).for_each(|step| self.advance(&mut model, step));
        model
    }

    /// Step number `step`, given the state before it: 65 % put, 20 % remove, 15 % sessions.
    pub(crate) fn op(self, model: &Model, step: u64) -> Op {
        let draw = self.draw(step, 0);
        let key = self.draw(step, 1) % KEYS;
        match draw % 100 {
            0..65 => Op::Put { key },
            65..85 if model.records.contains_key(&key) => Op::Remove { key },
            85..93 => Op::PutSession,
            93.. => model.sessions.front().map_or(Op::Nothing, |put_at| Op::TakeSession { put_at: *put_at }),
            _ => Op::Nothing,
        }
    }

    pub(crate) fn advance(self, model: &mut Model, step: u64) {
        match self.op(model, step) {
            Op::Put { key } => drop(model.records.insert(key, step)),
            Op::Remove { key } => drop(model.records.remove(&key)),
            Op::PutSession => model.sessions.push_back(step),
            Op::TakeSession { .. } => drop(model.sessions.pop_front()),
            Op::Nothing => {}
        }
    }

    /// The connection that `step` writes under `key`: 0.3 to 64 KiB, log-uniform.
    pub(crate) fn connection(self, key: u64, step: u64) -> Connection {
        let share = (self.draw(step, 2) % 10_000) as f64 / 10_000.0;
        let size = (300.0 * (65_536.0_f64 / 300.0).powf(share)) as usize;
        let mut token = format!("{}.{step}.", self.thread);
        let word = format!("{:016x}", self.draw(step, 3));
        token.push_str(&word.repeat(size / word.len()));
        token.truncate(size);
        let now = Timestamp::from_millis(1_795_269_600_000);
        let mut connection = Connection::pending(self.id(key), now);
        connection.profile.status = Status::Active;
        connection.profile.generation = step;
        let access = AccessToken {
            value: Secret::new(token),
            token_type: "Bearer".into(),
            issued_at: now,
            expires_at: None,
        };
        connection.tokens =
            Some(TokenSet { access: Some(access), refresh: None, previous: None, surplus: Vec::new() });
        connection
    }

    pub(crate) fn id(self, key: u64) -> ConnectionId {
        let name = format!("t{}/k{key}", self.thread);
        ConnectionId::parse(String::new(), "crash".into(), name).unwrap()
    }

    /// The key back from a name of this thread's.
    pub(crate) fn key_of(self, name: &str) -> Option<u64> {
        name.strip_prefix(&format!("t{}/k", self.thread))?.parse().ok()
    }

    pub(crate) fn session_key(self, put_at: u64) -> SessionKey {
        let mut key = [0; 32];
        for (at, piece) in key.chunks_mut(8).enumerate() {
            piece.copy_from_slice(&self.draw(put_at, 10 + at as u64).to_le_bytes());
        }
        SessionKey(key)
    }

    pub(crate) fn session(self, put_at: u64) -> ConnectSession {
        ConnectSession {
            session: format!("{}.{put_at}", self.thread),
            connection: self.id(0),
            expires_at: Timestamp::from_millis(i64::MAX),
            allow_account_change: false,
            phase: Phase::Code(CodeWait {
                code_verifier: Secret::new("v".repeat(43)),
                redirect_uri: "https://broker.example/callback/crash".into(),
                return_url: None,
                scopes: Scopes::default(),
                variables: Default::default(),
            }),
        }
    }

    fn draw(self, step: u64, what: u64) -> u64 {
        mix(mix(mix(self.seed) ^ (self.thread as u64 + 1)) ^ mix(step * 31 + what))
    }
}

/// SplitMix64.
pub(crate) fn mix(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
