//! What the door says about itself: reflection v1 and v1alpha, with every comment of the contract, the health protocol
//! and the `google.rpc` messages that error details are made of, so that `grpcurl` prints them as JSON.

use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};
use tonic_reflection::server::v1alpha::{
    ServerReflection as ServerReflectionAlpha, ServerReflectionServer as ServerReflectionServerAlpha,
};

use super::proto::DESCRIPTORS;

/// The two versions of the reflection service. v1alpha is what grpcurl and others before 2024 ask for.
///
/// # Errors
///
/// When the descriptors that `build.rs` wrote do not fit together, which a test rules out.
pub(super) fn services() -> Result<
    (ServerReflectionServer<impl ServerReflection>, ServerReflectionServerAlpha<impl ServerReflectionAlpha>),
    tonic_reflection::server::Error,
> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    Ok((builder().build_v1()?, builder().build_v1alpha()?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn descriptors_fit_together() {
        assert!(super::services().is_ok());
    }
}
