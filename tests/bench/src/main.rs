//! Measures arcssh against the least work that a connection requires (docs/PERFORMANCE.md).

#![forbid(unsafe_code)]

mod client;
mod counts;
mod delay;
mod frames;
mod parts;
mod relay;
mod report;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum as _};

use crate::parts::Part;
use crate::stage::Stage;

/// Measures arcssh against the least work that a connection requires
#[derive(Parser)]
struct Cli {
    /// The arcssh to measure; arcssh-bench-limit is expected in its directory
    #[arg(long, value_name = "PATH")]
    arcssh: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure and print figures
    Run {
        /// The parts to measure [default: all]
        #[arg(value_enum)]
        parts: Vec<Part>,
        /// Write the figures as JSON
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
        /// Replace the table in this document
        #[arg(long, value_name = "FILE")]
        document: Option<PathBuf>,
    },
    /// Check the counts of a connection against the recorded ones
    Check {
        #[arg(value_name = "FILE")]
        record: PathBuf,
    },
    /// Record the counts of a connection
    Record {
        #[arg(value_name = "FILE")]
        record: PathBuf,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(Cli { arcssh, command }: Cli) -> Result<()> {
    let arcssh = arcssh.canonicalize()?;
    match command {
        Command::Check { record } => counts::check(&arcssh, &record, counts::Action::Compare),
        Command::Record { record } => counts::check(&arcssh, &record, counts::Action::Record),
        Command::Run { mut parts, json, document } => {
            if parts.is_empty() {
                parts = Part::value_variants().to_vec();
            }
            let stage = Stage::start(&arcssh)?;
            let mut rows = Vec::new();
            for part in parts {
                let measured = part.measure(&stage, &arcssh)?;
                print(&report::table(&measured));
                rows.extend(measured);
            }
            json.map_or(Ok(()), |path| report::write_json(&rows, &path))?;
            document.map_or(Ok(()), |path| report::write_document(&rows, &path))
        }
    }
}

#[expect(clippy::print_stdout, reason = "a program for the terminal")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a program for the terminal")]
fn print_error(error: &anyhow::Error) {
    eprintln!("arcssh-bench: {error:#}");
}
