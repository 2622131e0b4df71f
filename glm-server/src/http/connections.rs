//! The port and its connections: accepted, wrapped in TLS, served, and closed in order.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;

use super::error::ServeError;
use super::options::ServeOptions;
use super::patience::{Opened, Opening, Patient, WRITE_PATIENCE};
use super::routes;
use super::state::Service;
use super::systemd;

/// How long connections get to close when all responses are out.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long clients get to send a request over a connection that was accepted just before the port was left to others.
const HAND_OVER_TIME: Duration = Duration::from_secs(1);
/// How long to wait when a connection cannot be accepted, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that every client of HTTP/2 begins with (RFC 9113, 3.4).
#[cfg(feature = "grpc")]
const PREFACE_LEN: usize = 24;

/// An open port.
#[derive(Debug)]
pub(super) struct Port {
    listener: TcpListener,
    /// Somebody else holds it too, and may serve it when this process does not.
    pub(super) is_shared: bool,
}

impl Port {
    /// Takes the port that this process was started with, or opens this one. To be called within the runtime that serves it.
    ///
    /// # Errors
    /// [`ServeError`]; among them, that others could use it unasked.
    pub(super) fn open(host: &str, port: u16, options: &ServeOptions) -> Result<Self, ServeError> {
        let inherited = match options.inherit_port {
            true => systemd::listener().map_err(ServeError::Inherited)?,
            false => None,
        };
        if let Some(listener) = inherited {
            let address = listener.local_addr().map_err(ServeError::Inherited)?;
            check_protected([address].iter(), options)?;
            let listener = with_tokio(listener).map_err(ServeError::Inherited)?;
            return Ok(Self {
                listener,
                is_shared: true,
            });
        }
        let addresses = resolve(host, port)?;
        check_protected(addresses.iter(), options)?;
        let listener = StdListener::bind(&*addresses).and_then(with_tokio);
        let listener = listener.map_err(|source| ServeError::Bind {
            host: host.to_owned(),
            port,
            source,
        })?;
        Ok(Self {
            listener,
            is_shared: false,
        })
    }

    /// Opens another port of the same service.
    ///
    /// # Errors
    /// As for [`Self::open`].
    #[cfg(feature = "grpc")]
    pub(super) fn open_beside(
        host: &str,
        port: u16,
        options: &ServeOptions,
    ) -> Result<Self, ServeError> {
        let options = ServeOptions {
            inherit_port: false,
            ..options.clone()
        };
        Self::open(host, port, &options)
    }

    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// An address that others can reach needs keys, or somebody who says that it needs none.
fn check_protected<'a>(
    mut addresses: impl Iterator<Item = &'a SocketAddr>,
    options: &ServeOptions,
) -> Result<(), ServeError> {
    let is_protected = options.insecure || options.auth.is_required();
    let open = addresses.find(|address| !address.ip().is_loopback());
    match open.filter(|_| !is_protected) {
        Some(open) => Err(ServeError::Unprotected(*open)),
        None => Ok(()),
    }
}

fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ServeError> {
    let found = (host, port).to_socket_addrs().and_then(|addresses| {
        let addresses: Vec<_> = addresses.collect();
        match addresses.is_empty() {
            true => Err(io::ErrorKind::NotFound.into()),
            false => Ok(addresses),
        }
    });
    found.map_err(|source| ServeError::Host {
        host: host.to_owned(),
        source,
    })
}

fn with_tokio(listener: StdListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// What is spoken over the connections of a port, and who answers.
#[derive(Clone)]
pub(super) struct Speech {
    builder: Builder<TokioExecutor>,
    router: Router,
    /// How long a client may read nothing of what is there for it.
    patience: Duration,
    opening: Opening,
    /// Its name among protocols that TLS may carry, if it is not that of the other port.
    #[cfg(feature = "grpc")]
    alpn: Option<&'static [u8]>,
}

impl Speech {
    /// HTTP/1.1, and all routes.
    pub(super) fn http(service: &Arc<Service>) -> Self {
        let mut builder = Builder::new(TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(service.options.header_timeout);
        Self {
            builder,
            router: routes::router(Arc::clone(service)),
            patience: WRITE_PATIENCE,
            // For the rest of a head hyper looks at the time.
            opening: Opening {
                bytes: 1,
                time: service.options.header_timeout,
            },
            #[cfg(feature = "grpc")]
            alpn: None,
        }
    }

    /// HTTP/2. A connection whose other end has gone without a word is closed, and so is one over which nobody ever said one: pings begin
    /// after the preface.
    #[cfg(feature = "grpc")]
    pub(super) fn grpc(service: &Service, router: Router) -> Self {
        let mut builder = Builder::new(TokioExecutor::new()).http2_only();
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(service.options.header_timeout)
            .keep_alive_timeout(service.options.header_timeout);
        Self {
            builder,
            router,
            patience: WRITE_PATIENCE,
            opening: Opening {
                bytes: PREFACE_LEN,
                time: service.options.header_timeout,
            },
            alpn: Some(b"h2"),
        }
    }

    /// What the certificates are used with.
    fn tls(&self, config: Arc<ServerConfig>) -> Arc<ServerConfig> {
        #[cfg(feature = "grpc")]
        if let Some(name) = self.alpn {
            let mut config = ServerConfig::clone(&config);
            config.alpn_protocols = vec![name.to_vec()];
            return Arc::new(config);
        }
        config
    }
}

/// Until the service has drained; then how many requests it did not wait for.
pub(super) async fn serve(port: Port, speech: Speech, service: Arc<Service>) -> usize {
    let Port {
        listener,
        is_shared,
    } = port;
    let graceful = GracefulShutdown::new();
    let mut drains = pin!(service.drains());
    let mut drained = pin!(drained(&service, is_shared));
    let mut listener = Some(listener);
    if is_shared && service.options.takes_over {
        // Until then whoever else has the port answers.
        service.begun().await;
    }
    let cut_off = loop {
        tokio::select! {
            cut_off = &mut drained => break cut_off,
            // From here on others accept what comes to a shared port. One's own stays open, to say that the service stops.
            () = &mut drains, if is_shared && listener.is_some() => listener = None,
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(socket) => {
                    let conversation = converse(socket, Arc::clone(&service), speech.clone(), graceful.watcher());
                    tokio::spawn(conversation);
                }
                // Clients that are gone before they are accepted are their own affair; the rest passes, or the system is in need.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
        }
    };
    drop(listener);
    // What is cut off does not close by itself.
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, graceful.shutdown()).await;
    cut_off
}

/// Until every request that is there when the service stops has its answer, or has had its time; then how many had not.
async fn drained(service: &Service, is_shared: bool) -> usize {
    let cut_off = service.drained().await;
    if !is_shared {
        return cut_off;
    }
    tokio::time::sleep(HAND_OVER_TIME).await;
    service.drained().await
}

/// The next connection; never, without a listener.
async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => listener.accept().await.map(|(socket, _)| socket),
        None => std::future::pending().await,
    }
}

/// Serves a connection to its end.
async fn converse(socket: TcpStream, service: Arc<Service>, speech: Speech, watcher: Watcher) {
    // Tokens are small, and each should go out when it is there.
    let _ = socket.set_nodelay(true);
    let socket = Patient::new(socket, speech.patience);
    let Some(tls) = service.tls() else {
        return answer(socket, speech, watcher).await;
    };
    let time = service.options.header_timeout;
    // Who does not get through a handshake has nothing to be told.
    if let Ok(socket) = encrypt(socket, speech.tls(tls), time).await {
        answer(socket, speech, watcher).await;
    }
}

/// TLS over a socket, if there is a handshake in time. Its patience is with what has not gone out, wherever it waits.
async fn encrypt<S: AsyncRead + AsyncWrite + Unpin>(
    socket: Patient<S>,
    config: Arc<ServerConfig>,
    time: Duration,
) -> io::Result<TlsStream<Patient<S>>> {
    tokio::time::timeout(time, TlsAcceptor::from(config).accept(socket)).await?
}

async fn answer(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    speech: Speech,
    watcher: Watcher,
) {
    let socket = Opened::new(socket, speech.opening);
    let handler = TowerToHyperService::new(speech.router);
    let connection = speech
        .builder
        .serve_connection(TokioIo::new(socket), handler);
    // A client that breaks off, breaks the protocol or does not read has been told what there is to tell.
    let _ = watcher.watch(connection.into_owned()).await;
}

#[cfg(test)]
mod tests {
    use glm_runtime::testing::FakeModel;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::net::TcpSocket;
    use tokio_rustls::TlsConnector;
    use tokio_rustls::rustls::crypto::ring::default_provider;
    use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;
    use crate::http::tests::{engine, polite, service};

    async fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    async fn answer(mut socket: TcpStream) -> String {
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn while_the_model_is_loaded_an_inherited_socket_answers_probes_and_has_the_rest_wait() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (service, _) = service(ServeOptions::default());
        service.share_port();
        let port = Port {
            listener,
            is_shared: true,
        };
        let speech = Speech::http(&service);
        let serving = tokio::spawn(serve(port, speech, Arc::clone(&service)));
        let waiting = ask(
            address,
            "POST",
            "/v1/completions",
            r#"{"prompt": "Hi", "max_tokens": 2}"#,
        )
        .await;
        for (path, status, says) in [
            ("/livez", "200", ""),
            ("/healthz", "200", "\"phase\":\"starting\""),
            ("/readyz", "503", ""),
        ] {
            let answer = answer(ask(address, "GET", path, "").await).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{answer}"
            );
            assert!(answer.contains(says), "{answer}");
        }
        service.start(engine(polite()));
        let answered = answer(waiting).await;
        assert!(answered.starts_with("HTTP/1.1 200"), "{answered}");
        service.drain();
        assert_eq!(serving.await.unwrap(), 0);
    }

    /// A listener whose connections keep little for slow clients.
    fn small_listener() -> TcpListener {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(4096).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        socket.listen(8).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_gives_its_places_away() {
        let (service, _) = service(ServeOptions::default());
        service.start(engine(FakeModel::next_token(|_, _| 65)));
        let listener = small_listener();
        let address = listener.local_addr().unwrap();
        let port = Port {
            listener,
            is_shared: false,
        };
        let speech = Speech {
            patience: Duration::from_millis(300),
            ..Speech::http(&service)
        };
        let serving = tokio::spawn(serve(port, speech, Arc::clone(&service)));
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut deaf = socket.connect(address).await.unwrap();
        // It takes all places, and says far more than fits between the two.
        let body =
            r#"{"prompt": "Hi", "n": 128, "max_tokens": 60, "ignore_eos": true, "stream": true}"#;
        let request = format!(
            "POST /v1/completions HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        deaf.write_all(request.as_bytes()).await.unwrap();
        deaf.read_exact(&mut [0; 12]).await.unwrap();
        let next = r#"{"prompt": "Hi", "max_tokens": 2}"#;
        let next = answer(ask(address, "POST", "/v1/completions", next).await);
        let next = tokio::time::timeout(Duration::from_secs(120), next).await;
        let next = next.expect("the places are never free again");
        assert!(next.starts_with("HTTP/1.1 200"), "{next}");
        service.drain();
        assert_eq!(serving.await.unwrap(), 0);
        drop(deaf);
    }

    /// Both ends of what TLS needs for a certificate that only they know.
    fn tls() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(own.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key);
        let mut trusted = RootCertStore::empty();
        trusted.add(own.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        (Arc::new(server.unwrap()), Arc::new(client))
    }

    #[tokio::test(start_paused = true)]
    async fn what_tls_has_taken_is_not_read_yet() {
        const SECOND: Duration = Duration::from_secs(1);
        const BETWEEN: usize = 16 << 10;
        let (near, far) = duplex(BETWEEN);
        let (server, client) = tls();
        let near = encrypt(Patient::new(near, 10 * SECOND), server, SECOND);
        let name = ServerName::try_from("localhost").unwrap();
        let far = TlsConnector::from(client).connect(name, far);
        let (near, deaf) = tokio::join!(near, far);
        let (mut near, deaf) = (near.unwrap(), deaf.unwrap());
        // A little each second, as an answer comes; rustls takes 64 KiB that the other end does not.
        let mut written = 0;
        let error = loop {
            let write = async {
                near.write_all(&[7; 1 << 10]).await?;
                near.flush().await
            };
            match tokio::time::timeout(SECOND, write).await {
                Ok(Ok(())) => tokio::time::sleep(SECOND).await,
                Ok(Err(error)) => break error,
                Err(_) => {}
            }
            written += 1 << 10;
            assert!(written < 2 * BETWEEN, "it is written to for ever");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(deaf);
    }

    #[cfg(feature = "grpc")]
    #[tokio::test]
    async fn an_http2_connection_that_stays_silent_is_closed() {
        let (service, _) = service(ServeOptions {
            header_timeout: Duration::from_millis(100),
            ..ServeOptions::default()
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = Port {
            listener,
            is_shared: false,
        };
        let speech = Speech::grpc(&service, Router::new());
        let serving = tokio::spawn(serve(port, speech, Arc::clone(&service)));
        let mut silent = TcpStream::connect(address).await.unwrap();
        // The beginning of a preface is none.
        silent.write_all(b"PRI * HTTP").await.unwrap();
        let mut said = Vec::new();
        let closed = silent.read_to_end(&mut said);
        let closed = tokio::time::timeout(Duration::from_secs(120), closed).await;
        // With what it has not read in its buffer, a system may reset the connection instead of closing it.
        let _ = closed.expect("the connection stays open");
        service.drain();
        assert_eq!(serving.await.unwrap(), 0);
    }
}
