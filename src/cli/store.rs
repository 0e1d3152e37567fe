//! `store`: the store while no broker runs. Owns what is typed and printed; the work is `app::offline`'s. Invariant: an
//! export that was not finished is not left behind.

mod spool;

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::check_config;
use super::console::Console;
use super::failure::{Cause, Failure};
use super::next::{Next, option};
use super::page::{Page, Report};
use super::serve::{not_started, remedied};
use crate::app::offline::{self, ExportError, Exported, Imported, OfflineError, Taking, Verified};
use crate::config::{Config, Override};

/// What to do with the store.
#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Write every connection to one sealed file, which any engine can take
    Export(Export),
    /// Take connections from an export, into a new or an empty store
    Import(Import),
    /// Open every record, and say what is missing, unreadable or of old
    Verify(Verify),
}

/// Where the store is.
#[derive(Args, Debug)]
pub(crate) struct Which {
    /// The configuration file. Default: $TOKEN_BROKER_CONFIG, else /etc/token-broker/config.yaml
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Another engine than the configuration's store.engine: sled or redb
    #[arg(long, value_name = "NAME")]
    engine: Option<String>,
    /// Another directory than the configuration's store.path
    #[arg(long, value_name = "DIR")]
    path: Option<PathBuf>,
}

/// Write every connection to one sealed file.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The file to make; - writes to standard output
    file: PathBuf,
    /// Seal the export with the active key of this key file instead of the store's own
    #[arg(long, value_name = "FILE")]
    export_key_file: Option<PathBuf>,
    #[command(flatten)]
    which: Which,
}

/// Take connections from an export.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The export; - reads standard input
    file: PathBuf,
    /// The key file that opens the export, where that is not the store's own
    #[arg(long, value_name = "FILE")]
    export_key_file: Option<PathBuf>,
    /// Also into a store that holds connections: what it lacks is added, what it has is kept
    #[arg(long, conflicts_with = "backup")]
    merge: bool,
    /// The export is of old: refresh tokens in it may have been spent since, and the broker is told so
    #[arg(long)]
    backup: bool,
    #[command(flatten)]
    which: Which,
}

/// Look at the whole store.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    #[command(flatten)]
    which: Which,
}

/// What was exported.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ExportView {
    /// The file; `-` for standard output.
    file: String,
    /// Connections in it, and histories of disconnected ones.
    connections: u64,
    /// Connections that do not open and are not in it.
    unreadable: u64,
    /// Records that were written to the store, and are neither there nor in it.
    missing: u64,
    /// Why the store is taken for an older state of itself, as what is made of the export will be; null where it is not.
    rollback: Option<String>,
    /// The key that it is sealed with.
    key: String,
    /// The engine it came from. Any other can take it.
    engine: String,
}

/// What was imported.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct ImportView {
    /// The store's directory.
    path: String,
    /// Its engine.
    engine: String,
    /// Connections taken in, and histories of disconnected ones.
    connections: u64,
    /// Connections that the store had already, and kept.
    kept: u64,
    /// Whether the store was made for them.
    new: bool,
    /// When the export was made.
    export_time: String,
    /// Why the export's store was taken for an older state of itself, as this one is now; null where it was not.
    rollback: Option<String>,
}

/// How a store is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct VerifyView {
    /// Its directory.
    path: String,
    /// Its engine.
    engine: String,
    /// Connections that are there, and histories of disconnected ones.
    connections: u64,
    /// Consents under way that are there.
    sessions: u64,
    /// Records that do not open.
    unreadable: u64,
    /// Records that were written and are not there.
    missing: u64,
    /// Answers of providers that lie in store.escrow_path, and that it has not taken.
    waiting: u64,
    /// Why the store is taken for an older state of itself; null where it is not.
    rollback: Option<String>,
}

/// What makes a store take what waits for it in the second place.
const TAKE_UP: &str = "start the broker once with this store.escrow_path, so that it takes them up, and stop it again; what it keeps and names in its log is lost to the store: move those files away if that is meant";

impl Store {
    /// Runs the command.
    pub(crate) async fn run(self, console: &mut Console) -> Result<(), Failure> {
        match self {
            Self::Export(export) => export.run(console),
            Self::Import(import) => import.run(console).await,
            Self::Verify(verify) => verify.run(console),
        }
    }
}

impl Which {
    /// The flags that name the same store.
    fn words(&self) -> Vec<String> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        [("--config", path(&self.config)), ("--engine", self.engine.clone()), ("--path", path(&self.path))]
            .into_iter()
            .filter_map(|(flag, value)| Some(option(flag, &value?)))
            .flatten()
            .collect()
    }

    fn config(self, console: &Console) -> Result<Config, Failure> {
        let path = self.path.map(|path| path.to_string_lossy().into_owned());
        let named =
            |flag: &str, key, value: Option<String>| value.map(|value| Override::new(flag, key, value));
        let overrides: Vec<Override> =
            [named("--engine", "store.engine", self.engine), named("--path", "store.path", path)]
                .into_iter()
                .flatten()
                .collect();
        check_config::read(console, self.config, &overrides)
    }
}

impl Export {
    fn run(self, console: &mut Console) -> Result<(), Failure> {
        let which = self.which.words();
        let config = self.which.config(console)?;
        let key_file = self.export_key_file.as_deref();
        let now = console.now();
        let exported = if is_stream(&self.file) {
            let stdout = &mut console.output.stdout;
            if stdout.is_terminal {
                let failure = Failure::new(Cause::Usage, "an export is not written to a terminal");
                return Err(failure.then(Next::ExportStore("connections.export".into(), which)));
            }
            offline::export(&config, key_file, stdout, now).map_err(|error| failed(error, &config, &which))?
        } else {
            into_file(&self.file, |file| {
                offline::export(&config, key_file, file, now).map_err(|error| failed(error, &config, &which))
            })?
        };
        let view = ExportView::new(&self.file, &exported);
        if is_stream(&self.file) {
            // Standard output holds the export and nothing else.
            console.note(view.sentence().trim_end())?;
        } else {
            console.report(&view)?;
        }
        let flaws = flaws(view.missing, view.unreadable, view.rollback.as_deref());
        if flaws.is_empty() {
            return Ok(());
        }
        let what = "the export is written, and the store that it was made from is not whole";
        Err(Failure::new(Cause::Key, what).because(flaws).then(Next::VerifyStore(which)))
    }
}

impl Import {
    async fn run(self, console: &mut Console) -> Result<(), Failure> {
        let which = self.which.words();
        let config = self.which.config(console)?;
        let taking = Taking { is_merged: self.merge, is_backup: self.backup };
        let stream = if is_stream(&self.file) {
            spool::spooled(console.input.bytes())?
        } else {
            fs::File::open(&self.file).map_err(|error| unusable(&self.file, &error))?
        };
        let imported = offline::import(&config, self.export_key_file.as_deref(), stream, taking).await;
        let imported = imported.map_err(|error| failed(error, &config, &which))?;
        Ok(console.report(&ImportView::new(&config, &imported))?)
    }
}

impl Verify {
    fn run(self, console: &mut Console) -> Result<(), Failure> {
        let which = self.which.words();
        let config = self.which.config(console)?;
        let verified = offline::verify(&config).map_err(|error| failed(error, &config, &which))?;
        let view = VerifyView::new(&config, &verified);
        console.report(&view)?;
        if let (answers @ 1.., Some(place)) = (view.waiting, config.store.escrow_path.clone()) {
            return Err(failed(OfflineError::Waiting { place, answers }, &config, &which));
        }
        let flaws = flaws(view.missing, view.unreadable, view.rollback.as_deref());
        if flaws.is_empty() {
            return Ok(());
        }
        let what = format!("the store at {} is not whole", config.store.path.display());
        let fix = "put the newest backup in its place, or start the broker: what is well is served, and refresh tokens that may be spent are not sent";
        Err(Failure::new(Cause::Key, what).because(flaws).fixed_by(fix))
    }
}

/// What a store that is not whole suffers from; empty where it is whole.
fn flaws(missing: u64, unreadable: u64, rollback: Option<&str>) -> String {
    let counted = |count: u64, what: &str| (count > 0).then(|| format!("{count} records {what}"));
    let flaws = [
        counted(missing, "are missing"),
        counted(unreadable, "do not open"),
        rollback.map(|why| format!("it is in an older state than it had: {why}")),
    ];
    flaws.into_iter().flatten().collect::<Vec<_>>().join("; ")
}

fn is_stream(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Makes a file of what `write` writes: durable, for its owner alone, and gone if it fails. One that is there is not
/// touched.
fn into_file<T>(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<T, Failure>) -> Result<T, Failure> {
    let mut options = OpenOptions::new();
    let opened = options.write(true).create_new(true).mode(0o600).open(path);
    let file = opened.map_err(|error| unusable(path, &error))?;
    let mut buffered = io::BufWriter::new(&file);
    let written = write(&mut buffered).and_then(|written| {
        buffered.flush().and_then(|()| file.sync_all()).map_err(|error| unusable(path, &error))?;
        Ok(written)
    });
    if written.is_err() {
        let _ = fs::remove_file(path);
    }
    written
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Cause::Machine, format!("{} cannot be used", path.display())).because(error.to_string())
}

/// Why it failed; `which`: the flags that name the store.
fn failed(error: OfflineError, config: &Config, which: &[String]) -> Failure {
    let what = error.to_string();
    match error {
        OfflineError::Start(error) => not_started(error, config.seal.key_file.clone()),
        OfflineError::NoStore(_) => {
            let failure = Failure::new(Cause::Machine, what);
            let next = config.file.clone().map_or(Next::Help("store".to_owned()), Next::CheckConfig);
            failure
                .because("a broker makes one when it starts")
                .then(next.with("shows which directory holds"))
        }
        OfflineError::Waiting { .. } => Failure::new(Cause::Key, what)
            .because("of those connections the store holds tokens that are spent: sent once more, they could end the grants")
            .fixed_by(TAKE_UP),
        OfflineError::InMemory => Failure::new(Cause::Usage, what)
            .because("store.engine is memory")
            .fixed_by("name a durable engine with --engine, and its directory with --path"),
        OfflineError::Export(error) => {
            let cause = match &error {
                ExportError::NotEmpty { .. } | ExportError::NotNew => Cause::Usage,
                ExportError::WrongKey { .. } | ExportError::Store(_) => Cause::Key,
                ExportError::NotAnExport
                | ExportError::UnknownForm(_)
                | ExportError::CutOff { .. }
                | ExportError::Damaged { .. }
                | ExportError::Io(_) => Cause::Machine,
            };
            let failure = Failure::new(cause, what).because(error.why());
            match error.remedy() {
                Some(remedy) => remedied(failure, remedy),
                None => failure.then(Next::VerifyStore(which.to_vec())),
            }
        }
    }
}

impl ExportView {
    fn new(file: &Path, exported: &Exported) -> Self {
        Self {
            file: file.display().to_string(),
            connections: exported.connections,
            unreadable: exported.unreadable,
            missing: exported.header.missing,
            rollback: exported.header.rollback.clone(),
            key: exported.header.key.clone(),
            engine: exported.header.engine.clone(),
        }
    }

    fn sentence(&self) -> String {
        let Self { file, connections, key, engine, .. } = self;
        let to = if file == "-" { "standard output" } else { file };
        format!("{connections} connections of a {engine} store written to {to}, sealed with key {key}\n")
    }
}

impl Report for ExportView {
    fn text(&self, _: &Page<'_>) -> String {
        self.sentence()
    }
}

impl ImportView {
    fn new(config: &Config, imported: &Imported) -> Self {
        Self {
            path: config.store.path.display().to_string(),
            engine: config.store.engine.as_str().to_owned(),
            connections: imported.connections,
            kept: imported.kept,
            new: imported.is_new,
            export_time: imported.header.made_at.to_string(),
            rollback: imported.header.rollback.clone(),
        }
    }
}

impl Report for ImportView {
    fn text(&self, _: &Page<'_>) -> String {
        let Self { path, engine, connections, kept, new, export_time, rollback } = self;
        let which = if *new { "a new" } else { "the" };
        let kept = if *kept > 0 {
            format!("; {kept} were there already and stay as they are")
        } else {
            String::new()
        };
        let of_old = rollback.as_ref().map_or_else(String::new, |why| {
            format!(
                "it is in an older state than it had: {why}; refresh tokens that may be spent are not sent\n"
            )
        });
        format!(
            "{connections} connections taken into {which} {engine} store at {path}{kept}\nexported {export_time}\n{of_old}"
        )
    }
}

impl VerifyView {
    fn new(config: &Config, Verified { opened, waiting }: &Verified) -> Self {
        Self {
            path: config.store.path.display().to_string(),
            engine: config.store.engine.as_str().to_owned(),
            connections: opened.connections,
            sessions: opened.sessions,
            unreadable: opened.unreadable,
            missing: opened.missing,
            waiting: *waiting,
            rollback: opened.rollback.as_ref().map(|rollback| rollback.why.to_owned()),
        }
    }
}

impl Report for VerifyView {
    fn text(&self, _: &Page<'_>) -> String {
        let Self { path, engine, connections, sessions, unreadable, missing, waiting, rollback } = self;
        let state = rollback.as_deref().unwrap_or("the newest there was");
        format!(
            "store        {path} ({engine})\nconnections  {connections}\nsessions     {sessions}\nunreadable   {unreadable}\nmissing      {missing}\nwaiting      {waiting}\nstate        {state}\n"
        )
    }
}
