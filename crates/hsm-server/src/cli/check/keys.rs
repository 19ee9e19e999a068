//! What `check` looks at for managed keys: the store, and the gateway's own keys on the tokens.

use std::io::{self, Write};

use actix_web::rt::System;
use hsm_core::{Hsm, HsmKeyId, KeyQuery};
use keymgmt::managed::record::{GatewayKeys, KeyRecord};
use keymgmt::managed::{OWN_LABELS, is_sealed};
use keymgmt::store::{Query, Store, StoreError};

use super::Steps;
use crate::cli::store::migration;
use crate::config::Config;
use crate::serve::open_store;

/// Records whose seals are looked at.
const SAMPLE: usize = 100;
/// Keys of a token that are asked for at once.
const PAGE: usize = 1_000;
const STORE: &str = "store";
const KEK: &str = "key-encryption key";

/// What the store has, and what was found of it on the tokens.
#[derive(Default)]
pub(super) struct Kept {
    /// Versions of the gateway's own keys, in order.
    versions: Vec<GatewayKeys>,
    /// Some managed keys.
    sample: Vec<KeyRecord>,
    /// Tokens that hold the key-encryption key in use.
    holders: usize,
    /// Whether the token was asked that the seals are made with.
    asked: bool,
}

/// The steps of the store; `None` if it is not well.
pub(super) fn check_store<W: Write>(steps: &mut Steps<'_, W>, config: &Config) -> io::Result<Option<Kept>> {
    let name = config.store_name();
    let schema = match migration(config) {
        Ok(schema) => schema,
        Err(fault) => return steps.failed(STORE, &fault.to_string()).map(|_| None),
    };
    let (current, latest) = (schema.current, schema.latest);
    if current == 0 {
        steps.ok(STORE, &format!("{name}: not made yet, `serve` makes it"))?;
        return Ok(Some(Kept::default()));
    }
    if current < latest {
        let text = format!(
            "{name}: schema {current}; `serve` or `hsm-server migrate` makes it {latest}, make a backup before that. What is in it was not looked at"
        );
        steps.warning(STORE, &text)?;
        return Ok(Some(Kept::default()));
    }
    let looked = open_store(config).map_err(|fault| fault.to_string()).and_then(|store| {
        let kept = System::new().block_on(look(&store));
        store.close();
        kept.map_err(|error| error.to_string())
    });
    match looked {
        Ok(kept) => {
            steps.ok(STORE, &format!("{name}: schema {current}, written and read"))?;
            Ok(Some(kept))
        }
        Err(text) => steps.failed(STORE, &text).map(|_| None),
    }
}

async fn look(store: &Store) -> Result<Kept, StoreError> {
    store.heartbeat().await?;
    let query = Query {
        limit: SAMPLE,
        ..Query::default()
    };
    Ok(Kept {
        versions: store.gateway_keys().await?,
        sample: store.page(query).await?.keys,
        ..Kept::default()
    })
}

/// The steps of one token, which was opened with the gateway's own keys in sight.
pub(super) fn check_token<W: Write>(steps: &mut Steps<'_, W>, hsm: &Hsm, kept: &mut Kept) -> io::Result<bool> {
    let own = match own_keys(hsm) {
        Ok(own) => own,
        Err(error) => return steps.failed(KEK, &format!("the token's keys can't be listed: {error}")),
    };
    let on_token = |id: &HsmKeyId| own.iter().any(|found| found.as_bytes() == id.as_bytes());
    let named = |found: &&HsmKeyId| {
        let is = |id: &HsmKeyId| id.as_bytes() == found.as_bytes();
        kept.versions.iter().any(|keys| is(&keys.kek) || is(&keys.mac))
    };
    let strangers: Vec<_> = own.iter().filter(|id| !named(id)).map(ToString::to_string).collect();
    if !strangers.is_empty() {
        let text = format!(
            "the token has gateway keys that the store does not name: {}. They are another gateway's, or belong to a store that was lost: do not delete them before you know, a backup of that store may need them",
            strangers.join(", ")
        );
        steps.warning(KEK, &text)?;
    }
    let Some(last) = kept.versions.last() else {
        return Ok(true);
    };
    let has = on_token(&last.kek);
    if has {
        kept.holders += 1;
    }
    if steps.token.is_some() {
        let text = if has {
            format!("version {} is on this token too", last.version)
        } else {
            "not on this token: wrapped keys can't be made or used here; `hsm-server kek rotate --to` brings a new one"
                .to_owned()
        };
        return steps.ok(KEK, &text);
    }
    kept.asked = true;
    let gone: Vec<_> = kept
        .versions
        .iter()
        .filter(|keys| !on_token(&keys.kek) || !on_token(&keys.mac))
        .map(|keys| keys.version.to_string())
        .collect();
    if !gone.is_empty() {
        let text = format!(
            "the token lacks the gateway's own keys of version {}, which the store names: it is another token than the store belongs to, or they were lost; managed keys under them can't be used before the token is restored from its backup (docs/OPERATIONS.md)",
            gone.join(", ")
        );
        return steps.failed(KEK, &text);
    }
    check_seals(steps, hsm, kept)
}

fn check_seals<W: Write>(steps: &mut Steps<'_, W>, hsm: &Hsm, kept: &Kept) -> io::Result<bool> {
    let sealed = System::new().block_on(async {
        let mut broken = Vec::new();
        for record in &kept.sample {
            let keys = kept.versions.iter().find(|keys| keys.version == record.seal.version);
            let holds = match keys {
                Some(keys) => is_sealed(hsm, keys, record).await?,
                None => false,
            };
            if !holds {
                broken.push(record.name.to_string());
            }
        }
        Ok::<_, keymgmt::Error>(broken)
    });
    let version = kept.versions.last().map_or(0, |keys| keys.version);
    match sealed {
        Err(error) => steps.failed(KEK, &format!("the seals of records can't be checked: {error}")),
        Ok(broken) if !broken.is_empty() => {
            let text = format!(
                "records were not written by a gateway, or were changed since: {}; they are not used: restore the store from a backup, and find out who can write to it",
                broken.join(", ")
            );
            steps.failed(KEK, &text)
        }
        Ok(_) => {
            let text = format!(
                "version {version} is on the token; the seals of {} managed keys hold",
                kept.sample.len()
            );
            steps.ok(KEK, &text)
        }
    }
}

/// What is to be said when all tokens were asked.
pub(super) fn conclude<W: Write>(steps: &mut Steps<'_, W>, kept: &Kept) -> io::Result<bool> {
    let Kept {
        versions,
        sample,
        holders,
        asked,
    } = kept;
    if versions.is_empty() || !asked {
        return Ok(true);
    }
    if !sample.is_empty() && *holders == 1 {
        steps.warning(
            KEK,
            "is on one token only, and no other is known to have it: when that token is lost, every `wrapped` key is lost, and no managed key's record can be proved genuine. Bring it to a second token (`hsm-server kek rotate --to <token>`), or see to it that your HSM's own backup has it: docs/OPERATIONS.md",
        )?;
    }
    Ok(true)
}

/// The ids of the gateway's own keys on a token.
fn own_keys(hsm: &Hsm) -> hsm_core::Result<Vec<HsmKeyId>> {
    let mut own = Vec::new();
    let mut query = KeyQuery {
        limit: PAGE,
        ..KeyQuery::default()
    };
    loop {
        let page = hsm.keys(query.clone()).wait()?;
        query.after = page.keys.last().map(|key| key.id.clone());
        let found = page.keys.into_iter().filter(|key| key.label.starts_with(OWN_LABELS));
        own.extend(found.map(|key| key.id));
        if !page.more {
            return Ok(own);
        }
    }
}
