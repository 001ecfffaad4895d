//! `document`: what a target is told, exactly.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::show::{Output, Show, once, print};
use super::{Failure, KubernetesArgs, ServerArgs, named, region};
use crate::admin::views::DocumentView;
use crate::checks::kubernetes::Reader;
use crate::cluster_file::{ClusterFile, Target};
use crate::form::Form;
use crate::operator::tables::{self, Viewer};
use crate::targets::unikorn::region::RegionView;
use crate::targets::{aichor, inference_model_manager, interlink};

#[derive(Debug, Args)]
pub(super) struct DocumentArgs {
    /// The target's name; without it, the document without any target's own marks.
    target: Option<String>,
    /// The cluster file: for targets that the aggregator does nothing for by itself.
    #[arg(long, value_name = "FILE", env = "ROLLCALL_CLUSTER")]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    kubernetes: KubernetesArgs,
    /// How long to wait for each answer of Kubernetes.
    #[arg(long, value_name = "DUR", default_value = "10s", value_parser = super::check::limit)]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
    /// A table for people, or JSON or YAML for programs. Left out: JSON for what is sent, YAML for what is
    /// applied, and the table of a form.
    #[arg(long, short, value_enum)]
    output: Option<Output>,
    /// Another shape of the same, where the target has several.
    #[arg(long, value_name = "NAME")]
    variant: Option<String>,
    /// Shows secrets as they are.
    #[arg(long)]
    show_secrets: bool,
    /// Writes it to a new file that nobody else can read, secrets as they are.
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

/// Prints a target's document.
pub(super) async fn document(args: DocumentArgs) -> Result<(), Failure> {
    // Without a target there is nothing to look up in it.
    let path = args.cluster.as_deref().filter(|_| args.target.is_some());
    let file = path.map(ClusterFile::read).transpose();
    let file = file.map_err(Failure::ClusterFile)?;
    let target = match (&file, &args.target) {
        (Some(file), Some(name)) => Some(named(file, name)?),
        _ => None,
    };
    match target {
        Some(Target::Aichor(target)) => {
            let reader = args.reader().await;
            args.show(aichor::document(target, &reader).await)
        }
        Some(Target::Interlink(target)) => {
            let reader = args.reader().await;
            args.show(interlink::document(target, &reader).await)
        }
        Some(Target::InferenceModelManager(target)) => {
            let reader = args.reader().await;
            args.show(inference_model_manager::document(target, &reader).await)
        }
        Some(Target::Aios(_) | Target::Unikorn(_)) | None => of_the_server(args).await,
    }
}

/// The document of a network that the aggregator registers the cluster with.
async fn of_the_server(args: DocumentArgs) -> Result<(), Failure> {
    if args.show_secrets || args.variant.is_some() {
        let words = "--show-secrets and --variant are for forms and values, not for what is applied or sent";
        return Err(Failure::Usage(words.to_owned()));
    }
    let operator = args.server.operator()?;
    if let Some(name) = &args.target {
        let status = operator.status().await.map_err(Failure::Operator)?;
        if status.region.is_some_and(|region| region.name == *name) {
            let view = region::view(&operator).await?;
            if view.classes.iter().all(|class| class.not_offered.is_some()) {
                log::warn!(
                    "no class is offered: applied as it is, this takes all of ours out of the Region"
                );
            }
            let output = args.output.unwrap_or(Output::Yaml);
            return match &args.to {
                None => once(&view, output),
                Some(path) => write_secret(path, &output.data(&view.region)?),
            };
        }
    }
    if args.to.is_some() {
        let words = "--to is for what is handed on, not for what the aggregator sends by itself";
        return Err(Failure::Usage(words.to_owned()));
    }
    let view = operator.document(args.target.as_deref()).await.map_err(Failure::Operator)?;
    once(&view, args.output.unwrap_or(Output::Json))
}

impl Show for DocumentView {
    fn data(&self) -> &impl Serialize {
        &self.document
    }

    fn table(&self, viewer: Viewer) -> String {
        tables::document(&self.document, viewer)
    }

    fn notes(&self) -> Vec<String> {
        let masked = "a secret in this document is masked; it is sent unmasked";
        let masked = self.masked.then(|| masked.to_owned());
        self.incomplete.iter().chain(&self.warnings).cloned().chain(masked).collect()
    }
}

// What is to be known of it is told where it is asked for.
impl Show for RegionView {
    fn data(&self) -> &impl Serialize {
        &self.region
    }

    fn table(&self, viewer: Viewer) -> String {
        tables::region(self, viewer)
    }
}

impl DocumentArgs {
    async fn reader(&self) -> crate::checks::Observed<Reader> {
        Reader::open(&self.kubernetes.clone().selection(), self.timeout).await
    }

    /// Prints a form, or writes it to a file.
    fn show(&self, made: Result<Form, String>) -> Result<(), Failure> {
        let form = made.map_err(Failure::NotDone)?;
        for note in &form.notes {
            log::warn!("{note}");
        }
        let (masked, has_secrets) = form.masked();
        let is_open = self.show_secrets || self.to.is_some();
        if has_secrets && !is_open {
            log::warn!(
                "secrets are masked: --to FILE writes them to a file, --show-secrets shows them"
            );
        }
        let shown = if is_open { &form } else { &masked };
        let variant = shown.variant(self.variant.as_deref()).map_err(Failure::Usage)?;
        let table = variant.table();
        let text = match (self.output, table) {
            (None | Some(Output::Table), Some(table)) => table,
            (output, _) => output.unwrap_or(Output::Yaml).data(&variant.value)?,
        };
        match &self.to {
            None => print(&text),
            Some(path) => write_secret(path, &text),
        }
    }
}

/// Writes a file that nobody else can read, from its first moment on.
pub(super) fn write_secret(path: &Path, text: &str) -> Result<(), Failure> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| {
        let written = writeln!(file, "{}", text.trim_end()).and_then(|()| file.sync_all());
        // A part of it would be in the way of the next try, and be taken for the whole.
        written.inspect_err(|_told_below| drop(fs::remove_file(path)))
    });
    written.map_err(|source| {
        let hint = match source.kind() {
            std::io::ErrorKind::AlreadyExists => "; remove it, or name another",
            _ => "",
        };
        Failure::NotDone(format!("{} cannot be written: {source}{hint}", path.display()))
    })?;
    log::info!(path:% = path.display(); "written, for you alone to read");
    Ok(())
}
