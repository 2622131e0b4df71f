//! [`Server`]: the port, the connections, and their orderly end.

use std::error::Error;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use glm_runtime::EngineHandle;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinHandle, JoinSet};

use super::error::ServeError;
use super::options::{LiveOptions, ServeOptions};
use super::routes;
use super::runner::TaskRunner;
use super::state::Service;
use crate::jobs::{BATCHES, Driver, Jobs, MAX_DRIVEN};

/// Threads that move bytes; whatever takes longer is done on others. More would take cores from the model.
const THREADS: usize = 2;
/// Threads for what takes longer. It is computing, so more would only compete with the model.
const BLOCKING_THREADS: usize = 8;
/// How long connections get to close when all responses are out.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait when a connection cannot be accepted, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The service, on threads of its own.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    serving: JoinHandle<usize>,
    working: OnceLock<JoinHandle<()>>,
    service: Arc<Service>,
    address: SocketAddr,
}

/// Tells a [`Server`] to stop, from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<Service>);

impl Stopper {
    /// Takes no new requests from now on, and ends when those that are there have their answers, or
    /// [`ServeOptions::drain_timeout`] is over. Asking again changes nothing.
    pub fn drain(&self) {
        self.0.drain();
    }
}

/// Changes what a [`Server`] can change while it runs, from any thread.
#[derive(Debug, Clone)]
pub struct Reloader(Arc<Service>);

impl Reloader {
    /// Reads the files of keys again, and takes these options from now on. What is inside is not touched.
    ///
    /// # Errors
    /// [`ServeError::Keys`]; then nothing is changed.
    pub fn reload(&self, live: LiveOptions) -> Result<(), ServeError> {
        self.0.reload(live)
    }
}

impl Server {
    /// Opens a port, 0 being any that is free. The probes answer from now on, everything else with 503 until
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// [`ServeError`].
    pub fn bind(host: &str, port: u16, options: ServeOptions) -> Result<Self, ServeError> {
        let addresses = resolve(host, port)?;
        let is_open = |address: &&SocketAddr| !address.ip().is_loopback();
        let is_closed = options.insecure || options.auth.is_required();
        if let Some(open) = addresses.iter().find(is_open).filter(|_| !is_closed) {
            return Err(ServeError::Unprotected(*open));
        }
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("glm-http")
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?;
        let entered = runtime.enter();
        let listener = listen(&addresses).map_err(|source| ServeError::Bind {
            host: host.to_owned(),
            port,
            source,
        })?;
        drop(entered);
        let address = listener.local_addr().map_err(ServeError::Runtime)?;
        let service = Arc::new(Service::new(options));
        service.reload_keys()?;
        service.keep_jobs(Arc::new(Jobs::open(service.options.jobs.clone())?));
        let serving = runtime.spawn(serve(listener, Arc::clone(&service)));
        Ok(Self {
            runtime,
            serving,
            working: OnceLock::new(),
            service,
            address,
        })
    }

    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// To stop it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.service))
    }

    /// To change it from another thread.
    pub fn reloader(&self) -> Reloader {
        Reloader(Arc::clone(&self.service))
    }

    /// Whenever the process gets SIGHUP, reads options with `read` (on a thread that may wait) and takes them as
    /// [`Reloader::reload`] does. What goes wrong is logged, and changes nothing. Without SIGHUP on this system it does nothing.
    ///
    /// # Errors
    /// [`ServeError::Runtime`] if SIGHUP cannot be heard.
    pub fn reload_on_sighup(
        &self,
        read: impl Fn() -> Result<LiveOptions, Box<dyn Error + Send + Sync>> + Send + Sync + 'static,
    ) -> Result<(), ServeError> {
        #[cfg(unix)]
        {
            use tokio::signal::unix::{SignalKind, signal};
            let _entered = self.runtime.enter();
            let mut sighup = signal(SignalKind::hangup()).map_err(ServeError::Runtime)?;
            let (service, read) = (Arc::clone(&self.service), Arc::new(read));
            self.runtime.spawn(async move {
                while sighup.recv().await.is_some() {
                    let (service, read) = (Arc::clone(&service), Arc::clone(&read));
                    let reload = move || reload(&service, &*read);
                    // It has not panicked, and if it has, the next one may not.
                    let _ = tokio::task::spawn_blocking(reload).await;
                }
            });
        }
        Ok(())
    }

    /// Answers requests with this engine from now on.
    ///
    /// # Errors
    /// [`ServeError::Runtime`] if SIGTERM is to be heard and cannot.
    pub fn start(&self, engine: EngineHandle) -> Result<(), ServeError> {
        if self.service.options.stop_on_sigterm {
            self.stop_on_sigterm().map_err(ServeError::Runtime)?;
        }
        self.service.start(engine);
        let working = self.runtime.spawn(work(Arc::clone(&self.service)));
        // Who starts it twice has workers already.
        let _ = self.working.set(working);
        Ok(())
    }

    /// Waits until the service has stopped, and returns how many requests did not get their whole answer in time.
    pub fn join(self) -> usize {
        // It has not panicked: then it has not been aborted either.
        let cut_off = self.runtime.block_on(self.serving).unwrap_or_default();
        if let Some(working) = self.working.into_inner() {
            // Tasks that are not given back wait until their leases are over.
            let working = async { tokio::time::timeout(CLOSE_TIMEOUT, working).await };
            let _ = self.runtime.block_on(working);
        }
        // Whoever is still connected has had the time that was allowed.
        self.runtime.shutdown_background();
        cut_off
    }

    #[cfg(unix)]
    fn stop_on_sigterm(&self) -> io::Result<()> {
        use tokio::signal::unix::{SignalKind, signal};
        let _entered = self.runtime.enter();
        let mut sigterm = signal(SignalKind::terminate())?;
        let service = Arc::clone(&self.service);
        self.runtime.spawn(async move {
            sigterm.recv().await;
            service.drain();
        });
        Ok(())
    }

    #[cfg(not(unix))]
    fn stop_on_sigterm(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes what `read` says, or says why not.
fn reload(
    service: &Service,
    read: &(dyn Fn() -> Result<LiveOptions, Box<dyn Error + Send + Sync>> + Send + Sync),
) {
    let reloaded = read().and_then(|live| Ok(service.reload(live)?));
    match reloaded {
        Ok(()) => tracing::info!("settings, keys and certificates have been read again"),
        Err(error) => {
            let error = &*error as &dyn Error;
            tracing::error!(
                error,
                "nothing has been changed: settings could not be read again"
            );
        }
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

fn listen(addresses: &[SocketAddr]) -> io::Result<TcpListener> {
    let listener = StdListener::bind(addresses)?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Until the service has drained; then how many requests it did not wait for.
async fn serve(listener: TcpListener, service: Arc<Service>) -> usize {
    let router = routes::router(Arc::clone(&service));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(service.options.header_timeout);
    let graceful = GracefulShutdown::new();
    let mut drained = pin!(service.drained());
    let mut looking_around = pin!(service.look_around());
    let cut_off = loop {
        tokio::select! {
            () = &mut looking_around => {}
            cut_off = &mut drained => break cut_off,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => connect(socket, &builder, &router, &graceful),
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

/// Runs tasks until the service drains.
pub(super) async fn work(service: Arc<Service>) {
    let (Ok(engine), Ok(jobs)) = (service.engine(), service.jobs()) else {
        return;
    };
    let model = engine.model_info().name.clone();
    let workers = jobs.options().max_workers.unwrap_or(engine.max_num_seqs());
    let mut beside = JoinSet::new();
    beside.spawn(Arc::clone(jobs).keep(model.clone()));
    beside.spawn(Arc::clone(jobs).beat());
    let (tasks, batches) = (TaskRunner::new(&service), Driver::new(jobs));
    let tasks = Arc::clone(jobs).work(model, Arc::new(tasks), workers, service.drains());
    let driven = Arc::clone(jobs).work(BATCHES.to_owned(), Arc::new(batches), MAX_DRIVEN, service.drains());
    tokio::join!(tasks, driven);
}

/// Serves a connection in a task of its own.
fn connect(
    socket: TcpStream,
    builder: &Builder<TokioExecutor>,
    router: &Router,
    graceful: &GracefulShutdown,
) {
    // Tokens are small, and each should go out when it is there.
    let _ = socket.set_nodelay(true);
    let handler = TowerToHyperService::new(router.clone());
    let connection = builder.serve_connection(TokioIo::new(socket), handler);
    let connection = graceful.watch(connection.into_owned());
    tokio::spawn(async move {
        // A client that breaks off, or breaks the protocol, has been told what there is to tell.
        let _ = connection.await;
    });
}
