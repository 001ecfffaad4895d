//! Who this node is: its Kubernetes name, the node id it proposes, and a hash of its machine id.

use ring::{digest, hmac};
use rollcall_report::{
    IdSource, InvalidNodeId, InvalidNodeName, MachineHash, NodeId, NodeIdentity, NodeName,
    error_chain,
};
use thiserror::Error;

use crate::host::{HostRoot, ReadError};

/// Makes the machine's hash rollcall's own: another application's hash of the same machine id
/// differs. It must never change, since aggregators bind nodes to the hash.
const APPLICATION_ID: [u8; 16] = 0xa3a8_e02b_3de5_460f_85f6_17df_aaca_6520_u128.to_be_bytes();

/// How many hexadecimal digits of a long name's hash end the shortened form.
const NAME_HASH_DIGITS: usize = 10;

/// Finds out who the node is. A name or id that the operator gave goes before what the host says.
///
/// # Errors
///
/// When no name is given and the host's own is no node name. A machine id that cannot be read is
/// no error: the node then has no machine hash, which the log tells.
pub fn identify(
    root: &HostRoot,
    node_name: Option<NodeName>,
    node_id: Option<NodeId>,
) -> Result<NodeIdentity, IdentityError> {
    let name = match node_name {
        Some(name) => name,
        None => host_name(root)?,
    };
    let (proposed_id, id_source) = match node_id {
        Some(id) => (id, IdSource::Explicit),
        None => (id_of_name(&name)?, IdSource::NodeName),
    };
    let machine_hash = match root.read_if_present("/etc/machine-id") {
        Ok(machine_id) => machine_id.as_deref().and_then(machine_hash),
        Err(error) => {
            log::warn!(error = error_chain(&error); "the machine has no hash");
            None
        }
    };
    Ok(NodeIdentity {
        name,
        proposed_id,
        id_source,
        machine_hash,
        other_label: None,
        overwrite_label: false,
    })
}

/// The host's name as the kubelet makes it the node's: in lower case, without white space.
/// Source: Kubernetes, pkg/util/node, `GetHostname`. The kernel answers for the reader's own UTS
/// namespace, so that a pod must be given its node's name.
fn host_name(root: &HostRoot) -> Result<NodeName, IdentityError> {
    let text = root
        .read("/proc/sys/kernel/hostname")
        .map_err(|source| IdentityError::HostNameUnreadable { source })?;
    NodeName::try_from(text.trim().to_lowercase())
        .map_err(|source| IdentityError::HostNameInvalid { source })
}

/// A node's name as its id. A name that is too long for a label value is shortened, and a hash of
/// the whole keeps it apart from its neighbours.
fn id_of_name(name: &NodeName) -> Result<NodeId, IdentityError> {
    let whole = name.as_str();
    if whole.len() <= NodeId::MAX_CHARS {
        return whole.parse().map_err(|source| IdentityError::NoId { source });
    }
    let hash = digest::digest(&digest::SHA256, whole.as_bytes());
    let beginning: String = whole.chars().take(NodeId::MAX_CHARS - NAME_HASH_DIGITS - 1).collect();
    let ending: String = hash
        .as_ref()
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 0xf])
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .take(NAME_HASH_DIGITS)
        .collect();
    format!("{}-{ending}", beginning.trim_end_matches(['-', '.']))
        .parse()
        .map_err(|source| IdentityError::NoId { source })
}

/// An application-specific hash of a machine id; `None` where the text is no machine id, as before
/// the first boot (`uninitialized`).
///
/// Source: machine-id(5) on confidentiality, and `sd_id128_get_machine_app_specific(3)`: an
/// HMAC-SHA256 of the application's id, keyed with the machine id's 16 bytes, its first half made
/// a v4 UUID.
fn machine_hash(machine_id: &str) -> Option<MachineHash> {
    let digits = machine_id.trim();
    let is_hexadecimal = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let key = u128::from_str_radix(digits, 16)
        .ok()
        .filter(|key| *key != 0 && is_hexadecimal && digits.len() == 32)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key.to_be_bytes());
    let tag = hmac::sign(&key, &APPLICATION_ID);
    let half = u128::from_be_bytes(*tag.as_ref().first_chunk()?);
    let versioned = (half & !(0xf << 76)) | (0x4 << 76);
    let uuid = (versioned & !(0b11 << 62)) | (0b10 << 62);
    format!("{uuid:032x}").parse().ok()
}

/// Why it is unknown who the node is.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The host does not tell its name.
    #[error(
        "the node has no name: give it with --node-name or NODE_NAME, since the host's is unknown"
    )]
    HostNameUnreadable {
        /// What came of reading it.
        source: ReadError,
    },
    /// The host's name is no node name.
    #[error("the host's name cannot be a node's: give the Node's with --node-name or NODE_NAME")]
    HostNameInvalid {
        /// What is wrong with it.
        source: InvalidNodeName,
    },
    /// The name makes no id.
    #[error("the node's name makes no id: give one with --node-id")]
    NoId {
        /// What is wrong with it.
        source: InvalidNodeId,
    },
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    fn host(name: &str, machine_id: Option<&str>) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let kernel = folder.path().join("proc/sys/kernel");
        fs::create_dir_all(&kernel).expect("a folder");
        fs::write(kernel.join("hostname"), name).expect("written");
        if let Some(machine_id) = machine_id {
            fs::create_dir(folder.path().join("etc")).expect("a folder");
            fs::write(folder.path().join("etc/machine-id"), machine_id).expect("written");
        }
        folder
    }

    fn name(text: &str) -> NodeName {
        text.parse().expect("a node name")
    }

    #[test]
    fn what_is_given_goes_before_what_the_host_says() {
        let folder = host("Host-1.Example.ORG\n", None);
        let root = HostRoot::new(folder.path());
        let by_host = identify(&root, None, None).expect("a name");
        assert_eq!(by_host.name.as_str(), "host-1.example.org");
        assert_eq!(by_host.proposed_id.as_str(), "host-1.example.org");
        assert_eq!(by_host.id_source, IdSource::NodeName);
        assert_eq!(by_host.machine_hash, None);
        let id = "blue".parse().expect("a node id");
        let given = identify(&root, Some(name("n1")), Some(id)).expect("given");
        assert_eq!(given.name.as_str(), "n1");
        assert_eq!(given.proposed_id.as_str(), "blue");
        assert_eq!(given.id_source, IdSource::Explicit);
    }

    #[test]
    fn a_host_without_a_usable_name_says_what_to_do() {
        let folder = host("my_host\n", None);
        for root in [HostRoot::new(folder.path()), HostRoot::new(folder.path().join("none"))] {
            let error = identify(&root, None, None).expect_err("no name");
            assert!(error.to_string().contains("--node-name"), "{error}");
        }
    }

    #[test]
    fn long_names_become_short_ids_that_differ() {
        let long = |end: &str| format!("{}.{end}.example", "a".repeat(51));
        // printf %s "$NAME" | sha256sum
        let one = id_of_name(&name(&long("node-one"))).expect("an id");
        assert_eq!(one.as_str(), format!("{}-0205f8b213", "a".repeat(51)));
        let two = id_of_name(&name(&long("node-two"))).expect("an id");
        assert_ne!(one, two);
        let longest_label = "b".repeat(63);
        assert_eq!(id_of_name(&name(&longest_label)).expect("an id").as_str(), longest_label);
    }

    #[test]
    fn machine_hashes() {
        // Computed with Python:
        //   tag = hmac.new(bytes.fromhex(MACHINE_ID), bytes.fromhex(APPLICATION_ID), "sha256")
        //   half = bytearray(tag.digest()[:16])
        //   half[6] = half[6] & 0x0f | 0x40; half[8] = half[8] & 0x3f | 0x80; half.hex()
        let hash = machine_hash("0123456789abcdef0123456789abcdef\n").expect("a machine id");
        assert_eq!(hash.as_str(), "bd9b01d99e264af69ca9788249b9ad5d");
        for bad in
            ["", "uninitialized\n", "0123", &"0".repeat(32), &"+1".repeat(16), &"a".repeat(33)]
        {
            assert_eq!(machine_hash(bad), None, "{bad:?}");
        }
        let folder = host("n1", Some("0123456789abcdef0123456789abcdef\n"));
        let identity = identify(&HostRoot::new(folder.path()), None, None).expect("a name");
        assert_eq!(identity.machine_hash, Some(hash));
    }

    proptest! {
        #[test]
        fn every_name_makes_an_id(text in "[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]{0,50}[a-z0-9])?){0,3}") {
            prop_assert!(id_of_name(&name(&text)).is_ok());
        }

        #[test]
        fn odd_machine_ids_have_no_hash(text in any::<String>(), digits in "[0-9a-f+-]{32}") {
            prop_assert!(machine_hash(&text).is_none() || text.trim().len() == 32);
            let signed = digits.contains(['+', '-']);
            prop_assert_eq!(machine_hash(&digits).is_none(), signed || digits == "0".repeat(32));
        }
    }
}
