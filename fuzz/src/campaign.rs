//! A run of one target: the corpus first, then changed inputs until the time or the number is up.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::mutation::mutate;
use crate::target::{Target, Verdict};

/// How many inputs that were taken are kept to be changed again.
const MAX_POOL: usize = 4096;

/// A run of one target.
#[derive(Clone, Copy, Debug)]
pub struct Campaign {
    /// What is run.
    pub target: Target,
    /// Where chance begins; the same seed makes the same inputs.
    pub seed: u64,
    /// When to end.
    pub time: Option<Duration>,
    /// After how many inputs to end.
    pub executions: Option<u64>,
}

/// How a run went.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many inputs were run.
    pub executions: u64,
    /// How many of them were taken.
    pub taken: u64,
    /// The longest that one input took.
    pub slowest: Duration,
    /// The input at which the run ended, if one was wrong.
    pub finding: Option<Finding>,
}

/// An input that a reader does not deal with.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The input.
    pub input: Vec<u8>,
    /// What went wrong.
    pub what: String,
}

/// The committed inputs of a target with the names of their files, in the order of these.
///
/// # Errors
/// If the folder can't be read.
pub fn corpus(target: Target) -> io::Result<Vec<(String, Vec<u8>)>> {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "corpus", target.name()].iter().collect();
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.push((name, fs::read(&path)?));
    }
    files.sort();
    Ok(files)
}

impl Campaign {
    /// Runs until the end, or until something is found.
    ///
    /// # Errors
    /// If the corpus can't be read.
    pub fn run(&self) -> io::Result<Report> {
        let started = Instant::now();
        let mut rng = Rng::with_seed(self.seed);
        let mut report = Report::default();
        let mut pool: Vec<Vec<u8>> = corpus(self.target)?.into_iter().map(|(_, input)| input).collect();
        for input in &pool {
            report.add(self.target, input);
        }
        let mut known: HashSet<Vec<u8>> = pool.iter().cloned().collect();
        while report.finding.is_none() && !self.is_over(started, report.executions) {
            let [first, second] =
                [rng.choice(&pool), rng.choice(&pool)].map(|input| input.map_or(&[][..], Vec::as_slice));
            let input = mutate(&mut rng, first, second);
            let verdict = report.add(self.target, &input);
            if verdict == Some(Verdict::Taken) && pool.len() < MAX_POOL && known.insert(input.clone()) {
                pool.push(input);
            }
        }
        Ok(report)
    }

    fn is_over(&self, started: Instant, executions: u64) -> bool {
        self.time.is_some_and(|time| started.elapsed() >= time)
            || self.executions.is_some_and(|most| executions >= most)
    }
}

impl Report {
    fn add(&mut self, target: Target, input: &[u8]) -> Option<Verdict> {
        let started = Instant::now();
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| target.run(input)));
        self.slowest = self.slowest.max(started.elapsed());
        self.executions += 1;
        let what = match outcome {
            Ok(Ok(verdict)) => {
                self.taken += u64::from(verdict == Verdict::Taken);
                return Some(verdict);
            }
            Ok(Err(what)) => what,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                format!("a panic: {}", text.unwrap_or("without a text"))
            }
        };
        self.finding = Some(Finding {
            input: input.to_vec(),
            what,
        });
        None
    }
}

impl Finding {
    /// Writes the input into `folder`, which is made; answers the file.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn save(&self, target: Target, seed: u64, folder: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let file = folder.join(format!("{}-{seed:016x}", target.name()));
        fs::write(&file, &self.input)?;
        Ok(file)
    }
}
