//! Who this node is: its Kubernetes name, the node id it proposes, and a hash of its machine id.

use ring::hmac;
use rollcall_report::{
    IdSource, InvalidNodeId, InvalidNodeName, MachineHash, NodeId, NodeIdentity, NodeName,
    error_chain,
};
use thiserror::Error;

use crate::host::{HostRoot, ReadError};

/// Makes the machine's hash rollcall's own: another application's hash of the same machine id
/// differs. It must never change, since aggregators bind nodes to the hash.
const APPLICATION_ID: [u8; 16] = 0xa3a8_e02b_3de5_460f_85f6_17df_aaca_6520_u128.to_be_bytes();

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
    let (proposed_id, id_source) = if let Some(id) = node_id {
        (id, IdSource::Explicit)
    } else {
        let id = NodeId::of_name(&name).map_err(|source| IdentityError::NoId { source })?;
        (id, IdSource::NodeName)
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

/// What hosts are called that have not been told their name, or not yet: two of them would be one node.
const NAMES_OF_NOBODY: [&str; 2] = ["localhost", "localhost.localdomain"];

/// Checks that a node is not called what hosts without a name are, unless the operator called it so.
///
/// # Errors
///
/// When it is.
pub fn check_own_name(
    given: Option<&NodeName>,
    identity: &NodeIdentity,
) -> Result<(), IdentityError> {
    if given.is_none() && NAMES_OF_NOBODY.contains(&identity.name.as_str()) {
        return Err(IdentityError::HostNameUnset { name: identity.name.clone() });
    }
    Ok(())
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
    /// The host has no name of its own.
    #[error(
        "this host is called {name}, as any host without a name is: set its name (hostnamectl hostname NAME), or give the node's with --node-name or ROLLCALL_NODE_NAME"
    )]
    HostNameUnset {
        /// What it is called.
        name: NodeName,
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
    fn a_host_without_a_name_of_its_own_is_no_node() {
        for (host_name, given, is_good) in [
            ("localhost\n", None, false),
            ("LocalHost.localdomain", None, false),
            ("localhost", Some("localhost"), true),
            ("localhost", Some("n1"), true),
            ("localhost-1", None, true),
            ("n1", None, true),
        ] {
            let folder = host(host_name, None);
            let given = given.map(name);
            let identity = identify(&HostRoot::new(folder.path()), given.clone(), None);
            let checked = check_own_name(given.as_ref(), &identity.expect("a name"));
            assert_eq!(checked.is_ok(), is_good, "{host_name:?}, {given:?}: {checked:?}");
        }
        for host_name in ["", "\n", "(none)\n"] {
            let folder = host(host_name, None);
            let error = identify(&HostRoot::new(folder.path()), None, None).expect_err(host_name);
            assert!(error.to_string().contains("--node-name"), "{host_name:?}: {error}");
        }
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
            prop_assert!(NodeId::of_name(&name(&text)).is_ok());
        }

        #[test]
        fn odd_machine_ids_have_no_hash(text in any::<String>(), digits in "[0-9a-f+-]{32}") {
            prop_assert!(machine_hash(&text).is_none() || text.trim().len() == 32);
            let signed = digits.contains(['+', '-']);
            prop_assert_eq!(machine_hash(&digits).is_none(), signed || digits == "0".repeat(32));
        }
    }
}
