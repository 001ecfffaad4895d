//! Hears from the kernel when hardware comes or goes, so that a change need not wait for the next
//! report: uevents for devices, `/proc/swaps` for swap space.
//!
//! Only a hint: what has changed is found out by probing, and where the kernel cannot be heard the
//! interval does.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use rollcall_report::error_chain;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SocketFlags, SocketType, bind, netlink, recv, socket_with,
};
use tokio::sync::Notify;

use crate::host::{HostRoot, ReadError};

/// The kernel's own messages; the other group is udev's.
/// Source: `lib/kobject_uevent.c`, and `MONITOR_GROUP_KERNEL` of systemd's sd-device.
const KERNEL_GROUP: u32 = 1;

/// The largest uevent. Source: `UEVENT_BUFFER_SIZE` in `include/linux/kobject.h`.
const MAX_UEVENT_BYTES: usize = 2048 + 512;

/// The subsystems of what is counted.
const SUBSYSTEMS: [&str; 7] = ["block", "cpu", "drm", "infiniband", "memory", "net", "pci"];

/// Listens to the kernel until it is dropped.
#[derive(Debug)]
pub struct Hotplug {
    heard: Arc<Notify>,
    /// Ends the listening thread when it is closed.
    _listener: Option<UnixStream>,
}

impl Hotplug {
    /// Starts to listen, on a thread of its own that sleeps until the kernel has something to say.
    /// What cannot be heard is told in the log, and is found at the interval.
    pub fn listen(root: &HostRoot) -> Self {
        let told = |what: &str, error: &dyn std::error::Error| {
            log::info!(error = error_chain(error); "changes of {what} are seen at the interval only");
        };
        let uevents = uevents().inspect_err(|error| told("devices", error)).map(Source::Uevents);
        // It can be polled for changes. Source: `swaps_poll` in the kernel's mm/swapfile.c.
        let swaps = match root.open_file("/proc/swaps") {
            // A kernel without swap has no such file, and no changes.
            Err(ReadError::Missing { .. }) => None,
            result => result.inspect_err(|error| told("swap space", error)).ok(),
        };
        let sources: Vec<Source> = uevents.into_iter().chain(swaps.map(Source::Swaps)).collect();
        let heard = Arc::new(Notify::new());
        let notify = Arc::clone(&heard);
        let listener = UnixStream::pair().and_then(|(ours, theirs)| {
            thread::Builder::new()
                .name("hotplug".to_owned())
                .spawn(move || listen(sources, &theirs, &notify))?;
            Ok(ours)
        });
        let listener = listener.inspect_err(|error| told("devices and swap space", error)).ok();
        Self { heard, _listener: listener }
    }

    /// Hears nothing.
    pub fn deaf() -> Self {
        Self { heard: Arc::new(Notify::new()), _listener: None }
    }

    /// Waits until the kernel tells of something that may change the inventory. May be given up at
    /// any time without missing anything.
    pub async fn changed(&mut self) {
        self.heard.notified().await;
    }
}

fn uevents() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        Some(netlink::KOBJECT_UEVENT),
    )?;
    bind(&socket, &netlink::SocketAddrNetlink::new(0, KERNEL_GROUP))?;
    Ok(socket)
}

/// Something that the kernel tells changes by.
enum Source {
    Uevents(OwnedFd),
    Swaps(File),
}

fn listen(mut sources: Vec<Source>, stop: &UnixStream, heard: &Notify) {
    loop {
        let mut polled = vec![PollFd::new(stop, PollFlags::IN)];
        polled.extend(sources.iter().map(|source| match source {
            Source::Uevents(socket) => PollFd::new(socket, PollFlags::IN),
            Source::Swaps(file) => PollFd::new(file, PollFlags::PRI),
        }));
        match poll(&mut polled, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => {
                log::warn!(error:% = error; "the kernel's messages cannot be awaited any more");
                return;
            }
        }
        let mut happened = polled.iter().map(|polled| !polled.revents().is_empty());
        if happened.next() == Some(true) {
            return;
        }
        let happened: Vec<bool> = happened.collect();
        let mut happened = happened.into_iter();
        sources.retain(|source| !happened.next().unwrap_or(false) || hear(source, heard));
    }
}

/// Looks at what a source has to say. `false`: it will not speak again.
fn hear(source: &Source, heard: &Notify) -> bool {
    // Polling alone takes note of a change of swap space.
    let news = match source {
        Source::Swaps(_) => Ok(true),
        Source::Uevents(socket) => drain(socket),
    };
    match news {
        Ok(true) => heard.notify_one(),
        Ok(false) => {}
        Err(error) => {
            log::warn!(error:% = error; "the kernel's messages on devices cannot be read any more");
            return false;
        }
    }
    true
}

/// Reads all messages that wait; says whether one of them matters.
fn drain(socket: &OwnedFd) -> io::Result<bool> {
    let mut news = false;
    let mut buffer = [0; MAX_UEVENT_BYTES];
    loop {
        match recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok((_, length)) => news |= buffer.get(..length).is_some_and(matters),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(news),
            // More came than the socket holds: something of it may matter.
            Err(Errno::NOBUFS) => news = true,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a uevent is about something that is counted. What the kernel makes of other devices,
/// such as every pod's interface, comes and goes all the time.
///
/// A uevent is `ACTION@DEVPATH` and lines `KEY=VALUE`, each ended by a zero byte.
/// Source: `lib/kobject_uevent.c`.
fn matters(uevent: &[u8]) -> bool {
    let value = |key: &[u8]| {
        uevent.split(|byte| *byte == 0).find_map(|line| line.strip_prefix(key)?.strip_prefix(b"="))
    };
    let is_counted = value(b"SUBSYSTEM")
        .is_some_and(|subsystem| SUBSYSTEMS.iter().any(|name| name.as_bytes() == subsystem));
    let path = value(b"DEVPATH").unwrap_or_default();
    // The heads of NVMe multipath are virtual, too.
    let is_virtual =
        path.starts_with(b"/devices/virtual/") && !path.starts_with(b"/devices/virtual/nvme-");
    // A device also changes when its medium is asked for, or a monitor is plugged in; only another
    // size of a disk is news.
    let is_news = value(b"ACTION") != Some(b"change")
        || value(b"RESIZE") == Some(b"1")
        || value(b"DISK_MEDIA_CHANGE") == Some(b"1");
    is_counted && is_news && !is_virtual && value(b"DEVTYPE") != Some(b"partition")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn uevent(path: &str, subsystem: &str, more: &str) -> Vec<u8> {
        format!("add@{path}\nACTION=add\nDEVPATH={path}\nSUBSYSTEM={subsystem}\n{more}SEQNUM=7\n")
            .replace('\n', "\0")
            .into_bytes()
    }

    #[test]
    fn what_matters() {
        const DISK: &str = "/devices/pci0000:00/0000:00:02.0/virtio1/block/vda";
        for (why, path, subsystem, more, expected) in [
            ("a disk", DISK, "block", "DEVTYPE=disk\n", true),
            ("a partition", DISK, "block", "DEVTYPE=partition\n", false),
            ("a loop device", "/devices/virtual/block/loop0", "block", "DEVTYPE=disk\n", false),
            (
                "a head of NVMe multipath",
                "/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1",
                "block",
                "",
                true,
            ),
            ("an adapter", "/devices/pci0000:00/0000:00:03.0/net/eth1", "net", "", true),
            ("a pod's interface", "/devices/virtual/net/veth1", "net", "", false),
            ("a CPU", "/devices/system/cpu/cpu3", "cpu", "", true),
            ("a memory block", "/devices/system/memory/memory9", "memory", "", true),
            ("a GPU", "/devices/pci0000:17/0000:17:00.0", "pci", "", true),
            ("a mouse", "/devices/pci0000:00/0000:00:14.0/usb1/1-1", "usb", "", false),
        ] {
            assert_eq!(matters(&uevent(path, subsystem, more)), expected, "{why}");
        }
        let change = |more: &str| {
            let text =
                format!("change@{DISK}\nACTION=change\nDEVPATH={DISK}\nSUBSYSTEM=block\n{more}");
            matters(text.replace('\n', "\0").as_bytes())
        };
        assert!(!change(""), "a medium that was asked for");
        assert!(change("RESIZE=1\n"), "another size");
        assert!(change("DISK_MEDIA_CHANGE=1\n"), "another medium");
        assert!(!matters(b""));
        assert!(!matters(b"libudev\0\xfe\xed\xca\xfe"));
    }

    proptest! {
        #[test]
        fn odd_messages_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!matters(&bytes) || bytes.windows(10).any(|part| part == b"SUBSYSTEM="));
        }
    }
}
