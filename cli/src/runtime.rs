//! The async runtimes, and the signals that end them.

use std::{io, process, time::Duration};

use anyhow::{Context as _, Result};
use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// How long work that blocks a thread may outlive a daemon.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs what an operator waits for, on this thread. Signals end the process at once.
pub(crate) fn call<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    started(Builder::new_current_thread().enable_all().build())?.block_on(work)
}

/// Runs a daemon on two threads. The first SIGTERM or SIGINT cancels the token, the second ends the process at once.
pub(crate) fn serve<F>(daemon: impl FnOnce(CancellationToken) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let runtime = started(Builder::new_multi_thread().worker_threads(2).enable_all().build())?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        tokio::spawn(heed(terminate, interrupt, shutdown.clone()));
        daemon(shutdown).await
    });
    runtime.shutdown_timeout(PATIENCE);
    result
}

fn started(runtime: io::Result<Runtime>) -> Result<Runtime> {
    runtime.context("cannot start the runtime")
}

async fn heed(mut terminate: Signal, mut interrupt: Signal, shutdown: CancellationToken) {
    loop {
        let kind = tokio::select! {
            _ = terminate.recv() => SignalKind::terminate(),
            _ = interrupt.recv() => SignalKind::interrupt(),
        };
        if shutdown.is_cancelled() {
            process::exit(128 + kind.as_raw_value());
        }
        info!(signal = kind.as_raw_value(), "shutting down");
        shutdown.cancel();
    }
}
