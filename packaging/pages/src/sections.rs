//! What the command lines do not say of themselves.

use clap::Command;

/// A term, or a line that is typed, and what it means.
pub(crate) type Entry = (&'static str, &'static str);

/// A program that has pages.
pub(crate) struct Program {
    /// What it is called.
    pub(crate) name: &'static str,
    /// Its command line.
    pub(crate) command: Command,
    /// The page of the subcommand that runs as a service.
    pub(crate) daemon: &'static str,
    /// What it takes from the environment besides its flags' variables.
    pub(crate) environment: &'static [Entry],
    /// What it reads and writes where a package installed it.
    pub(crate) files: &'static [Entry],
    /// What its exit codes mean.
    pub(crate) exit_status: &'static [Entry],
    /// What is typed, and what for.
    pub(crate) examples: &'static [Entry],
    /// Other pages, with their sections.
    pub(crate) see_also: &'static [Entry],
}

impl Program {
    /// Which version the pages are of.
    pub(crate) fn source(&self) -> String {
        format!("rollcall {}", self.command.get_version().unwrap_or_default())
    }
}

/// All programs that have pages.
pub(crate) fn programs() -> [Program; 2] {
    [agent(), aggregator()]
}

fn agent() -> Program {
    Program {
        name: "rollcall-agent",
        command: rollcall_agent::config::command(),
        daemon: "rollcall-agent-run",
        environment: &[
            (
                "ROLLCALL_*",
                "Each option names its variable above. One that is empty is set all the same.",
            ),
            (
                "HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
                "The proxy that reports go through, and what is reached without one.",
            ),
        ],
        files: &[
            ("/etc/default/rollcall-agent", "The service's settings: variables, one a line."),
            (
                "/etc/rollcall/join-token",
                "The token to report with; root:rollcall, mode 0640. Read for every report.",
            ),
            (
                "/etc/rollcall/agent.crt, /etc/rollcall/agent.key",
                "The client certificate to report with, and its key; root:rollcall-agent, mode 0640.",
            ),
            ("/etc/rollcall/ca.pem", "The CA of the aggregator's certificate."),
            ("/proc, /sys, /dev/nvidia*", "What is probed; nothing is written there."),
        ],
        exit_status: &[
            ("0", "Done, or stopped by SIGTERM or SIGINT."),
            ("1", "Failed; trying again may help."),
            ("2", "Wrong usage; a person must change something."),
            ("4", "With --require-gpus: only a new container can reach NVIDIA's GPUs."),
        ],
        examples: &[
            ("rollcall-agent probe", "The report of this machine, as JSON; as root for all of it:"),
            (
                "rollcall-agent explain",
                "What each of its numbers is made of: every device, whether it counts, and by which rule:",
            ),
            (
                "rollcall-agent capture machine.tar.gz",
                "This machine for a bug report, without serial numbers and addresses:",
            ),
            (
                "rollcall-agent run --aggregator https://aggregator.example.org:7655 --token-file /etc/rollcall/join-token --ca-file /etc/rollcall/ca.pem",
                "Report as the service does:",
            ),
        ],
        see_also: &[("rollcall-aggregator", "1"), ("systemctl", "1"), ("journalctl", "1")],
    }
}

fn aggregator() -> Program {
    Program {
        name: "rollcall-aggregator",
        command: rollcall_aggregator::cli::command(),
        daemon: "rollcall-aggregator-serve",
        environment: &[
            (
                "ROLLCALL_*",
                "Each option names its variable above. One that is empty is set all the same.",
            ),
            (
                "HTTPS_PROXY, HTTP_PROXY, NO_PROXY",
                "The proxy that networks are reached through where the cluster file names none, and what \
                 is reached without one.",
            ),
            ("KUBECONFIG", "How Kubernetes is reached where no option says it."),
        ],
        files: &[
            ("/etc/default/rollcall-aggregator", "The service's settings: variables, one a line."),
            (
                "/etc/rollcall/cluster.yaml",
                "The cluster file; root:rollcall-aggregator, mode 0640, for it may hold a join command.",
            ),
            (
                "/etc/rollcall/join-token",
                "The tokens that agents may report with, one a line; root:rollcall, mode 0640.",
            ),
            (
                "/etc/rollcall/operator-token",
                "The tokens that operators act with, one a line; root:rollcall-aggregator, mode 0640.",
            ),
            (
                "/etc/rollcall/tls.crt, /etc/rollcall/tls.key",
                "The intake's certificate, and its key; the key is root:rollcall-aggregator, mode 0640.",
            ),
            ("/etc/rollcall/client-ca.pem", "The CA of the agents' client certificates."),
            (
                "/var/lib/rollcall/rollcall.db",
                "The store: the roll, and what was registered. Back it up.",
            ),
        ],
        exit_status: &[
            ("0", "Done, or stopped by SIGTERM or SIGINT."),
            ("1", "Failed; trying again may help."),
            ("2", "Wrong usage, or a mistake in the cluster file; a person must change something."),
            (
                "3",
                "What was looked at is not as it should be: a check failed, or a network's entry differs.",
            ),
        ],
        examples: &[
            ("rollcall-aggregator nodes", "Who is on the roll, and what is wrong:"),
            (
                "rollcall-aggregator status",
                "Where the registration stands, in the network's own words:",
            ),
            (
                "rollcall-aggregator check --cluster /etc/rollcall/cluster.yaml",
                "What each target needs of this cluster, and how to mend it:",
            ),
            (
                "rollcall-aggregator diff aios",
                "How a network's entry differs from what it should be:",
            ),
            (
                "rollcall-aggregator submit aios --dry-run",
                "The requests that would be sent now; none is:",
            ),
            (
                "rollcall-aggregator submit aios --operator-token-file /etc/rollcall/operator-token",
                "Register, or put right, now:",
            ),
            (
                "rollcall-aggregator forget node-7 --operator-token-file /etc/rollcall/operator-token",
                "A node has left:",
            ),
            (
                "rollcall-aggregator assemble --cluster /etc/rollcall/cluster.yaml report.json",
                "The document made of reports that were saved; needs no server:",
            ),
        ],
        see_also: &[("rollcall-agent", "1"), ("systemctl", "1"), ("journalctl", "1")],
    }
}
