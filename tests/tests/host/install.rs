//! Packages on a clean machine: what they put where, and from the one edit to a registered cluster.

use std::process::Command;

use rollcall_tests::aios::AiosStandin;
use rollcall_tests::bed::CLUSTER_ID;
use rollcall_tests::host::site::{self, operate};
use rollcall_tests::host::{AGENT, AGGREGATOR, Entry, Machine, Place, SOON, messages};
use serde_json::{Value, json};

use super::Stage;

/// The file of each unit that must be edited.
const EDITED: [(&str, &str); 2] =
    [(AGGREGATOR, "/etc/rollcall/cluster.yaml"), (AGENT, "/etc/default/rollcall-agent")];

/// How many lines the agent's start, first report and stop may have, systemd's own included.
const STORY: usize = 9;

pub(crate) fn it_runs_after_one_edit(stage: &Stage) {
    stage.on_a_clean_machine(|machine| {
        let installed = machine.now();
        machine.install(&[AGGREGATOR, AGENT]);
        for (unit, file) in EDITED {
            it_waits_for_the_edit(machine, unit, file, &installed);
        }
        let running = machine.said("systemctl is-system-running");
        assert_eq!(running.trim(), "running", "nothing has failed");
        secrets_are_private(machine);

        let aios = site::aios(&stage.bed);
        edit(machine, &aios);
        let before = machine.now();
        start(machine, &aios);
        sizes_are_right(&aios.cluster(CLUSTER_ID).expect("registered"));
        the_story_is_told(machine, &before);

        machine.run(&["systemctl", "stop", AGENT]);
        let mut story = machine.story(AGENT, &before);
        // systemd adds it where the agent, built without optimization, has used a second of the processor.
        story.retain(|entry| !entry.message().contains("Consumed "));
        println!("the agent's start, first report and stop:\n{}", messages(&story));
        assert!(story.len() <= STORY, "{} lines: {}", story.len(), messages(&story));
        let failed = machine.said("systemctl --failed --plain --no-legend");
        assert_eq!(failed.trim(), "", "units that have failed");
        // As each boot does.
        machine.run(&["systemd-tmpfiles", "--create"]);
        secrets_are_private(machine);
    });
}

/// A unit that is to be started at boot, was skipped, and says once what it waits for.
pub(crate) fn it_waits_for_the_edit(machine: Machine<'_>, unit: &str, file: &str, since: &Place) {
    let enabled = machine.said(&format!("systemctl is-enabled {unit}"));
    assert_eq!(enabled.trim(), "enabled", "{unit}");
    let state = machine.property(unit, "ActiveState");
    assert_eq!(state, "inactive", "{unit} is skipped: {}", machine.tail(unit));
    let told = machine.told(unit, since);
    let says_what_to_do = |entry: &&Entry| {
        let message = entry.message();
        message.contains(file) && message.contains(&format!("systemctl start {unit}"))
    };
    assert_eq!(told.iter().filter(says_what_to_do).count(), 1, "{unit}: {}", messages(&told));
    assert_eq!(told.len(), 1, "{unit} says nothing else: {}", messages(&told));
}

/// Edits the one file of each unit as its words ask.
pub(crate) fn edit(machine: Machine<'_>, aios: &AiosStandin) {
    let (parser, gateway) = (aios.parser_url(), aios.gateway_url());
    let words = [
        ("^(  id:) CHANGE-ME".to_owned(), format!("\\1 {CLUSTER_ID}")),
        ("^(  regionId:) CHANGE-ME".to_owned(), "\\1 lab".to_owned()),
        ("^(  nodes:) CHANGE-ME".to_owned(), "\\1 1".to_owned()),
        ("(parserUrl:) .*CHANGE-ME".to_owned(), format!("\\1 {parser}")),
        ("(gatewayUrl:) .*CHANGE-ME".to_owned(), format!("\\1 {gateway}")),
    ];
    for (find, put) in words {
        machine.run(&["sed", "-E", "-i", &format!("s#{find}#{put}#"), EDITED[0].1]);
    }
    let put = "s#https://CHANGE-ME:7655#http://127.0.0.1:7655#";
    machine.run(&["sed", "-i", put, EDITED[1].1]);
    for (unit, file) in EDITED {
        let left = machine.said(&format!("grep -n '^[^#]*CHANGE-ME' {file}"));
        assert_eq!(left, "", "{unit}: left in {file}");
    }
}

/// Starts both units, and waits until the network has the cluster.
pub(crate) fn start(machine: Machine<'_>, aios: &AiosStandin) {
    for unit in [AGGREGATOR, AGENT] {
        machine.run(&["systemctl", "start", unit]);
        assert_eq!(machine.property(unit, "ActiveState"), "active", "{}", machine.tail(unit));
    }
    let registered = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        aios.wait_for("the cluster to be registered", SOON, |aios| {
            aios.cluster(CLUSTER_ID).is_some()
        });
    }));
    let tails = || format!("{}{}", machine.tail(AGGREGATOR), machine.tail(AGENT));
    assert!(registered.is_ok(), "the cluster is not registered\n{}", tails());
}

/// Each secret is for its own program: what the other, and everybody else, cannot read.
fn secrets_are_private(machine: Machine<'_>) {
    for (path, expected) in [
        ("/etc/rollcall", "755 root:root"),
        ("/etc/rollcall/cluster.yaml", "640 root:rollcall-aggregator"),
        ("/etc/rollcall/join-token", "640 root:rollcall"),
        ("/etc/rollcall/operator-token", "640 root:rollcall-aggregator"),
    ] {
        let found = machine.run(&["stat", "--format", "%a %U:%G", path]);
        assert_eq!(found.trim_end(), expected, "{path}");
    }
    for (user, path, may) in [
        (AGENT, "/etc/rollcall/join-token", true),
        (AGENT, "/etc/rollcall/operator-token", false),
        (AGENT, "/etc/rollcall/cluster.yaml", false),
        (AGGREGATOR, "/etc/rollcall/join-token", true),
        (AGGREGATOR, "/etc/rollcall/operator-token", true),
        ("nobody", "/etc/rollcall/join-token", false),
        ("nobody", "/etc/rollcall/operator-token", false),
    ] {
        let read = machine.try_run(&["runuser", "-u", user, "--", "test", "-r", path]);
        assert_eq!(read.is_ok(), may, "{user} reads {path}");
    }
    for user in [AGENT, AGGREGATOR] {
        let shell = machine.run(&["getent", "passwd", user]);
        assert!(shell.trim_end().ends_with("/nologin"), "{shell}");
    }
    let tokens = machine.shell("cat /etc/rollcall/join-token /etc/rollcall/operator-token");
    let tokens: Vec<_> = tokens.split_whitespace().collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1], "two tokens, each its own");
    assert!(tokens.iter().all(|token| token.len() >= 32), "tokens that nobody guesses");
}

/// The machine has this machine's hardware, so this machine's tools tell it.
fn sizes_are_right(entry: &Value) {
    let node = &entry["nodes"]["nodeData"][0];
    let tool = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().expect("the tool runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let lscpu = tool("lscpu", &["--parse=CPU"]);
    let cpus = lscpu.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(node["vcpus"]["count"], json!(cpus), "CPUs, as lscpu says: {node}");
    let meminfo = tool("cat", &["/proc/meminfo"]);
    for (name, key) in [("MemTotal:", "memory"), ("SwapTotal:", "swap")] {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        assert_eq!(node[key], json!(kib / 1024), "{name} in MiB: {node}");
    }
}

/// What an administrator asks for, and is to find.
fn the_story_is_told(machine: Machine<'_>, since: &Place) {
    let name = machine.name();
    let agent = "_SYSTEMD_UNIT=rollcall-agent.service";
    let aggregator = "_SYSTEMD_UNIT=rollcall-aggregator.service";
    for (matching, field, value) in [
        (&[agent, &format!("NODE_ID={name}")], "NODE", name),
        (&[agent, &format!("NODE={name}")], "SYSLOG_IDENTIFIER", AGENT),
        (&[aggregator, &format!("NODE={name}")], "SYSLOG_IDENTIFIER", AGGREGATOR),
        (&[aggregator, "TARGET=aios"], "SYSLOG_IDENTIFIER", AGGREGATOR),
    ] {
        let found = machine.journal(since, matching);
        let all = messages(&machine.journal(since, &[matching[0]]));
        let first = found.first().unwrap_or_else(|| panic!("{matching:?} in {all}"));
        assert_eq!(first.field(field), value, "{field} of {matching:?}");
        // What is said is what was said on the terminal, without what the journal knows by itself.
        let message = first.message();
        assert!(!message.starts_with(['0', '1', '2', '[']), "a time is in {message:?}");
        assert_eq!(first.field("PRIORITY"), "6", "a good story is for information: {message}");
    }
    // As the documentation has it.
    let asked = machine.shell(&format!("journalctl --quiet -u {AGENT} NODE_ID={name}"));
    assert!(!asked.is_empty(), "journalctl -u {AGENT} NODE_ID={name}");
    let story = machine.journal(since, &[aggregator, "TARGET=aios"]);
    let registered = story.iter().any(|entry| entry.message().contains("registered"));
    assert!(registered, "{}", messages(&story));

    for (unit, words) in [(AGENT, ["accepted", name]), (AGGREGATOR, ["aios", "registered"])] {
        let status = machine.wait_for_property(unit, "StatusText", SOON, |status| {
            words.iter().all(|word| status.contains(word))
        });
        let shown = machine.said(&format!("systemctl status --no-pager {unit}"));
        assert!(shown.contains(&status), "{unit}: {shown}");
    }
    let status = operate(machine, "status --output json");
    assert_eq!(status["cluster"], json!(CLUSTER_ID), "an operator sees it: {status}");
}

pub(crate) fn pages_and_completions_are_found(stage: &Stage) {
    stage.on_a_clean_machine(|machine| {
        machine.install(&[AGGREGATOR, AGENT]);
        for (program, command, begun) in [(AGENT, "probe", "pro"), (AGGREGATOR, "serve", "ser")] {
            let pages = [program.to_owned(), format!("{program}-{command}")];
            for page in pages {
                let text = machine.run(&["env", "MANWIDTH=80", "man", "--pager=cat", &page]);
                assert!(text.contains("NAME") && text.contains("SYNOPSIS"), "{page}: {text}");
            }
            let found = machine.said(&format!("man --whatis {program}"));
            assert!(found.contains(program) && found.contains(" - "), "whatis: {found}");
            completes(machine, program, command, begun);
        }
    });
}

/// Shells complete the beginning of a command, as they do where nobody has set anything up.
fn completes(machine: Machine<'_>, program: &str, command: &str, begun: &str) {
    let bash = format!(
        ". /usr/share/bash-completion/bash_completion
         _completion_loader {program} || [ $? = 124 ]
         function=$(complete -p {program} | sed -E 's/.* -F ([^ ]+) .*/\\1/')
         COMP_WORDS=({program} {begun}) COMP_CWORD=1 COMP_LINE='{program} {begun}' COMP_POINT=${{#COMP_LINE}}
         \"$function\" {program} {begun} {program}
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let bash = machine.run(&["bash", "-c", &bash]);
    assert_eq!(bash.trim(), command, "bash completes {program} {begun}");
    let zsh = format!("autoload -U compinit && compinit -u -D && print -r -- $_comps[{program}]");
    let zsh = machine.run(&["zsh", "-fc", &zsh]);
    assert_eq!(zsh.trim(), format!("_{program}"), "zsh's function for {program}");
    let zsh = format!("autoload -U compinit && compinit -u -D && autoload +X _{program}");
    machine.run(&["zsh", "-fc", &zsh]);
    let fish = format!("complete --do-complete '{program} {begun}'");
    let fish = machine.run(&["fish", "-c", &fish]);
    assert!(fish.starts_with(command), "fish completes {program} {begun}: {fish}");
}
