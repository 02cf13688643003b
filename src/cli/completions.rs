//! `completions SHELL` and `man`: what a shell and a reader of manuals want of this program.

use std::path::PathBuf;

use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Cli, Exit, Failure, ui};

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell: bash, elvish, fish, powershell or zsh
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder for the pages of all commands; without it, the main page goes to standard output
    #[arg(long, value_name = "FOLDER")]
    pub out: Option<PathBuf>,
}

/// Prints the completions.
///
/// # Errors
/// Standard output cannot be written.
pub fn execute(args: Args) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    ui::say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}

/// Prints the manual page, or writes all of them.
///
/// # Errors
/// Standard output or the folder cannot be written.
pub fn manual(args: ManArgs) -> Result<Exit, Failure> {
    if let Some(folder) = args.out {
        let written =
            std::fs::create_dir_all(&folder).and_then(|()| clap_mangen::generate_to(Cli::command(), &folder));
        written.map_err(|source| Failure::Write { path: folder, source })?;
        return Ok(Exit::Done);
    }
    let mut page = Vec::new();
    let rendered = Man::new(Cli::command()).render(&mut page);
    rendered.map_err(|source| Failure::System { doing: "write the manual page", source })?;
    ui::say(String::from_utf8_lossy(&page).trim_end())?;
    Ok(Exit::Done)
}
