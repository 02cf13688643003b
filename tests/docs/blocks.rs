//! The documents, their blocks, and the commands in these.

use std::path::PathBuf;

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whatever people read.
pub(crate) fn documents() -> Vec<PathBuf> {
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = docs.filter(|path| path.extension().is_some_and(|end| end == "md")).collect();
    found.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "data/README.md"]
            .map(|name| root().join(name)),
    );
    found.sort();
    found
}

/// What stands between two fences.
#[derive(Debug)]
pub(crate) struct Block {
    /// File and line.
    pub(crate) place: String,
    /// What the first fence says: the language, and `run` where a test runs the block as it stands.
    pub(crate) language: String,
    pub(crate) text: String,
}

pub(crate) fn blocks() -> Vec<Block> {
    documents().iter().flat_map(blocks_of).collect()
}

fn blocks_of(file: &PathBuf) -> Vec<Block> {
    let name = file.strip_prefix(root()).unwrap().display().to_string();
    let mut found = Vec::new();
    let mut open: Option<Block> = None;
    for (line, text) in std::fs::read_to_string(file).unwrap().lines().enumerate() {
        match (text.trim_start().strip_prefix("```"), &mut open) {
            (Some(language), None) => {
                let (place, language) = (format!("{name}:{}", line + 1), language.to_owned());
                open = Some(Block { place, language, text: String::new() });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some(block)) => {
                block.text.push_str(text);
                block.text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "{name}: a block does not end");
    found
}

/// A command of a block that is to be read.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) place: String,
    /// In one line, without comments; the program by its name.
    pub(crate) text: String,
}

impl Shown {
    /// The variables that stand before it.
    pub(crate) fn settings(&self) -> Vec<(&str, &str)> {
        let is_name = |name: &str| name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
        let pairs = self.text.split_whitespace().map_while(|word| word.split_once('='));
        pairs.take_while(|(name, _)| is_name(name)).collect()
    }

    /// The words from the name of the program on.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.text.split_whitespace().skip(self.settings().len()).collect()
    }
}

/// Programs whose name begins a command where it stands in a sentence with a word after it.
const PROGRAMS: [&str; 14] = [
    "tensorfleet-worker",
    "cargo",
    "UPDATE_DOCS=1",
    "curl",
    "docker",
    "go",
    "grpcurl",
    "helm",
    "kubectl",
    "modprobe",
    "nvidia-smi",
    "openssl",
    "promtool",
    "python3",
];

/// Every command that is not run as it stands, be it in a block or in a sentence.
pub(crate) fn shown() -> Vec<Shown> {
    let blocks = blocks();
    let in_blocks = blocks.iter().filter(|block| block.language == "sh").flat_map(commands_of);
    in_blocks.chain(documents().iter().flat_map(in_sentences)).collect()
}

/// Code between single backticks that begins as a command does. What tells of the past is left as it was.
fn in_sentences(file: &PathBuf) -> Vec<Shown> {
    if file.ends_with("CHANGELOG.md") {
        return Vec::new();
    }
    let name = file.strip_prefix(root()).unwrap().display().to_string();
    let text = std::fs::read_to_string(file).unwrap();
    let mut fenced = false;
    let mut found = Vec::new();
    for (line, text) in text.lines().enumerate() {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            let spans = text.split('`').skip(1).step_by(2);
            let commands = spans.filter(|span| match span.split_once(' ') {
                Some((first, _)) => PROGRAMS.contains(&first) || first.contains("scripts/"),
                None => span.starts_with("./scripts/"),
            });
            found.extend(commands.map(|span| Shown {
                place: format!("{name}:{}", line + 1),
                text: span.replace("cargo run --release -- ", "tensorfleet-worker "),
            }));
        }
    }
    found
}

fn commands_of(block: &Block) -> Vec<Shown> {
    let whole = block.text.replace("\\\n", " ");
    let words = |line: &str| {
        let line = line.split(" #").next().unwrap().trim().trim_end_matches('&').trim();
        let line = line.replace("cargo run --release -- ", "tensorfleet-worker ");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let lines = whole.lines().map(words).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|text| Shown { place: block.place.clone(), text }).collect()
}
