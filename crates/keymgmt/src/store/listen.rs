//! Being told of changes as they are made.

use std::time::Duration;

use hsm_core::secrecy::ExposeSecret as _;
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::mpsc;

use super::Store;
use super::changes::CHANNEL;
use super::db::Kind;
use crate::key_id::ManagedId;

const RETRY: Duration = Duration::from_secs(1);
/// Whoever does not listen for so many is told the rest in one.
const WAITING: usize = 1_000;

/// What a store tells of changes as they are made.
pub struct Notices {
    from: mpsc::Receiver<Option<ManagedId>>,
    /// Never used; keeps the channel of a store that tells nothing.
    _to: Option<mpsc::Sender<Option<ManagedId>>>,
}

impl Notices {
    /// Waits until something was changed: the key, or `None`, when it may be anything (also after a connection was
    /// lost). With SQLite it never returns, and with a store that is closed neither.
    pub async fn next(&mut self) -> Option<ManagedId> {
        match self.from.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }
}

impl Store {
    /// Listens to what PostgreSQL tells of changes; connects again by itself.
    pub fn on_notice(&self) -> Notices {
        let (to, from) = mpsc::channel(WAITING);
        match &self.core.db.kind {
            Kind::Sqlite { .. } => Notices { from, _to: Some(to) },
            Kind::Postgres { url } => {
                let url = url.clone();
                self.spawn(async move {
                    while !to.is_closed() {
                        if let Err(why) = listen(url.expose_secret(), &to).await {
                            tracing::debug!("no notices of changes for now: {why}");
                        }
                        tokio::select! {
                            () = tokio::time::sleep(RETRY) => {}
                            () = to.closed() => return,
                        }
                    }
                });
                Notices { from, _to: None }
            }
        }
    }
}

async fn listen(url: &str, to: &mpsc::Sender<Option<ManagedId>>) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_secs(5))
        .connect(url)
        .await?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen(CHANNEL).await?;
    // What was told before can have been missed.
    let mut told = to.send(None).await;
    while told.is_ok() {
        let notice = tokio::select! {
            notice = listener.try_recv() => notice?,
            () = to.closed() => return Ok(()),
        };
        let Some(notice) = notice else { return Ok(()) };
        told = to.send(ManagedId::parse(notice.payload())).await;
    }
    Ok(())
}
