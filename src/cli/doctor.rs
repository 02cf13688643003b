//! `doctor`: what keeps a worker from its work on this machine, each finding with what mends it.
//!
//! Changes nothing: ports are let go at once, the orchestrator is asked without registering, no folder is made.

mod devices;
mod gpu;
mod machine;
mod orchestrator;
mod traces;
mod vulkan;

use serde::Serialize;

use super::{ConfigFlags, Exit, Failure, ui};
use crate::config::{Config, ConfigErrors, Environment, Layers, Problem, Resolved};

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The flags of `run`.
    #[command(flatten)]
    pub flags: ConfigFlags,
    /// Print one JSON object, and nothing else
    #[arg(long)]
    pub json: bool,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// The worker does its work, and could do it better.
    Warning,
    /// It does not.
    Error,
}

/// Who has to mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Whoever configures the worker.
    Configuration,
    /// Whoever runs the machine, the network or the orchestrator.
    Environment,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    /// What was looked at, such as `orchestrator.tcp`.
    check: &'static str,
    level: Level,
    kind: Kind,
    /// What was found.
    message: String,
    /// What mends it, best as a line to type or to set.
    repair: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        let (level, kind) = (Level::Ok, Kind::Environment);
        Self { check, level, kind, message: message.into(), repair: None }
    }

    fn warning(check: &'static str, message: impl Into<String>, repair: impl Into<String>) -> Self {
        let level = Level::Warning;
        Self { level, repair: Some(repair.into()), ..Self::ok(check, message) }
    }

    fn error(check: &'static str, message: impl Into<String>, repair: impl Into<String>) -> Self {
        Self { level: Level::Error, ..Self::warning(check, message, repair) }
    }

    fn of_configuration(self) -> Self {
        Self { kind: Kind::Configuration, ..self }
    }
}

/// Looks at everything and prints what it found.
///
/// # Errors
/// Standard output cannot be written; findings are no failure, see the exit code.
pub async fn execute(args: Args, environment: &Environment) -> Result<Exit, Failure> {
    let findings = examine(&args.flags.over(environment), environment).await;
    let exit = verdict(&findings);
    if args.json {
        let ok = exit == Exit::Done;
        ui::say_json(&serde_json::json!({"ok": ok, "exit_code": exit.code(), "findings": findings}))?;
    } else {
        findings.iter().try_for_each(|finding| ui::say(&line(finding)))?;
        ui::say(&summary(&findings))?;
    }
    Ok(exit)
}

async fn examine(layers: &Layers, environment: &Environment) -> Vec<Finding> {
    let mut findings = Vec::new();
    match Config::resolve(layers) {
        Ok(Resolved { config, warnings, .. }) => {
            findings.push(Finding::ok("configuration", "every variable has a value that it takes"));
            findings.extend(warnings.into_iter().map(|warning| {
                Finding::warning("configuration", warning, "leave it unset").of_configuration()
            }));
            findings.extend(machine::ports(&config));
            findings.extend(machine::folders(&config));
            findings.extend(orchestrator::examine(&config.orchestrator).await);
            findings.extend(traces::examine(&config.traces).await);
            findings.extend(gpu::examine(&config, environment).await);
        }
        Err(ConfigErrors(problems)) => findings.extend(problems.iter().map(misconfigured)),
    }
    findings.extend(machine::kernel());
    findings.extend(machine::limits());
    findings.push(machine::clock());
    findings
}

fn misconfigured(problem: &Problem) -> Finding {
    let repair = match problem {
        Problem::Invalid { invalid, .. } => format!("set {} to {}", invalid.field, invalid.allowed),
        _ => format!("correct {} in {}", problem.subject(), problem.origin()),
    };
    Finding::error("configuration", problem.to_string(), repair).of_configuration()
}

/// Configuration first: until it is right, what was found of the rest may change.
fn verdict(findings: &[Finding]) -> Exit {
    let error_of =
        |kind| findings.iter().any(|finding| finding.level == Level::Error && finding.kind == kind);
    if error_of(Kind::Configuration) {
        Exit::BadUsage
    } else if error_of(Kind::Environment) {
        Exit::Environment
    } else {
        Exit::Done
    }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.level {
        Level::Ok => "ok     ",
        Level::Warning => "warning",
        Level::Error => "ERROR  ",
    };
    let repair = finding.repair.as_ref().map(|repair| format!("\n         to mend it: {repair}"));
    format!("{mark}  {}: {}{}", finding.check, finding.message, repair.unwrap_or_default())
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    match (count(Level::Error), count(Level::Warning)) {
        (0, 0) => "all is well".to_owned(),
        (errors, warnings) => format!("{errors} errors, {warnings} warnings"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_says_who_has_to_mend_something() {
        let (fine, hint) = (Finding::ok("a", "b"), Finding::warning("a", "b", "c"));
        let machine = Finding::error("a", "b", "c");
        let configuration = machine.clone().of_configuration();
        assert_eq!(verdict(&[fine.clone(), hint.clone()]), Exit::Done);
        assert_eq!(verdict(&[fine.clone(), machine.clone()]), Exit::Environment);
        assert_eq!(verdict(&[machine, configuration]), Exit::BadUsage);
        assert_eq!(summary(&[fine, hint.clone()]), "0 errors, 1 warnings");
        assert!(line(&hint).contains("to mend it: c"));
    }
}
