//! An answer that is on its way: awaited under any runtime, or waited for.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::error::{Error, Result};

/// An operation under way on the token. It has a deadline, so it always ends; dropping it does not undo the operation.
#[must_use = "the outcome of the operation is in the call"]
pub struct Call<T>(Arc<Shared<T>>);

struct Shared<T> {
    state: Mutex<State<T>>,
    settled: Condvar,
}

enum State<T> {
    Pending(Option<Waker>),
    Settled(Result<T>),
    Taken,
}

/// The other end of a [`Call`]. If it is dropped unused the call ends with [`Error::Internal`].
pub(crate) struct Reply<T>(Arc<Shared<T>>);

/// What the watchdog knows of a call: that it can be ended with an error.
pub(crate) trait Settle: Send + Sync {
    /// Ends the call with `error`; `false` if it had ended before.
    fn fail(&self, error: Error) -> bool;
}

/// A call and the end that settles it.
pub(crate) fn pair<T>() -> (Reply<T>, Call<T>) {
    let shared = Arc::new(Shared {
        state: Mutex::new(State::Pending(None)),
        settled: Condvar::new(),
    });
    (Reply(shared.clone()), Call(shared))
}

impl<T> Call<T> {
    /// A call that has ended.
    pub(crate) fn settled(result: Result<T>) -> Call<T> {
        Call(Arc::new(Shared {
            state: Mutex::new(State::Settled(result)),
            settled: Condvar::new(),
        }))
    }

    /// Waits for the answer on this thread.
    ///
    /// # Errors
    /// What the operation's errors are.
    pub fn wait(self) -> Result<T> {
        let mut state = self.0.lock();
        loop {
            match std::mem::replace(&mut *state, State::Taken) {
                State::Settled(result) => return result,
                State::Taken => return Err(taken()),
                pending @ State::Pending(_) => *state = pending,
            }
            state = self.0.settled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn taken() -> Error {
    Error::Internal("the call's answer was taken before".into())
}

impl<T> std::fmt::Debug for Call<T> {
    /// Shows nothing of the answer, which may be a plaintext.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl<T> Future for Call<T> {
    type Output = Result<T>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<T>> {
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, State::Taken) {
            State::Settled(result) => Poll::Ready(result),
            State::Pending(_) => {
                *state = State::Pending(Some(context.waker().clone()));
                Poll::Pending
            }
            State::Taken => Poll::Ready(Err(taken())),
        }
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, result: Result<T>) -> bool {
        let mut state = self.lock();
        let State::Pending(waker) = &mut *state else {
            return false;
        };
        let waker = waker.take();
        *state = State::Settled(result);
        drop(state);
        self.settled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }
}

impl<T: Send + 'static> Reply<T> {
    /// Ends the call; `false` if it had ended before, and nobody will see `result`.
    pub(crate) fn settle(&self, result: Result<T>) -> bool {
        self.0.settle(result)
    }

    /// Whether the call still waits.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(*self.0.lock(), State::Pending(_))
    }

    /// A handle with which the call can be ended early.
    pub(crate) fn watch(&self) -> Arc<dyn Settle> {
        self.0.clone()
    }
}

impl<T: Send> Settle for Shared<T> {
    fn fail(&self, error: Error) -> bool {
        self.settle(Err(error))
    }
}

impl<T> Drop for Reply<T> {
    fn drop(&mut self) {
        self.0
            .settle(Err(Error::Internal("the operation ended without an answer".into())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_answer_counts() {
        let (reply, call) = pair();
        assert!(reply.watch().fail(Error::Timeout));
        assert!(!reply.settle(Ok(1)));
        assert_eq!(call.wait(), Err(Error::Timeout));
    }

    #[test]
    fn a_dropped_reply_ends_the_call() {
        let (reply, call) = pair::<()>();
        drop(reply);
        assert!(matches!(call.wait(), Err(Error::Internal(_))));
    }
}
