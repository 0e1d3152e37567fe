//! `WebhookService`: in the contract, and not served yet.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::Parts;
use super::call::Call;
use super::proto::v1;
use super::proto::v1::webhook_service_server::WebhookService;

/// The service.
#[derive(Clone)]
pub(super) struct Webhooks {
    pub(super) parts: Arc<Parts>,
}

const INSTEAD: &str = "let the provider send its webhooks to the app itself";

#[tonic::async_trait]
impl WebhookService for Webhooks {
    type ReceiveWebhooksStream =
        Pin<Box<dyn Stream<Item = Result<v1::ReceiveWebhooksResponse, Status>> + Send>>;

    async fn receive_webhooks(
        &self,
        request: Request<Streaming<v1::ReceiveWebhooksRequest>>,
    ) -> Result<Response<Self::ReceiveWebhooksStream>, Status> {
        Err(Call::with_caller(&self.parts, "ReceiveWebhooks", &request).unimplemented(INSTEAD))
    }

    async fn list_dead_webhooks(
        &self,
        request: Request<v1::ListDeadWebhooksRequest>,
    ) -> Result<Response<v1::ListDeadWebhooksResponse>, Status> {
        Err(Call::with_caller(&self.parts, "ListDeadWebhooks", &request).unimplemented(INSTEAD))
    }

    async fn replay_webhooks(
        &self,
        request: Request<v1::ReplayWebhooksRequest>,
    ) -> Result<Response<v1::ReplayWebhooksResponse>, Status> {
        Err(Call::with_caller(&self.parts, "ReplayWebhooks", &request).unimplemented(INSTEAD))
    }

    async fn get_webhook_stats(
        &self,
        request: Request<v1::GetWebhookStatsRequest>,
    ) -> Result<Response<v1::GetWebhookStatsResponse>, Status> {
        Err(Call::with_caller(&self.parts, "GetWebhookStats", &request).unimplemented(INSTEAD))
    }
}
