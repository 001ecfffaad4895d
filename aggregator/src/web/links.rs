//! What of the nodes is looked at, as it stands in the overview's address, and the addresses of what
//! else could be. Pure; what an address says that nobody knows is passed over.

use std::fmt;

use url::form_urlencoded;

/// The longest search that is taken.
const MAX_SEARCH_CHARS: usize = 200;

/// What of the nodes is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Query {
    /// Words that are all to be found: names, ids, models, classes.
    pub(super) q: String,
    /// Which nodes.
    pub(super) show: Show,
    /// What they are sorted by.
    pub(super) sort: Sort,
    /// In which order; `None`: the one in which this is looked at first.
    pub(super) order: Option<Order>,
    /// Which page, from 1.
    pub(super) page: usize,
}

/// Values of a key, with their names.
macro_rules! values {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub(super) enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// All of them.
            pub(super) const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// As it stands in an address.
            pub(super) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            fn parse(text: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

values! {
    /// Which nodes are shown.
    Show {
        /// All of them.
        #[default]
        All = "all",
        /// Those that a person should look at.
        Attention = "attention",
        /// Those that Kubernetes has and that nobody reports for.
        Missing = "missing",
        /// Those that have been silent for too long.
        Stale = "stale",
        /// Those that are kept out of the document.
        Incomplete = "incomplete",
        /// Those of which something cannot be read.
        Failing = "failing",
        /// Those with GPUs that do not answer.
        Lost = "lost",
        /// Those that have GPUs.
        Gpus = "gpus",
    }
}

values! {
    /// What nodes are sorted by.
    Sort {
        /// Those that a person should look at first.
        #[default]
        Attention = "attention",
        /// The name.
        Name = "name",
        /// vCPUs.
        Cpus = "cpus",
        /// Memory.
        Memory = "memory",
        /// What the disks hold.
        Disk = "disk",
        /// What the links carry.
        Network = "network",
        /// GPUs that count.
        Gpus = "gpus",
        /// The last report.
        Seen = "seen",
    }
}

values! {
    /// An order.
    Order {
        /// The least first.
        #[default]
        Ascending = "asc",
        /// The most first.
        Descending = "desc",
    }
}

impl Sort {
    /// The order in which it is looked at first: what is large is what one looks for.
    pub(super) const fn usual_order(self) -> Order {
        match self {
            Self::Attention | Self::Name | Self::Seen => Order::Ascending,
            Self::Cpus | Self::Memory | Self::Disk | Self::Network | Self::Gpus => {
                Order::Descending
            }
        }
    }
}

impl Show {
    /// What is shown, for people.
    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::All => "all nodes",
            Self::Attention => "worth a look",
            Self::Missing => "missing",
            Self::Stale => "stale",
            Self::Incomplete => "incomplete",
            Self::Failing => "a probe fails",
            Self::Lost => "GPUs lost",
            Self::Gpus => "with GPUs",
        }
    }
}

impl Query {
    /// What an address says after its `?`.
    pub(super) fn parse(text: &str) -> Self {
        let mut query = Self { page: 1, ..Self::default() };
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match key.as_ref() {
                "q" => {
                    let words: Vec<&str> = value.split_whitespace().collect();
                    let words = words.join(" ");
                    let shown = words.chars().filter(|character| !character.is_control());
                    query.q = shown.take(MAX_SEARCH_CHARS).collect();
                }
                "show" => query.show = Show::parse(&value).unwrap_or_default(),
                "sort" => query.sort = Sort::parse(&value).unwrap_or_default(),
                "order" => query.order = Order::parse(&value),
                "page" => query.page = value.parse().unwrap_or(1).max(1),
                _ => {}
            }
        }
        query
    }

    /// The order in which the nodes come.
    pub(super) fn order(&self) -> Order {
        self.order.unwrap_or(self.sort.usual_order())
    }

    /// Sorted by something, from the first page; once more, and it is the other way round.
    pub(super) fn sorted_by(&self, sort: Sort) -> Self {
        let order = match self.order() {
            _ if sort != self.sort => sort.usual_order(),
            Order::Ascending => Order::Descending,
            Order::Descending => Order::Ascending,
        };
        let order = Some(order).filter(|order| *order != sort.usual_order());
        Self { sort, order, page: 1, ..self.clone() }
    }

    /// Other nodes, from the first page.
    pub(super) fn showing(&self, show: Show) -> Self {
        Self { show, page: 1, ..self.clone() }
    }

    /// All nodes, in the same order.
    pub(super) fn cleared(&self) -> Self {
        Self { q: String::new(), ..self.showing(Show::All) }
    }

    /// Another page of the same.
    pub(super) fn at_page(&self, page: usize) -> Self {
        Self { page, ..self.clone() }
    }

    /// Whether all nodes are shown.
    pub(super) fn is_whole(&self) -> bool {
        self.q.is_empty() && self.show == Show::All
    }
}

impl fmt::Display for Query {
    /// The overview's address; what is as usual is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usual = Self::default();
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        if !self.q.is_empty() {
            pairs.append_pair("q", &self.q);
        }
        if self.show != usual.show {
            pairs.append_pair("show", self.show.as_str());
        }
        if self.sort != usual.sort {
            pairs.append_pair("sort", self.sort.as_str());
        }
        if let Some(order) = self.order {
            pairs.append_pair("order", order.as_str());
        }
        if self.page > 1 {
            pairs.append_pair("page", &self.page.to_string());
        }
        let pairs = pairs.finish();
        f.write_str("/")?;
        if pairs.is_empty() { Ok(()) } else { write!(f, "?{pairs}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_say_what_is_looked_at() {
        for (text, expected) in [
            ("", "/"),
            ("q=", "/"),
            ("q=gpu+h100&show=gpus", "/?q=gpu+h100&show=gpus"),
            ("q=%20%20a%20%20b%20", "/?q=a+b"),
            ("sort=cpus&order=asc&page=3", "/?sort=cpus&order=asc&page=3"),
            ("sort=nonsense&order=up&show=none&page=-1&x=y", "/"),
            ("page=0", "/"),
            ("page=99999999999999999999999", "/"),
            ("q=%22%3E%3Cscript%3E", "/?q=%22%3E%3Cscript%3E"),
            ("q=a%26show%3Dgpus", "/?q=a%26show%3Dgpus"),
            ("q=%ff", "/?q=%EF%BF%BD"),
        ] {
            assert_eq!(Query::parse(text).to_string(), expected, "{text:?}");
        }
        let long = Query::parse(&format!("q={}", "x".repeat(5000)));
        assert_eq!(long.q.len(), MAX_SEARCH_CHARS);
    }

    #[test]
    fn sorting_twice_turns_it_round_and_keeps_the_rest() {
        let query = Query::parse("q=a&show=gpus&page=7");
        let once = query.sorted_by(Sort::Memory);
        assert_eq!(once.to_string(), "/?q=a&show=gpus&sort=memory");
        assert_eq!(once.order(), Order::Descending);
        let twice = once.sorted_by(Sort::Memory);
        assert_eq!(twice.to_string(), "/?q=a&show=gpus&sort=memory&order=asc");
        assert_eq!(twice.sorted_by(Sort::Memory), once);
        assert_eq!(twice.sorted_by(Sort::Name).to_string(), "/?q=a&show=gpus&sort=name");
        assert_eq!(twice.sorted_by(Sort::Attention), query.at_page(1));
        assert_eq!(twice.at_page(2).to_string(), "/?q=a&show=gpus&sort=memory&order=asc&page=2");
        assert_eq!(twice.showing(Show::All).to_string(), "/?q=a&sort=memory&order=asc");
    }
}
