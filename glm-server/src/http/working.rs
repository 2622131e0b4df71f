//! A service whose workers run, for tests.

use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use glm_runtime::testing::FakeModel;
use tokio::task::JoinHandle;

use super::options::ServeOptions;
use super::server::work;
use super::state::Service;
use super::tests::{engine, service};
use crate::jobs::{Jobs, JobsOptions};

/// A service that runs tasks.
pub(super) struct Working {
    pub(super) service: Arc<Service>,
    pub(super) router: Router,
    pub(super) workers: JoinHandle<()>,
}

pub(super) fn working(fake: FakeModel, jobs: JobsOptions) -> Working {
    working_on(fake, Jobs::open(jobs).unwrap())
}

/// The same on a queue that is there.
pub(super) fn working_on(fake: FakeModel, jobs: Jobs) -> Working {
    let (service, router) = service(ServeOptions::default());
    service.keep_jobs(Arc::new(jobs));
    service.start(engine(fake));
    let workers = tokio::spawn(work(Arc::clone(&service)));
    Working {
        service,
        router,
        workers,
    }
}

/// A model that goes on with its first token when it is told to, or nobody can tell it any more; and hears of each time it is asked.
pub(super) fn held() -> (mpsc::Sender<()>, mpsc::Receiver<()>, FakeModel) {
    let ((go, told), (asks, asked)) = (mpsc::channel::<()>(), mpsc::channel());
    let told = Mutex::new(told);
    let fake = FakeModel::next_token(move |_, _| {
        let _ = asks.send(());
        let _ = told.lock().unwrap().recv();
        65
    });
    (go, asked, fake)
}

/// Waits until the model is asked; gives back who hears of the next times.
pub(super) async fn begun(asked: mpsc::Receiver<()>) -> mpsc::Receiver<()> {
    let wait = tokio::task::spawn_blocking(move || asked.recv().map(|()| asked));
    wait.await.unwrap().unwrap()
}
