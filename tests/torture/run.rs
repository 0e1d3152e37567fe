//! One run: every fault at every provider, the table, the verdict.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;

use futures_util::FutureExt as _;

use super::arguments::Arguments;
use super::fault::Fault;
use super::home::binary;
use super::tally::{Row, Tally};

pub(crate) fn run() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(64);
        }
    };
    println!(
        "torture: {} build, engine {}, seed {}, {} rounds of each fault",
        // The folder it lies in is named after its profile.
        binary().parent().and_then(Path::file_name).unwrap_or_default().display(),
        arguments.engine.name(),
        arguments.seed,
        arguments.rounds
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let tally = runtime.block_on(all(&arguments));
    println!("\n{tally}");
    println!("{}", tally.line());
    if tally.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn all(arguments: &Arguments) -> Tally {
    let mut tally = Tally::default();
    for fault in &arguments.faults {
        for profile in &arguments.profiles {
            if !fault.is_for(*profile) {
                continue;
            }
            let began = tokio::time::Instant::now();
            let mut row = Row::new(*fault, *profile, arguments.engine, arguments.seed);
            // A kit that stumbles has shown nothing, and the other faults are still to come.
            let inflicted = AssertUnwindSafe(fault.inflict(&mut row, arguments.rounds));
            if inflicted.catch_unwind().await.is_err() {
                row.breach("the kit stumbled".to_owned());
            }
            if profile.ends_old {
                row.figures.push(("ended tokens served in doubt", row.in_doubt as f64));
            }
            println!(
                "{:<8} {:<11} {:>4} rounds, {} breaches, {:.1} s",
                Fault::name(*fault),
                profile.name(),
                row.rounds,
                row.breaches.len(),
                began.elapsed().as_secs_f64()
            );
            tally.0.push(row);
        }
    }
    tally
}
