//! `AIchor`: a person adds an engine in a form, and `AIchor` works in the cluster with the token of a
//! service account. Here the account is prepared and the form filled.
//!
//! What `AIchor` asks for stands in `docs/targets/aichor.md`.

pub mod ingress;
pub mod rights;
pub mod token;

use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Secret as SecretObject, Service};
use kube::api::{Api, ListParams};
use rollcall_daemon::kubernetes::Access;
use rollcall_daemon::secret::{Secret, read_secret_file};
use rollcall_report::error_chain;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};
use url::Url;

use crate::certificates::{self, Certificate};
use crate::checks::kubernetes::{Reader, read};
use crate::checks::{Observed, Unseen};
use crate::cluster_file::aichor::{AichorTarget, ApiHostname, Engine};
use crate::form::{Form, Variant};

use super::reach::Reach;
use ingress::Entrance;
use rights::RULES;
use token::TokenSecret;

/// The service account that `AIchor` works as.
pub const ACCOUNT: &str = "dp-cluster-service-account";

/// The `ClusterRole` that says what it may do.
pub const ROLE: &str = "dp-sa-cluster-role";

/// The `ClusterRoleBinding` that gives it the role.
pub const BINDING: &str = "dp-sa-cluster-role-binding";

/// The Secret that Kubernetes puts its token into.
pub const TOKEN_SECRET: &str = "dp-cluster-service-account-token";

/// The first version of Kubernetes without users and passwords.
const WITHOUT_BASIC_AUTH: (u32, u32) = (1, 19);

/// How often the token is looked for.
const LOOK: Duration = Duration::from_millis(250);

// The form's own names.
const ENGINE_NAME: &str = "Engine Name";
const ECOSYSTEM: &str = "Ecosystem";
const API_HOSTNAME: &str = "API Hostname";
const LOAD_BALANCER_IP: &str = "Load Balancer IP";
const CA_DATA: &str = "CA Data";
const BEARER_TOKEN: &str = "Bearer Token";
const BASIC_USERNAME: &str = "Basic Username";
const BASIC_PASSWORD: &str = "Basic Password";

/// What `AIchor` works with: the namespace, which its own documentation takes for granted, and its
/// four manifests.
pub fn manifests(engine: &Engine) -> Vec<Value> {
    let namespace = engine.namespace.as_str();
    let rules: Vec<Value> = RULES.iter().map(rights::Rule::manifest).collect();
    vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}),
        json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": ACCOUNT, "namespace": namespace},
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": ROLE},
            "rules": rules,
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": BINDING},
            "roleRef": {
                "apiGroup": "rbac.authorization.k8s.io",
                "kind": "ClusterRole",
                "name": ROLE,
            },
            "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "annotations": {"kubernetes.io/service-account.name": ACCOUNT},
                "name": TOKEN_SECRET,
                "namespace": namespace,
            },
            "type": token::KIND,
        }),
    ]
}

/// Where `AIchor` reaches the API: as the owner says, else where the kubeconfig does.
pub fn api_hostname(engine: &Engine, kubeconfigs: Option<&Url>) -> Option<ApiHostname> {
    engine.api_hostname.clone().or_else(|| kubeconfigs.cloned().map(ApiHostname::from))
}

/// The CA that the form names: of the file that the owner names, else of the kubeconfig; `None`:
/// neither names one.
///
/// # Errors
///
/// In words: the file cannot be read, or something in it is no certificate.
pub fn ca(engine: &Engine, access: Option<&Access>) -> Result<Option<Vec<Certificate>>, String> {
    if let Some(path) = &engine.ca_file {
        let pem = fs::read(path)
            .map_err(|error| format!("the CA file {} cannot be read: {error}", path.display()))?;
        let certificates = certificates::from_pem(&pem)
            .map_err(|error| format!("the CA file {}: {}", path.display(), error_chain(&error)))?;
        return Ok(Some(certificates));
    }
    let Some(of_kubeconfig) = access.and_then(|access| access.ca.as_ref()) else { return Ok(None) };
    let parsed = of_kubeconfig.iter().map(|der| Certificate::parse(der.clone().into()));
    parsed
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
        .map_err(|words| format!("the kubeconfig's CA is no certificate: {words}"))
}

/// Whether a server knows users with passwords; `None`: its version tells nothing.
pub fn has_basic_auth(version: &str) -> Option<bool> {
    let mut numbers = version.trim_start_matches('v').split('.');
    let mut number = || numbers.next()?.trim_end_matches('+').parse::<u32>().ok();
    Some((number()?, number()?) < WITHOUT_BASIC_AUTH)
}

/// The manifests for `prepare`: nothing of the cluster is needed for them.
///
/// # Errors
///
/// None; other systems have some.
#[expect(clippy::unused_async, reason = "other systems read the cluster for theirs")]
pub async fn prepare(
    target: &AichorTarget,
    _reader: &Observed<Reader>,
) -> Result<Vec<Value>, String> {
    Ok(manifests(&target.engine))
}

/// Waits until Kubernetes has put the token into its Secret, once the manifests are applied.
///
/// # Errors
///
/// In words: it has not within the time that an answer is waited for, or cannot be asked.
pub async fn settled(target: &AichorTarget, reader: &Reader) -> Result<Vec<String>, String> {
    let limit = reader.limit();
    let namespace = &target.engine.namespace;
    let started = Instant::now();
    loop {
        match token_secret(&target.engine, reader).await.result {
            Ok(Some(TokenSecret { token: Some(_), .. })) => {
                return Ok(vec![format!("the token is in Secret {namespace}/{TOKEN_SECRET}")]);
            }
            Ok(_) if started.elapsed() < limit => sleep(LOOK).await,
            Ok(Some(_)) => {
                return Err(format!(
                    "Secret {namespace}/{TOKEN_SECRET} has no token after {}: the controller-manager puts it there; is it running, and does it have --service-account-private-key-file?",
                    humantime::format_duration(limit)
                ));
            }
            Ok(None) => {
                return Err(format!(
                    "Secret {namespace}/{TOKEN_SECRET} is gone again: Kubernetes deletes one whose service account is not there; apply once more"
                ));
            }
            Err(unseen) => return Err(unseen.to_string()),
        }
    }
}

/// The Secret with the token; `None`: there is none.
pub async fn token_secret(engine: &Engine, reader: &Reader) -> Observed<Option<TokenSecret>> {
    let api: Api<SecretObject> = Api::namespaced(reader.access.client.clone(), &engine.namespace);
    reader.get(api, TOKEN_SECRET).await.map(|found| found.map(TokenSecret::from))
}

/// The cluster's ways in.
pub async fn entrances(reader: &Reader) -> Observed<Vec<Entrance>> {
    let services: Api<Service> = Api::all(reader.access.client.clone());
    let services = reader.list(services, ListParams::default()).await;
    services.map(|services| services.into_iter().filter_map(Entrance::of).collect())
}

/// The form, filled.
///
/// # Errors
///
/// In words: what is missing.
pub async fn document(target: &AichorTarget, reader: &Observed<Reader>) -> Result<Form, String> {
    let engine = &target.engine;
    let (secret, address) = tokio::join!(
        read(reader, async |reader| token_secret(engine, reader).await),
        load_balancer_ip(engine, reader),
    );
    let access = reader.seen().map(|reader| &reader.access);
    let token = match secret.result {
        Ok(Some(other)) if !other.is_of(ACCOUNT) => Err(format!(
            "Secret {}/{TOKEN_SECRET} is none of the account {ACCOUNT}: delete it, and run rollcall-aggregator prepare {} --apply",
            engine.namespace, target.name
        )),
        Ok(found) => found.and_then(|secret| secret.token).ok_or_else(|| {
            format!(
                "there is none in Secret {}/{TOKEN_SECRET}: run rollcall-aggregator prepare {} --apply",
                engine.namespace, target.name
            )
        }),
        Err(unseen) => Err(why(&unseen, reader)),
    };
    let api = api_hostname(engine, access.map(|access| &access.url));
    let password = engine
        .basic_auth
        .as_ref()
        .map(|basic| read_secret_file(&basic.password_file).map_err(|error| error_chain(&error)));
    Fields {
        api: api.ok_or_else(|| why(&Unseen::NotTried { why: String::new() }, reader)),
        address,
        ca: ca(engine, access),
        token,
        password,
        version: reader.seen().map(|reader| reader.version.clone()),
    }
    .fill(engine)
}

async fn load_balancer_ip(engine: &Engine, reader: &Observed<Reader>) -> Result<IpAddr, String> {
    if let Some(address) = engine.load_balancer_ip {
        return Ok(address);
    }
    let seen = read(reader, async |reader| entrances(reader).await).await;
    let entrances = seen.result.map_err(|unseen| why(&unseen, reader))?;
    ingress::address(&entrances)
        .map_err(|words| format!("{words}: set engine.loadBalancerIp in the cluster file"))
}

/// Why something was not seen: where the API is out of reach, why that is.
fn why(unseen: &Unseen, reader: &Observed<Reader>) -> String {
    match &reader.result {
        Ok(_) => unseen.to_string(),
        Err(first) => first.to_string(),
    }
}

/// What the form is filled with.
struct Fields {
    api: Result<ApiHostname, String>,
    address: Result<IpAddr, String>,
    ca: Result<Option<Vec<Certificate>>, String>,
    token: Result<Secret, String>,
    /// The password, where the owner asks for one.
    password: Option<Result<Secret, String>>,
    version: Option<String>,
}

impl Fields {
    /// Fills the form, if nothing is missing that it must have.
    fn fill(self, engine: &Engine) -> Result<Form, String> {
        let mut missing: Vec<(String, Vec<&str>)> = Vec::new();
        let mut required = |field: &'static str, value: Result<String, String>| match value {
            Ok(value) => Some(value),
            Err(why) => {
                // What has one cause is told once.
                match missing.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, fields)) => fields.push(field),
                    None => missing.push((why, vec![field])),
                }
                None
            }
        };
        let host = self.api.as_ref().map(ApiHostname::to_string).map_err(String::clone);
        let host = required(API_HOSTNAME, host);
        let address = required(LOAD_BALANCER_IP, self.address.map(|address| address.to_string()));
        let ca = self.ca.map(|ca| ca.map_or_else(String::new, |ca| certificates::to_pem(&ca)));
        let ca = required(CA_DATA, ca).filter(|ca| !ca.is_empty());
        let token = self.token.map(|secret| secret.expose().to_owned());
        let token = match &engine.basic_auth {
            // Not what the owner asks for, but offered where it is there.
            Some(_) => token.ok(),
            None => required(BEARER_TOKEN, token),
        };
        let password = self.password.and_then(|password| {
            required(BASIC_PASSWORD, password.map(|password| password.expose().to_owned()))
        });
        if !missing.is_empty() {
            let told =
                missing.into_iter().map(|(why, fields)| format!("{}: {why}", fields.join(", ")));
            let told = told.collect::<Vec<_>>().join("; ");
            return Err(format!("the form cannot be filled: {told}"));
        }
        let shared = || {
            vec![
                (ENGINE_NAME, Some(engine.name.clone())),
                (ECOSYSTEM, engine.ecosystem.clone()),
                (API_HOSTNAME, host.clone()),
                (LOAD_BALANCER_IP, address.clone()),
                (CA_DATA, ca.clone()),
            ]
        };
        let with_password = engine.basic_auth.as_ref().map(|basic| {
            let own = [(BASIC_USERNAME, Some(basic.user.clone())), (BASIC_PASSWORD, password)];
            variant("basic-auth", "a user and a password", shared().into_iter().chain(own))
        });
        let with_token = token.map(|token| {
            let own = [(BEARER_TOKEN, Some(token))];
            variant("bearer-token", "the service account's token", shared().into_iter().chain(own))
        });
        let secrets = [BEARER_TOKEN, BASIC_PASSWORD].map(|field| format!("/{field}"));
        let notes = notes(engine, self.api.ok().as_ref(), ca.is_some(), self.version.as_deref());
        Ok(Form {
            variants: with_password.into_iter().chain(with_token).collect(),
            secrets: secrets.to_vec(),
            notes,
        })
    }
}

/// The form in its own words and order. What is optional and not there stays empty.
fn variant(
    name: &'static str,
    about: &'static str,
    fields: impl Iterator<Item = (&'static str, Option<String>)>,
) -> Variant {
    let value: Map<String, Value> =
        fields.map(|(field, value)| (field.to_owned(), value.into())).collect();
    let rows = value.keys().map(|field| (field.clone(), format!("/{field}"))).collect();
    Variant { name, about, value: value.into(), rows }
}

fn notes(
    engine: &Engine,
    api: Option<&ApiHostname>,
    has_ca: bool,
    version: Option<&str>,
) -> Vec<String> {
    let reach = api.map(|api| Reach::of(api.url(), &[], &[]));
    let out_of_reach = match reach {
        Some(Reach::Inside(why)) => Some(format!(
            "AIchor connects from outside, and {why}: set engine.apiHostname in the cluster file"
        )),
        _ => None,
    };
    let no_ca = (!has_ca).then(|| {
        "CA Data is left empty: neither engine.caFile nor the kubeconfig names a CA".to_owned()
    });
    let basic = engine.basic_auth.as_ref().map(|_| match version {
        Some(version) if has_basic_auth(version) == Some(false) => format!(
            "the API server is {version}, and none since 1.19 takes a user and a password: use the token (--variant bearer-token)"
        ),
        _ => "no API server since Kubernetes 1.19 takes a user and a password".to_owned(),
    });
    [out_of_reach, no_ca, basic].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_file::aichor::BasicAuth;

    fn engine() -> Engine {
        Engine {
            name: "west".to_owned(),
            ecosystem: None,
            api_hostname: None,
            load_balancer_ip: None,
            ca_file: None,
            namespace: "aichor".to_owned(),
            basic_auth: None,
        }
    }

    fn fields() -> Fields {
        let api: Url = "https://203.0.113.5:6443".parse().expect("a URL");
        Fields {
            api: Ok(api.into()),
            address: Ok([203, 0, 113, 7].into()),
            ca: Ok(None),
            token: Ok(Secret::new("the-token".to_owned())),
            password: None,
            version: Some("v1.33.1".to_owned()),
        }
    }

    #[test]
    fn the_manifests() {
        let manifests = manifests(&Engine { namespace: "lab".to_owned(), ..engine() });
        let names: Vec<(&str, &str, Option<&str>)> = manifests
            .iter()
            .map(|it| {
                let text = |pointer| it.pointer(pointer).and_then(Value::as_str);
                (
                    text("/kind").expect("a kind"),
                    text("/metadata/name").expect("a name"),
                    text("/metadata/namespace"),
                )
            })
            .collect();
        assert_eq!(
            names,
            [
                ("Namespace", "lab", None),
                ("ServiceAccount", ACCOUNT, Some("lab")),
                ("ClusterRole", ROLE, None),
                ("ClusterRoleBinding", BINDING, None),
                ("Secret", TOKEN_SECRET, Some("lab")),
            ]
        );
        let subject = json!([{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "lab"}]);
        assert_eq!(manifests[3]["subjects"], subject);
        assert_eq!(manifests[2]["rules"].as_array().map(Vec::len), Some(8));
    }

    #[test]
    fn the_form_in_its_own_order() {
        let form = fields().fill(&engine()).expect("filled");
        let [variant] = &form.variants[..] else { panic!("one variant: {form:?}") };
        let expected = json!({
            "Engine Name": "west",
            "Ecosystem": null,
            "API Hostname": "https://203.0.113.5:6443",
            "Load Balancer IP": "203.0.113.7",
            "CA Data": null,
            "Bearer Token": "the-token",
        });
        // With the order of the keys.
        assert_eq!(variant.value.to_string(), expected.to_string());
        let rows: Vec<&str> = variant.rows.iter().map(|(field, _)| field.as_str()).collect();
        let keys: Vec<&String> = variant.value.as_object().expect("fields").keys().collect();
        assert_eq!(rows, keys);
        for (field, pointer) in &variant.rows {
            assert_eq!(variant.value.pointer(pointer), variant.value.get(field), "{field}");
        }
        let (masked, has_secrets) = form.masked();
        assert!(has_secrets && !masked.variants[0].value.to_string().contains("the-token"));
        let notes = ["CA Data is left empty: neither engine.caFile nor the kubeconfig names a CA"];
        assert_eq!(form.notes, notes);
    }

    #[test]
    fn a_user_and_a_password_where_the_owner_asks() {
        let basic = BasicAuth { user: "aichor".to_owned(), password_file: "password".into() };
        let engine = Engine { basic_auth: Some(basic), ..engine() };
        let password = || Some(Ok(Secret::new("hunter22".to_owned())));
        for (what, token, version, names, note) in [
            (
                "an old server",
                Ok(()),
                "v1.18.9",
                &["basic-auth", "bearer-token"][..],
                "no API server since",
            ),
            (
                "a new one",
                Ok(()),
                "v1.20.2",
                &["basic-auth", "bearer-token"],
                "the API server is v1.20.2",
            ),
            ("no token", Err("none".to_owned()), "v1.20.2", &["basic-auth"], "the API server is"),
        ] {
            let token = token.map(|()| Secret::new("the-token".to_owned()));
            let fields = Fields {
                password: password(),
                token,
                version: Some(version.to_owned()),
                ..fields()
            };
            let form = fields.fill(&engine).expect(what);
            let got: Vec<&str> = form.variants.iter().map(|it| it.name).collect();
            assert_eq!(got, names, "{what}");
            assert_eq!(form.variants[0].value["Basic Username"], "aichor", "{what}");
            assert!(form.notes.iter().any(|it| it.starts_with(note)), "{what}: {:?}", form.notes);
            let (masked, _) = form.masked();
            let shown = format!("{:?}", masked.variants);
            assert!(!shown.contains("hunter22") && !shown.contains("the-token"), "{what}: {shown}");
        }
    }

    fn nothing<T>(why: &str) -> Result<T, String> {
        Err(why.to_owned())
    }

    #[test]
    fn all_that_is_missing_is_named() {
        let fields = Fields {
            api: nothing("no kubeconfig"),
            address: nothing("no Service"),
            ca: nothing("no file"),
            token: nothing("no kubeconfig"),
            password: None,
            version: None,
        };
        let error = fields.fill(&engine()).expect_err("nothing is there");
        assert_eq!(
            error,
            "the form cannot be filled: API Hostname, Bearer Token: no kubeconfig; Load Balancer IP: no Service; CA Data: no file"
        );
    }

    #[test]
    fn servers_with_users_and_passwords() {
        for (version, expected) in [
            ("v1.18.20", Some(true)),
            ("v1.19.0", Some(false)),
            ("v1.20.2", Some(false)),
            ("v1.33.1-eks-1234", Some(false)),
            ("v1.9.3", Some(true)),
            ("v2.0.0", Some(false)),
            ("v1", None),
            ("main", None),
        ] {
            assert_eq!(has_basic_auth(version), expected, "{version}");
        }
    }
}
