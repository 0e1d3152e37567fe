//! The crash suite (storage.md section 10, recipes 1 and 4): a child process writes, dies, and what it leaves is
//! opened twice and compared exactly with what it had acknowledged. Slow, and therefore a target of its own:
//! `tests/run.sh --only crash`, or `cargo test --test crash`. Another seed: `CRASH_SEED=7`.

#[cfg(test)]
mod child;
#[cfg(test)]
mod control;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod points;
#[cfg(test)]
mod process;
#[cfg(test)]
mod script;
