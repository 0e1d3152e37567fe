//! The torture kit: the whole broker process against the sandbox's ground truth. Faults are injected at named points, on
//! the wire and into the disk; the process is killed for real and started again; after each round what the broker serves
//! is held against what the provider knows. `tests/run.sh --torture [--engine E] [--profile P] [--rounds N] [--seed S] [--only F]`.
//!
//! | word | what it counts |
//! |---|---|
//! | lost | grants that can never be refreshed again, where the promise says they survive |
//! | inherent | grants lost at a strict provider while a request was on the wire or its answer not yet durable |
//! | false death | REAUTH_REQUIRED although the grant lives |
//! | served in doubt | access tokens that were served although their provider had ended them, which the broker could not know |
//! | duplicate | a refresh token presented again without need: after its successor was durable, or side by side |

#[cfg(test)]
mod arguments;
#[cfg(test)]
mod checker;
#[cfg(test)]
mod ended;
#[cfg(test)]
#[path = "../crash/engine.rs"]
mod engine;
#[cfg(test)]
mod fault;
#[cfg(test)]
#[path = "../crash/files.rs"]
mod files;
#[cfg(test)]
mod hand;
#[cfg(test)]
mod home;
#[cfg(test)]
mod image;
#[cfg(test)]
mod process;
#[cfg(test)]
mod profile;
#[cfg(test)]
mod run;
#[cfg(test)]
mod stage;
#[cfg(test)]
mod stall;
#[cfg(test)]
mod tally;
#[cfg(test)]
mod tracer;
#[cfg(test)]
mod volume;

fn main() -> std::process::ExitCode {
    // Always: this target is compiled as a test.
    #[cfg(test)]
    return run::run();
    #[cfg(not(test))]
    std::process::ExitCode::FAILURE
}
