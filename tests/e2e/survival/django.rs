//! django-oauth-toolkit as a child process, and what only the authorization server knows.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::browser::send;
use crate::process::{Running, place};

pub(super) const CLIENT_ID: &str = "token-broker-e2e";
pub(super) const CLIENT_SECRET: &str = "correct-horse-battery-staple-e2e";

pub(super) struct Django {
    _running: Running,
    _database: TempDir,
    pub(super) url: String,
}

impl Django {
    /// Starts one whose access tokens live `access_token_ttl` seconds, and which answers a spent refresh token with the
    /// same pair for `grace` seconds.
    pub(super) fn start(access_token_ttl: u32, grace: u32) -> Self {
        let database = tempfile::tempdir().unwrap();
        let settings = serde_json::json!({
            "clientId": CLIENT_ID,
            "clientSecret": CLIENT_SECRET,
            "accessTokenTtl": access_token_ttl,
            "graceSeconds": grace,
            "database": database.path().join("db.sqlite3"),
        });
        let mut command = Command::new("python3");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/django/server.py"))
            .env("PYTHONPATH", place("DJANGO_PACKAGES"))
            .env("SETTINGS", settings.to_string());
        let (running, url) = Running::start(command, |line| {
            let line: Value = serde_json::from_str(line).ok()?;
            Some(line["url"].as_str()?.to_owned())
        });
        Self { _running: running, _database: database, url }
    }

    pub(super) fn token_endpoint(&self) -> String {
        format!("{}/o/token/", self.url)
    }

    /// An access token and a refresh token of a new account.
    pub(super) async fn issue(&self, user: &str) -> (String, String) {
        let url = format!("{}/admin/issue?user={user}", self.url);
        let answer = send(http::Request::post(url).body(String::new()).unwrap()).await;
        let told: Value = serde_json::from_str(answer.body()).unwrap();
        let token = |name: &str| told[name].as_str().unwrap().to_owned();
        (token("access_token"), token("refresh_token"))
    }

    pub(super) async fn is_live(&self, access_token: &str) -> bool {
        let url = format!("{}/admin/is-live?token={access_token}", self.url);
        let answer = send(http::Request::get(url).body(String::new()).unwrap()).await;
        serde_json::from_str::<Value>(answer.body()).unwrap()["live"].as_bool().unwrap()
    }
}
