//! `config show`, `config check` and `config docs`.

use serde_json::json;

use super::{ConfigFlags, Exit, Failure, reference, ui};
use crate::config::{Config, ConfigErrors, Environment, Problem, Resolved};

/// Arguments of `config`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What can be done with the configuration.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Print every variable with its value and where that came from, secrets masked
    Show(Layered),
    /// Print all variables (or with --models the models and hyperparameters) as Markdown, as in docs/
    Docs(Docs),
    /// Print everything that is wrong with the configuration at once, or ok
    Check(Layered),
}

/// Which reference.
#[derive(Debug, clap::Args)]
pub struct Docs {
    /// Models and hyperparameters instead
    #[arg(long)]
    pub models: bool,
}

/// The layers, and how to print.
#[derive(Debug, clap::Args)]
pub struct Layered {
    /// The flags of `run`.
    #[command(flatten)]
    pub flags: ConfigFlags,
    /// Print one JSON object, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// Carries it out.
///
/// # Errors
/// `show`: what is wrong with the configuration. `check` prints that and answers [`Exit::BadUsage`].
pub fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    match args.action {
        Action::Show(Layered { flags, json }) => show(&Config::resolve(&flags.over(environment))?, json),
        Action::Docs(Docs { models }) => {
            let text = if models { reference::models() } else { crate::config::markdown() };
            ui::say(text.trim_end())?;
            Ok(Exit::Done)
        }
        Action::Check(Layered { flags, json }) => check(Config::resolve(&flags.over(environment)), json),
    }
}

fn show(resolved: &Resolved, json: bool) -> Result<Exit, Failure> {
    if json {
        let object: serde_json::Map<_, _> = resolved
            .rows
            .iter()
            .map(|row| (row.name.to_owned(), json!({"value": row.value, "source": row.source.to_string()})))
            .collect();
        ui::say_json(&object)?;
    } else {
        let rows = resolved.rows.iter().map(|row| {
            let value = row.value.clone().unwrap_or_else(|| "(unset)".to_owned());
            [row.name.to_owned(), value, row.source.to_string()]
        });
        ui::say(&ui::pairs(["variable", "value", "source"], rows))?;
    }
    Ok(Exit::Done)
}

fn check(resolved: Result<Resolved, ConfigErrors>, json: bool) -> Result<Exit, Failure> {
    let (problems, warnings) = match resolved {
        Ok(resolved) => (Vec::new(), resolved.warnings),
        Err(ConfigErrors(problems)) => (problems, Vec::new()),
    };
    let exit = if problems.is_empty() { Exit::Done } else { Exit::BadUsage };
    if json {
        ui::say_json(&json!({
            "ok": problems.is_empty(),
            "errors": problems.iter().map(error).collect::<Vec<_>>(),
            "warnings": warnings,
        }))?;
    } else if problems.is_empty() {
        for warning in &warnings {
            ui::say(&format!("warning: {warning}"))?;
        }
        ui::say("ok")?;
    } else {
        ui::say(&ConfigErrors(problems).to_string())?;
    }
    Ok(exit)
}

fn error(problem: &Problem) -> serde_json::Value {
    let (value, allowed) = match problem {
        Problem::Invalid { invalid, .. } => (Some(&invalid.value), Some(&invalid.allowed)),
        _ => (None, None),
    };
    json!({
        "variable": problem.subject(),
        "source": problem.origin(),
        "value": value,
        "allowed": allowed,
        "message": problem.to_string(),
    })
}
