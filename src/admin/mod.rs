//! The admin port: read-only, for monitoring. `GET /health` says whether the daemon does its work, `GET /metrics` how
//! much of it, for Prometheus.

mod metrics;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::figures::Figures;

/// Answers until dropped. A port that cannot be had is a warning: webhooks matter more than who looks at them.
pub(crate) async fn serve(listen: SocketAddr, figures: Arc<Figures>) {
    let listener = match TcpListener::bind(listen).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("the admin port {listen} cannot be had ({error}): no health and metrics (admin.listen)");
            return;
        }
    };
    // With port 0 the kernel chose another.
    let address = listener.local_addr().unwrap_or(listen);
    tracing::info!("health and metrics at http://{address}");
    let router = Router::new()
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .fallback(async || (StatusCode::NOT_FOUND, "there are /health and /metrics\n"))
        .with_state(figures);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::warn!("the admin port {address} has closed: {error}");
    }
}

/// 200 while streaming with a database that answers, else 503 and why on one line.
async fn health(State(figures): State<Arc<Figures>>) -> Response {
    match figures.trouble() {
        None => (StatusCode::OK, format!("{figures}\n")).into_response(),
        Some(trouble) => (StatusCode::SERVICE_UNAVAILABLE, format!("{trouble}\n")).into_response(),
    }
}

async fn metrics(State(figures): State<Arc<Figures>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&figures)).into_response()
}
