//! `AdminService`: what operators may do, on its own socket. Most of it is in the contract and not served yet; each such
//! answer says what to use today.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Parts;
use super::call::Call;
use super::proto::admin_v1 as v1;
use super::proto::admin_v1::admin_service_server::AdminService;
use super::status::About;
use super::wire::Mistakes;
use crate::error::Error;

/// The service.
#[derive(Clone)]
pub(super) struct Admin {
    pub(super) parts: Arc<Parts>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

const NO_ROTATION: &str = "a store keeps the key it was made with";
const NO_POLICY: &str = "whoever reaches the socket or the loopback port may use every connection";
const NO_EXPORT: &str =
    "stop the broker and run token-broker store export FILE; a copied directory counts as a rollback";
const NO_IMPORT: &str = "stop the broker and run token-broker store import FILE";

#[tonic::async_trait]
impl AdminService for Admin {
    type TailAuditStream = Answers<v1::TailAuditResponse>;
    type VerifyStoreStream = Answers<v1::VerifyStoreResponse>;
    type ExportStoreStream = Answers<v1::ExportStoreResponse>;

    async fn list_keys(
        &self,
        request: Request<v1::ListKeysRequest>,
    ) -> Result<Response<v1::ListKeysResponse>, Status> {
        Err(self.call("ListKeys", &request).unimplemented("run token-broker keys list"))
    }

    async fn rotate_key(
        &self,
        request: Request<v1::RotateKeyRequest>,
    ) -> Result<Response<v1::RotateKeyResponse>, Status> {
        Err(self.call("RotateKey", &request).unimplemented(NO_ROTATION))
    }

    async fn get_reseal_progress(
        &self,
        request: Request<v1::GetResealProgressRequest>,
    ) -> Result<Response<v1::GetResealProgressResponse>, Status> {
        Err(self.call("GetResealProgress", &request).unimplemented(NO_ROTATION))
    }

    async fn reload_config(
        &self,
        request: Request<v1::ReloadConfigRequest>,
    ) -> Result<Response<v1::ReloadConfigResponse>, Status> {
        let instead = "run token-broker check-config, then restart the broker";
        Err(self.call("ReloadConfig", &request).unimplemented(instead))
    }

    async fn explain_policy(
        &self,
        request: Request<v1::ExplainPolicyRequest>,
    ) -> Result<Response<v1::ExplainPolicyResponse>, Status> {
        Err(self.call("ExplainPolicy", &request).unimplemented(NO_POLICY))
    }

    async fn tail_audit(
        &self,
        request: Request<v1::TailAuditRequest>,
    ) -> Result<Response<Self::TailAuditStream>, Status> {
        Err(self.call("TailAudit", &request).unimplemented("read the log: it has a line a request"))
    }

    async fn verify_store(
        &self,
        request: Request<v1::VerifyStoreRequest>,
    ) -> Result<Response<Self::VerifyStoreStream>, Status> {
        let instead =
            "stop the broker and run token-broker store verify; its start looks at every record, too";
        Err(self.call("VerifyStore", &request).unimplemented(instead))
    }

    async fn export_store(
        &self,
        request: Request<v1::ExportStoreRequest>,
    ) -> Result<Response<Self::ExportStoreStream>, Status> {
        Err(self.call("ExportStore", &request).unimplemented(NO_EXPORT))
    }

    async fn import_store(
        &self,
        request: Request<Streaming<v1::ImportStoreRequest>>,
    ) -> Result<Response<v1::ImportStoreResponse>, Status> {
        Err(self.call("ImportStore", &request).unimplemented(NO_IMPORT))
    }

    async fn close_breaker(
        &self,
        request: Request<v1::CloseBreakerRequest>,
    ) -> Result<Response<v1::CloseBreakerResponse>, Status> {
        let call = self.call("CloseBreaker", &request);
        let key = request.into_inner().provider;
        let about = About { provider: &key, ..About::default() };
        let outcome = self.closed(&key);
        call.answer(about, None, outcome)
    }
}

impl Admin {
    fn closed(&self, key: &str) -> Result<v1::CloseBreakerResponse, Error> {
        let mut mistakes = Mistakes::default();
        let parsed = mistakes.provider(&self.parts.broker, key);
        mistakes.none_or(parsed)?;
        Ok(v1::CloseBreakerResponse { was_resting: self.parts.broker.close_breaker(key)? })
    }

    fn call<'a, T>(&'a self, rpc: &'static str, request: &Request<T>) -> Call<'a> {
        Call::with_caller(&self.parts, rpc, request)
    }
}
