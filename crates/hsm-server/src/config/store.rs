//! Where managed keys are kept.

use std::time::Duration;

use keymgmt::store::Place;
use secrecy::SecretString;

use super::rule::{Row, Rule, database, meaning, number, settings};
use super::source::Reader;
use super::{Config, MAX_MS};

/// The SQLite file in the data folder.
const FILE: &str = "store.sqlite";

settings! {
    /// Where managed keys are kept.
    Store in "store." {
        /// URL of a PostgreSQL database, `postgres://user:password@host/database`, for several servers that share
        /// their keys. Without it the store is the SQLite file `store.sqlite` in the data folder.
        url: Option<SecretString> = database();
        /// How long managed keys that are in memory go on serving encrypt, decrypt, sign and verify while the store
        /// is away, in milliseconds. That long can a change which another server made stay unseen here.
        stale_ms: u64 = number(0..=MAX_MS, 300_000);
    }
}

impl Config {
    /// Where the store is.
    pub fn store_place(&self) -> Place {
        match &self.store.url {
            Some(url) => Place::Postgres(url.clone()),
            None => Place::Sqlite(self.data_dir.join(FILE)),
        }
    }

    /// How the store is named to people: never with the URL, which may hold a password.
    pub fn store_name(&self) -> String {
        match self.store_place() {
            Place::Sqlite(path) => format!("SQLite, {}", path.display()),
            Place::Postgres(_) => "PostgreSQL, as HSM_STORE__URL says".to_owned(),
        }
    }

    /// How long cached managed keys serve while the store is away.
    pub fn stale(&self) -> Duration {
        Duration::from_millis(self.store.stale_ms)
    }
}
