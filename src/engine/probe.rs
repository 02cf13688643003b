//! The search for adapters in a process of its own: there drivers may hang or crash, and what they load goes with it.
//!
//! ```text
//! worker --spawns--> this program, `adapters` --loads drivers--> one line of JSON --> worker: adapters, none opened
//! ```

use std::io::{self, Read as _, Write as _};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::{Deserialize, Serialize};

use super::device::{Adapter, Devices, Handle, SoftwareAdapters};
use super::parent;

/// How long the process may take: a little longer than it waits for drivers itself.
const PATIENCE: Duration = Duration::from_secs(25);

/// Longest answer, in bytes.
const MOST_BYTES: u64 = 1 << 20;

/// What the process tells.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    adapters: Vec<Listed>,
    found: String,
}

/// An adapter.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Listed {
    handle: Handle,
    name: String,
    address: Option<String>,
}

impl Report {
    fn of(devices: &Devices) -> Self {
        let listed = |adapter: &Adapter| Listed {
            handle: adapter.handle,
            name: adapter.device.name.clone(),
            address: adapter.address.map(|address| address.to_string()),
        };
        Self { adapters: devices.adapters.iter().map(listed).collect(), found: devices.found.clone() }
    }

    fn devices(self) -> Devices {
        let adapter = |Listed { handle, name, address }: Listed| {
            Adapter::new(handle, name, address.and_then(|address| address.parse().ok()))
        };
        Devices { adapters: self.adapters.into_iter().map(adapter).collect(), found: self.found }
    }
}

/// Why the process told nothing.
#[derive(Debug, thiserror::Error)]
enum Silent {
    #[error("the search for adapters could not be started: {0}")]
    Start(io::Error),
    #[error("the graphics driver crashed while it was asked for its adapters ({0})")]
    Ended(ExitStatus),
    #[error("the graphics driver did not answer within {} seconds", PATIENCE.as_secs())]
    Hung,
    #[error("what the search for adapters told cannot be read: {0}")]
    Answer(String),
}

/// The devices that `program`, asked for its adapters, tells of.
pub(super) fn ask(program: &Path, software: SoftwareAdapters) -> Devices {
    let mut command = Command::new(program);
    command.arg0(env!("CARGO_PKG_NAME")).args(["adapters", "--parent", &std::process::id().to_string()]);
    if software == SoftwareAdapters::Allowed {
        command.arg("--software");
    }
    match answer_of(command, PATIENCE) {
        Ok(report) => report.devices(),
        Err(error) => Devices { adapters: Vec::new(), found: error.to_string() },
    }
}

fn answer_of(mut command: Command, patience: Duration) -> Result<Report, Silent> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(Silent::Start)?;
    let read = read_to_end(&mut child, patience);
    if read.is_none() {
        // Whatever hangs hangs alone, and what it started ends with it.
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let _ = group.map(|group| kill_process_group(group, Signal::KILL));
    }
    let status = child.wait().map_err(Silent::Start)?;
    let text = read.ok_or(Silent::Hung)?;
    if status.signal().is_some() || !status.success() {
        return Err(Silent::Ended(status));
    }
    serde_json::from_slice(&text).map_err(|error| Silent::Answer(error.to_string()))
}

/// What `child` writes until it closes its output; None where that takes longer than `patience`.
fn read_to_end(child: &mut Child, patience: Duration) -> Option<Vec<u8>> {
    let output = child.stdout.take()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let read = move || {
        let mut text = Vec::new();
        // What is cut short is no JSON.
        let _ = output.take(MOST_BYTES).read_to_end(&mut text);
        let _ = sender.send(text);
    };
    thread::Builder::new().name("adapter-answer".to_owned()).spawn(read).ok()?;
    receiver.recv_timeout(patience).ok()
}

/// Looks for adapters and prints them for the worker. `parent` is the id of the process that asks: this one ends with it.
///
/// # Errors
/// Standard output cannot be written.
pub fn tell_adapters(parent: u32, software: bool) -> io::Result<()> {
    let stranger = || io::Error::other("adapters is started by the worker itself");
    parent::end_with(parent)?.ok_or_else(stranger)?;
    let mut output = parent::take_output()?;
    let software = if software { SoftwareAdapters::Allowed } else { SoftwareAdapters::Ignored };
    let report = Report::of(&Devices::probe(software));
    output.write_all(&serde_json::to_vec(&report)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(script: &str) -> Result<Report, Silent> {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        answer_of(command, Duration::from_secs(60))
    }

    #[test]
    fn what_was_found_is_told_over_a_pipe() {
        let text = r#"{"adapters":[{"handle":{"Discrete":1},"name":"card","address":"0000:02:00.0"},
            {"handle":"Software","name":"soft","address":null}],"found":"found: card, soft"}"#;
        let report = told(&format!("echo '{text}'")).unwrap();
        let devices = report.devices();
        assert_eq!(devices.gpus().count(), 1);
        assert_eq!(devices.adapters[0].address, Some("0000:02:00.0".parse().unwrap()));
        assert_eq!(devices.adapters[0].device.device, Handle::Discrete(1).device());
        assert_eq!(Report::of(&devices), serde_json::from_str(text).unwrap());
    }

    #[test]
    fn a_driver_that_crashes_hangs_or_talks_takes_nothing_along() {
        for script in ["kill -SEGV $$", "exit 3"] {
            let error = told(script).unwrap_err().to_string();
            assert!(error.contains("crashed"), "{error}");
        }
        assert!(matches!(told("echo hello"), Err(Silent::Answer(_))));
        let mut hung = Command::new("/bin/sh");
        hung.args(["-c", "exec sleep 600"]);
        assert!(matches!(answer_of(hung, Duration::from_millis(50)), Err(Silent::Hung)));
        let nowhere = ask(Path::new("/nowhere/at/all"), SoftwareAdapters::Ignored);
        assert!(nowhere.adapters.is_empty() && nowhere.found.contains("could not be started"));
    }
}
