//! What the aggregator holds in memory for a cluster: after all nodes have reported, after everything
//! was looked at, and for each further node.

use rollcall_tests::bed::get;

use crate::Plan;
use crate::figure::Figure;
use crate::large::{Large, loaded};
use crate::process::rss_mb;

/// What people and programs look at.
const LOOKS: [&str; 4] = ["/metrics", "/v1/nodes", "/v1/document", "/"];

pub(crate) fn measure(plan: &Plan, large: &mut Option<Large>) -> Vec<Figure> {
    // One that nobody has looked at.
    *large = None;
    let Plan { nodes, many, .. } = *plan;
    let cluster = loaded(large, nodes);
    let after_load = rss_mb(cluster.pid());
    for path in LOOKS {
        let answer = get(cluster.aggregator.admin, path, "");
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.head);
    }
    let after_looks = rss_mb(cluster.pid());

    let very_large = Large::empty(&[]);
    let base = rss_mb(very_large.pid());
    let mut held = Vec::new();
    let mut loaded = 0;
    for so_many in [many / 10, many / 2, many] {
        very_large.load(loaded, so_many - loaded);
        loaded = so_many;
        held.push((so_many, rss_mb(very_large.pid())));
    }
    let mut figures = vec![
        Figure::new("RSS without a node", "MB", base),
        Figure::new(format!("RSS after {nodes} nodes reported"), "MB", after_load).at_most(80.0),
        Figure::new(format!("RSS after {nodes} nodes were looked at"), "MB", after_looks)
            .at_most(80.0)
            .note(format!("GET of {} once each", LOOKS.join(", "))),
    ];
    for (so_many, mb) in &held {
        let figure = Figure::new(format!("RSS after {so_many} nodes reported, anew"), "MB", *mb);
        figures.push(if *so_many == many { figure.at_most(600.0) } else { figure });
    }
    for (fewer, more) in held.iter().zip(held.iter().skip(1)) {
        let bytes = (more.1 - fewer.1) * 1e6 / f64::from(more.0 - fewer.0);
        let what = format!("each node from {} to {}", fewer.0, more.0);
        figures.push(Figure::new(what, "bytes", bytes));
    }
    figures
}
