//! The authorization endpoint and the answer to its page. Owns what is checked before a person is asked (RFC 6749 section
//! 4.1.1, RFC 7636, RFC 9207). Does not know tokens. Invariant: nothing is redirected to a URI that the client has not
//! registered, and no code is given without an S256 challenge.

use axum::http::StatusCode;
use axum::http::header::CONTENT_SECURITY_POLICY;
use url::Url;

use super::authorization::{Approved, AuthorizationRequest};
use super::behavior::{Account, Approval, IssuerParameter};
use super::call::{Call, OAuthError, Params, Reply};
use super::ledger::{Ledger, Moment, minted};
use super::page;
use super::record::Effect;

/// `GET /authorize`: asks the person, or answers at once where the behavior says so.
pub(super) fn ask(ledger: &mut Ledger, moment: Moment<'_>, call: &Call) -> Reply {
    let way_back = match WayBack::of(ledger, &call.query) {
        Ok(way_back) => way_back,
        Err(problem) => return problem_page(StatusCode::BAD_REQUEST, problem),
    };
    let request = match checked(&way_back, &call.query) {
        Ok(request) => request,
        Err(error) => return way_back.refused(ledger, moment, &error),
    };
    match ledger.behavior.approval.clone() {
        Approval::Automatic { account } => {
            let account = request.login_hint.clone().unwrap_or(account);
            let scopes = ledger.behavior.narrowed(&request.scopes);
            approved(ledger, moment, request, Approved { account, scopes })
        }
        Approval::Denied => way_back.denied(ledger, moment),
        Approval::Page if call.query.first("prompt") == Some("none") => {
            let error = OAuthError::new("interaction_required", "a person has to answer");
            way_back.refused(ledger, moment, &error)
        }
        Approval::Page => {
            let handle = minted("sbx_page", moment.entropy).expose().clone();
            let shown = consent_page(ledger, &handle, &request, None);
            ledger.authorizations.open(handle, request, moment.now);
            shown
        }
    }
}

/// `POST /consent`: the person's answer.
pub(super) fn answer(ledger: &mut Ledger, moment: Moment<'_>, call: &Call) -> Reply {
    let handle = call.form.first("page").unwrap_or_default();
    let Some(request) = ledger.authorizations.page(handle, moment.now).cloned() else {
        let problem = "This page was answered before, or has been open for too long. Start again in the app.";
        return problem_page(StatusCode::BAD_REQUEST, problem);
    };
    let way_back = WayBack::from(&request);
    let account = call.form.first("account").unwrap_or_default().trim();
    let chosen: Vec<&str> = call.form.all("scope").collect();
    let wrong = |mistake| {
        let entered = Entered { account, chosen: &chosen, mistake };
        consent_page(ledger, handle, &request, Some(entered))
    };
    match call.form.first("decision") {
        Some("approve") => {}
        Some("deny") => {
            ledger.authorizations.close(handle);
            return way_back.denied(ledger, moment);
        }
        _ => return wrong("Choose Approve or Deny."),
    }
    if !Account::is_name(account) {
        return wrong("Enter an account name: letters, digits and - _ . @ + only, at most 64.");
    }
    let is_chosen = |scope: &&String| chosen.contains(&scope.as_str());
    let scopes: Vec<String> =
        ledger.behavior.narrowed(&request.scopes).iter().filter(is_chosen).cloned().collect();
    if scopes.is_empty() && !request.scopes.is_empty() {
        return wrong("Allow at least one thing, or choose Deny.");
    }
    ledger.authorizations.close(handle);
    let account = account.to_owned();
    approved(ledger, moment, request, Approved { account, scopes })
}

fn approved(
    ledger: &mut Ledger,
    moment: Moment<'_>,
    request: AuthorizationRequest,
    approved: Approved,
) -> Reply {
    let code = minted("sbx_ac", moment.entropy);
    let way_back = WayBack::from(&request);
    let validity = (moment.now, ledger.behavior.code_ttl);
    ledger.authorizations.issue(code.expose(), request, approved, validity);
    way_back.redirect(ledger, moment, &[("code", code.expose())], Effect::Approved)
}

/// A client known, and a redirect URI it has registered: from here on mistakes are told to the client.
struct WayBack {
    client_id: String,
    redirect_uri: String,
    state: Option<String>,
}

impl WayBack {
    fn of(ledger: &Ledger, query: &Params) -> Result<Self, &'static str> {
        let unknown = "No client of this name is registered here.";
        let Ok(Some(client_id)) = query.one("client_id") else { return Err(unknown) };
        let client = ledger.client(client_id).ok_or(unknown)?;
        let foreign = "The address to return to is not one that this client has registered.";
        let Ok(Some(redirect_uri)) = query.one("redirect_uri") else { return Err(foreign) };
        if !client.accepts_redirect(redirect_uri) || Url::parse(redirect_uri).is_err() {
            return Err(foreign);
        }
        Ok(Self {
            client_id: client_id.to_owned(),
            redirect_uri: redirect_uri.to_owned(),
            state: query.first("state").map(str::to_owned),
        })
    }

    fn denied(&self, ledger: &Ledger, moment: Moment<'_>) -> Reply {
        self.redirect(ledger, moment, &[("error", "access_denied")], Effect::Denied)
    }

    fn refused(&self, ledger: &Ledger, moment: Moment<'_>, error: &OAuthError) -> Reply {
        let effect = Effect::Refused { error: error.code.clone(), family_ended: false };
        let parameters = [("error", error.code.as_str()), ("error_description", error.description)];
        self.redirect(ledger, moment, &parameters, effect)
    }

    fn redirect(
        &self,
        ledger: &Ledger,
        moment: Moment<'_>,
        parameters: &[(&str, &str)],
        effect: Effect,
    ) -> Reply {
        let Ok(mut location) = Url::parse(&self.redirect_uri) else {
            return problem_page(StatusCode::BAD_REQUEST, "The address to return to is no URL.");
        };
        {
            let mut query = location.query_pairs_mut();
            query.extend_pairs(parameters);
            if let Some(state) = &self.state {
                query.append_pair("state", state);
            }
            match &ledger.behavior.issuer_parameter {
                IssuerParameter::Sent => query.append_pair("iss", moment.issuer),
                IssuerParameter::Forged(issuer) => query.append_pair("iss", issuer),
                IssuerParameter::Omitted => &mut query,
            };
        }
        Reply::see_other(location.as_str(), effect)
    }
}

impl From<&AuthorizationRequest> for WayBack {
    fn from(request: &AuthorizationRequest) -> Self {
        Self {
            client_id: request.client_id.clone(),
            redirect_uri: request.redirect_uri.clone(),
            state: request.state.clone(),
        }
    }
}

/// Everything about the request that the client is told of when it is wrong.
fn checked(way_back: &WayBack, query: &Params) -> Result<AuthorizationRequest, OAuthError> {
    let state = query.one("state")?;
    match query.one("response_type")? {
        Some("code") => {}
        Some(_) => return Err(OAuthError::new("unsupported_response_type", "only code is supported")),
        None => return Err(OAuthError::invalid_request("response_type is missing")),
    }
    if query.one("response_mode")?.is_some_and(|mode| mode != "query") {
        return Err(OAuthError::invalid_request("only response_mode=query is supported"));
    }
    if query.one("code_challenge_method")? != Some("S256") {
        return Err(OAuthError::invalid_request("code_challenge_method must be S256"));
    }
    let is_base64url =
        |text: &&str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let code_challenge = query
        .one("code_challenge")?
        .filter(|challenge| challenge.len() == 43)
        .filter(is_base64url)
        .ok_or(OAuthError::invalid_request("code_challenge must be 43 base64url characters"))?;
    let login_hint = query.one("login_hint")?.filter(|hint| Account::is_name(hint));
    Ok(AuthorizationRequest {
        client_id: way_back.client_id.clone(),
        redirect_uri: way_back.redirect_uri.clone(),
        state: state.map(str::to_owned),
        scopes: scopes(query.one("scope")?.unwrap_or_default())?,
        code_challenge: code_challenge.to_owned(),
        login_hint: login_hint.map(str::to_owned),
    })
}

/// The scopes of a space-delimited list (RFC 6749 section 3.3), each once.
pub(super) fn scopes(text: &str) -> Result<Vec<String>, OAuthError> {
    let mut scopes: Vec<String> = Vec::new();
    for scope in text.split(' ').filter(|scope| !scope.is_empty()) {
        let is_token = scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if !is_token {
            return Err(OAuthError::new(
                "invalid_scope",
                "a scope holds a character that scopes cannot have",
            ));
        }
        if !scopes.iter().any(|known| known == scope) {
            scopes.push(scope.to_owned());
        }
    }
    Ok(scopes)
}

/// What a person had entered when something was wrong with it.
struct Entered<'a> {
    account: &'a str,
    chosen: &'a [&'a str],
    mistake: &'static str,
}

fn consent_page(
    ledger: &Ledger,
    handle: &str,
    request: &AuthorizationRequest,
    entered: Option<Entered<'_>>,
) -> Reply {
    let accounts = &ledger.behavior.accounts;
    let suggested = || {
        let first = accounts.first().map(|account| account.sub.as_str());
        request.login_hint.as_deref().or(first).unwrap_or_default()
    };
    let is_chosen =
        |scope: &String| entered.as_ref().is_none_or(|entered| entered.chosen.contains(&scope.as_str()));
    let scopes = ledger.behavior.narrowed(&request.scopes);
    let consent = page::Consent {
        handle,
        client_id: &request.client_id,
        return_to: &request.redirect_uri,
        scopes: &scopes.iter().map(|scope| (scope.as_str(), is_chosen(scope))).collect::<Vec<_>>(),
        account: entered.as_ref().map_or_else(suggested, |entered| entered.account),
        accounts,
        mistake: entered.as_ref().map(|entered| entered.mistake),
    };
    let status = if entered.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    guarded(Reply::html(status, consent.html(), Effect::Served))
}

fn problem_page(status: StatusCode, problem: &str) -> Reply {
    let effect = Effect::Refused { error: "invalid_request".to_owned(), family_ended: false };
    guarded(Reply::html(status, page::problem(problem), effect))
}

/// A page runs no script, loads nothing and stands in no frame.
pub(super) fn guarded(mut reply: Reply) -> Reply {
    reply.header(CONTENT_SECURITY_POLICY, &page::content_security_policy());
    reply
}
