//! Random bytes that neither the token nor this machine alone decides, and the watch over a generator that has failed.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::worker::{Again, Worker};

/// From this many bytes on, a repetition is no chance.
const TELLING: usize = 8;

/// How many bytes are asked for at once: there are modules that give no more.
const MOST_AT_ONCE: usize = 1024;

/// What the token's generator gave last.
#[derive(Default)]
pub(crate) struct Entropy {
    last: Mutex<[u8; TELLING]>,
}

impl Entropy {
    /// Fills `buffer` with the token's random bytes.
    ///
    /// # Errors
    /// [`Error::Device`] if eight bytes or more are all zeros or the same as the time before.
    pub(crate) fn token(&self, worker: &mut Worker, buffer: &mut [u8]) -> Result<()> {
        buffer.fill(0);
        worker.run(Again::Once, |session| {
            buffer.chunks_mut(MOST_AT_ONCE).try_for_each(|piece| {
                if piece.len() >= TELLING {
                    return session.random(piece);
                }
                // Nor less than this.
                let mut least = [0; TELLING];
                session.random(&mut least)?;
                piece.iter_mut().zip(least).for_each(|(byte, random)| *byte = random);
                Ok(())
            })
        })?;
        let Some(head) = buffer.first_chunk::<TELLING>() else {
            return Ok(());
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.iter().all(|byte| *byte == 0) || head == &*last {
            return Err(Error::Device("the token's random generator repeats itself: C_GenerateRandom gave the same bytes again, or only zeros".into()));
        }
        *last = *head;
        Ok(())
    }

    /// Fills `buffer` with the token's random bytes XOR the operating system's.
    ///
    /// # Errors
    /// As [`token`](Self::token).
    pub(crate) fn fill(&self, worker: &mut Worker, buffer: &mut [u8]) -> Result<()> {
        self.token(worker, buffer)?;
        let mut system = vec![0; buffer.len()];
        getrandom::fill(&mut system)
            .map_err(|error| Error::Internal(format!("the operating system gives no random bytes: {error}")))?;
        buffer.iter_mut().zip(system).for_each(|(byte, other)| *byte ^= other);
        Ok(())
    }
}
