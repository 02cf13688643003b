//! The command line.
//!
//! ```text
//! arguments --parse--> Cli --execute--> one file a command --> Exit, or Failure with one clear line
//! ```
//!
//! Invariants: with `--json` standard output holds JSON and nothing else; progress, logs and failures go to
//! standard error; a closed standard output ends nothing and panics nowhere; exit codes are those of [`Exit`].
//!
//! Deliberately absent: the process environment and the process's exit. Both belong to `main`.

pub mod adapters;
pub mod completions;
pub mod config;
pub mod demo;
pub mod doctor;
mod exit;
pub mod explain;
mod flags;
pub mod health;
mod job;
pub mod orchestrator;
mod reference;
mod remote;
mod report;
pub mod run;
pub mod runner;
mod signals;
pub mod status;
pub mod submit;
pub mod train;
mod ui;
mod worker;

#[cfg(test)]
mod tests;

pub use exit::{Exit, Failure};
pub use flags::ConfigFlags;
pub use job::Setting;
pub use report::{Epoch, Final, Metrics};
pub use worker::Target;

use std::ffi::OsString;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing_subscriber::fmt::MakeWriter;

use crate::config::{Config, Environment, Layers};
use crate::telemetry::logs;
use crate::telemetry::traces::Traces;

/// The compute worker of TensorFleet.
#[derive(Debug, Parser)]
#[command(
    name = "tensorfleet-worker",
    version,
    about = "The compute worker of TensorFleet: pulls training tasks, trains them, reports as it goes",
    after_help = "Without a command, `run` is meant: its flags may follow directly.\n\n\
                  Begin with:\n  \
                  tensorfleet-worker demo\n  \
                  tensorfleet-worker train --dataset builtin:iris --epochs 30\n\n\
                  Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 the environment lacks \
                  something, 130 interrupted."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the binary can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the worker: pull tasks from an orchestrator, train them, report (default)
    Run(run::Args),
    /// See it work: one real training job with an orchestrator and workers, all in this process
    Demo(demo::Args),
    /// Train one model here, without an orchestrator
    Train(train::Args),
    /// Run an orchestrator in memory, for development only
    #[command(
        long_about = "Run an orchestrator in memory, FOR DEVELOPMENT ONLY: it keeps nothing on disk, asks \
                            nobody for credentials and forgets every job when it ends."
    )]
    Orchestrator(orchestrator::Args),
    /// Send a training job to an orchestrator
    Submit(submit::Args),
    /// Ask a running worker whether it is well; exit code 0 when it is, 1 when not
    Health(health::Args),
    /// Ask a worker how it is
    Status(status::Args),
    /// Ask a worker why a task failed, or waits
    Explain(explain::Args),
    /// Check this machine and the configuration, and say what mends each finding
    #[command(
        long_about = "Check configuration, ports, folders, orchestrator, GPU, kernel, disk and clock, and say what \
                      mends each finding. Exit codes: 0 nothing keeps the worker from its work, 2 the \
                      configuration does, 3 the environment does."
    )]
    Doctor(doctor::Args),
    /// Show the configuration in force, check it, or describe all of it
    Config(config::Args),
    /// Tell a worker which GPUs there are; started by the worker itself
    #[command(hide = true)]
    Adapters(adapters::Args),
    /// Train what a worker says; started by the worker itself
    #[command(hide = true)]
    Runner(runner::Args),
    /// Print the completions of a shell, as: tensorfleet-worker completions bash
    Completions(completions::Args),
    /// Print the manual page
    Man(completions::ManArgs),
}

impl Cli {
    /// Reads the arguments, the program's name first; without a command they are those of `run`.
    ///
    /// # Errors
    /// What is wrong with them, or that help or the version was asked for; [`clap::Error::exit_code`] tells.
    pub fn parse_arguments(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut arguments: Vec<OsString> = arguments.into_iter().collect();
        let about_itself = ["-h", "--help", "-V", "--version"];
        let means_run = match arguments.get(1).map(|first| first.to_string_lossy()) {
            None => true,
            Some(first) => first.starts_with('-') && !about_itself.contains(&first.as_ref()),
        };
        if arguments.is_empty() {
            arguments.push(Self::command().get_name().into());
        }
        if means_run {
            arguments.insert(1, "run".into());
        }
        Self::try_parse_from(arguments)
    }
}

/// Carries out `command`. Needs a tokio runtime, except for [`Command::Config`], [`Command::Adapters`] and
/// [`Command::Runner`].
///
/// # Errors
/// Why it could not be carried out; the command itself has told nothing of it.
pub async fn execute(command: Command, environment: &Environment) -> Result<Exit, Failure> {
    match command {
        Command::Run(args) => run::execute(args, environment).await,
        Command::Demo(args) => demo::execute(args, environment).await,
        Command::Train(args) => train::execute(args, environment).await,
        Command::Orchestrator(args) => orchestrator::execute(args, environment).await,
        Command::Submit(args) => submit::execute(args, environment).await,
        Command::Status(args) => status::execute(args, environment).await,
        Command::Explain(args) => explain::execute(args, environment).await,
        Command::Doctor(args) => doctor::execute(args, environment).await,
        Command::Health(args) => health::execute(args, environment).await,
        Command::Config(args) => config::execute(args, environment),
        Command::Adapters(args) => adapters::execute(&args),
        Command::Runner(args) => runner::execute(&args),
        Command::Completions(args) => completions::execute(args),
        Command::Man(args) => completions::manual(args),
    }
}

/// Starts the logs of a command that is not the worker itself: LOG_LEVEL and LOG_FORMAT, else `level`.
fn start_logs<W>(environment: &Environment, level: &str, writer: W) -> Result<(), Failure>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let of_logs = |name: &str| name.starts_with("LOG_");
    let mut environment = environment.clone();
    environment.retain(|name, text| of_logs(name) && !text.trim().is_empty());
    environment.entry("LOG_LEVEL".to_owned()).or_insert_with(|| level.to_owned());
    let config = Config::resolve(&Layers { environment, ..Layers::default() })?.config;
    Ok(logs::init_into(&config.logs, Traces::default(), writer)?)
}
