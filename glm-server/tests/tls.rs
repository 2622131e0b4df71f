//! TLS over a real socket, with certificates that are changed while it runs.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use glm_server::http::{LiveOptions, ServeError, ServeOptions, Server, TlsError, TlsOptions};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Writes a new certificate for localhost into the files of the options.
fn renew(options: &TlsOptions) -> CertificateDer<'static> {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&options.certificate, cert.pem()).unwrap();
    fs::write(&options.key, signing_key.serialize_pem()).unwrap();
    cert.der().clone()
}

fn files(dir: &Path) -> TlsOptions {
    TlsOptions {
        certificate: dir.join("cert.pem"),
        key: dir.join("key.pem"),
    }
}

fn bind(tls: &TlsOptions) -> Result<Server, ServeError> {
    let options = ServeOptions {
        tls: Some(tls.clone()),
        ..ServeOptions::default()
    };
    Server::bind("127.0.0.1", 0, options)
}

async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(name, socket)
        .await
}

/// The status line of the answer to a probe; the connection stays open.
async fn probe(socket: &mut TlsStream<TcpStream>) -> String {
    socket
        .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}") {
        answer.push(socket.read_u8().await.unwrap());
    }
    String::from_utf8(answer)
        .unwrap()
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

#[test]
fn a_certificate_is_changed_without_a_connection_lost() {
    let dir = TempDir::new().unwrap();
    let options = files(dir.path());
    let first = renew(&options);
    let server = bind(&options).unwrap();
    let (address, reloader) = (server.address(), server.reloader());
    let client = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    client.block_on(async {
        let mut old = connect(address, &first).await.unwrap();
        assert_eq!(probe(&mut old).await, "HTTP/1.1 200 OK");
        // Who does not speak TLS gets no answer.
        let mut plain = TcpStream::connect(address).await.unwrap();
        plain
            .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer).await;
        assert!(!answer.starts_with(b"HTTP/"), "{answer:?}");

        let second = renew(&options);
        reloader.reload(LiveOptions::default()).unwrap();
        let mut new = connect(address, &second).await.unwrap();
        assert_eq!(probe(&mut new).await, "HTTP/1.1 200 OK");
        assert!(connect(address, &first).await.is_err());
        assert_eq!(probe(&mut old).await, "HTTP/1.1 200 OK");

        // A pair that does not fit changes nothing.
        fs::write(
            &options.key,
            rcgen::KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        let refused = reloader.reload(LiveOptions::default()).unwrap_err();
        assert!(
            matches!(refused, ServeError::Tls(TlsError::Pair { .. })),
            "{refused}"
        );
        assert!(connect(address, &second).await.is_ok());
    });
    server.stopper().drain();
    assert_eq!(server.join(), 0);
}

#[test]
fn files_that_are_no_certificate_are_named() {
    let dir = TempDir::new().unwrap();
    let options = files(dir.path());
    renew(&options);
    let refused = |options: &TlsOptions| bind(options).err().unwrap().to_string();
    for (certificate, key, expected) in [
        (&options.key, &options.key, "cannot be used"),
        (&options.certificate, &options.certificate, "a private key"),
        (&dir.path().join("nothing"), &options.key, "nothing"),
    ] {
        let options = TlsOptions {
            certificate: certificate.clone(),
            key: key.clone(),
        };
        let refused = refused(&options);
        assert!(refused.contains(expected), "{refused}");
    }
}
