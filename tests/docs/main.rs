//! The documents: references are what the program says, links lead somewhere, and every command was run.

mod blocks;
#[path = "../../src/guard/testing.rs"]
#[allow(unreachable_pub, dead_code, reason = "shared with the library's own tests")]
mod certificates;
mod deployments;
#[path = "../support/mod.rs"]
mod support;
mod ways;
mod workers;

use std::path::Path;
use std::process::{Command, Output};

use blocks::{blocks, documents, root, shown};
use support::{PROGRAM, command};
use tensorfleet_worker::config::Variable;

pub(crate) use ways::{Way, known_by};

pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A shell that runs `script` in `folder` and knows the program by its name.
pub(crate) fn shell(script: &str, folder: &Path) -> Command {
    let program = Path::new(PROGRAM).parent().unwrap().display();
    let tools = root().join("target/tools");
    let path = format!("{program}:{}:{}", std::env::var("PATH").unwrap(), tools.display());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("PATH", path);
    shell
}

/// A block without a language would be passed over by the tests of commands.
#[test]
fn every_block_says_what_it_is() {
    const LANGUAGES: [&str; 6] = ["sh run", "sh", "mermaid", "yaml", "rust", "text"];
    let wrong: Vec<_> = blocks()
        .into_iter()
        .filter(|block| !LANGUAGES.contains(&block.language.as_str()))
        .map(|block| format!("{}: {:?}", block.place, block.language))
        .collect();
    assert!(wrong.is_empty(), "allowed: {LANGUAGES:?}; found: {wrong:#?}");
}

/// Blocks that begin with `sh run` are run as they stand, each in an empty folder of its own.
#[test]
fn the_commands_in_the_docs_work() {
    let blocks: Vec<_> = blocks().into_iter().filter(|block| block.language == "sh run").collect();
    for block in &blocks {
        let folder = tempfile::tempdir().unwrap();
        let output = shell(&block.text, folder.path()).output().unwrap();
        assert!(output.status.success(), "{}:\n{}\n{}", block.place, block.text, text(&output));
    }
    assert!(blocks.len() >= 8, "only {} blocks were found", blocks.len());
}

/// Whatever else is done with them, commands are written as the program and the files would have them.
#[test]
fn commands_have_flags_variables_and_files_that_exist() {
    let (mut ours, mut files) = (0, 0);
    for command_line in shown() {
        let (place, words) = (&command_line.place, command_line.words());
        if words[0] == "tensorfleet-worker" {
            for (name, _) in command_line.settings() {
                assert!(Variable::find(name).is_some(), "{place}: {name} in front of {words:?}");
            }
            let output = command(&[]).args(&words[1..]).arg("--help").output().unwrap();
            assert!(output.status.success(), "{place}: {words:?}: {}", text(&output));
            ours += 1;
        }
        let ends = |word: &str| word.trim_start_matches("./").trim_end_matches("*.yml").to_owned();
        for word in words.iter().map(|word| ends(word)) {
            if ["deploy/", "scripts/", "Dockerfile"].iter().any(|start| word.starts_with(start)) {
                assert!(root().join(&word).exists(), "{place}: {word}");
                files += 1;
            }
        }
    }
    assert!(ours >= 10 && files >= 5, "{ours} commands and {files} files were found");
}

/// Between these lines docs hold what the program says.
fn generated(name: &str) -> (String, String) {
    (format!("<!-- {name}: generated -->\n"), format!("<!-- {name}: end -->\n"))
}

/// With UPDATE_DOCS=1 the files are brought up to date instead.
#[test]
fn the_reference_in_the_docs_is_what_the_program_says() {
    for (file, name, arguments) in [
        ("docs/configuration.md", "variables", &["config", "docs"][..]),
        ("docs/models.md", "models", &["config", "docs", "--models"][..]),
    ] {
        let path = root().join(file);
        let said = String::from_utf8(command(&[]).args(arguments).output().unwrap().stdout).unwrap();
        let written = std::fs::read_to_string(&path).unwrap();
        let (begin, end) = generated(name);
        let (head, rest) = written.split_once(&begin).unwrap_or_else(|| panic!("{file} lacks {begin}"));
        let (body, tail) = rest.split_once(&end).unwrap_or_else(|| panic!("{file} lacks {end}"));
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, format!("{head}{begin}{said}{end}{tail}")).unwrap();
        } else {
            assert!(
                body == said,
                "{file} is out of date: UPDATE_DOCS=1 cargo test --test docs the_reference"
            );
        }
    }
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    let mut wrong = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap();
            let elsewhere = link.contains("://") || link.starts_with('#');
            if !elsewhere && !path.parent().unwrap().join(file).exists() {
                wrong.push(format!("{}: {link}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
