//! URL CERTIFICATE UPLOAD: a download and an upload. URL CERTIFICATE CONNECTIONS REQUESTS: a crowd, each member with
//! a connection of its own, on all threads that tokio makes.
use std::{env, fs};

type Done = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn client() -> reqwest::Result<reqwest::Client> {
    // The peer's certificate is its own authority, which webpki does not take.
    reqwest::Client::builder().use_rustls_tls().danger_accept_invalid_certs(true).build()
}

async fn load(url: &str, upload: &str) -> Done {
    let client = client()?;
    client.get(format!("{url}/download")).send().await?.error_for_status()?.bytes().await?;
    let body = fs::read(upload)?;
    client.put(format!("{url}/upload/body")).body(body).send().await?.error_for_status()?.bytes().await?;
    Ok(())
}

async fn converse(url: String, number: usize, requests: usize) -> Done {
    let client = client()?;
    for request in 0..requests {
        client.get(format!("{url}/tell?c={number}&r={request}")).send().await?.error_for_status()?.bytes().await?;
    }
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 4)]
async fn main() -> Done {
    let arguments: Vec<String> = env::args().collect();
    if arguments.len() < 5 {
        return load(&arguments[1], &arguments[3]).await;
    }
    let (connections, requests): (usize, usize) = (arguments[3].parse()?, arguments[4].parse()?);
    let crowd: Vec<_> = (0..connections)
        .map(|number| tokio::spawn(converse(arguments[1].clone(), number, requests)))
        .collect();
    for member in crowd {
        member.await??;
    }
    Ok(())
}
