//! F17, F18: callers in a crowd, and callers that go.

use tokio::task::JoinSet;

use crate::stage::{LIFE, Stage, request, soon};
use crate::tally::{Promise, Row};

/// Callers at once.
const CROWD: usize = 1000;

/// F17: one request for all.
pub(super) async fn crowd(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    for round in 0..rounds.min(8) {
        let mut grant = stage.connected().await;
        stage.hand.advance(LIFE);
        let mut callers = JoinSet::new();
        for _ in 0..CROWD {
            let (mut tokens, request) = (stage.tokens(), request(&grant));
            callers.spawn(async move { tokens.get_access_token(request).await });
        }
        let answers = soon("a crowd is served", callers.join_all()).await;
        let mut served: Vec<_> =
            answers.into_iter().filter_map(|answer| Some(answer.ok()?.into_inner().access_token)).collect();
        row.expect(served.len() == CROWD, || format!("round {round}: {} of {CROWD} served", served.len()));
        served.dedup();
        row.expect(served.len() == 1, || format!("round {round}: {} different tokens", served.len()));
        let sent = stage.refreshes(&grant).len();
        if sent != 1 {
            row.duplicates += sent.saturating_sub(1) as u64;
            row.breach(format!("round {round}: {sent} requests for {CROWD} callers"));
        }
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
    }
}

/// F18: the work goes on when nobody waits for it any more.
pub(super) async fn hung_up(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut completed = 0_u64;
    for round in 0..rounds {
        let mut grant = stage.connected().await;
        stage.hand.advance(LIFE);
        let mut hold = stage.hold_answer(&grant);
        let mut callers = JoinSet::new();
        for _ in 0..20 {
            let (mut tokens, request) = (stage.tokens(), request(&grant));
            callers.spawn(async move { tokens.get_access_token(request).await });
        }
        soon("a refresh under way", hold.reached(1)).await;
        callers.shutdown().await;
        let before = stage.home.passed().len();
        hold.release();
        let stored = async {
            let is_stored = |passed: &crate::home::Passed| passed.point == "refresh.commit.after";
            while !stage.home.passed()[before..].iter().any(is_stored) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let is_stored = tokio::time::timeout(std::time::Duration::from_secs(10), stored).await.is_ok();
        row.expect(is_stored, || format!("round {round}: nobody waited, and nothing was stored"));
        completed += u64::from(is_stored);
        // Had it not been stored, the kill would now cost it.
        stage.kill().await;
        row.judge(&mut stage, &mut grant, Promise::Survives, &format!("round {round}")).await;
    }
    row.figures.push(("refreshes completed for nobody, %", completed as f64 * 100.0 / rounds as f64));
}
