//! PORT CERTIFICATE KEY DOWNLOAD: a server of hyper on tokio-rustls.
use std::{env, fs, fs::File, io, io::BufReader, sync::Arc};

use hyper::{body, server::conn::Http, service::service_fn, Body, Request, Response};
use tokio::net::TcpListener;
use tokio_rustls::{
    rustls::{Certificate, PrivateKey, ServerConfig},
    TlsAcceptor,
};

async fn answer(request: Request<Body>, port: u16, download: Arc<Vec<u8>>) -> Result<Response<Body>, hyper::Error> {
    let content = match request.uri().path() {
        "/download" => download.to_vec(),
        _ => format!("{port} {}\n", request.uri()).into_bytes(),
    };
    body::to_bytes(request.into_body()).await?;
    Ok(Response::new(Body::from(content)))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().collect();
    let certificates = rustls_pemfile::certs(&mut BufReader::new(File::open(&arguments[2])?))?;
    let keys = rustls_pemfile::pkcs8_private_keys(&mut BufReader::new(File::open(&arguments[3])?))?;
    let configuration = ServerConfig::builder()
        .with_safe_defaults()
        .with_no_client_auth()
        .with_single_cert(certificates.into_iter().map(Certificate).collect(), PrivateKey(keys[0].clone()))
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(configuration));
    let download = Arc::new(fs::read(&arguments[4])?);
    let listener = TcpListener::bind(("127.0.0.1", arguments[1].parse().expect("a port"))).await?;
    loop {
        let (socket, client) = listener.accept().await?;
        let (acceptor, download) = (acceptor.clone(), download.clone());
        tokio::spawn(async move {
            if let Ok(stream) = acceptor.accept(socket).await {
                let service = service_fn(|request| answer(request, client.port(), download.clone()));
                let _ = Http::new().http1_only(true).serve_connection(stream, service).await;
            }
        });
    }
}
