//! Entry point: arguments in, exit code out. All else is in the library.

use std::process::ExitCode;
use std::time::Duration;

use tensorfleet_worker::cli::{self, Cli, Command, Exit, Failure};
use tensorfleet_worker::config::Environment;

/// How long what still runs on a blocking thread may go on after everything has ended.
const RUNTIME_GRACE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::parse_arguments(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads any more is no failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::BadUsage.code()));
        }
    };
    match carry_out(cli.command, &environment()) {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.exit_code())
        }
    }
}

fn carry_out(command: Command, environment: &Environment) -> Result<Exit, Failure> {
    let command = match command {
        Command::Config(args) => return cli::config::execute(args, environment),
        Command::Adapters(args) => return cli::adapters::execute(&args),
        // It gives up rights for the threads that it starts later, so that none may be there before.
        Command::Runner(args) => return cli::runner::execute(&args),
        other => other,
    };
    // One thread waits for the network and for timers: what it does for a task is too little to be handed from thread to
    // thread. Training and files have threads of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { doing: "start the runtime", source })?;
    let ended = runtime.block_on(cli::execute(command, environment));
    runtime.shutdown_timeout(RUNTIME_GRACE);
    ended
}

/// The environment as text. What is no UTF-8 gets replacement characters, which no variable takes.
fn environment() -> Environment {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .collect()
}
