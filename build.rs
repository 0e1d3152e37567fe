//! Compiles `proto/` with protox (no protoc, nothing to install) into `OUT_DIR`:
//!
//! - `tokenbroker.v1.rs`, `tokenbroker.admin.v1.rs`: messages, servers and clients;
//! - `redacted.v1.rs`, `redacted.admin.v1.rs`: a `Debug` for every message with a `debug_redact` field, which
//!   therefore cannot print: the contract says once what is secret, and no list has to follow it;
//! - `apps.bin`, `operators.bin`: the files that each kind of door is made of, with their comments, for reflection.

use std::error::Error;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use prost_build::{Service, ServiceGenerator};
use protox::prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor, Value};

/// The packages that Rust code is made for; `google.rpc` comes from `tonic-types`.
const PACKAGES: [&str; 2] = ["tokenbroker.v1", "tokenbroker.admin.v1"];

/// Where the files lie that only the one or only the other kind of door serves.
const APPS: &str = "proto/tokenbroker/v1";
const ADMIN: &str = "proto/tokenbroker/admin";

/// What the server of `GetAccessToken` answers with instead of the message: the same bytes, encoded when the token was
/// published and not anew for each call (`src/grpc/reply.rs`).
const PREPARED_REPLY: (&str, &str) = ("GetAccessToken", "crate::grpc::reply::TokenReply");

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out_dir = PathBuf::from(std::env::var("OUT_DIR")?);

    let files = proto_files(Path::new("proto"))?;
    let compiler = compiled(files.iter())?;
    for (name, others) in [("apps", ADMIN), ("operators", APPS)] {
        let own = compiled(files.iter().filter(|file| !file.starts_with(others)))?;
        // The raw bytes, for prost-types would drop options that it does not know.
        std::fs::write(out_dir.join(format!("{name}.bin")), own.encode_file_descriptor_set())?;
    }

    let secret = messages_with_secrets(&compiler.descriptor_pool());
    for package in PACKAGES {
        let suffix = package.trim_start_matches("tokenbroker.");
        std::fs::write(out_dir.join(format!("redacted.{suffix}.rs")), redacted_debug(package, &secret)?)?;
    }

    let mut descriptors = compiler.file_descriptor_set();
    descriptors.file.retain(|file| file.package() != "google.rpc");
    let mut config = prost_build::Config::new();
    config.skip_debug(secret.iter().map(|message| format!(".{}", message.full_name())));
    // Bodies are passed on, not looked at: a reference count instead of a copy.
    config.bytes([".tokenbroker.v1.BodyChunk", ".tokenbroker.v1.CallProviderResponse"]);
    config.service_generator(Box::new(Services {
        client: tonic_prost_build::configure().build_server(false).service_generator(),
        server: tonic_prost_build::configure().build_client(false).service_generator(),
    }));
    config.compile_fds(descriptors)?;
    Ok(())
}

/// These files and what they import.
fn compiled<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Result<protox::Compiler, Box<dyn Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_source_info(true).include_imports(true);
    for file in files {
        compiler.open_file(file)?;
    }
    Ok(compiler)
}

/// Every `.proto` file under a directory, sorted, so that the output does not hang on the file system's order.
fn proto_files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(proto_files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Stock clients, and stock servers but for the one prepared reply.
struct Services {
    client: Box<dyn ServiceGenerator>,
    server: Box<dyn ServiceGenerator>,
}

impl ServiceGenerator for Services {
    fn generate(&mut self, mut service: Service, code: &mut String) {
        self.client.generate(service.clone(), code);
        for method in &mut service.methods {
            if method.proto_name == PREPARED_REPLY.0 {
                method.output_type = PREPARED_REPLY.1.to_owned();
            }
        }
        self.server.generate(service, code);
    }
}

/// The messages of our packages that have a `debug_redact` field of their own.
fn messages_with_secrets(pool: &DescriptorPool) -> Vec<MessageDescriptor> {
    pool.all_messages()
        .filter(|message| PACKAGES.contains(&message.package_name()))
        .filter(|message| message.fields().any(|field| is_secret(&field)))
        .collect()
}

fn is_secret(field: &FieldDescriptor) -> bool {
    field.options().get_field_by_name("debug_redact").as_deref() == Some(&Value::Bool(true))
}

/// Rust code of a `Debug` for each message, which shows every field but the secret ones. Of those it shows whether they
/// are set, for that is what one wants to know of a secret in a log.
fn redacted_debug(package: &str, messages: &[MessageDescriptor]) -> Result<String, Box<dyn Error>> {
    let mut code = String::new();
    for message in messages.iter().filter(|message| message.package_name() == package) {
        let name = message.name();
        if message.oneofs().any(|oneof| !oneof.is_synthetic()) || message.parent_message().is_some() {
            return Err(
                format!("{name}: a secret in a oneof or a nested message needs a Debug by hand").into()
            );
        }
        writeln!(code, "impl ::core::fmt::Debug for {name} {{")?;
        writeln!(code, "    fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {{")?;
        writeln!(code, "        f.debug_struct({name:?})")?;
        for field in message.fields() {
            let field_name = field.name();
            let shown = match field.kind() {
                _ if is_secret(&field) => {
                    format!("crate::grpc::proto::Redacted::new(!self.{field_name}.is_empty())")
                }
                Kind::Enum(_) if !field.is_list() => format!("self.{field_name}()"),
                _ => format!("self.{field_name}"),
            };
            writeln!(code, "            .field({field_name:?}, &{shown})")?;
        }
        writeln!(code, "            .finish()\n    }}\n}}")?;
    }
    Ok(code)
}
