//! A server's life: listen, load, answer, drain, stop.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::config::Config;
use crate::http::{AppState, Keys, check_listen, router, while_loading};
use crate::telemetry;

use super::signal::Signals;
use super::welcome::greet;

/// What is left for the last bytes of finished answers to get out.
const LAST_BYTES: Duration = Duration::from_secs(5);
/// How often histograms are folded when nobody asks for metrics.
const UPKEEP: Duration = Duration::from_secs(30);

/// Runs a server until a signal ends it.
pub fn serve(config: Config) -> Result<()> {
    telemetry::start_logging(&config.log)?;
    let keys = Keys::load(&config.auth)?;
    let address = resolve(&config.server.listen)?;
    check_listen(address.ip(), &config.auth, &keys).map_err(|message| anyhow!(message))?;
    // The arithmetic has threads of its own; these only move bytes.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run(config, keys, address));
    // A load that a signal interrupted is not waited for.
    runtime.shutdown_background();
    result
}

fn resolve(listen: &str) -> Result<SocketAddr> {
    let addresses = listen.to_socket_addrs().with_context(|| format!("server.listen {listen:?} cannot be resolved"))?;
    addresses.into_iter().next().ok_or_else(|| anyhow!("server.listen {listen:?} has no address"))
}

async fn run(config: Config, keys: Keys, address: SocketAddr) -> Result<()> {
    // One listener for the whole life: a signal between two waits is heard at the next.
    let mut signals = Signals::listen().context("signals cannot be heard")?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another address with --listen"))?;
    let address = listener.local_addr()?;
    let drain_timeout = config.server.drain_timeout.0;

    // Loading takes a while: /health and /ready answer meanwhile.
    let loaded: Arc<OnceLock<Router>> = Arc::default();
    let (stop, stopped) = oneshot::channel::<()>();
    let listener = listener.tap_io(|stream| {
        // Tokens are small packets that must not wait for one another.
        let _ = stream.set_nodelay(true);
    });
    let server = axum::serve(listener, while_loading(loaded.clone())).with_graceful_shutdown(async {
        let _ = stopped.await;
    });
    let server = tokio::spawn(async move { server.await });

    let loading = tokio::task::spawn_blocking(move || super::load(config, keys));
    let state = tokio::select! {
        state = loading => state.context("loading panicked")??,
        () = signals.next() => return Ok(()),
    };
    let _ = loaded.set(router(state.clone()));
    let greeted = state.clone();
    tokio::task::spawn_blocking(move || greet(&greeted, address)).await?;
    // Pinned adapters become resident, and lists learn what hand-placed ones are, while requests are served.
    let warmed = state.clone();
    tokio::task::spawn_blocking(move || warmed.registry.warm());
    let upkeep = state.metrics.clone();
    let upkeep = tokio::spawn(async move {
        loop {
            tokio::time::sleep(UPKEEP).await;
            upkeep.run_upkeep();
        }
    });

    signals.next().await;
    drain(&state, drain_timeout, &mut signals).await;
    let _ = stop.send(());
    let _ = tokio::time::timeout(LAST_BYTES, server).await;
    upkeep.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Refuses new work and waits for what runs; a second signal or the timeout ends the wait.
async fn drain(state: &AppState, timeout: Duration, signals: &mut Signals) {
    state.start_draining();
    tracing::info!(?timeout, "draining: running requests may end, new ones are refused; a second signal stops at once");
    let engines = async {
        for base in state.bases.iter() {
            base.engine.drain().await;
        }
    };
    tokio::select! {
        () = engines => {}
        () = tokio::time::sleep(timeout) => tracing::warn!("server.drain_timeout passed with requests still running"),
        () = signals.next() => tracing::warn!("stopped with requests still running"),
    }
}
