//! What sessions leave on disk: a checkpoint after each task, and models.
//!
//! ```text
//! STATE_DIR/checkpoints/JOB/SESSION.NUMBER   the newest two of each session
//! STATE_DIR/models/JOB/model.safetensors     of a job that ended, or that is too large to travel (models.rs)
//!
//! magic (8) | length of header (8, LE) | header (JSON) | length of model (8) | model | state of the trainer | SHA-256 of all
//! before (32)
//! ```
//!
//! A file is written under another name, synchronised and then renamed, so that it is whole or not there. What is torn
//! or was changed all the same is skipped with a warning, and the one before it is taken.
//!
//! A session is found by a digest of all that tells sessions apart, as [`Hyperparameters::identity`] writes it, and of the
//! version of the program: another version begins anew, since its arithmetic may be another one. The backend tells sessions
//! apart, but not what they are: one that has moved to another backend goes on from the checkpoint that was written last.
//!
//! The model is there for a job that ends without its session (ended.rs).
//!
//! [`Hyperparameters::identity`]: crate::domain::Hyperparameters::identity

mod ended;
mod format;
mod models;
mod saving;

pub(super) use self::format::{Checkpoint, Completed};
use self::models::Elsewhere;
pub(super) use self::models::Kept;
use self::saving::UnderWay;

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest as _, Sha256};

use super::Config;
use crate::domain::JobId;
use crate::failpoint;

/// Checkpoints of a session that are kept: the newest, and the one before it in case that is torn.
const KEPT: usize = 2;

/// Tasks whose results a checkpoint repeats. Their reports may not have left the worker when it was killed.
pub(super) const REMEMBERED_TASKS: usize = 16;

/// Age at which the checkpoints of a job are given up whose end nobody told of, and a model that nobody fetched.
const MOST_AGE: Duration = Duration::from_secs(7 * 24 * 3600);

/// Time between two looks at what is too old.
const TIDY_INTERVAL: Duration = Duration::from_secs(3600);

/// Longest part of an id that becomes a file name, in bytes; file systems take 255.
const MAX_NAME_BYTES: usize = 150;

/// The folder of all checkpoints and models.
#[derive(Debug)]
pub(super) struct Store {
    state_dir: PathBuf,
    /// Where models go beside.
    elsewhere: Option<Elsewhere>,
    /// When it was looked for what is too old.
    tidied: Mutex<Option<Instant>>,
    under_way: UnderWay,
}

impl Store {
    /// The one that `config` asks for.
    pub(super) fn of(config: &Config) -> Option<Arc<Self>> {
        let folder = config.models_to.clone();
        let elsewhere = folder.map(|folder| Elsewhere { folder, remote: config.data.remote.clone() });
        Some(Arc::new(Self::at(config.state_dir.as_deref()?).and_put_models(elsewhere)))
    }

    /// The store under `state_dir`, as it is.
    pub(super) fn at(state_dir: &Path) -> Self {
        Self {
            state_dir: state_dir.to_owned(),
            elsewhere: None,
            tidied: Mutex::default(),
            under_way: UnderWay::default(),
        }
    }

    /// Jobs of which there are checkpoints, but for those of very long names. What is older than a week is removed, which is
    /// looked for once an hour.
    pub(super) fn jobs(&self) -> Vec<JobId> {
        let mut tidied = self.tidied.lock().unwrap_or_else(PoisonError::into_inner);
        if tidied.is_none_or(|tidied| tidied.elapsed() >= TIDY_INTERVAL) {
            *tidied = Some(Instant::now());
            self.prune(SystemTime::now());
        }
        drop(tidied);
        let folders = entries(&self.state_dir.join("checkpoints"));
        folders.iter().filter_map(|folder| job_of(folder.file_name()?.to_str()?)).collect()
    }

    fn prune(&self, now: SystemTime) {
        let old = |path: &PathBuf| {
            saved_at(path).is_some_and(|saved| now.duration_since(saved).is_ok_and(|age| age > MOST_AGE))
        };
        for kind in ["checkpoints", "models"] {
            for folder in entries(&self.state_dir.join(kind)) {
                // The folder too: one that is empty may be about to get its first file.
                if old(&folder) && entries(&folder).iter().all(old) {
                    // What cannot be removed is tried again at the next look.
                    let _ = fs::remove_dir_all(&folder);
                }
            }
        }
    }

    fn folder(&self, job: &JobId) -> PathBuf {
        self.state_dir.join("checkpoints").join(file_name(job))
    }

    /// Numbers and paths of the checkpoints of `session`, newest first.
    fn of_session(&self, job: &JobId, session: &str) -> Vec<(u64, PathBuf)> {
        let number = |path: &PathBuf| {
            path.file_name()?.to_str()?.strip_prefix(session)?.strip_prefix('.')?.parse::<u64>().ok()
        };
        let mut found: Vec<_> =
            entries(&self.folder(job)).into_iter().filter_map(|path| Some((number(&path)?, path))).collect();
        found.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        found
    }

    /// The tasks in the newest checkpoint of `sessions` that `take` takes; None where there is none. Of several sessions, that
    /// counts which was saved last.
    ///
    /// # Errors
    /// There are some and all are skipped; says why the newest is.
    pub(super) fn newest<E: std::fmt::Display>(
        &self,
        job: &JobId,
        sessions: &[String],
        mut take: impl FnMut(&Checkpoint) -> Result<(), E>,
    ) -> Result<Option<Vec<Completed>>, String> {
        if sessions.iter().any(|session| self.under_way.has(job, session)) {
            return Err(saving::hangs().to_string());
        }
        let mut skipped = None;
        for (_, path) in self.by_age(job, sessions).into_iter().flat_map(|(_, files)| files) {
            let read = fs::read(&path).map_err(|error| error.to_string());
            let taken = read
                .and_then(|bytes| Checkpoint::decode(&bytes).map_err(|damage| damage.to_string()))
                .and_then(|checkpoint| {
                    take(&checkpoint).map_err(|error| error.to_string())?;
                    Ok(checkpoint.completed)
                });
            match taken {
                Ok(completed) => return Ok(Some(completed)),
                Err(why) => {
                    tracing::warn!(job_id = %job, path = %path.display(), "a checkpoint is skipped: {why}");
                    skipped.get_or_insert(why);
                }
            }
        }
        skipped.map_or(Ok(None), Err)
    }

    /// The one of `sessions` that was saved last; None where none is there.
    pub(super) fn last_saved<'a>(&self, job: &JobId, sessions: &'a [String]) -> Option<&'a String> {
        self.by_age(job, sessions).into_iter().next().map(|(session, _)| session)
    }

    /// Those of `sessions` that were saved, the last one first, and their checkpoints, newest first.
    fn by_age<'a>(&self, job: &JobId, sessions: &'a [String]) -> Vec<(&'a String, Vec<(u64, PathBuf)>)> {
        let of = |session: &'a String| (session, self.of_session(job, session));
        let mut found: Vec<_> = sessions.iter().map(of).filter(|(_, files)| !files.is_empty()).collect();
        found.sort_by_key(|(_, files)| std::cmp::Reverse(files.first().and_then(|(_, path)| saved_at(path))));
        found
    }

    /// Removes the checkpoints of `job`.
    pub(super) fn forget(&self, job: &JobId) {
        match fs::remove_dir_all(self.folder(job)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(job_id = %job, "its checkpoints cannot be removed: {error}");
            }
            _ => {}
        }
    }
}

/// The name under which a session's checkpoints are kept, from a description of all that tells sessions apart.
pub(super) fn session_name(description: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    hex(Sha256::digest(format!("{version}\n{description}")).get(..16).unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A name of its own for every job that no file system minds: other characters than letters, digits, `_` and `-` as
/// `%XX`, and the end of a long one as a digest.
fn file_name(job: &JobId) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let name: String = job
        .as_str()
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect();
    match name.get(..MAX_NAME_BYTES) {
        Some(start) if name.len() > MAX_NAME_BYTES => {
            format!("{start}~{}", hex(Sha256::digest(job.as_str()).get(..16).unwrap_or_default()))
        }
        _ => name,
    }
}

/// The job whose folder is called `name`; None where the name says only a part of it.
fn job_of(name: &str) -> Option<JobId> {
    let mut id = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        let digits = if byte == b'%' { Some([rest.next()?, rest.next()?]) } else { None };
        id.push(match digits {
            None => byte,
            Some(digits) => u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?,
        });
    }
    let job = JobId::parse(str::from_utf8(&id).ok()?).ok()?;
    (file_name(&job) == name).then_some(job)
}

/// When `path` was written.
fn saved_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn write_whole(folder: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    // One thread at a time writes for a session; what a killed process left behind is written over.
    let temporary = folder.join(format!("{name}.part"));
    let mut file = File::create(&temporary)?;
    failpoint::pass("checkpoint-before-write");
    failpoint::tear("checkpoint-torn", bytes, |half| drop((&file).write_all(half)));
    file.write_all(bytes)?;
    file.sync_all()?;
    failpoint::pass("checkpoint-written");
    fs::rename(&temporary, folder.join(name))?;
    failpoint::pass("checkpoint-renamed");
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::format::MAGIC;
    use super::*;
    use crate::domain::{Backend, Metrics, TaskResult};
    use crate::engine::tests::task;

    fn checkpoint(state: &[u8]) -> Checkpoint {
        let result = TaskResult {
            train: Metrics { loss: 0.1, accuracy: 1.0 },
            validation: None,
            samples: 7,
            steps: 3,
            backend: Backend::Cpu,
            device: "cpu".to_owned(),
            weights: Bytes::new(),
            reference: None,
        };
        Checkpoint {
            data: "rows".to_owned(),
            completed: vec![Completed::new(&task("j", "mlp", 1, 0..100), &result)],
            model_name: "model.json".to_owned(),
            model: Bytes::copy_from_slice(&[b"model of ", state].concat()),
            state: state.to_vec(),
        }
    }

    fn job(id: &str) -> JobId {
        JobId::parse(id).unwrap()
    }

    fn newest(store: &Store) -> Option<Vec<u8>> {
        let mut found = None;
        let taken = store.newest::<String>(&job("j"), &["s".to_owned()], |checkpoint| {
            found = Some(checkpoint.state.clone());
            Ok(())
        });
        taken.unwrap()?;
        found
    }

    #[test]
    fn the_newest_whole_checkpoint_counts_at_whatever_byte_a_later_one_is_torn() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        assert_eq!(newest(&store), None);
        for state in [b"first", b"other", b"third"] {
            store.save(&job("j"), "s", &checkpoint(state)).unwrap();
        }
        let files = store.of_session(&job("j"), "s");
        assert_eq!(files.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(newest(&store).unwrap(), b"third");
        let whole = fs::read(&files[0].1).unwrap();
        for length in 0..whole.len() {
            fs::write(&files[0].1, &whole[..length]).unwrap();
            assert_eq!(newest(&store).unwrap(), b"other", "{length}");
        }
        for place in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[place] ^= 1;
            fs::write(&files[0].1, &flipped).unwrap();
            assert_eq!(newest(&store).unwrap(), b"other", "{place}");
        }
        store.forget(&job("j"));
        assert_eq!(newest(&store), None);
        store.forget(&job("j"));
    }

    #[test]
    fn what_a_trainer_refuses_is_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        store.save(&job("j"), "s", &checkpoint(b"good")).unwrap();
        store.save(&job("j"), "s", &checkpoint(b"bad")).unwrap();
        let take = |one: &Checkpoint| if one.state == b"bad" { Err("bad") } else { Ok(()) };
        assert_eq!(
            store.newest(&job("j"), &["s".to_owned()], take).unwrap().unwrap(),
            checkpoint(b"").completed
        );
        store.save(&job("j"), "s", &checkpoint(b"bad")).unwrap();
        assert_eq!(store.newest(&job("j"), &["s".to_owned()], take).unwrap_err(), "bad", "all are");
    }

    #[test]
    fn no_id_leads_out_of_the_folder_and_no_two_share_one() {
        let long = "x".repeat(256);
        let other = format!("{}y", "x".repeat(255));
        let names: Vec<_> =
            ["..", ".", "a/b", "a%2Fb", "A", &long, &other].iter().map(|id| file_name(&job(id))).collect();
        for name in &names {
            assert!(!name.contains(['/', '.']) && name.len() < 255, "{name}");
        }
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
    }

    #[test]
    fn the_jobs_that_have_checkpoints_are_known_by_their_folders() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        let mut jobs = ["..", "a/b", "a%2Fb", "a~b", "A"].map(job);
        for job in &jobs {
            store.save(job, "s", &checkpoint(b"x")).unwrap();
        }
        store.save(&job(&"x".repeat(200)), "s", &checkpoint(b"x")).unwrap();
        for foreign in ["%", "%4", "%41", "lost+found", "a~b"] {
            fs::create_dir(folder.path().join("checkpoints").join(foreign)).unwrap();
        }
        let mut known = store.jobs();
        known.sort();
        jobs.sort();
        assert_eq!(known, jobs);
    }

    #[test]
    fn checkpoints_and_models_that_nobody_asked_for_in_a_week_go() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(folder.path());
        store.save(&job("j"), "s", &checkpoint(b"x")).unwrap();
        let model = bytes::Bytes::from_static(b"model");
        store.keep_model(&job("j"), "model.json", &model, &|| Ok(())).unwrap();
        fs::create_dir(folder.path().join("models/begun")).unwrap();
        let there = || ["models/j/model.json", "models/begun"].map(|path| folder.path().join(path).exists());
        store.prune(SystemTime::now() + MOST_AGE / 2);
        assert!(newest(&store).is_some() && there() == [true; 2]);
        store.prune(SystemTime::now() + MOST_AGE * 2);
        assert!(newest(&store).is_none() && there() == [false; 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn whatever_the_bytes_decoding_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let sealed = [MAGIC.as_slice(), &bytes].concat();
            let digest = Sha256::digest(&sealed);
            let sealed = [sealed.as_slice(), digest.as_slice()].concat();
            prop_assert!(Checkpoint::decode(&bytes).is_err());
            if let Ok(decoded) = Checkpoint::decode(&sealed) {
                prop_assert_eq!(Checkpoint::decode(&decoded.encode().unwrap()).unwrap(), decoded);
            }
        }
    }
}
