//! The negative control: the kit must be able to fail. A store that acknowledges what it never writes, the spent refresh
//! token that it then has the broker present, a grant that lives and is given up, and an access token that is served after
//! its provider has ended it are all found out.

use serde_json::json;
use token_broker::sandbox::Fault;

use super::answer::unwritten;
use super::between::{ended, standing};
use crate::checker::{Fate, fate, needless};
use crate::home::Home;
use crate::image::Camera;
use crate::profile::Profile;
use crate::stage::{LIFE, Stage};
use crate::tally::Row;

pub(super) async fn inflict(row: &mut Row) {
    row.rounds += 1;
    let mut stage = Stage::new(row).await;
    let mut grant = stage.connected().await;
    stage.home.order("store.commit.lie=error:EIO");
    let camera = Camera::on(&stage.sandbox, stage.process().pid(), &stage.home);
    let _ = stage.renew(&mut grant).await;
    let _ = stage.renew(&mut grant).await;
    stage.sandbox.witness(|_| {});
    let (_, wrong) = camera.developed(&stage.home, &[(grant.id.0, grant.name.clone())].into()).await;
    row.expect(!wrong.is_empty(), || "a request without a durable intent is not found".to_owned());
    stage.kill().await;
    let of_the_liar = fate(&mut stage, &mut grant).await;
    row.expect(of_the_liar == Fate::Lost, || format!("a store that lies is not found out: {of_the_liar:?}"));
    row.expect(!needless(&stage, &grant).is_empty(), || {
        "a spent token presented again is not found".to_owned()
    });

    row.rounds += 1;
    let mut stage = Stage::new(row).await;
    let mut grant = stage.connected().await;
    let why = unwritten(&mut stage, &mut grant, "refresh.publish.before", "store.commit.lie=error:EIO").await;
    row.expect(why.is_some(), || "an answer that is not on disk is not found".to_owned());

    row.rounds += 1;
    let mut stage = Stage::new(row).await;
    let mut grant = stage.connected().await;
    stage.meet(&grant, Fault::oauth_error("invalid_grant"));
    let _ = stage.renew(&mut grant).await;
    let given_up = fate(&mut stage, &mut grant).await;
    row.expect(given_up == Fate::FalseDeath, || format!("a false death is not found: {given_up:?}"));

    // A provider that ends old tokens, of which the broker is told that they live on.
    row.rounds += 1;
    let profile = Profile { ends_old: true, ..row.profile };
    let home = Home::new(row.engine).refreshing_on_demand();
    let misled = json!({"token_timeout": "20s", "old_at_survives": true});
    let mut stage = Stage::at(home, profile, LIFE, &misled).await;
    let (grant, answers) = standing(&mut stage, "refresh.commit.before", 0).await;
    row.expect(!ended(&stage, &grant, &answers).is_empty(), || {
        "an ended token that is served is not found".to_owned()
    });
}
