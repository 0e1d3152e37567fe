//! A lost answer that a grace period saves, where every place at the provider is somebody else's by then.

use tokio::task::JoinHandle;

use super::*;

impl Case {
    /// One more connection, of an account of that name, and a caller who was refused with its token.
    async fn beside(&self, name: &str) -> (ConnectionId, JoinHandle<Result<String, Error>>) {
        let issued = self.sandbox.grants().issue(name, &["openid"]);
        let import = ImportConnection {
            refresh_token: issued.refresh_token.map(|token| Secret::new(token.expose().clone())),
            access_token: Some(Secret::new(issued.access_token.expose().clone())),
            expires_at: Some(self.clock.now() + LIFE),
            ..kit::import(name)
        };
        self.bound.broker.import_connection(import).await.unwrap();
        (kit::id(name), self.refused(&kit::id(name), issued.access_token.expose()))
    }

    /// A caller who was refused with this token.
    fn refused(&self, id: &ConnectionId, token: &str) -> JoinHandle<Result<String, Error>> {
        let broker = self.bound.broker.clone();
        let request =
            TokenRequest { if_not_equal_to: Some(Sha256::digest(token).into()), ..kit::request(id) };
        tokio::spawn(
            async move { Ok(broker.access_token(request).await?.token.access.value.expose().clone()) },
        )
    }

    /// Returns when so many stand in line for their turn at the provider.
    async fn line_is(&self, count: u32) {
        while self.bound.broker.provider("sandbox").unwrap().budget.unwrap().in_line != count {
            tokio::task::yield_now().await;
        }
    }
}

async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn a_repeat_that_a_grace_period_saves_waits_for_nobody_who_took_the_place_of_its_first_try() {
    // Long enough that what is held here is given up by nobody.
    let mut told = grace(60, "new");
    told["max_parallel_refresh"] = json!(1);
    told["token_timeout"] = json!("20s");
    let mut case = Case::new(ReuseProfile::grace(Duration::from_secs(60)), LIFE, told).await;
    let of = |name: &str| On::refresh().account(name);
    let script = case.sandbox.script();
    let mut before = script.hold_request(of("user-1"));
    let mut after = script.hold_request(of("user-2"));
    script.next(of("user-42"), Fault::drop_answer());

    let (_, first) = case.beside("user-1").await;
    in_time(before.reached(1)).await;
    let saved = case.refused(&case.id, &case.current);
    in_time(case.line_is(1)).await;
    let (last, waiting) = case.beside("user-2").await;
    in_time(case.line_is(2)).await;
    // The first try goes, and when its answer is lost, its place is taken by the one who waits.
    before.release();
    in_time(after.reached(1)).await;
    let token = in_time(saved).await.unwrap().unwrap();
    let intent = case.bound.broker.connection(&last).await.unwrap().intent;
    assert_eq!(intent.map(|intent| intent.tries), Some(1), "who took the place is still under way");
    assert!(case.is_live(&token));
    after.release();
    for caller in [first, waiting] {
        let token = in_time(caller).await.unwrap().unwrap();
        assert!(case.is_live(&token));
    }
    case.current = token;
    case.is_whole().await;
}
