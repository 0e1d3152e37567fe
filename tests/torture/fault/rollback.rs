//! F7: the broker is down, and somebody puts an older copy of its store in the place of the newer one. It is said before
//! anything is sent, and what may be spent is AMBIGUOUS: served while it lives, and tried once when nothing is left to
//! lose.

use token_broker::grpc::proto::v1::ConnectionStatus;

use crate::files::copy;
use crate::profile::{Habit, Profile};
use crate::stage::{Grant, Stage, reason};
use crate::tally::{Promise, Row};

const SAID: &str = "the store is in an older state than it had";

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let (mut said, mut sent) = (0_u64, 0_u64);
    for round in 0..rounds {
        let mut stage = Stage::new(row).await;
        let mut still = stage.connected().await;
        let mut moved = stage.connected().await;
        for grant in [&mut still, &mut moved] {
            renew(&stage, grant).await;
        }
        let (store, older) = (stage.home.store().join("store"), stage.home.path("older"));
        end(&mut stage, round).await;
        copy(&store, &older);
        stage.start().await;
        let of_the_copy = moved.current.clone();
        // Beyond what a grace period forgives.
        for _ in 0..2 {
            renew(&stage, &mut moved).await;
        }
        let mut late = stage.connected().await;
        end(&mut stage, round / 2).await;
        copy(&older, &store);
        // What the kit knows is put back as well: the broker cannot know better.
        (moved.current, moved.served) = (of_the_copy, None);

        let known = stage.exchanges();
        // Nothing of it is forgotten at the next start.
        for start in ["the first start", "the second start"] {
            let what = format!("round {round}, {start}");
            stage.restart().await;
            if start == "the first start" {
                let is_said = stage.process().said().contains(SAID);
                let alert = stage.process().metric("token_broker_store_rolled_back").await;
                row.expect(is_said && alert == Some(1), || {
                    format!("{what}: in the log: {is_said}, token_broker_store_rolled_back: {alert:?}")
                });
                said += u64::from(is_said);
            }
            for grant in [&mut still, &mut moved] {
                let before = grant.current.clone();
                let token = stage.ask(grant).await;
                row.expect(token.as_ref().is_ok_and(|token| token.access_token == before), || {
                    format!("{what}: {} lives and is not served: {token:?}", grant.name)
                });
                let status = stage.status(grant).await.unwrap();
                row.expect(status == wanted(row.profile), || {
                    format!("{what}: {} is {status:?}, which may be spent", grant.name)
                });
            }
            let token = stage.ask(&mut late).await.map_err(|status| reason(&status));
            row.expect(token.as_ref().is_err_and(|reason| reason == "CONNECTION_NOT_FOUND"), || {
                format!("{what}: of what the copy lacks is told {token:?}")
            });
        }
        let early = stage.exchanges() - known;
        sent += early;
        row.expect(early == 0, || format!("round {round}: {early} requests although what is held lives"));
        let what = format!("round {round}, the copy's token is the newest");
        row.judge(&mut stage, &mut still, Promise::Survives, &what).await;
        moved.served = None;
        let what = format!("round {round}, the copy's token is spent");
        let promise = match row.profile.habit {
            Habit::Reusable => Promise::Survives,
            Habit::Grace | Habit::Strict => Promise::MayBeGone,
        };
        row.judge(&mut stage, &mut moved, promise, &what).await;
        row.rounds -= 1;
    }
    row.figures.push(("copies found out", said as f64));
    row.figures.push(("requests before anybody asked for more", sent as f64));
    row.figures.push(("gone with what the copy lacks", row.gone as f64));
}

/// In order, or not.
async fn end(stage: &mut Stage, round: u64) {
    if round.is_multiple_of(2) { stage.kill().await } else { stage.stop().await }
}

async fn renew(stage: &Stage, grant: &mut Grant) {
    stage.renew(grant).await.unwrap();
}

/// What never spends a refresh token has nothing to fear of an older one.
fn wanted(profile: Profile) -> ConnectionStatus {
    match profile.habit {
        Habit::Reusable => ConnectionStatus::Active,
        Habit::Grace | Habit::Strict => ConnectionStatus::Ambiguous,
    }
}
