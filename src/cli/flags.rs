//! Every configuration variable as a flag, made from the one table.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches, value_parser};

use crate::config::{Environment, FlagValues, Layers, VARIABLES, Variable};

/// The flags that stand for configuration variables, and `--config`.
#[derive(Debug, Clone, Default)]
pub struct ConfigFlags {
    /// Values of the flags that were given.
    pub values: FlagValues,
    /// The file given by `--config`.
    pub file: Option<PathBuf>,
}

impl ConfigFlags {
    /// These flags above `environment`.
    pub fn over(self, environment: &Environment) -> Layers {
        Layers { flags: self.values, environment: environment.clone(), file: self.file }
    }
}

fn flag(variable: &'static Variable) -> Arg {
    let mut help = format!("{} [env: {}]", variable.help, variable.names().collect::<Vec<_>>().join(", "));
    if let Some(default) = variable.default {
        help.push_str(&format!(" [default: {default}]"));
    }
    let arg = Arg::new(variable.name)
        .long(variable.flag())
        .aliases(variable.aliases.iter().map(|alias| Variable::flag_of(alias)))
        .value_name("VALUE")
        .action(ArgAction::Set)
        .help(help);
    if variable.is_switch() { arg.num_args(0..=1).default_missing_value("true") } else { arg }
}

impl clap::Args for ConfigFlags {
    fn augment_args(command: Command) -> Command {
        let file =
            Arg::new("config").long("config").value_name("FILE").value_parser(value_parser!(PathBuf)).help(
                "A TOML file with any of these, as worker_port = 50052; flags and environment win over it",
            );
        command.arg(file).args(VARIABLES.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for ConfigFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for variable in VARIABLES {
            if let Some(value) = matches.get_one::<String>(variable.name) {
                self.values.insert(variable.name, value.clone());
            }
        }
        if let Some(file) = matches.get_one::<PathBuf>("config") {
            self.file = Some(file.clone());
        }
        Ok(())
    }
}
