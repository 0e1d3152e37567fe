//! Holding a store against the scripts that wrote it.

use std::collections::BTreeMap;
use std::time::Duration;

use token_broker::error::StoreError;
use token_broker::store::guard::DurableStore;
use token_broker::store::{Selection, SessionStore, TokenStore};

use super::child::{Acks, Task, opening};
use super::script::{Model, Op, Script};

/// Key to step for each thread.
pub(crate) type Records = Vec<BTreeMap<u64, u64>>;

/// Every record that is listed and opens, after comparing its token with what its step wrote; and the names of those that
/// are listed and not there, which only damage makes.
pub(crate) async fn all_records(
    store: &DurableStore,
    task: &Task,
) -> Result<(Records, Vec<String>), StoreError> {
    let mut found = vec![BTreeMap::new(); task.threads];
    let mut absent = Vec::new();
    let mut after = None;
    loop {
        let page = store.list(&Selection::default(), after.as_ref(), 100).await?;
        if page.unreadable > 0 {
            return Err(StoreError::Unreadable("a listed record"));
        }
        for profile in &page.profiles {
            let name = profile.id.name.as_str();
            let owner = (0..task.threads).find_map(|thread| {
                let script = Script { seed: task.seed, thread };
                script.key_of(name).map(|key| (script, key))
            });
            let (script, key) = owner.unwrap_or_else(|| panic!("WRONG: {name} was never written"));
            let Some(stored) = TokenStore::get(store, &profile.id).await? else {
                absent.push(name.to_owned());
                continue;
            };
            let wrote = script.connection(key, stored.value.profile.generation);
            assert_eq!(stored.value.tokens, wrote.tokens, "WRONG: {name}");
            assert_eq!(stored.value.profile, wrote.profile, "WRONG: {name}");
            let again = found[script.thread].insert(key, stored.value.profile.generation);
            assert_eq!(again, None, "WRONG: {name} is listed twice");
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok((found, absent)),
        }
    }
}

/// Whether exactly the model's sessions are there, of all that were ever put.
pub(crate) async fn has_sessions(
    script: Script,
    store: &DurableStore,
    model: &Model,
    steps: u64,
) -> Result<bool, StoreError> {
    let mut replay = Model::default();
    for step in 1..=steps + 1 {
        let is_put = script.op(&replay, step) == Op::PutSession;
        script.advance(&mut replay, step);
        if is_put {
            let found = SessionStore::get(store, script.session_key(step)).await?;
            if found.is_some() != model.sessions.contains(&step) {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Says in one line how what is there compares with what was acknowledged: `WHOLE`; `TOLD …`, where something is lost and
/// that is said; `SILENT …`, where it is not said.
pub(crate) fn inspect(task: &Task) {
    let mut opening = opening(&task.folder);
    opening.lock_patience = Duration::ZERO;
    let store = match task.engine.open(opening) {
        Ok(store) => store,
        Err(error) => return println!("TOLD refused: {error}: {}", error.why()),
    };
    let opened = store.opened().clone();
    let acks = Acks::open(&task.folder);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let whole = runtime.block_on(async {
        let (found, absent) = all_records(&store, task).await?;
        if !absent.is_empty() {
            return Ok(false);
        }
        for (thread, records) in found.iter().enumerate() {
            let script = Script { seed: task.seed, thread };
            let model = script.after(acks.get(thread));
            if model.records != *records || !has_sessions(script, &store, &model, acks.get(thread)).await? {
                return Ok(false);
            }
        }
        Ok::<_, StoreError>(true)
    });
    match (whole, opened.rollback, opened.missing, opened.unreadable) {
        (_, Some(rollback), ..) => println!("TOLD rolled back: {}", rollback.why),
        (_, None, missing @ 1.., _) => println!("TOLD {missing} missing"),
        (_, None, 0, unreadable @ 1..) => println!("TOLD {unreadable} unreadable"),
        (Err(error), None, 0, 0) => println!("TOLD by a read: {error}"),
        (Ok(true), None, 0, 0) => println!("WHOLE"),
        (Ok(false), None, 0, 0) => println!("SILENT loss"),
    }
}
