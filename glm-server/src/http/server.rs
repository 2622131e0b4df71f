//! [`Server`]: the port, the connections, and their orderly end.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use glm_runtime::EngineHandle;
use tokio::runtime::{self, Runtime};
use tokio::task::{JoinHandle, JoinSet};

use super::connections::{self, CLOSE_TIMEOUT, Port, Speech};
use super::error::ServeError;
use super::options::{LiveOptions, ServeOptions};
use super::runner::TaskRunner;
use super::state::Service;
use super::systemd;
use crate::jobs::{BATCHES, Driver, Jobs, MAX_DRIVEN};

/// Threads that move bytes; whatever takes longer is done on others. More would take cores from the model.
const THREADS: usize = 2;
/// Threads for what takes longer. It is computing, so more would only compete with the model.
const BLOCKING_THREADS: usize = 8;

/// The service, on threads of its own.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    serving: JoinHandle<usize>,
    #[cfg(feature = "grpc")]
    grpc: Option<super::rpc::RpcPort>,
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
    /// Reads the files of keys and certificates again, and takes these options from now on. What is inside is not touched.
    ///
    /// # Errors
    /// [`ServeError::Keys`], [`ServeError::Jwt`] or [`ServeError::Tls`]; then nothing is changed.
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
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("glm-http")
            .enable_all()
            .build()
            .map_err(ServeError::Runtime)?;
        let entered = runtime.enter();
        let port = Port::open(host, port, &options)?;
        #[cfg(feature = "grpc")]
        let beside = options.grpc_port;
        #[cfg(feature = "grpc")]
        let beside = beside
            .map(|port| Port::open_beside(host, port, &options))
            .transpose()?;
        drop(entered);
        let address = port.address().map_err(ServeError::Runtime)?;
        let service = Arc::new(Service::new(options));
        service.reload_files()?;
        if port.is_shared {
            service.share_port();
        }
        service.keep_jobs(Arc::new(Jobs::open(service.options.jobs.clone())?));
        let around = Arc::clone(&service);
        runtime.spawn(async move { around.look_around().await });
        #[cfg(feature = "grpc")]
        let grpc = beside
            .map(|port| super::rpc::RpcPort::serve(&runtime, port, &service))
            .transpose()?;
        let speech = Speech::http(&service);
        let serving = runtime.spawn(connections::serve(port, speech, Arc::clone(&service)));
        Ok(Self {
            runtime,
            serving,
            #[cfg(feature = "grpc")]
            grpc,
            working: OnceLock::new(),
            service,
            address,
        })
    }

    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of the gRPC port, if there is one.
    #[cfg(feature = "grpc")]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.grpc.as_ref().map(|port| port.address)
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
        systemd::ready();
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
        #[cfg(feature = "grpc")]
        if let Some(port) = self.grpc {
            // It has drained when the other has.
            let _ = self.runtime.block_on(port.serving);
        }
        if let Ok(jobs) = self.service.jobs() {
            jobs.close();
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
    systemd::reloading();
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
    systemd::ready();
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
    let driven = Arc::clone(jobs).work(
        BATCHES.to_owned(),
        Arc::new(batches),
        MAX_DRIVEN,
        service.drains(),
    );
    tokio::join!(tasks, driven);
}
