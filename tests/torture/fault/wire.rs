//! F12 to F16: what a provider and the way to it do.

use std::time::Duration;

use serde_json::json;
use token_broker::sandbox::{Delivery, Exchange, Fault};
use tokio::time::Instant;

use crate::profile::{Habit, Profile};
use crate::stage::{LIFE, Stage, reason, request, soon};
use crate::tally::{Promise, Row, percentile};

/// At a strict provider the token is spent and its successor gone.
fn promise_of_a_spent_token(profile: Profile) -> Promise {
    if profile.habit == Habit::Strict { Promise::MayBeLost } else { Promise::Survives }
}

/// F12: rotated, and the answer lost.
pub(super) async fn answer_lost(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    for round in 0..rounds {
        stage.restart().await;
        let mut grant = stage.connected().await;
        stage.meet(&grant, Fault::drop_answer());
        let _ = stage.renew(&mut grant).await;
        row.judge(&mut stage, &mut grant, promise_of_a_spent_token(row.profile), &format!("round {round}"))
            .await;
        let refreshes = stage.refreshes(&grant);
        let spent = refreshes.iter().filter(|exchange| exchange.subject.spent).count();
        let allowed = if row.profile.habit == Habit::Strict { 1..=1 } else { 0..=1 };
        row.expect(allowed.contains(&spent), || {
            format!("round {round}: the spent token was presented {spent} times, and {allowed:?} are right")
        });
    }
}

/// F13: the request never arrived, which nobody can know.
pub(super) async fn request_lost(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    for round in 0..rounds {
        stage.restart().await;
        let mut grant = stage.connected().await;
        stage.meet(&grant, Fault::drop_request());
        let _ = stage.renew(&mut grant).await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
    }
}

/// F14: a caller is told in its own time, not in the provider's, and a living token is served all the while. By how much
/// a deadline is overrun is printed only: that is the machine's affair.
pub(super) async fn slow(row: &mut Row, rounds: u64) {
    const DEADLINE: Duration = Duration::from_millis(1500);
    let mut overruns = Vec::new();
    let mut stage = Stage::new(row).await;
    let ways = [
        ("30 s before it takes effect", Fault::delay_request(Duration::from_secs(30))),
        ("30 s before it answers", Fault::delay_answer(Duration::from_secs(30))),
        ("a byte a second", Fault::trickle(Duration::from_secs(1))),
        ("stuck", Fault::delay_answer(Duration::from_secs(3600))),
    ];
    for (way, fault) in ways.into_iter().cycle().take(usize::try_from(rounds).unwrap().max(4)) {
        stage.restart().await;
        let mut grant = stage.connected().await;
        let first = stage.ask(&mut grant).await;
        let before = stage.refreshes(&grant).len();
        stage.meet(&grant, fault);
        let asked = Instant::now();
        let mut patient = tonic::Request::new(crate::stage::renewal(&grant));
        patient.set_timeout(DEADLINE);
        let answer = soon(way, stage.tokens().get_access_token(patient)).await;
        let over = asked.elapsed().saturating_sub(DEADLINE);
        overruns.push(u64::try_from(over.as_millis()).unwrap());
        let code = answer.as_ref().err().map(tonic::Status::code);
        // Whose timer is first, the broker's or the client library's own, is a matter of luck; both say that it was time.
        row.expect(matches!(code, Some(tonic::Code::DeadlineExceeded | tonic::Code::Cancelled)), || {
            format!("{way}: whoever waits is told {answer:?}")
        });
        // Of what trickles the log knows only that its answer was begun.
        let is_unanswered = |exchange: &Exchange| {
            way == "a byte a second"
                || exchange.is_in_flight() && exchange.delivery != Some(Delivery::ClientLeft)
        };
        let unanswered: Vec<_> = stage.refreshes(&grant).iter().skip(before).map(is_unanswered).collect();
        row.expect(unanswered == [true], || {
            format!(
                "{way}: one request, unanswered when its caller was told; unanswered were: {unanswered:?}"
            )
        });
        let living = stage.tokens().get_access_token(request(&grant)).await;
        row.expect(living.is_ok() == first.is_ok(), || format!("{way}: the living token is not served"));
        // The request takes effect late, or its answer is lost.
        row.judge(&mut stage, &mut grant, promise_of_a_spent_token(row.profile), way).await;
    }
    let longest = percentile(&overruns, 1.0).unwrap_or_default();
    row.figures.push(("longest overrun of a caller's deadline, ms", longest as f64));
}

/// F15: every wrong answer in the book. None of them is the provider's word that the grant is dead.
pub(super) async fn errors(row: &mut Row, rounds: u64) {
    const CHEAP: Promise = Promise::Survives;
    let lost = promise_of_a_spent_token(row.profile);
    let retry = Duration::from_secs(1);
    let answers: [(&str, Fault, Promise); 14] = [
        ("500", Fault::status(500), CHEAP),
        ("502 as HTML", Fault::html(502), CHEAP),
        ("503", Fault::status(503), CHEAP),
        ("503, Retry-After", Fault::status(503).retry_after(retry), CHEAP),
        ("504", Fault::status(504), CHEAP),
        ("429, Retry-After", Fault::status(429).retry_after(retry), CHEAP),
        ("403 as HTML", Fault::html(403), CHEAP),
        ("200 as HTML", Fault::html(200), CHEAP),
        ("invalid_client", Fault::oauth_error("invalid_client"), CHEAP),
        ("502 after the rotation", Fault::html(502).after_processing(), lost),
        ("200 empty", Fault::empty(), lost),
        ("200 truncated", Fault::truncated(), lost),
        ("200 cut off", Fault::cut(), lost),
        ("200 that never ends", Fault::huge(64 << 20), lost),
    ];
    let mut stage = Stage::new(row).await;
    let mut growths = Vec::new();
    for (what, fault, promise) in answers.into_iter().cycle().take(usize::try_from(rounds).unwrap().max(14)) {
        stage.restart().await;
        let mut grant = stage.connected().await;
        let before = stage.process().resident();
        stage.meet(&grant, fault);
        let answer = stage.renew(&mut grant).await;
        let is_false = answer.as_ref().is_err_and(|status| reason(status) == "REAUTH_REQUIRED");
        row.expect(!is_false, || format!("{what}: the caller is told REAUTH_REQUIRED"));
        growths.push(stage.process().resident().saturating_sub(before) / 1024);
        row.judge(&mut stage, &mut grant, promise, what).await;
    }
    let most = percentile(&growths, 1.0).unwrap_or_default();
    row.expect(most < 16, || format!("an answer cost {most} MiB of memory"));
    row.figures.push(("most memory an answer cost, MiB", most as f64));
}

/// F16: said once by mistake. Believed at once unless the provider is known to be mistaken now and then.
pub(super) async fn flaky(row: &mut Row, rounds: u64) {
    let mut stage = Stage::with(row, LIFE, &json!({"invalid_grant_confirmations": 2})).await;
    for round in 0..rounds {
        stage.restart().await;
        let mut grant = stage.connected().await;
        stage.meet(&grant, Fault::oauth_error("invalid_grant"));
        let _ = stage.renew(&mut grant).await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}, of two confirmations"))
            .await;
    }
    let mut stage = Stage::new(row).await;
    let mut grant = stage.connected().await;
    stage.meet(&grant, Fault::oauth_error("invalid_grant"));
    row.rounds += 1;
    let told = stage.renew(&mut grant).await.map_err(|status| reason(&status));
    row.expect(told.as_ref().is_err_and(|reason| reason == "REAUTH_REQUIRED"), || {
        format!("one confirmation: the provider's word is not believed: {told:?}")
    });
    // I9: asked no more.
    let asked = stage.refreshes(&grant).len();
    for _ in 0..3 {
        let _ = stage.renew(&mut grant).await;
        let _ = stage.ask(&mut grant).await;
    }
    stage.restart().await;
    let _ = stage.ask(&mut grant).await;
    let more = stage.refreshes(&grant).len() - asked;
    row.expect(more == 0, || format!("REAUTH_REQUIRED, and {more} more requests"));
}
