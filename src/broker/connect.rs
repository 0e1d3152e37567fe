//! Consent: begin, complete (through the app's callback), callback and finish (through the public door).

mod import;
mod request;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use url::Url;

pub use request::AllowedUrls;

use super::keep::Weight;
use super::{AuthorizationResponse, BeginConnect, Broker, ConnectBegun};
use crate::connection::{
    CodeWait, ConnectSession, Connection, ConnectionId, Consent, FinishWait, Phase, Profile, SESSION_TTL,
    Scopes, Status, Told, Values,
};
use crate::error::{Error, OAuthCode, ProviderError, SessionFlaw};
use crate::provider::{AuthorizationRequest, CodeGrant, Occasion, ProviderClient};
use crate::secret::Secret;
use crate::store::{Expected, SessionKey};

impl Broker {
    /// Starts a consent: remembers what will prove the answer is ours, and says where to send the owner.
    ///
    /// # Errors
    /// `INVALID_REQUEST` with every mistake, the provider's (discovery) or the store's.
    pub async fn begin_connect(&self, request: BeginConnect) -> Result<ConnectBegun, Error> {
        let provider = self.enabled_provider(request.id.provider.as_str())?;
        let stored = self.tokens.get(&request.id).await?.map(|stored| stored.value.profile);
        let held = stored.as_ref().map(|profile| profile.variables.clone()).unwrap_or_default();
        request.check(provider.as_ref(), &self.settings, &held)?;
        let mut variables = request.variables;
        // Where no account is known a consent keeps nothing by itself; what the app said of this connection it says still.
        if stored.is_some_and(|profile| profile.account.is_none()) {
            for (name, value) in &held {
                let alone = Values::from([(name.clone(), value.clone())]);
                if provider.check_variables(Occasion::Connect, &alone, &held).is_ok() {
                    variables.entry(name.clone()).or_insert_with(|| value.clone());
                }
            }
        }
        let scopes: Scopes = match request.scopes.is_empty() {
            true => provider.default_scopes().clone(),
            false => request.scopes.into_iter().collect(),
        };
        let redirect_uri = request.redirect_uri.unwrap_or_else(|| self.redirect_uri(provider.key().as_str()));
        let state = Secret::new(self.entropy.token::<32>());
        let code_verifier = Secret::new(self.entropy.token::<32>());
        let authorization = AuthorizationRequest {
            redirect_uri: redirect_uri.clone(),
            scopes: scopes.clone(),
            code_challenge: URL_SAFE_NO_PAD.encode(code_verifier.digest()),
            login_hint: request.login_hint,
            extra: request.extra,
            state,
        };
        let url = provider
            .authorization_url(&authorization)
            .await
            .map_err(|error| failed(provider.as_ref(), error))?;
        self.await_consent(&request.id).await?;
        let expires_at = self.clock.now() + SESSION_TTL;
        let begun = ConnectSession {
            session: self.entropy.token::<16>(),
            connection: request.id,
            expires_at,
            allow_account_change: request.allow_account_change,
            phase: Phase::Code(CodeWait {
                code_verifier,
                redirect_uri: redirect_uri.clone(),
                return_url: request.return_url,
                scopes,
                variables,
            }),
        };
        self.sessions.put(key_of(&authorization.state), &begun).await?;
        Ok(ConnectBegun {
            authorization_url: Secret::new(url.into()),
            session: begun.session,
            expires_at,
            redirect_uri,
        })
    }

    /// Takes the provider's answer as the app's own callback got it, and makes the connection ACTIVE.
    ///
    /// # Errors
    /// `CONNECT_SESSION_INVALID` where the answer is not one we wait for; the provider's or the store's.
    pub async fn complete_connect(
        self: &Arc<Self>,
        response: AuthorizationResponse,
    ) -> Result<Profile, Error> {
        let broker = self.clone();
        self.owned(async move {
            let awaited = broker.take_awaited(&response.state, None).await?;
            let (id, allow_account_change) = (awaited.connection.clone(), awaited.allow_account_change);
            let provider = broker.enabled_provider(id.provider.as_str())?;
            let consent = broker.consent(provider.as_ref(), awaited, response).await?;
            let profile = broker.connect(&id, consent, allow_account_change).await?;
            broker.look_for_twins(&profile);
            Ok(profile)
        })
        .await
    }

    /// Takes the provider's answer as the public door got it, and says where to send the browser (by 303): to the
    /// return URL, with a one-time `code` for [`Broker::finish_connect`], or with `error` (a reason) and perhaps
    /// `oauth_error`. Tokens serve nobody until finished.
    ///
    /// # Errors
    /// Those that come before the return URL is known: `PROVIDER_NOT_CONFIGURED`, `PROVIDER_DISABLED`,
    /// `CONNECT_SESSION_INVALID`, the store's.
    pub async fn callback(
        self: &Arc<Self>,
        provider: &str,
        response: AuthorizationResponse,
    ) -> Result<Secret<String>, Error> {
        let (broker, key) = (self.clone(), provider.to_owned());
        self.owned(async move { broker.receive(&key, response).await }).await
    }

    /// Proves that the browser that came back belongs to the app's backend that began, and makes the connection
    /// ACTIVE.
    ///
    /// # Errors
    /// `CONNECT_SESSION_INVALID` for an unknown, used or expired code, or one of another session; the store's.
    pub async fn finish_connect(
        self: &Arc<Self>,
        session: &str,
        code: Secret<String>,
    ) -> Result<Profile, Error> {
        let (broker, named) = (self.clone(), session.to_owned());
        self.owned(async move {
            let profile = broker.finish(&named, &code).await?;
            broker.look_for_twins(&profile);
            Ok(profile)
        })
        .await
    }

    async fn receive(&self, key: &str, response: AuthorizationResponse) -> Result<Secret<String>, Error> {
        let provider = self.enabled_provider(key)?;
        let mut awaited = self.take_awaited(&response.state, Some(key)).await?;
        let (connection, session) = (awaited.connection.clone(), std::mem::take(&mut awaited.session));
        let allow_account_change = awaited.allow_account_change;
        let return_url = awaited
            .wait
            .return_url
            .take()
            .ok_or(Error::Internal("a consent at the public door leads nowhere"))?;
        let consent = match self.consent(provider.as_ref(), awaited, response).await {
            Ok(consent) => consent,
            Err(error) => {
                tracing::info!(%connection, reason = %error.reason(), "consent failed");
                return refusal(&return_url, &error);
            }
        };
        let code = Secret::new(self.entropy.token::<32>());
        let expires_at = self.clock.now() + SESSION_TTL;
        let phase = Phase::Finish(consent);
        let session = ConnectSession { session, connection, expires_at, allow_account_change, phase };
        match self.sessions.put(key_of(&code), &session).await {
            Ok(()) => with_query(&return_url, &[("code", code.expose())]),
            Err(error) => refusal(&return_url, &error.into()),
        }
    }

    async fn finish(&self, named: &str, code: &Secret<String>) -> Result<Profile, Error> {
        let unknown = Error::ConnectSessionInvalid { provider: None, why: SessionFlaw::Unknown };
        let key = key_of(code);
        // A guess at the session must not use up the code, so look first; of several right ones one takes it.
        let is_right = self.sessions.get(key).await?.is_some_and(|waiting| {
            bool::from(waiting.session.as_bytes().ct_eq(named.as_bytes()))
                && waiting.expires_at > self.clock.now()
        });
        if !is_right {
            return Err(unknown);
        }
        match self.sessions.take(key).await? {
            Some(ConnectSession {
                phase: Phase::Finish(consent), connection, allow_account_change, ..
            }) => self.connect(&connection, consent, allow_account_change).await,
            _ => Err(unknown),
        }
    }

    /// The waiting consent that `state` leads to, used up. `at` is the provider whose callback it came to; `None`
    /// is an app's own.
    async fn take_awaited(&self, state: &Secret<String>, at: Option<&str>) -> Result<Awaited, Error> {
        let invalid = |provider, why| Err(Error::ConnectSessionInvalid { provider, why });
        let Some(session) = self.sessions.take(key_of(state)).await? else {
            return invalid(None, SessionFlaw::Unknown);
        };
        let ConnectSession {
            phase: Phase::Code(wait),
            session,
            connection,
            expires_at,
            allow_account_change,
        } = session
        else {
            return invalid(None, SessionFlaw::Unknown);
        };
        if expires_at <= self.clock.now() {
            return invalid(Some(connection.provider), SessionFlaw::Unknown);
        }
        // RFC 9700 section 4.4: an answer at another callback than the one it was asked for is a mix-up.
        let expected_at = connection.provider.as_str();
        let is_public = wait.redirect_uri == self.redirect_uri(expected_at);
        if at != is_public.then_some(expected_at) {
            return invalid(Some(connection.provider), SessionFlaw::WrongCallback);
        }
        Ok(Awaited { session, connection, allow_account_change, wait })
    }

    /// Checks the provider's answer and trades its code for tokens.
    async fn consent(
        &self,
        provider: &dyn ProviderClient,
        awaited: Awaited,
        response: AuthorizationResponse,
    ) -> Result<FinishWait, Error> {
        let flaw = |why| Error::ConnectSessionInvalid { provider: Some(provider.key().clone()), why };
        let accepts = provider.accepts_issuer(response.iss.as_deref()).await;
        if !accepts.map_err(|error| failed(provider, error))? {
            return Err(flaw(SessionFlaw::WrongIssuer));
        }
        if let Some(error) = response.error {
            return Err(flaw(SessionFlaw::Refused(OAuthCode::new(&error))));
        }
        let code = response.code.ok_or_else(|| flaw(SessionFlaw::Empty))?;
        let CodeWait { code_verifier, redirect_uri, scopes: asked, variables: given, .. } = awaited.wait;
        let asked_at = self.clock.now();
        let exchanged = provider.exchange(&CodeGrant { code, code_verifier, redirect_uri }).await;
        let issued = exchanged.map_err(|error| match error {
            ProviderError::Denied(code) => flaw(SessionFlaw::CodeRejected(code)),
            error => failed(provider, error),
        })?;
        let scopes = issued.scopes.clone().unwrap_or(asked);
        let told = issued.account.clone();
        let mut variables: Told = given.into_iter().map(|(name, value)| (name, Some(value))).collect();
        variables.extend(issued.variables.clone());
        let tokens = issued.into_set(None, asked_at);
        let account = match (told, &tokens.access) {
            (None, Some(access)) => match provider.account(access).await {
                Ok(account) => account,
                // Stops nobody from connecting first; a connection with an owner refuses the unknown.
                Err(error) => {
                    tracing::warn!(connection = %awaited.connection, %error, "the account could not be told");
                    None
                }
            },
            (told, _) => told,
        };
        Ok(FinishWait { tokens, scopes, account, variables })
    }

    /// Makes a consent the connection's present one: durable, then published, then answered.
    async fn connect(
        &self,
        id: &ConnectionId,
        consent: FinishWait,
        allow_account_change: bool,
    ) -> Result<Profile, Error> {
        let turn = self.cache.turn(id).await;
        let now = self.clock.now();
        let (before, expected) = match self.tokens.get(id).await? {
            Some(stored) if stored.value.profile.status == Status::Revoking => {
                return Err(being_disconnected(id));
            }
            Some(stored) => (stored.value, Expected::At(stored.revision)),
            None => (Connection::pending(id.clone(), now), Expected::Absent),
        };
        let FinishWait { tokens, scopes, account, variables } = consent;
        let consent = Consent { tokens, scopes, account, variables, allow_account_change };
        let connection = before
            .connected(consent, now)
            .map_err(|why| Error::ConnectSessionInvalid { provider: Some(id.provider.clone()), why })?;
        self.commit(&turn, &connection, expected).await?;
        let profile = connection.profile.clone();
        turn.publish(self.served(connection)?);
        self.forget_answers(id);
        tracing::info!(connection = %id, "connected");
        Ok(profile)
    }

    /// Shows a connection that is begun for the first time as PENDING; one that exists stays as it is.
    async fn await_consent(&self, id: &ConnectionId) -> Result<(), Error> {
        let turn = self.cache.turn(id).await;
        let stored = self.tokens.get(id).await?;
        let expected = match &stored {
            None => Expected::Absent,
            Some(stored) => match stored.value.profile.status {
                Status::Revoking => return Err(being_disconnected(id)),
                // Begun again: the time in which it is swept away starts anew.
                Status::Pending => Expected::At(stored.revision),
                _ => return Ok(()),
            },
        };
        let pending = Connection::pending(turn.id().clone(), self.clock.now());
        self.keep(&turn, &pending, expected, Weight::Ordinary).await?;
        Ok(())
    }
}

/// A consent whose answer has come.
struct Awaited {
    session: String,
    connection: ConnectionId,
    allow_account_change: bool,
    wait: CodeWait,
}

/// Until the grant before it is revoked, nothing takes a connection's place: the revocation could end the new one too.
fn being_disconnected(id: &ConnectionId) -> Error {
    Error::ConnectSessionInvalid { provider: Some(id.provider.clone()), why: SessionFlaw::Disconnecting }
}

fn key_of(secret: &Secret<String>) -> SessionKey {
    SessionKey(secret.digest())
}

fn failed(provider: &dyn ProviderClient, error: ProviderError) -> Error {
    Error::Provider { provider: provider.key().clone(), error }
}

/// The return URL with what the app's page needs to know. It never carries `session`: the app must take that from
/// where it kept it for this user, or a stranger's consent could be slipped in (RFC 9700 section 4.7).
fn with_query(return_url: &str, pairs: &[(&str, &str)]) -> Result<Secret<String>, Error> {
    let mut url =
        Url::parse(return_url).map_err(|_| Error::Internal("a stored return URL does not parse"))?;
    url.query_pairs_mut().extend_pairs(pairs);
    Ok(Secret::new(url.into()))
}

fn refusal(return_url: &str, error: &Error) -> Result<Secret<String>, Error> {
    let mut pairs = vec![("error", error.reason().as_str())];
    if let Error::ConnectSessionInvalid {
        why: SessionFlaw::Refused(code) | SessionFlaw::CodeRejected(code),
        ..
    } = error
    {
        pairs.push(("oauth_error", code.as_str()));
    }
    with_query(return_url, &pairs)
}
