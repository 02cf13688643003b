//! The table of all variables as Markdown, for docs/configuration.md.

use std::fmt::Write as _;

use super::{VARIABLES, Variable};

/// A row a variable.
pub fn markdown() -> String {
    let mut text = String::from("| variable | default | takes | what for |\n|-|-|-|-|\n");
    for variable in VARIABLES {
        let names: Vec<_> = variable.names().map(|name| format!("`{name}`")).collect();
        let default = variable.default.map_or_else(|| "unset".to_owned(), |default| format!("`{default}`"));
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {default} | {} | {}{} |",
            names.join(", also "),
            cell(variable.takes),
            cell(variable.help),
            remark(variable)
        );
    }
    text
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn remark(variable: &Variable) -> &'static str {
    if variable.secret { ". Never shown." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_has_its_row() {
        let text = markdown();
        for variable in VARIABLES {
            assert!(text.contains(&format!("| `{}`", variable.name)), "{}", variable.name);
        }
        assert_eq!(text.lines().count(), VARIABLES.len() + 2);
        assert!(text.lines().all(|line| line.starts_with('|') && line.ends_with('|')));
    }
}
