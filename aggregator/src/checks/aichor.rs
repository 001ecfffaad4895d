//! The checks of an engine of `AIchor`: its account and token, what they may do, and the way in.
//!
//! What `AIchor` asks for stands in `docs/targets/aichor.md`.

mod defined;
mod host;
mod objects;
mod rights;

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::Api;
use rollcall_daemon::kubernetes::Selection;

use super::kubernetes::{Reader, read};
use super::{Check, Group, Observed, Verdict};
use crate::cluster_file::aichor::{AichorTarget, Engine};
use crate::targets::aichor;
use crate::targets::aichor::ingress::Entrance;
use crate::targets::aichor::token::TokenSecret;
use defined::Defined;
use host::Host;
use rights::Rights;

/// What the checks judge.
#[derive(Debug)]
pub struct Facts {
    engine: Engine,
    now: Timestamp,
    version: Observed<String>,
    namespace: Observed<Option<Namespace>>,
    account: Observed<Option<ServiceAccount>>,
    role: Observed<Option<ClusterRole>>,
    binding: Observed<Option<ClusterRoleBinding>>,
    secret: Observed<Option<TokenSecret>>,
    entrances: Observed<Vec<Entrance>>,
    defined: Defined,
    rights: Rights,
    host: Host,
}

/// Looks at everything that the checks need, each thing within `limit`.
pub async fn look(target: &AichorTarget, selection: &Selection, limit: Duration) -> Facts {
    let engine = &target.engine;
    let place = engine.namespace.as_str();
    let reader = Reader::open(selection, limit).await;
    let ((namespace, account, role, binding), secret, entrances, service, defined) = tokio::join!(
        async {
            tokio::join!(
                read(&reader, async |it| it.get(all::<Namespace>(it), place).await),
                read(&reader, async |it| {
                    let api = Api::<ServiceAccount>::namespaced(it.access.client.clone(), place);
                    it.get(api, aichor::ACCOUNT).await
                }),
                read(&reader, async |it| it.get(all::<ClusterRole>(it), aichor::ROLE).await),
                read(&reader, async |it| {
                    it.get(all::<ClusterRoleBinding>(it), aichor::BINDING).await
                }),
            )
        },
        read(&reader, async |it| aichor::token_secret(engine, it).await),
        read(&reader, async |it| aichor::entrances(it).await),
        read(&reader, async |it| it.own_addresses().await),
        Defined::look(&reader),
    );
    let token = secret.seen().and_then(|secret| secret.as_ref()?.token.as_ref());
    let of_service = service.seen().cloned();
    let (rights, host) = tokio::join!(
        Rights::look(engine, selection, &reader, token, limit),
        Host::look(engine, &reader, of_service.unwrap_or_default(), token, limit),
    );
    Facts {
        engine: engine.clone(),
        now: Timestamp::now(),
        version: reader.map(|reader| reader.version),
        namespace,
        account,
        role,
        binding,
        secret,
        entrances,
        defined,
        rights,
        host,
    }
}

fn all<K: kube::Resource<DynamicType = ()>>(reader: &Reader) -> Api<K> {
    Api::all(reader.access.client.clone())
}

/// How what `prepare` makes is mended.
const PREPARE: &str = "rollcall-aggregator prepare TARGET --apply";

/// The same where somebody has changed it since.
const PREPARE_OVER: &str = "rollcall-aggregator prepare TARGET --apply --force-conflicts";

/// All checks of an engine.
pub static GROUPS: &[Group<Facts>] = &[
    Group {
        name: "Kubernetes API",
        checks: &[Check {
            name: "the Kubernetes API answers",
            why: "everything else is asked of it",
            mend: "does kubectl get nodes work with the same kubeconfig and context?",
            page: "docs/targets/aichor.md#the-kubernetes-api-answers",
            judge: |facts| facts.version.judge(|version| Verdict::pass(version)),
        }],
    },
    Group {
        name: "AIchor's account",
        checks: &[
            Check {
                name: "the namespace is there",
                why: "AIchor's manifests do not make it, and its service account stands in it",
                mend: PREPARE,
                page: "docs/targets/aichor.md#the-namespace-is-there",
                judge: objects::namespace,
            },
            Check {
                name: "the service account is there",
                why: "AIchor works in the cluster as this account",
                mend: PREPARE,
                page: "docs/targets/aichor.md#the-service-account-is-there",
                judge: objects::account,
            },
            Check {
                name: "the role has AIchor's rules",
                why: "what is missing AIchor fails at, and what is beyond it could do to the cluster",
                mend: PREPARE_OVER,
                page: "docs/targets/aichor.md#the-role-has-aichors-rules",
                judge: objects::role,
            },
            Check {
                name: "the role is bound to the account",
                why: "without it the account has no rights",
                mend: PREPARE_OVER,
                page: "docs/targets/aichor.md#the-role-is-bound-to-the-account",
                judge: objects::binding,
            },
            Check {
                name: "the token is in its Secret",
                why: "the form asks for it; Kubernetes puts it there once the Secret and the account are",
                mend: PREPARE,
                page: "docs/targets/aichor.md#the-token-is-in-its-secret",
                judge: objects::secret,
            },
        ],
    },
    Group {
        name: "AIchor's token",
        checks: &[
            Check {
                name: "the token is accepted",
                why: "it is all that AIchor has",
                mend: "kubectl delete secret --namespace aichor dp-cluster-service-account-token, then rollcall-aggregator prepare TARGET --apply and fill the form anew",
                page: "docs/targets/aichor.md#the-token-is-accepted",
                judge: rights::accepted,
            },
            Check {
                name: "a wrong token is refused",
                why: "an API server that takes any token, or a proxy that puts its own in the place of it, is open to everybody, and tells nothing of AIchor's token",
                mend: "let nothing stand before the API server that answers for it, and start it without --token-auth-file and authentication webhooks that accept everything",
                page: "docs/targets/aichor.md#a-wrong-token-is-refused",
                judge: rights::wrong_token,
            },
            Check {
                name: "the server knows the form's kind of credentials",
                why: "AIchor's form also offers a user and a password, which left Kubernetes in 1.19",
                mend: "take engine.basicAuth out of the cluster file, and use the token",
                page: "docs/targets/aichor.md#the-server-knows-the-forms-kind-of-credentials",
                judge: objects::credentials,
            },
        ],
    },
    Group { name: "what AIchor may do", checks: rights::ALLOWED },
    Group { name: "what AIchor may not do", checks: rights::DENIED },
    Group { name: "what AIchor's work is made of", checks: defined::CHECKS },
    Group {
        name: "AIchor's way in",
        checks: &[
            Check {
                name: "the API host is one for outside",
                why: "AIchor connects from outside the cluster",
                mend: "set engine.apiHostname in the cluster file to the API server's address as others reach it",
                page: "docs/targets/aichor.md#the-api-host-is-one-for-outside",
                judge: host::reach,
            },
            Check {
                name: "the API host answers",
                why: "AIchor can do nothing without it",
                mend: "set engine.apiHostname in the cluster file to what kubectl cluster-info shows, and open its port",
                page: "docs/targets/aichor.md#the-api-host-answers",
                judge: host::answers,
            },
            Check {
                name: "the certificate is for the API host",
                why: "AIchor does not believe a server whose certificate is for another name",
                mend: "use one of the names of the certificate in engine.apiHostname, or make the API server a certificate with this one (kubeadm: apiServer.certSANs)",
                page: "docs/targets/aichor.md#the-certificate-is-for-the-api-host",
                judge: host::name,
            },
            Check {
                name: "the certificate is of the CA in the form",
                why: "AIchor believes the CA in CA Data alone",
                mend: "set engine.caFile in the cluster file to the CA of the API host's certificate",
                page: "docs/targets/aichor.md#the-certificate-is-of-the-ca-in-the-form",
                judge: host::trust,
            },
            Check {
                name: "the certificate is valid now",
                why: "AIchor does not believe a server whose certificate has expired",
                mend: "renew the API server's certificates (kubeadm certs renew all)",
                page: "docs/targets/aichor.md#the-certificate-is-valid-now",
                judge: host::time,
            },
            Check {
                name: "API host, CA and token fit one another",
                why: "they are what AIchor is given",
                mend: "set engine.apiHostname and engine.caFile in the cluster file to those of this cluster",
                page: "docs/targets/aichor.md#api-host-ca-and-token-fit-one-another",
                judge: host::fits,
            },
            Check {
                name: "the load balancer IP is the ingress controller's",
                why: "what AIchor starts in the cluster is reached there",
                mend: "set engine.loadBalancerIp in the cluster file to the address of the NGINX ingress controller",
                page: "docs/targets/aichor.md#the-load-balancer-ip-is-the-ingress-controllers",
                judge: host::load_balancer,
            },
        ],
    },
];
