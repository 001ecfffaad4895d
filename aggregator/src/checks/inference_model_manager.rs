//! The checks of the Inference Model Manager: what must be there before its own charts install it.
//!
//! What it needs and why stands in `docs/targets/inference-model-manager.md`. Only reads and access
//! reviews are asked of Kubernetes, only a list of buckets of MinIO.

mod access;
mod api_server;
mod certificate;
mod dex;
mod ingress;
mod minio;
mod signature;

use std::fs;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use rollcall_daemon::kubernetes::Selection;
use rollcall_report::error_chain;

use super::kubernetes::Reader;
use super::{Check, Group, Observed, Unseen, Verdict};
use crate::certificates::{Certificate, from_pem};
use crate::cluster_file::inference_model_manager::{InferenceModelManagerTarget, Platform};
use crate::targets::inference_model_manager::{MINIO_SECRET, TLS_SECRET, read_secret};

/// What the checks judge.
#[derive(Debug)]
pub struct Facts {
    platform: Platform,
    now: Timestamp,
    /// The server's version, and where it is.
    kubernetes: Observed<String>,
    ingress: ingress::Seen,
    minio: minio::Seen,
    certificate: Observed<Option<certificate::TlsSecret>>,
    dex: dex::Seen,
    api_servers: Observed<Vec<api_server::ApiServer>>,
    access: access::Seen,
}

/// Looks at everything that the checks need, at the same time, each thing within `limit`.
pub async fn look(
    target: &InferenceModelManagerTarget,
    selection: &Selection,
    limit: Duration,
) -> Facts {
    let platform = &target.platform;
    // Dex is asked beside the Kubernetes API, which the rest needs.
    let (dex, (kubernetes, ingress, minio, certificate, api_servers, access)) =
        tokio::join!(dex::look(&platform.oidc, limit), async {
            let reader = Reader::open(selection, limit).await;
            let namespace = &platform.management_namespace;
            let (ingress, minio, certificate, api_servers, access) = tokio::join!(
                ingress::look(&reader, &platform.ingress_namespace),
                async {
                    let secret = read_secret(&reader, namespace, MINIO_SECRET).await;
                    minio::look(&platform.minio, secret, limit).await
                },
                read_secret(&reader, namespace, TLS_SECRET),
                api_server::look(&reader),
                access::look(&reader, platform),
            );
            let certificate =
                certificate.map(|secret| secret.map(|it| certificate::TlsSecret::of(&it)));
            let kubernetes =
                reader.map(|reader| format!("{} at {}", reader.version, reader.access.url));
            (kubernetes, ingress, minio, certificate, api_servers, access)
        });
    Facts {
        platform: platform.clone(),
        now: Timestamp::now(),
        kubernetes,
        ingress,
        minio,
        certificate,
        dex,
        api_servers,
        access,
    }
}

/// The certificates of a file that the cluster file names, if it names one.
fn read_ca(path: Option<&Path>) -> Result<Option<Vec<Certificate>>, String> {
    let Some(path) = path else { return Ok(None) };
    let place = path.display();
    let pem = fs::read(path).map_err(|error| format!("the CA {place} cannot be read: {error}"))?;
    let certificates = from_pem(&pem);
    certificates.map(Some).map_err(|error| format!("the CA {place}: {}", error_chain(&error)))
}

/// Judges what was read of the cluster. Where it could not be read, that is to be mended first.
fn judge_read<T>(seen: &Observed<T>, judge: impl FnOnce(&T) -> Verdict) -> Verdict {
    let verdict = seen.judge(judge);
    match &seen.result {
        Ok(_) | Err(Unseen::NotTried { .. }) => verdict,
        Err(Unseen::Failed { .. }) => verdict.mend(
            "give whoever checks the rights that docs/targets/inference-model-manager.md lists, or name another with --kubeconfig",
        ),
        Err(Unseen::OutOfTime { .. }) => verdict.mend("give it more time with --timeout"),
    }
}

macro_rules! page {
    ($anchor:literal) => {
        concat!("docs/targets/inference-model-manager.md#", $anchor)
    };
}

/// All checks of the Inference Model Manager.
pub static GROUPS: &[Group<Facts>] = &[
    Group {
        name: "Kubernetes API",
        checks: &[Check {
            name: "the Kubernetes API answers",
            why: "nothing of the cluster is known without it",
            mend: "give a kubeconfig with --kubeconfig (and --context) that kubectl get nodes works with",
            page: page!("the-kubernetes-api-answers"),
            judge: |facts| facts.kubernetes.judge(|seen| Verdict::pass(seen)),
        }],
    },
    Group {
        name: "ingress controller",
        checks: &[
            Check {
                name: "an nginx ingress controller runs",
                why: "it is the way in to the endpoints, to Dex and to the management API",
                mend: "install the platform's chart ing-subchart, or ingress-nginx; set ingressNamespace if it is in another namespace",
                page: page!("an-nginx-ingress-controller-runs"),
                judge: ingress::runs,
            },
            Check {
                name: "the platform's nginx template is in a ConfigMap",
                why: "endpoints admit the client that they name by a change in nginx's template alone",
                mend: "kubectl create configmap nginx-template --from-file nginx.tmpl",
                page: page!("the-platforms-nginx-template-is-in-a-configmap"),
                judge: ingress::template,
            },
            Check {
                name: "the nginx template tells clients apart",
                why: "without it every client whose certificate a tenant's CA signed reaches every endpoint of the tenant",
                mend: "have the template compare $ssl_client_s_dn with the Ingress's annotation allowed-values, as nginx.tmpl of the chart ing-subchart does",
                page: page!("the-nginx-template-tells-clients-apart"),
                judge: ingress::change,
            },
            Check {
                name: "the ingress controller mounts the template",
                why: "a template that is not mounted changes nothing",
                mend: "mount the ConfigMap at /etc/nginx/template in the controller's pods, with nginx.tmpl in it",
                page: page!("the-ingress-controller-mounts-the-template"),
                judge: ingress::mounted,
            },
        ],
    },
    Group {
        name: "MinIO",
        checks: &[
            Check {
                name: "the Secret minio-access-info is whole",
                why: "the management API and the endpoints take MinIO's address and keys from it",
                mend: "make it anew with all of minio.access_key_id, minio.access_secret_key, minio.endpoint, minio.endpoint_url, minio.minio_region and minio.signature_version, without line breaks",
                page: page!("the-secret-minio-access-info-is-whole"),
                judge: minio::whole,
            },
            Check {
                name: "the Secret minio-access-info agrees with the endpoint",
                why: "the management API uses the URL and the endpoints use host and port: both must be the same MinIO, and the one that is checked here",
                mend: "mend the Secret, or minio in the cluster file",
                page: page!("the-secret-minio-access-info-agrees-with-the-endpoint"),
                judge: minio::agrees,
            },
            Check {
                name: "MinIO answers",
                why: "models are stored there and nowhere else",
                mend: "set minio.endpointUrl to MinIO's API (port 9000 by default), minio.probeUrl to where this machine reaches it (as by kubectl port-forward), and minio.caFile to the CA of its certificate where that is not a public one",
                page: page!("minio-answers"),
                judge: minio::answers,
            },
            Check {
                name: "MinIO takes the access key",
                why: "neither the management API nor the endpoints get in without it",
                mend: "give the key's right id and secret; its user needs a policy that lists buckets",
                page: page!("minio-takes-the-access-key"),
                judge: minio::takes_the_key,
            },
        ],
    },
    Group {
        name: "endpoints' certificate",
        checks: &[
            Check {
                name: "the Secret tls-secret is there",
                why: "every tenant's namespace gets a copy, and every endpoint is served with it",
                mend: "kubectl create secret tls tls-secret --namespace NAMESPACE --cert tls.crt --key tls.key",
                page: page!("the-secret-tls-secret-is-there"),
                judge: certificate::is_there,
            },
            Check {
                name: "the certificate is for every endpoint",
                why: "each endpoint has a name of its own below the domain, and clients refuse a certificate that is not for it",
                mend: "have a certificate made with the subject alternative name DNS:*.DOMAIN",
                page: page!("the-certificate-is-for-every-endpoint"),
                judge: certificate::is_for_every_endpoint,
            },
            Check {
                name: "the certificate and its key belong together",
                why: "the ingress controller serves its own fake certificate in the place of such a pair",
                mend: "make the Secret anew with the key that the certificate was made for",
                page: page!("the-certificate-and-its-key-belong-together"),
                judge: certificate::has_its_key,
            },
            Check {
                name: "the certificate has not expired",
                why: "clients refuse it from then on",
                mend: "renew it, and make the Secret anew, in the tenants' namespaces too",
                page: page!("the-certificate-has-not-expired"),
                judge: certificate::is_in_time,
            },
        ],
    },
    Group {
        name: "Dex",
        checks: &[
            Check {
                name: "Dex's discovery document answers",
                why: "the API server learns from it how to check tokens, and takes none without it",
                mend: "set oidc.issuerUrl to Dex's issuer, and oidc.caFile to the CA of its certificate where that is not a public one",
                page: page!("dexs-discovery-document-answers"),
                judge: dex::answers,
            },
            Check {
                name: "Dex is the issuer",
                why: "the API server refuses an issuer that calls itself by another name, down to a slash",
                mend: "make issuer in Dex's configuration and oidc.issuerUrl in the cluster file the same",
                page: page!("dex-is-the-issuer"),
                judge: dex::is_the_issuer,
            },
            Check {
                name: "Dex's keys answer",
                why: "tokens are checked with them",
                mend: "make the URL in jwks_uri of the discovery document lead to Dex",
                page: page!("dexs-keys-answer"),
                judge: dex::keys,
            },
        ],
    },
    Group {
        name: "API server's sign-in",
        checks: &[
            Check {
                name: "the API servers' flags are seen",
                why: "users come with Dex's tokens, which an API server takes only if its flags say so",
                mend: "ask whoever runs the control plane to set the flags --oidc-*, and make sure yourself: kubectl --token TOKEN auth whoami",
                page: page!("the-api-servers-flags-are-seen"),
                judge: api_server::seen,
            },
            Check {
                name: "--oidc-issuer-url is Dex",
                why: "the API server takes tokens of this issuer alone",
                mend: "set --oidc-issuer-url in the manifest of every API server to oidc.issuerUrl",
                page: page!("--oidc-issuer-url-is-dex"),
                judge: api_server::issuer_url,
            },
            Check {
                name: "--oidc-client-id is Dex's client",
                why: "the API server refuses tokens that were made for another client",
                mend: "set --oidc-client-id in the manifest of every API server to oidc.clientId",
                page: page!("--oidc-client-id-is-dexs-client"),
                judge: api_server::client_id,
            },
            Check {
                name: "--oidc-username-claim names the user",
                why: "without it users are called by Dex's number for them, and bindings to their names do nothing",
                mend: "set --oidc-username-claim in the manifest of every API server to oidc.usernameClaim",
                page: page!("--oidc-username-claim-names-the-user"),
                judge: api_server::username_claim,
            },
            Check {
                name: "--oidc-username-prefix is as configured",
                why: "bindings name users with their prefix",
                mend: "make --oidc-username-prefix in the manifest of every API server and oidc.usernamePrefix the same",
                page: page!("--oidc-username-prefix-is-as-configured"),
                judge: api_server::username_prefix,
            },
            Check {
                name: "--oidc-groups-claim names the groups",
                why: "tenants are groups: without it nobody belongs to one",
                mend: "set --oidc-groups-claim in the manifest of every API server to oidc.groupsClaim",
                page: page!("--oidc-groups-claim-names-the-groups"),
                judge: api_server::groups_claim,
            },
            Check {
                name: "--oidc-groups-prefix is as configured",
                why: "bindings name groups with their prefix",
                mend: "make --oidc-groups-prefix in the manifest of every API server and oidc.groupsPrefix the same",
                page: page!("--oidc-groups-prefix-is-as-configured"),
                judge: api_server::groups_prefix,
            },
            Check {
                name: "--oidc-ca-file is set where Dex needs it",
                why: "the API server does not believe Dex if it does not know its certificate's CA",
                mend: "put the CA of Dex's certificate on every control plane, below /etc/kubernetes/pki, and name it with --oidc-ca-file",
                page: page!("--oidc-ca-file-is-set-where-dex-needs-it"),
                judge: api_server::ca_file,
            },
        ],
    },
    Group {
        name: "protected namespaces",
        checks: &[
            Check {
                name: "the controller's namespace is there",
                why: "its chart does not make it, and it is to be one that nobody else works in",
                mend: "kubectl create namespace NAMESPACE",
                page: page!("the-controllers-namespace-is-there"),
                judge: access::is_there,
            },
            Check {
                name: "ordinary users cannot read the controller's secrets",
                why: "whoever reads them acts as the controller, in all tenants' namespaces",
                mend: "take the right away: kubectl get rolebindings,clusterrolebindings --all-namespaces --output wide",
                page: page!("ordinary-users-cannot-read-the-controllers-secrets"),
                judge: access::controllers_secrets,
            },
            Check {
                name: "ordinary users cannot read the management API's secrets",
                why: "MinIO's keys and the key of the endpoints' certificate are among them",
                mend: "take the right away: kubectl get rolebindings,clusterrolebindings --all-namespaces --output wide",
                page: page!("ordinary-users-cannot-read-the-management-apis-secrets"),
                judge: access::management_secrets,
            },
        ],
    },
];
