//! What the module tells of its slots, whichever token this one is.

use crate::backend::MechanismInfo;
use crate::call::Call;
use crate::error::Ckr;
use crate::hsm::Hsm;
use crate::worker::Again;

impl Hsm {
    /// The mechanisms of the token in a slot of the module, in the order of their numbers; none where there is no token,
    /// `None` where there is no such slot.
    pub fn mechanisms_of(&self, slot: u64) -> Call<Option<Vec<MechanismInfo>>> {
        let shared = self.shared().clone();
        self.call(self.shared().options.timeout, move |worker, reply| {
            let backend = &shared.link.module.backend;
            let told = worker.run(Again::Once, |_| {
                let slots = backend.slots()?;
                let Some(found) = slots.iter().find(|found| found.id == slot) else {
                    return Ok(None);
                };
                if found.token.is_none() {
                    return Ok(Some(Vec::new()));
                }
                match backend.mechanisms(slot) {
                    Ok(mut mechanisms) => {
                        mechanisms.sort_by_key(|mechanism| mechanism.id);
                        Ok(Some(mechanisms))
                    }
                    // What is wrong with another token is no fault of this one.
                    Err(failure) if matches!(failure.rv, Some(Ckr::TokenNotPresent | Ckr::TokenNotRecognized)) => {
                        Ok(Some(Vec::new()))
                    }
                    Err(failure) => Err(failure),
                }
            });
            reply.settle(told);
        })
    }
}
