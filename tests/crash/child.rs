//! The processes that write and verify: this binary again, told by its environment what to be.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use token_broker::entropy::OsEntropy;
use token_broker::store::guard::{DurableStore, Opening};
use token_broker::store::keyring::KeyRing;
use token_broker::store::{Expected, SessionStore, TokenStore};
use token_broker::telemetry::Metrics;

use super::engine::Engine;
use super::inspect;
use super::script::{Model, Op, Script, THREADS};

impl Engine {
    /// The file that its syncs are for.
    pub(crate) const fn file(self) -> &'static str {
        match self {
            Self::Sled => "store/sled/db",
            Self::Redb => "store/redb/rows.redb",
        }
    }
}

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Writes until it is killed or has made its steps.
    Write,
    /// Opens and compares, twice.
    Verify,
    /// Opens once and says how what is there compares.
    Inspect,
    /// Opens and keeps it open.
    Hold,
}

const ROLES: [(&str, Role); 4] =
    [("write", Role::Write), ("verify", Role::Verify), ("inspect", Role::Inspect), ("hold", Role::Hold)];

/// What a child is told.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) role: Role,
    pub(crate) engine: Engine,
    /// Holds `data`, `keys` and `acks`.
    pub(crate) folder: PathBuf,
    pub(crate) seed: u64,
    pub(crate) threads: usize,
    /// Steps of each thread; then the process ends by itself.
    pub(crate) steps: u64,
}

/// How far each thread got, in a file: a plain write survives the writer's death as well as a mapped page does.
pub(crate) struct Acks(File);

/// A byte that says how far the process got: it began, it opened the store.
const STAGE: u64 = THREADS as u64 * 8;
pub(crate) const BEGUN: u8 = 1;
pub(crate) const OPENED: u8 = 2;

impl Acks {
    pub(crate) fn open(folder: &Path) -> Self {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(folder.join("acks"));
        Self(file.unwrap())
    }

    pub(crate) fn get(&self, thread: usize) -> u64 {
        let mut bytes = [0; 8];
        // A file that is too short: nothing was acknowledged yet.
        let _ = self.0.read_exact_at(&mut bytes, thread as u64 * 8);
        u64::from_le_bytes(bytes)
    }

    pub(crate) fn set(&self, thread: usize, steps: u64) {
        self.0.write_all_at(&steps.to_le_bytes(), thread as u64 * 8).unwrap();
    }

    pub(crate) fn total(&self) -> u64 {
        (0..THREADS).map(|thread| self.get(thread)).sum()
    }

    pub(crate) fn stage(&self) -> u8 {
        let mut stage = [0];
        let _ = self.0.read_exact_at(&mut stage, STAGE);
        stage[0]
    }

    pub(crate) fn set_stage(&self, stage: u8) {
        self.0.write_all_at(&[stage], STAGE).unwrap();
    }
}

/// The child's own main. Does nothing when run as a test.
#[test]
#[ignore = "the other tests run it as their child process"]
fn child() {
    let Some(task) = Task::told() else { return };
    match task.role {
        Role::Write => write(&task),
        Role::Verify => {
            verify(&task);
            verify(&task);
        }
        Role::Inspect => inspect::inspect(&task),
        Role::Hold => hold(&task),
    }
}

impl Task {
    fn told() -> Option<Self> {
        let told = |name: &str| std::env::var(name).ok();
        let number = |name: &str| told(name).unwrap().parse::<u64>().unwrap();
        Some(Self {
            role: told("CRASH_ROLE").and_then(|told| ROLES.iter().find(|(name, _)| *name == told))?.1,
            engine: Engine::named(&told("CRASH_ENGINE")?).unwrap(),
            folder: told("CRASH_FOLDER").unwrap().into(),
            seed: number("CRASH_SEED"),
            threads: usize::try_from(number("CRASH_THREADS")).unwrap(),
            steps: number("CRASH_STEPS"),
        })
    }

    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("CRASH_ROLE", ROLES.iter().find(|(_, role)| *role == self.role).unwrap().0.to_owned()),
            ("CRASH_ENGINE", self.engine.name().to_owned()),
            ("CRASH_FOLDER", self.folder.display().to_string()),
            ("CRASH_SEED", self.seed.to_string()),
            ("CRASH_THREADS", self.threads.to_string()),
            ("CRASH_STEPS", self.steps.to_string()),
        ]
    }
}

/// How the store in `folder` is opened.
pub(crate) fn opening(folder: &Path) -> Opening {
    let keys = KeyRing::load(&folder.join("keys")).unwrap();
    let mut opening =
        Opening::new(folder.join("data"), keys, Arc::new(OsEntropy), Arc::new(Metrics::default()));
    opening.allow_throwaway = true;
    opening.ballast_bytes = 64 * 1024;
    opening
}

fn open(task: &Task) -> DurableStore {
    let opened = task.engine.open(opening(&task.folder));
    opened.unwrap_or_else(|error| panic!("{error}: {}", error.why()))
}

/// Holds the store until it is killed.
fn hold(task: &Task) {
    let _store = open(task);
    println!("HELD");
    std::io::stdin().lines().for_each(drop);
}

fn write(task: &Task) {
    let acks = Acks::open(&task.folder);
    acks.set_stage(BEGUN);
    std::io::stdout().write_all(b"BEGIN\n").unwrap();
    std::io::stdout().flush().unwrap();
    let store = open(task);
    acks.set_stage(OPENED);
    std::thread::scope(|scope| {
        for thread in 0..task.threads {
            let (store, acks) = (&store, &acks);
            scope.spawn(move || write_thread(Script { seed: task.seed, thread }, store, acks, task.steps));
        }
    });
}

fn write_thread(script: Script, store: &DurableStore, acks: &Acks, steps: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let from = acks.get(script.thread);
    let mut model = script.after(from);
    for step in from + 1..=from + steps {
        runtime.block_on(perform(script, &model, step, store));
        acks.set(script.thread, step);
        script.advance(&mut model, step);
    }
}

async fn perform(script: Script, model: &Model, step: u64, store: &DurableStore) {
    let expected = async |key| match TokenStore::get(store, &script.id(key)).await.unwrap() {
        Some(stored) => Expected::At(stored.revision),
        None => Expected::Absent,
    };
    match script.op(model, step) {
        Op::Put { key } => {
            let expected = expected(key).await;
            TokenStore::put(store, &script.connection(key, step), expected).await.unwrap();
        }
        Op::Remove { key } => store.remove(&script.id(key), expected(key).await).await.unwrap(),
        Op::PutSession => {
            SessionStore::put(store, script.session_key(step), &script.session(step)).await.unwrap();
        }
        Op::TakeSession { put_at } => {
            let taken = store.take(script.session_key(put_at)).await.unwrap();
            assert_eq!(taken.expect("the session is there").session, script.session(put_at).session);
        }
        Op::Nothing => {}
    }
}

/// Opens the store and holds it against every thread's script: exactly the state of the last acknowledged step, or
/// of that and the one in flight. Notes which, so that the next writer goes on from there.
fn verify(task: &Task) {
    let acks = Acks::open(&task.folder);
    let store = open(task);
    // A crash is not a rollback, and no count of rows goes wrong by one.
    let opened = store.opened();
    assert_eq!((opened.rollback.as_ref(), opened.missing, opened.unreadable), (None, 0, 0));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let (found, absent) = runtime.block_on(inspect::all_records(&store, task)).unwrap();
    assert!(absent.is_empty(), "WRONG: listed and not there: {absent:?}");
    for (thread, records) in found.into_iter().enumerate() {
        let script = Script { seed: task.seed, thread };
        let acked = acks.get(thread);
        let matches = |steps: u64| {
            let model = script.after(steps);
            model.records == records
                && runtime.block_on(inspect::has_sessions(script, &store, &model, steps)).unwrap()
        };
        let Some(steps) = [acked, acked + 1].into_iter().find(|steps| matches(*steps)) else {
            let expected = script.after(acked);
            panic!("thread {thread} acknowledged {acked} steps\n expected {expected:?}\n found {records:?}");
        };
        acks.set(thread, steps);
    }
    drop(store);
}
