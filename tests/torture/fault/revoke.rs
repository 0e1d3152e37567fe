//! F24: a connection is disconnected while it is refreshed. Whoever is first, nothing is served afterwards, and nothing
//! that the refresh won lives on.

use std::time::Duration;

use token_broker::grpc::proto::v1;
use tonic::Code;

use super::draw;
use crate::home::PROVIDER;
use crate::stage::{Stage, renewal, request, soon};
use crate::tally::Row;

/// Interleavings of a round.
const TIMES: u64 = 10;

pub(super) async fn inflict(row: &mut Row, rounds: u64) {
    let mut stage = Stage::new(row).await;
    let mut seed = row.seed;
    let (mut served, mut alive) = (0_u64, 0_u64);
    for _ in 0..rounds {
        for _ in 0..TIMES {
            let grant = stage.connected().await;
            let (mut tokens, renewal) = (stage.tokens(), renewal(&grant));
            let refreshing = tokio::spawn(async move { tokens.get_access_token(renewal).await });
            tokio::time::sleep(Duration::from_micros(draw(&mut seed) % 12_000)).await;
            let request_ = v1::DisconnectRequest {
                provider: PROVIDER.to_owned(),
                connection: grant.name.clone(),
                ..Default::default()
            };
            let gone = soon("a disconnect", stage.connections().disconnect(request_)).await;
            row.expect(gone.is_ok(), || format!("{}: cannot be disconnected: {gone:?}", grant.name));
            for _ in 0..3 {
                let after = stage.tokens().get_access_token(request(&grant)).await;
                if !after.as_ref().is_err_and(|status| status.code() == Code::NotFound) {
                    served += 1;
                    row.breach(format!("{}: after Disconnect returned: {after:?}", grant.name));
                }
            }
            let _ = soon("a refresh", refreshing).await;
            let ended =
                stage.sandbox.grants().list().into_iter().find(|state| state.id == grant.id).unwrap().ended;
            if ended.is_none() {
                alive += 1;
                row.breach(format!("{}: the grant lives on at the provider", grant.name));
            }
            row.look_for_duplicates(&stage, &grant, "revoked");
        }
        row.rounds += 1;
    }
    row.figures.push(("interleavings", (rounds * TIMES) as f64));
    row.figures.push(("tokens served after", served as f64));
    row.figures.push(("grants that lived on", alive as f64));
}
