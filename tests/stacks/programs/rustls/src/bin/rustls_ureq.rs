//! URL CERTIFICATE UPLOAD: a download and an upload, with a connection that blocks.
use std::{env, fs, io, sync::Arc, time::SystemTime};

use rustls::{
    client::{ServerCertVerified, ServerCertVerifier},
    Certificate, ClientConfig, Error, ServerName,
};

/// The peer's certificate is its own authority, which webpki does not take.
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &Certificate,
        _: &[Certificate],
        _: &ServerName,
        _: &mut dyn Iterator<Item = &[u8]>,
        _: &[u8],
        _: SystemTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().collect();
    let configuration = ClientConfig::builder()
        .with_safe_defaults()
        .with_custom_certificate_verifier(Arc::new(Anyone))
        .with_no_client_auth();
    let agent = ureq::builder().tls_config(Arc::new(configuration)).build();
    let answer = agent.get(&format!("{}/download", arguments[1])).call()?;
    io::copy(&mut answer.into_reader(), &mut io::sink())?;
    agent.put(&format!("{}/upload/body", arguments[1])).send_bytes(&fs::read(&arguments[3])?)?;
    Ok(())
}
