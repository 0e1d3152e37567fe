//! The crash suite (storage.md section 10): a child process writes and dies, or its disk forgets, fills up, fails or is
//! damaged, and what it leaves is opened twice and compared exactly with what it had acknowledged. Both engines. Slow, and
//! therefore a target of its own: `tests/run.sh --only crash`, or `cargo test --test crash`. Another seed: `CRASH_SEED=7`;
//! ten times the rounds: `CRASH_TIMES=10`.

#[cfg(test)]
mod child;
#[cfg(test)]
mod control;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod device;
#[cfg(test)]
mod disk;
#[cfg(test)]
mod engine;
#[cfg(test)]
mod files;
#[cfg(test)]
mod inspect;
#[cfg(test)]
mod kill;
#[cfg(test)]
mod life;
#[cfg(test)]
mod points;
#[cfg(test)]
mod power;
#[cfg(test)]
mod process;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod script;
