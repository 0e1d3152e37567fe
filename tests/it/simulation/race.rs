//! F24 in memory: a connection is disconnected at any moment of its refresh. Whoever is first, nothing is served
//! afterwards, and nothing that the refresh won lives on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use token_broker::broker::TokenRequest;
use token_broker::error::Reason;
use token_broker::store::TokenStore as _;

use super::truth::{LIFE, id};
use super::{CONNECTIONS, Life, World, in_paused_time};

/// Races of an everyday run, and of a long one.
const FEW: u64 = 240;
const MANY: u64 = 10_000;

/// The latest moment for a disconnect: the longest wait for a turn, two writes, the longest answer, and a little.
const LATEST: u64 = 90;

/// How a race went, as its refresh tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Course {
    /// Refreshed, and then revoked.
    RefreshedFirst,
    /// Revoked while the provider was asked: what came was surplus.
    Surplus,
    /// Revoked before the provider was asked.
    NeverAsked,
}

/// A race for each of a life's connections.
async fn raced(seed: u64) -> (Arc<Life>, Vec<Course>) {
    let life = Life::begin_in(World::PLAIN, seed).await;
    life.truth.is_calm.store(true, Ordering::SeqCst);
    life.clock.jump(i64::try_from(LIFE.as_millis()).unwrap());
    let races: Vec<_> = (0..CONNECTIONS)
        .map(|at| {
            let (life, name) = (life.clone(), format!("c{at}"));
            tokio::spawn(async move { race(&life, &name).await })
        })
        .collect();
    let mut courses = Vec::new();
    for race in races {
        courses.push(race.await.unwrap());
    }
    // Whatever still goes on by itself.
    tokio::time::sleep(Duration::from_secs(120)).await;
    (life, courses)
}

async fn race(life: &Arc<Life>, name: &str) -> Course {
    let (broker, _, _) = life.running();
    let refreshing = {
        let (broker, id) = (broker.clone(), id(name));
        tokio::spawn(async move { broker.refresh_connection(id, None).await })
    };
    tokio::time::sleep(life.dice.millis(LATEST)).await;
    if let Err(error) = broker.disconnect(id(name)).await {
        life.truth.breach(format!("{name} cannot be disconnected: {error}"));
    }
    for _ in 0..3 {
        let request = TokenRequest {
            id: id(name),
            scopes: Vec::new(),
            min_ttl: None,
            if_not_equal_to: None,
            allow_stale: true,
        };
        let after = broker.access_token(request).await;
        if !after.as_ref().is_err_and(|error| error.reason() == Reason::ConnectionNotFound) {
            life.truth.breach(format!("I8: {name} after its disconnect: {after:?}"));
        }
        tokio::time::sleep(life.dice.millis(LATEST)).await;
    }
    let is_refreshed = refreshing.await.unwrap().is_ok();
    let was_asked = life.truth.grants.lock().unwrap()[name].delivered > 0;
    match (is_refreshed, was_asked) {
        (true, _) => Course::RefreshedFirst,
        (false, true) => Course::Surplus,
        (false, false) => Course::NeverAsked,
    }
}

/// Everything that is wrong at the end.
async fn judged(life: &Life) -> Vec<String> {
    for at in 0..CONNECTIONS {
        let name = format!("c{at}");
        if life.disk.get(&id(&name)).await.unwrap().is_some() {
            life.truth.breach(format!("{name} is not forgotten"));
        }
        let grant_lives = {
            let grants = life.truth.grants.lock().unwrap();
            let grant = &grants[&name];
            !grant.is_dead && !grant.revoked.contains(&grant.delivered)
        };
        if grant_lives {
            life.truth.breach(format!("what the refresh of {name} won lives on"));
        }
    }
    life.truth.broken.lock().unwrap().clone()
}

fn race_all(count: u64) {
    let mut courses = BTreeMap::<Course, u64>::new();
    for seed in 0..count.div_ceil(CONNECTIONS) {
        let (taken, broken) = in_paused_time(async {
            let (life, taken) = raced(seed).await;
            (taken, judged(&life).await)
        });
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
        taken.into_iter().for_each(|course| *courses.entry(course).or_default() += 1);
    }
    println!("F24: {count} disconnects during a refresh, none served or alive afterwards; {courses:?}");
    assert_eq!(courses.len(), 3, "every course was taken: {courses:?}");
}

#[test]
fn a_disconnect_wins_at_any_moment_of_a_refresh() {
    race_all(FEW);
}

#[test]
#[ignore = "slow: tests/run.sh --only slow"]
fn a_disconnect_wins_at_any_of_ten_thousand_moments_of_a_refresh() {
    race_all(MANY);
}

/// The check can fail: a token that nobody revoked, and a record that is still there, are found.
#[test]
fn a_grant_that_lives_on_is_noticed() {
    let broken = in_paused_time(async {
        let (life, _) = raced(1).await;
        {
            let mut grants = life.truth.grants.lock().unwrap();
            let grant = grants.get_mut("c2").unwrap();
            (grant.is_dead, grant.revoked) = (false, Default::default());
        }
        judged(&life).await
    });
    assert_eq!(broken, ["what the refresh of c2 won lives on"]);
}
