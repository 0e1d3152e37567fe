//! Calls with a `request_id` whose callers hung up: they go on, and no more of them are taken than memory is meant for.

use token_broker::grpc::proto::v1;
use token_broker::sandbox::{Endpoint, Hold};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::{Desk, post, reason};

/// More calls than one connection may have without a caller.
const MANY: usize = 300;

fn order(n: usize) -> v1::CallProviderRequest {
    v1::CallProviderRequest { request_id: format!("order-{n}"), ..post("/orders", b"one") }
}

/// Makes calls one after the other, each of which arrives at the silent provider and is then hung up, until one is refused.
async fn refused(desk: &Desk, arrived: &mut Hold) -> Option<(usize, Status)> {
    for n in 0..MANY {
        let mut client = desk.client();
        let call = client.call_provider(order(n));
        tokio::select! {
            answer = call => return Some((n, answer.unwrap_err())),
            () = arrived.reached(n + 1) => {}
        }
    }
    None
}

#[tokio::test]
async fn callers_that_hang_up_cannot_fill_the_memory_with_their_calls() {
    // Room for all of them at once, and time to gather.
    let desk = Desk::with(", api: {limits: {max_parallel: 400, timeout: 10m, head_timeout: 10m}}").await;
    let mut hold = desk.whole.sandbox.script().hold_every_request(Endpoint::Echo);
    let (taken, status) = refused(&desk, &mut hold).await.expect("every call was taken");

    assert!(taken >= 128, "refused after {taken} calls");
    assert_eq!((status.code(), reason(&status)), (Code::ResourceExhausted, "PROVIDER_RATE_LIMITED".into()));
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.metadata["limit"], "unattended_calls_of_connection");
    assert!(status.get_details_retry_info().is_some());

    // Who comes back for a call that is under way is not turned away, and without an id nothing goes on unattended.
    let mut client = desk.client();
    let mut again = std::pin::pin!(client.call_provider(order(0)));
    let mut other = desk.client();
    let mut without = std::pin::pin!(other.call_provider(post("/orders", b"")));
    tokio::select! {
        answer = &mut again => panic!("{answer:?} before the provider answered"),
        answer = &mut without => panic!("{answer:?} before the provider answered"),
        () = hold.reached(taken + 1) => {}
    }
    hold.release();
    assert_eq!(again.await.unwrap().into_inner().status, 200);
    assert_eq!(without.await.unwrap().into_inner().status, 200);
    // Nothing that was under way was ended, and nothing was sent of what was refused.
    for n in 0..taken {
        assert_eq!(desk.call(order(n)).await.unwrap().status, 200);
    }
    assert_eq!(desk.calls().len(), taken + 1);
    assert_eq!(desk.call(order(taken)).await.unwrap().status, 200, "there is room again");
    desk.stop().await;
}
