//! `hsm-fuzz TARGET… [--seconds N] [--seed N]`: runs targets, `all` for each, and ends with 1 at the first finding.

use std::error::Error;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use hsm_fuzz::{Campaign, Target};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let Command { targets, time, seed } = Command::read(std::env::args().skip(1))?;
    // A panic is a finding, and told as such.
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = false;
    for target in targets {
        let campaign = Campaign {
            target,
            seed,
            time: Some(time),
            executions: None,
        };
        let report = campaign.run()?;
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{:14} {:9} inputs, {:8} taken, the slowest {:?}, seed {seed}",
            target.name(),
            report.executions,
            report.taken,
            report.slowest
        )?;
        if let Some(finding) = report.finding {
            let file = finding.save(target, seed, Path::new("target/fuzz"))?;
            writeln!(out, "{:14} {}: {}", target.name(), file.display(), finding.what)?;
            found = true;
        }
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

struct Command {
    targets: Vec<Target>,
    time: Duration,
    seed: u64,
}

impl Command {
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Command, String> {
        let mut command = Command {
            targets: Vec::new(),
            time: Duration::from_secs(60),
            seed: fastrand::u64(..),
        };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let number = arguments.next().and_then(|text| text.parse().ok());
                number.ok_or_else(|| format!("{argument} takes a number"))
            };
            match argument.as_str() {
                "--seconds" => command.time = Duration::from_secs(number()?),
                "--seed" => command.seed = number()?,
                "all" => command.targets.extend(Target::ALL),
                name => command.targets.push(Target::parse(name).ok_or_else(usage)?),
            }
        }
        if command.targets.is_empty() {
            return Err(usage());
        }
        Ok(command)
    }
}

fn usage() -> String {
    let names: Vec<_> = Target::ALL.iter().map(|target| target.name()).collect();
    format!(
        "usage: hsm-fuzz TARGET… [--seconds N] [--seed N], where TARGET is all, {}",
        names.join(", ")
    )
}
