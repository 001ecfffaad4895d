//! Whether somebody who is outside the cluster can come to a host, as far as its name and addresses
//! tell.

use std::net::IpAddr;

use url::{Host, Url};

/// How far a host is from others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reach {
    /// Nothing is in the way as far as the name or address tells.
    Outside,
    /// An address of private networks: a way into them is needed.
    Private(IpAddr),
    /// Out of reach, for this reason.
    Inside(String),
}

impl Reach {
    /// Judges a URL's host, by itself and by the addresses that it is known to have. The addresses
    /// of the Service `kubernetes` are the cluster's own.
    pub fn of(url: &Url, addresses: &[IpAddr], of_service: &[IpAddr]) -> Self {
        let named: Vec<IpAddr> = match url.host() {
            Some(Host::Ipv4(address)) => vec![address.into()],
            Some(Host::Ipv6(address)) => vec![address.into()],
            Some(Host::Domain(name)) => match name_inside(name) {
                Some(why) => return Self::Inside(why),
                None => addresses.to_vec(),
            },
            None => return Self::Inside("it names no host".to_owned()),
        };
        // Of several, one that is outside is enough.
        let mut reaches = named.iter().map(|address| of_address(*address, of_service));
        let Some(first) = reaches.next() else { return Self::Outside };
        reaches.fold(first, |best, next| if best.rank() <= next.rank() { best } else { next })
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Outside => 0,
            Self::Private(_) => 1,
            Self::Inside(_) => 2,
        }
    }
}

/// Why a name means nothing outside, if so: it is the machine's own, or one that the cluster's DNS gives
/// to Services and pods.
pub fn name_inside(name: &str) -> Option<String> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    if name == "localhost" || name.ends_with(".localhost") {
        return Some(format!("{name} is whatever machine it is used on"));
    }
    let in_cluster = ["kubernetes", "kubernetes.default"].contains(&name.as_str())
        || name.contains(".svc.")
        || [".svc", ".cluster.local"].iter().any(|end| name.ends_with(end));
    in_cluster.then(|| format!("{name} is a name inside the cluster"))
}

fn of_address(address: IpAddr, of_service: &[IpAddr]) -> Reach {
    let address = address.to_canonical();
    if of_service.contains(&address) {
        return Reach::Inside(format!("{address} is the Service kubernetes inside the cluster"));
    }
    if let Some(why) = address_inside(address) {
        return Reach::Inside(format!("{address} {why}"));
    }
    let is_private = match address {
        IpAddr::V4(address) => address.is_private() || is_shared(address),
        IpAddr::V6(address) => address.is_unique_local(),
    };
    if is_private { Reach::Private(address) } else { Reach::Outside }
}

/// Why an address is of no use to another machine, if so.
pub fn address_inside(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    let is_of_link = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_loopback() || address.is_unspecified() {
        Some("is whatever machine it is used on")
    } else if address.is_multicast() {
        Some("is a group's address (multicast)")
    } else if is_of_link {
        Some("is an address of one link")
    } else {
        None
    }
}

/// 100.64.0.0/10: between carriers and their customers, and in overlay networks.
const fn is_shared(address: std::net::Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    first == 100 && second & 0b1100_0000 == 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        let service: IpAddr = [10, 96, 0, 1].into();
        for (url, resolved, expected) in [
            ("https://203.0.113.5:6443", &[][..], "outside"),
            ("https://api.example.org", &["203.0.113.5"], "outside"),
            ("https://api.example.org", &[], "outside"),
            ("https://api.example.org", &["10.0.0.5"], "private 10.0.0.5"),
            ("https://api.example.org", &["10.0.0.5", "203.0.113.5"], "outside"),
            ("https://api.example.org", &["127.0.0.1"], "127.0.0.1 is whatever machine"),
            ("https://api.example.org", &["127.0.0.1", "10.0.0.5"], "private 10.0.0.5"),
            ("https://10.0.0.1:6443", &[], "private 10.0.0.1"),
            ("https://100.64.0.1:6443", &[], "private 100.64.0.1"),
            ("https://100.128.0.1:6443", &[], "outside"),
            ("https://[fd00::1]:6443", &[], "private fd00::1"),
            ("https://10.96.0.1", &[], "10.96.0.1 is the Service kubernetes"),
            ("https://127.0.0.1:6443", &[], "127.0.0.1 is whatever machine"),
            ("https://[::1]:6443", &[], "::1 is whatever machine"),
            ("https://[::ffff:127.0.0.1]:6443", &[], "127.0.0.1 is whatever machine"),
            ("https://0.0.0.0:6443", &[], "0.0.0.0 is whatever machine"),
            ("https://169.254.1.1", &[], "169.254.1.1 is an address of one link"),
            ("https://localhost:6443", &["127.0.0.1"], "localhost is whatever machine"),
            ("https://kubernetes.default.svc", &[], "is a name inside the cluster"),
            ("https://kubernetes.default.svc.cluster.local:443", &[], "is a name inside"),
            ("https://kubernetes", &[], "kubernetes is a name inside the cluster"),
            ("https://kubernetes.example.org", &[], "outside"),
        ] {
            let parsed = url.parse().expect(url);
            let resolved: Vec<IpAddr> =
                resolved.iter().map(|it| it.parse().expect("an address")).collect();
            let got = match Reach::of(&parsed, &resolved, &[service]) {
                Reach::Outside => "outside".to_owned(),
                Reach::Private(address) => format!("private {address}"),
                Reach::Inside(why) => why,
            };
            assert!(got.contains(expected), "{url} {resolved:?}: {got}");
        }
    }

    #[test]
    fn names_inside() {
        for (name, expected) in [
            ("kubernetes.default.svc", true),
            ("kubernetes.default.svc.cluster.local", true),
            ("api.internal.svc.lab.example", true),
            ("kubernetes", true),
            ("kubernetes.example.org", false),
            ("svc.example.org", false),
        ] {
            assert_eq!(name_inside(name).is_some(), expected, "{name}");
        }
    }
}
