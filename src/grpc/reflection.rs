//! What the door says about itself: reflection v1 and v1alpha, with every comment of the contract, the health protocol
//! and the `google.rpc` messages that error details are made of, so that `grpcurl` prints them as JSON.

use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionServerAlpha,
};

use super::Offer;
use super::proto::admin_v1::admin_service_server;
use super::proto::v1::{
    connection_service_server, provider_service_server, token_broker_service_server, webhook_service_server,
};
use super::proto::{FOR_APPS, FOR_OPERATORS};

/// What a door of each offer serves besides health and reflection: nobody is told of a service that is not there.
fn services_of(offer: Offer) -> &'static [&'static str] {
    match offer {
        Offer::Apps => &[
            connection_service_server::SERVICE_NAME,
            provider_service_server::SERVICE_NAME,
            token_broker_service_server::SERVICE_NAME,
            webhook_service_server::SERVICE_NAME,
        ],
        Offer::Operators => &[admin_service_server::SERVICE_NAME],
    }
}

/// What the contract of each says, and nothing of the other's: who may not call a service need not read it.
fn contract_of(offer: Offer) -> &'static [u8] {
    match offer {
        Offer::Apps => FOR_APPS,
        Offer::Operators => FOR_OPERATORS,
    }
}

/// What every door serves.
const EVERYWHERE: [&str; 3] = [
    tonic_health::pb::health_server::SERVICE_NAME,
    tonic_reflection::pb::v1::server_reflection_server::SERVICE_NAME,
    tonic_reflection::pb::v1alpha::server_reflection_server::SERVICE_NAME,
];

/// The two versions of the reflection service of a door. They list and describe what is
/// served there. v1alpha is what grpcurl and others before 2024 ask for.
///
/// # Errors
///
/// When the descriptors that `build.rs` wrote do not fit together, which a test rules out.
pub(super) fn services(
    offer: Offer,
) -> Result<
    (ServerReflectionServer<impl ServerReflection>, ServerReflectionServerAlpha<impl ServerReflectionAlpha>),
    tonic_reflection::server::Error,
> {
    let builder = || {
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(contract_of(offer))
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET);
        let served = EVERYWHERE.iter().chain(services_of(offer));
        served.fold(builder, |builder, service| builder.with_service_name(*service))
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn descriptors_fit_together() {
        for offer in [super::Offer::Apps, super::Offer::Operators] {
            assert!(super::services(offer).is_ok());
        }
    }
}
