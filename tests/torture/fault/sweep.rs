//! F1: the process is killed at each of its calls on files, from its start to the end of a refresh.

use crate::profile::Profile;
use crate::stage::Stage;
use crate::tally::{Promise, Row};

/// A question mark: machines that lack the call are fine.
const CALLS: [&str; 9] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "?sync_file_range",
    "?rename,?renameat,?renameat2",
    "?unlink,?unlinkat",
    "flock",
];

/// Points between two that are taken of a call, and the most of each.
const STRIDE: usize = 3;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let per_call = usize::try_from(rounds).unwrap().div_ceil(2).max(1);
    let mut points = 0_u64;
    let mut stage = Stage::on_demand(row).await;
    for call in CALLS {
        for n in (1..).step_by(STRIDE).take(per_call) {
            let what = format!("{call} {n}");
            stage.start().await;
            let mut grant = stage.connected().await;
            stage.kill().await;
            let before = stage.home.passed().len();
            let inject = format!("inject={call}:signal=KILL:when={n}");
            let trace = format!("trace={call}");
            let wrapper = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
            let process = stage.launch(&wrapper);
            let Some(door) = process.door().await else {
                process.ended().await;
                stage.note_death();
                points += 1;
                row.judge(&mut stage, &mut grant, Promise::Survives, &what).await;
                continue;
            };
            stage.serve(process, &door);
            let is_through = stage.renew(&mut grant).await.is_ok();
            // Killed by now, or at a point that it never reaches.
            let process = stage.take();
            process.terminate_child();
            process.ended().await;
            stage.note_death();
            points += u64::from(!is_through);
            let passed = stage.home.passed();
            let reached = |point: &str| passed[before..].iter().any(|passed| passed.point == point);
            let on_the_wire = reached("refresh.send.before") && !reached("refresh.commit.after");
            let promise = match row.profile {
                Profile::Strict if on_the_wire => Promise::MayBeLost,
                _ => Promise::Survives,
            };
            row.judge(&mut stage, &mut grant, promise, &what).await;
            if is_through {
                break;
            }
        }
    }
    row.figures.push(("points at which it died", points as f64));
}
