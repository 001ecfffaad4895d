//! Which fields of the network's entry are ours: the written list. What is not on it is the
//! network's, and neither compared nor sent once the entry is made.

use std::collections::BTreeMap;

use crate::digest::Digest;
use crate::document::ClusterDocument;

/// The key in `clusterMetadata.additionalInfo` by which an installation knows its own entry.
pub const INSTALLATION_KEY: &str = "rollcallInstallation";

/// Ours always: looked at each time, and put right whoever changed it. Besides these: the nodes'
/// list, and the totals in [`super::amend::TOTALS`].
pub(super) const ALWAYS: [&str; 2] =
    ["regionId", "clusterMetadata.additionalInfo.rollcallInstallation"];

/// Ours when the cluster file changes them: sent then, key by key, and otherwise left as the network's
/// policy wrote them. `status` is on neither list: AIOS's parser drops it.
pub(super) const ON_CHANGE: [&str; 4] = ["config", "clusterMetadata", "tags", "reputation"];

/// What the fields of [`ON_CHANGE`] were when the entry was last seen to be right, as digests: they may
/// hold a secret.
pub type Declared = BTreeMap<String, Digest>;

/// The digests of what a document says in the fields of [`ON_CHANGE`].
///
/// # Errors
///
/// When the document cannot be encoded.
pub fn declared(document: &ClusterDocument) -> serde_json::Result<Declared> {
    let values = [
        serde_json::to_vec(&document.config)?,
        serde_json::to_vec(&document.cluster_metadata)?,
        serde_json::to_vec(&document.tags)?,
        serde_json::to_vec(&document.reputation)?,
    ];
    let digests = values.iter().map(|value| Digest::of(&[value]));
    Ok(ON_CHANGE.into_iter().map(str::to_owned).zip(digests).collect())
}

/// Whether a dotted path is another one, or leads below it.
pub(super) fn is_within(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
