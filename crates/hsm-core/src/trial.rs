//! What a token can do and does not tell is tried, with a key that is there for an instant.

use std::time::Instant;

use crate::backend::{Made, Outcome, Session, Template};
use crate::error::{Error, Result};
use crate::key::{HsmKeyId, KeySpec, Usages};
use crate::quirks;
use crate::worker::{Again, Worker};

/// Length of a trial key's CKA_ID, in bytes.
const ID_BYTES: usize = 8;

/// Makes a key of the session, has `act` try it, and destroys it. Tokens that have no session objects get a token object,
/// which is destroyed as well, and looked for later if that fails.
///
/// # Errors
/// What the key's creation or `act` answers.
pub(crate) fn with_key<T>(
    worker: &mut Worker,
    spec: KeySpec,
    usages: Usages,
    mut act: impl FnMut(&mut dyn Session, Made) -> Outcome<T>,
) -> Result<T> {
    let template = Template {
        id: b"trial",
        label: "trial",
        extractable: false,
        usages,
        session_only: true,
    };
    let answer = run(worker, Again::Once, spec, &template, &mut act);
    let Err(Error::InvalidRequest { .. }) = answer else {
        return answer;
    };
    let shared = worker.shared.clone();
    let mut bytes = [0; ID_BYTES];
    shared.entropy.fill(worker, &mut bytes)?;
    let id = HsmKeyId::on(shared.options.name.as_ref(), &bytes);
    let id = id.ok_or_else(|| Error::Internal("an id of no bytes".into()))?;
    shared
        .keeper
        .destroy_from(id.clone(), Instant::now() + shared.options.keygen_timeout);
    let template = Template {
        id: &bytes,
        session_only: false,
        ..template
    };
    let of_token = run(worker, Again::Never, spec, &template, &mut act);
    // What says that there is no such key has left none; all else is looked for.
    if matches!(
        of_token,
        Ok(_) | Err(Error::NotSupported(_) | Error::InvalidRequest { .. })
    ) {
        shared.keeper.keep(&id);
    }
    of_token
}

fn run<T>(
    worker: &mut Worker,
    again: Again,
    spec: KeySpec,
    template: &Template<'_>,
    act: &mut impl FnMut(&mut dyn Session, Made) -> Outcome<T>,
) -> Result<T> {
    let shared = worker.shared.clone();
    let token = shared.link.token();
    worker.run(again, |session| {
        let hold = shared.catalogue.change(&token);
        let made = session.generate(spec, template);
        let made = made.map_err(|failure| quirks::of_creation(&token, spec, failure))?;
        drop(hold);
        let outcome = act(session, made);
        let _hold = shared.catalogue.change(&token);
        made.handles().try_for_each(|handle| session.destroy(handle))?;
        outcome
    })
}
