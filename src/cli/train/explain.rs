//! Failures of a training in the words of the command line: what is missing here, and which flag helps.

use std::path::{self, Path, PathBuf};

use super::training::Order;
use crate::cli::Failure;
use crate::domain::TaskError;
use crate::engine::OpenError;

/// What has to be known of an order to explain why it failed.
#[derive(Debug)]
pub(super) struct Explain {
    dataset: PathBuf,
    root: PathBuf,
}

impl Explain {
    pub(super) fn of(order: &Order) -> Self {
        Self { dataset: PathBuf::from(&order.dataset), root: order.config.data.root.clone() }
    }

    /// `error` as the command ends with it.
    pub(super) fn failure(&self, error: OpenError) -> Failure {
        let error = match error {
            OpenError::Environment(error) => return Failure::Device(error),
            OpenError::Task(error) => error,
        };
        if error.message.contains("DATA_ROOT") {
            let message = format!("{}; {}", error.message, self.about_the_root(&error.message));
            return Failure::Training(TaskError::new(error.code, message));
        }
        Failure::Training(error)
    }

    fn about_the_root(&self, said: &str) -> String {
        let root = path::absolute(&self.root).unwrap_or_else(|_| self.root.clone());
        let help = match self.elsewhere() {
            Some((folder, name)) => {
                format!(
                    "to train on that file: --data-root {} --dataset {}",
                    folder.display(),
                    name.display()
                )
            }
            None => "--data-root names another".to_owned(),
        };
        if said.starts_with("DATA_ROOT") {
            return help;
        }
        format!("DATA_ROOT is {} here; {help}", root.display())
    }

    /// Folder and name of the file that the path means to the shell, where there is one.
    fn elsewhere(&self) -> Option<(PathBuf, &Path)> {
        let file = self.dataset.canonicalize().ok().filter(|file| file.is_file())?;
        Some((file.parent()?.to_owned(), Path::new(self.dataset.file_name()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ErrorCode;
    use crate::engine::EngineError;

    fn explain(dataset: &Path) -> Explain {
        Explain { dataset: dataset.to_owned(), root: PathBuf::from("/srv/data") }
    }

    #[test]
    fn a_device_that_is_missing_is_no_bad_usage_and_a_contradiction_is() {
        let code = |error: EngineError| explain(Path::new("builtin:iris")).failure(error.into()).exit_code();
        assert_eq!(code(EngineError::GpuRequired { found: "none".into() }), 3);
        assert_eq!(code(EngineError::NoAdapter { field: "TRAINING_BACKEND", found: "none".into() }), 3);
        assert_eq!(code(EngineError::GpuForbidden), 2);
    }

    #[test]
    fn a_file_outside_of_the_root_comes_with_the_flags_that_reach_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().canonicalize().unwrap();
        let file = folder.join("x.csv");
        std::fs::write(&file, "a,b\n1,2\n").unwrap();
        let error = TaskError::new(ErrorCode::NotFound, "dataset_path: \"x\" does not exist under DATA_ROOT");
        let text = explain(&file).failure(error.clone().into()).to_string();
        let flags = format!("--data-root {} --dataset x.csv", folder.display());
        assert!(text.contains(&flags) && text.contains("DATA_ROOT is /srv/data here"), "{text}");
        let text = explain(&folder.join("y.csv")).failure(error.into()).to_string();
        assert!(text.contains("--data-root names another") && !text.contains("--dataset"), "{text}");
    }

    #[test]
    fn other_failures_stay_as_they_are() {
        let error = TaskError::new(ErrorCode::Diverged, "the loss became NaN");
        let failure = explain(Path::new("x")).failure(error.clone().into());
        assert_eq!(failure.to_string(), Failure::Training(error).to_string());
    }
}
