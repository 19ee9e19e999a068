//! [`Tokens`]: the token that ids without a name speak of, and the further ones.

use std::collections::BTreeMap;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use hsm_core::key::TokenName;
use hsm_core::{Error, Hsm, HsmKeyId, Stopped};

use crate::service::Result;

/// The tokens that keys lie on: a default one, and further ones, each with its name. Cheap to clone.
#[derive(Clone)]
pub struct Tokens {
    default: Hsm,
    further: BTreeMap<TokenName, Further>,
}

/// A token beside the default one.
#[derive(Clone)]
pub struct Further {
    /// The token, opened with the name that its keys' ids carry.
    pub hsm: Hsm,
    /// The number of its module. Tokens of one module have one number; the default token's is 0.
    pub module: usize,
}

impl Tokens {
    /// One token, which ids do not name.
    pub fn one(default: Hsm) -> Tokens {
        Tokens::new(default, BTreeMap::new())
    }

    /// A default token and further ones, each opened with the name that it has here.
    pub fn new(default: Hsm, further: BTreeMap<TokenName, Further>) -> Tokens {
        Tokens { default, further }
    }

    /// The token that the key lies on.
    ///
    /// # Errors
    /// `KeyNotFound` where the id names no token of these.
    pub fn of(&self, id: &HsmKeyId) -> Result<&Hsm> {
        let found = id.token().map_or(Some(&self.default), |name| self.further(name));
        Ok(found.ok_or_else(|| Error::KeyNotFound(id.clone()))?)
    }

    /// The token of this name; without a name the default one.
    ///
    /// # Errors
    /// `InvalidRequest` for `token` where no token has the name.
    pub fn named(&self, name: Option<&str>) -> Result<&Hsm> {
        let Some(name) = name else {
            return Ok(&self.default);
        };
        let found = TokenName::parse(name).and_then(|name| self.further(&name));
        Ok(found.ok_or_else(|| Error::invalid("token", "must be the name of a configured token, or left out"))?)
    }

    /// Every token with its name, in the order of their keys' ids: the default one, then the others by their names.
    pub fn iter(&self) -> impl Iterator<Item = (Option<&TokenName>, &Hsm)> {
        let further = self.further.iter().map(|(name, further)| (Some(name), &further.hsm));
        std::iter::once((None, &self.default)).chain(further)
    }

    /// The modules, each with its tokens: the default token's module first.
    pub fn modules(&self) -> impl Iterator<Item = Vec<&Hsm>> {
        let mut modules: BTreeMap<usize, Vec<&Hsm>> = BTreeMap::new();
        modules.entry(0).or_default().push(&self.default);
        for Further { hsm, module } in self.further.values() {
            modules.entry(*module).or_default().push(hsm);
        }
        modules.into_values()
    }

    /// Has batches end where they are, on all.
    pub fn wind_down(&self) {
        self.iter().for_each(|(_, hsm)| hsm.wind_down());
    }

    /// Stops all, side by side, so that one that hangs takes no time from the others.
    pub fn stop(&self, timeout: Duration) -> Stopped {
        thread::scope(|scope| {
            let stopping: Vec<_> = self
                .iter()
                .map(|(_, hsm)| scope.spawn(move || hsm.stop(timeout)))
                .collect();
            // Each is waited for, whatever became of the one before.
            let stopped: Vec<_> = stopping.into_iter().map(ScopedJoinHandle::join).collect();
            let clean = stopped.iter().all(|stopped| matches!(stopped, Ok(Stopped::Clean)));
            if clean { Stopped::Clean } else { Stopped::Hanging }
        })
    }

    fn further(&self, name: &TokenName) -> Option<&Hsm> {
        self.further.get(name).map(|further| &further.hsm)
    }
}
