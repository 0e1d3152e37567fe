//! The end of a grant at the provider (K20): RFC 7009, the provider's own call, or nothing at all.

use std::borrow::Cow;

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Revocation;
use super::discovery::{refused, unread};
use super::endpoint::BODY_LIMIT;
use super::http::{Answer, NoAnswer, Outgoing};
use super::oauth::OAuthProvider;
use super::reply::{Asked, decode, judge};
use super::sender::Kind;
use super::spec::mint::ClientAuth;
use super::spec::outcome::{Revoke, RevokedToken};
use super::spec::place::{Method, RequestShape};
use super::url::{CheckedUrl, PlainHttp};
use super::wire::{self, Params};
use crate::connection::TokenSet;
use crate::error::{AmbiguousCause, ProviderError};

/// What is encoded in a path segment: all but the unreserved characters of RFC 3986 section 2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

impl OAuthProvider {
    pub(in crate::provider) async fn revoke_grant(
        &self,
        tokens: &TokenSet,
    ) -> Result<Revocation, ProviderError> {
        let spec = &self.config.spec;
        // A refresh token is held, and no access token by which its grant could be known.
        let is_blind = tokens.refresh.is_some()
            && tokens.access.as_ref().is_none_or(|token| !token.is_alive(self.clock.now()));
        let access = tokens.access.as_ref().map(|token| token.value.expose().as_str());
        let refresh = tokens.refresh.as_ref().map(|token| token.value.expose().as_str());
        match &spec.revoke {
            Revoke::None => Ok(Revocation::Unsupported),
            Revoke::Rfc7009 => {
                self.revoke_rfc7009(access, refresh, RevokedToken::default(), &spec.client_auth).await
            }
            Revoke::Custom { token, client_auth, .. } => {
                let auth = client_auth.as_ref().unwrap_or(&spec.client_auth);
                let outcome = self.revoke_rfc7009(access, refresh, *token, auth).await?;
                // The same answer comes for a token that is over or unknown (RFC 7009 section 2.2).
                let is_proof = *token != RevokedToken::Access || !is_blind;
                Ok(if is_proof || outcome != Revocation::Revoked { outcome } else { Revocation::Unconfirmed })
            }
            Revoke::Bearer { request, .. } => {
                let Some(token) = access else { return Ok(Revocation::Unsupported) };
                let mut headers = wire::headers(request, |name| self.own_value(name, access, refresh))?;
                wire::authorize(&mut headers, "Bearer", token)?;
                let params = self.own_params(request, access, refresh);
                let is_over = tokens.access.as_ref().is_some_and(|token| !token.is_alive(self.clock.now()));
                // A token that is over is refused however often it is tried.
                let is_refusal = |status| matches!(status, 200..=299 | 400..=407 | 409..=428 | 430..=499);
                let means = |status| (is_over && is_refusal(status)).then_some(Revocation::Unconfirmed);
                self.call_once(request, params, headers, means).await
            }
            Revoke::Rest { request, client_auth, gone_status, .. } => {
                let presents =
                    |wanted| request.set.values().flat_map(|value| value.names()).any(|name| name == wanted);
                let is_possible = (access.is_some() || !presents("access_token"))
                    && (refresh.is_some() || !presents("refresh_token"));
                if !is_possible {
                    return Ok(Revocation::Unsupported);
                }
                // Without a word of its own the call proves the client as the token endpoint does.
                let client_auth =
                    if *client_auth == ClientAuth::Auto { &spec.client_auth } else { client_auth };
                let mut proof = Params::default();
                let mut headers = wire::headers(request, |name| self.own_value(name, access, refresh))?;
                self.client.prove(client_auth, None, &mut proof, &mut headers)?;
                let mut params = self.own_params(request, access, refresh);
                // The call's own parameters say who we are; only a secret in the body is added to them.
                if matches!(client_auth, ClientAuth::Post | ClientAuth::Auto) {
                    params.extend(proof);
                }
                // That the access token is gone says nothing of the refresh token where it was over anyway.
                let is_proof = !is_blind || presents("refresh_token");
                let gone = if is_proof { Revocation::Revoked } else { Revocation::Unconfirmed };
                self.call_once(request, params, headers, |status| {
                    gone_status.contains(&status).then_some(gone)
                })
                .await
            }
        }
    }

    /// RFC 7009 section 2.1: the refresh token first, for with it the provider ends the access tokens too.
    async fn revoke_rfc7009(
        &self,
        access: Option<&str>,
        refresh: Option<&str>,
        which: RevokedToken,
        auth: &ClientAuth,
    ) -> Result<Revocation, ProviderError> {
        let Some((url, offered)) = self.revocation_endpoint().await? else {
            return Ok(Revocation::Unsupported);
        };
        let refresh = refresh.map(|token| (token, "refresh_token"));
        let access = access.map(|token| (token, "access_token"));
        let presented: Vec<_> = match which {
            RevokedToken::RefreshFirst => refresh.or(access).into_iter().collect(),
            RevokedToken::Access => access.into_iter().collect(),
            RevokedToken::Both => refresh.into_iter().chain(access).collect(),
        };
        // With nothing to present there is nothing that the provider could still honour.
        let mut outcome = Revocation::Revoked;
        for (token, hint) in presented {
            let mut params = Params::default();
            params.set("token", token);
            params.set("token_type_hint", hint);
            let mut headers = wire::headers(&self.config.spec.requests.revocation, |_| None)?;
            self.client.prove(auth, offered.as_deref(), &mut params, &mut headers)?;
            params.reshape(&self.config.spec.requests.revocation, |name| {
                (name == "client_id").then_some(Cow::Borrowed(self.client.id.as_str()))
            });
            let (body, content_type) = params.into_body(self.config.spec.requests.revocation.format);
            wire::set_content_type(&mut headers, content_type);
            let request = Outgoing {
                method: http::Method::POST,
                url: url.clone(),
                headers,
                body: Some(body),
                timeout: None,
                body_limit: BODY_LIMIT,
            };
            let answer = self.sender.send(Kind::Revocation, request).await;
            if self.read_rfc7009(answer)? == Revocation::Unsupported {
                outcome = Revocation::Unsupported;
            }
        }
        Ok(outcome)
    }

    /// RFC 7009 section 2.2: 200 even for a token that the provider does not know; 503 means later.
    fn read_rfc7009(&self, answer: Result<Answer, NoAnswer>) -> Result<Revocation, ProviderError> {
        let answer = answer.map_err(unread)?;
        if answer.status.is_success() && !self.has_error(&answer) {
            return Ok(Revocation::Revoked);
        }
        if answer.status.is_server_error() {
            return Err(refused(answer.status.as_u16(), &answer.headers, &*self.clock));
        }
        match judge(&self.config.spec, Asked::Revoke, &answer, self.clock.now()) {
            Ok(_) => Ok(Revocation::Revoked),
            Err(error) => match error.oauth_code().map(|code| code.as_str()) {
                Some("unsupported_token_type") => Ok(Revocation::Unsupported),
                // A token that the provider calls dead or unknown is revoked.
                _ if matches!(error, ProviderError::Denied(_)) => Ok(Revocation::Revoked),
                // Revoking again does no harm, so a lost answer is only a reason to try again.
                _ => Err(match error {
                    ProviderError::Ambiguous { cause } => unread(NoAnswer::Lost(cause)),
                    other => other,
                }),
            },
        }
    }

    /// A reply may say with 200 that it failed (K10).
    fn has_error(&self, answer: &Answer) -> bool {
        let spec = &self.config.spec.response;
        let reply =
            answer.body.as_ref().ok().and_then(|body| decode(body.expose(), &answer.headers, spec.decode));
        reply.is_some_and(|reply| spec.error.text(&reply).is_some())
    }

    /// `means`: what an answer of this status says that is no plain success; `None`: what it says of every call.
    async fn call_once(
        &self,
        shape: &RequestShape,
        params: Params,
        mut headers: HeaderMap,
        means: impl Fn(u16) -> Option<Revocation>,
    ) -> Result<Revocation, ProviderError> {
        let (body, content_type) = params.into_body(shape.format);
        wire::set_content_type(&mut headers, content_type);
        let request = Outgoing {
            method: wire::method(shape.method.unwrap_or(Method::Post)),
            url: self.own_url(shape)?,
            headers,
            body: Some(body),
            timeout: None,
            body_limit: BODY_LIMIT,
        };
        let answer = self.sender.send(Kind::Revocation, request).await.map_err(unread)?;
        let status = answer.status.as_u16();
        if answer.status.is_success() && !self.has_error(&answer) {
            return Ok(Revocation::Revoked);
        }
        if let Some(meant) = means(status) {
            return Ok(meant);
        }
        match status {
            401 | 403 => Err(wire::unusable("revocation_refused")),
            _ if answer.status.is_success() => Err(ProviderError::Malformed),
            _ => Err(refused(status, &answer.headers, &*self.clock)),
        }
    }

    fn own_params(&self, shape: &RequestShape, access: Option<&str>, refresh: Option<&str>) -> Params {
        let mut params = Params::default();
        params.reshape(shape, |name| self.own_value(name, access, refresh));
        params
    }

    fn own_value<'v>(
        &'v self,
        name: &str,
        access: Option<&'v str>,
        refresh: Option<&'v str>,
    ) -> Option<Cow<'v, str>> {
        match name {
            "client_id" => Some(Cow::Borrowed(self.client.id.as_str())),
            "access_token" => access.map(Cow::Borrowed),
            "refresh_token" => refresh.map(Cow::Borrowed),
            _ => None,
        }
    }

    /// The address of a request of the provider's own. The client id in it is one path segment, whatever it holds.
    pub(in crate::provider) fn own_url(&self, shape: &RequestShape) -> Result<CheckedUrl, ProviderError> {
        let text = shape.url.as_ref().map(|template| {
            template.fill(|name| {
                (name == "client_id").then(|| utf8_percent_encode(&self.client.id, SEGMENT).into())
            })
        });
        let plain = PlainHttp::from_flag(self.config.spec.allow_http);
        CheckedUrl::parse(&text.unwrap_or_default(), plain).map_err(|_| wire::unusable("invalid_url"))
    }
}

/// What a lost body means for a request that changes nothing.
pub(in crate::provider) fn unread_body(cause: AmbiguousCause) -> ProviderError {
    unread(NoAnswer::Lost(cause))
}
