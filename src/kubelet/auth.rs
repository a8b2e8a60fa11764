//! Who asks, and whether they may: the kubelet's delegated authentication and authorization.
//!
//! A client certificate of the cluster's client CA counts first, else a bearer token by
//! TokenReview; what is allowed is decided by SubjectAccessReview on subresources of the node
//! (Kubernetes, "Kubelet authentication/authorization"). Answers are kept as long as a kubelet
//! keeps them, in bounded maps. Nothing is granted here, and a question without an answer is a no.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::{Api, Client};
use rustls::pki_types::CertificateDer;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::client_certificate::ClientCa;
use crate::chain::chain;

/// `authentication.webhook.cacheTTL` of a kubelet, for both answers.
const TOKEN_TTL: Duration = Duration::from_mins(2);
/// `authorization.webhook.cacheAuthorizedTTL`.
const ALLOWED_TTL: Duration = Duration::from_mins(5);
/// `authorization.webhook.cacheUnauthorizedTTL`.
const DENIED_TTL: Duration = Duration::from_secs(30);
/// Answers kept of each kind; more callers than a node has.
const CACHE_MAX: usize = 1024;
/// Questions to the API server at a time, whoever asks: each takes a socket.
const REVIEWS_MAX: usize = 8;
const REVIEW_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the client CA is read again; a kubelet looks at its file once a minute too.
const CA_PERIOD: Duration = Duration::from_mins(1);
const CA_RETRY: Duration = Duration::from_secs(2);
/// A service account's token is about 1 kB.
const TOKEN_MAX_BYTES: usize = 16 * 1024;

/// Who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) uid: Option<String>,
    pub(super) groups: Vec<String>,
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

/// What is asked for: a verb on a subresource of a node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Right {
    /// `None` asks for the right on all nodes.
    pub(super) node: Option<String>,
    pub(super) verb: &'static str,
    pub(super) subresource: &'static str,
}

/// The subresources of which one suffices for `path`, in the order in which they are asked for
/// (kubernetes/kubernetes, pkg/kubelet/server/auth.go, with KubeletFineGrainedAuthz, which is
/// on from 1.33).
pub(super) fn subresources(path: &str) -> &'static [&'static str] {
    let below = |root: &str| {
        path.strip_prefix(root)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match () {
        () if below("/pods") || below("/runningpods") => &["pods", "proxy"],
        () if below("/healthz") => &["healthz", "proxy"],
        () if below("/configz") => &["configz", "proxy"],
        () if below("/stats") => &["stats"],
        () if below("/metrics") => &["metrics"],
        () if below("/logs") => &["log"],
        () if below("/checkpoint") => &["checkpoint"],
        () if below("/statusz") => &["statusz"],
        () if below("/flagz") => &["configz"],
        () => &["proxy"],
    }
}

/// The verb that stands for a method; an unknown one stands for nothing that can be granted
/// by name.
pub(super) fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

/// No answer to a review.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the API server refused the review or was not reached")]
    Request(#[source] Box<kube::Error>),
    #[error("no answer to the review within {} s", REVIEW_TIMEOUT.as_secs())]
    TimedOut,
}

/// The answers of the API server about callers. One for all nodes of the process.
pub(super) struct Auth {
    client: Client,
    ca: RwLock<Option<Arc<ClientCa>>>,
    known: Cache<[u8; 32], User>,
    /// Apart from the known ones, so that no flood of wrong tokens displaces those.
    unknown: Cache<[u8; 32], ()>,
    allowed: Cache<(User, Right), ()>,
    denied: Cache<(User, Right), ()>,
    reviews: Semaphore,
}

impl Auth {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            ca: RwLock::new(None),
            known: Cache::new(TOKEN_TTL),
            unknown: Cache::new(TOKEN_TTL),
            allowed: Cache::new(ALLOWED_TTL),
            denied: Cache::new(DENIED_TTL),
            reviews: Semaphore::new(REVIEWS_MAX),
        }
    }

    /// Reads the cluster's client CA, and again whenever it may have changed. Never returns.
    pub(super) async fn keep_ca(&self) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), "kube-system");
        let mut current = String::new();
        let mut failing = false;
        loop {
            let read = timeout(
                REVIEW_TIMEOUT,
                api.get("extension-apiserver-authentication"),
            )
            .await;
            let failure = match read {
                Err(_) => Some(Error::TimedOut.to_string()),
                Ok(Err(error)) => Some(chain(&error).to_string()),
                Ok(Ok(map)) => {
                    let mut data = map.data.unwrap_or_default();
                    let pem = data.remove("client-ca-file").unwrap_or_default();
                    self.take_ca(&mut current, pem).err()
                }
            };
            if let Some(why) = failure.as_ref().filter(|_| !failing) {
                tracing::warn!(
                    why,
                    "cannot read the cluster's client CA (ConfigMap kube-system/extension-apiserver-authentication): \
                     no client certificate is known to the kubelet API until it can be read"
                );
            }
            failing = failure.is_some();
            sleep(if failing { CA_RETRY } else { CA_PERIOD }).await;
        }
    }

    fn take_ca(&self, current: &mut String, pem: String) -> Result<(), String> {
        if *current == pem && self.client_ca().is_some() {
            return Ok(());
        }
        let parsed = ClientCa::parse(pem.as_bytes()).map_err(|error| chain(&error).to_string())?;
        let mut ca = self.ca.write().unwrap_or_else(PoisonError::into_inner);
        *ca = Some(Arc::new(parsed));
        *current = pem;
        tracing::info!("client certificates of the cluster's CA are known to the kubelet API");
        Ok(())
    }

    fn client_ca(&self) -> Option<Arc<ClientCa>> {
        let ca = self.ca.read().unwrap_or_else(PoisonError::into_inner);
        ca.clone()
    }

    /// Who showed these certificates, or else this `Authorization` header.
    pub(super) async fn who(
        &self,
        shown: &[CertificateDer<'static>],
        authorization: Option<&str>,
    ) -> Result<Option<User>, Error> {
        let by_certificate = self
            .client_ca()
            .and_then(|ca| ca.user(shown, Timestamp::now()));
        if by_certificate.is_some() {
            return Ok(by_certificate);
        }
        match authorization.and_then(bearer) {
            Some(token) => self.who_has(token).await,
            None => Ok(None),
        }
    }

    async fn who_has(&self, token: &str) -> Result<Option<User>, Error> {
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let key: [u8; 32] = digest.as_ref().try_into().expect("SHA-256 has 32 bytes");
        if let Some(user) = self.known.get(&key) {
            return Ok(Some(user));
        }
        if self.unknown.get(&key).is_some() {
            return Ok(None);
        }
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: None,
            },
            ..TokenReview::default()
        };
        let answer = self.review(&review).await?;
        let status = answer.status.unwrap_or_default();
        let info = status.user.filter(|_| status.authenticated == Some(true));
        let Some(info) = info else {
            self.unknown.put(key, ());
            return Ok(None);
        };
        let user = User {
            name: info.username.unwrap_or_default(),
            uid: info.uid,
            groups: info.groups.unwrap_or_default(),
            extra: info.extra.unwrap_or_default(),
        };
        self.known.put(key, user.clone());
        Ok(Some(user))
    }

    /// Whether `user` has `right`.
    pub(super) async fn may(&self, user: &User, right: &Right) -> Result<bool, Error> {
        let key = (user.clone(), right.clone());
        if self.allowed.get(&key).is_some() {
            return Ok(true);
        }
        if self.denied.get(&key).is_some() {
            return Ok(false);
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: user.uid.clone(),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(right.verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(right.subresource.to_owned()),
                    name: right.node.clone(),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let answer = self.review(&review).await?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let cache = if allowed { &self.allowed } else { &self.denied };
        cache.put(key, ());
        Ok(allowed)
    }

    async fn review<K>(&self, review: &K) -> Result<K, Error>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>
            + serde::Serialize
            + serde::de::DeserializeOwned
            + Clone
            + std::fmt::Debug,
    {
        let asked = async {
            let _place = self.reviews.acquire().await;
            Api::all(self.client.clone())
                .create(&PostParams::default(), review)
                .await
        };
        let answer = timeout(REVIEW_TIMEOUT, asked).await;
        answer
            .map_err(|_| Error::TimedOut)?
            .map_err(|error| Error::Request(Box::new(error)))
    }
}

/// The token of an `Authorization` header.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.trim().split_once(' ')?;
    let token = token.trim();
    let fits = !token.is_empty() && token.len() <= TOKEN_MAX_BYTES;
    (scheme.eq_ignore_ascii_case("bearer") && fits).then_some(token)
}

/// Answers that are good for a while.
struct Cache<K, V> {
    ttl: Duration,
    entries: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K: Eq + Hash + Clone, V: Clone> Cache<K, V> {
    fn new(ttl: Duration) -> Self {
        Self {
            ttl,
            entries: Mutex::default(),
        }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.get_at(key, Instant::now())
    }

    fn put(&self, key: K, value: V) {
        self.put_at(key, value, Instant::now());
    }

    fn get_at(&self, key: &K, now: Instant) -> Option<V> {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let (until, value) = entries.get(key)?;
        (*until > now).then(|| value.clone())
    }

    /// Keeps `value`. A full cache first loses what is over, and then what ends soonest.
    fn put_at(&self, key: K, value: V, now: Instant) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= CACHE_MAX {
            entries.retain(|_, (until, _)| *until > now);
        }
        if entries.len() >= CACHE_MAX {
            let soonest = entries.iter().min_by_key(|(_, (until, _))| *until);
            if let Some(soonest) = soonest.map(|(key, _)| key.clone()) {
                entries.remove(&soonest);
            }
        }
        entries.insert(key, (now + self.ttl, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_asks_for_the_right_that_a_kubelet_asks_for() {
        for (path, want) in [
            ("/pods", &["pods", "proxy"][..]),
            ("/pods/", &["pods", "proxy"]),
            ("/podsx", &["proxy"]),
            ("/runningpods/", &["pods", "proxy"]),
            ("/healthz", &["healthz", "proxy"]),
            ("/healthz/syncloop", &["healthz", "proxy"]),
            ("/configz", &["configz", "proxy"]),
            ("/stats/summary", &["stats"]),
            ("/metrics", &["metrics"]),
            ("/metrics/resource", &["metrics"]),
            ("/logs/messages", &["log"]),
            ("/containerLogs/ns/pod/c", &["proxy"]),
            ("/exec/ns/pod/c", &["proxy"]),
            ("/", &["proxy"]),
            ("", &["proxy"]),
        ] {
            assert_eq!(subresources(path), want, "{path}");
        }
    }

    #[test]
    fn only_a_bearer_token_of_sane_size_is_read() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        assert_eq!(bearer("Basic abc"), None);
        assert_eq!(bearer("Bearer "), None);
        assert_eq!(bearer(&format!("Bearer {}", "a".repeat(20_000))), None);
    }

    #[test]
    fn an_answer_is_kept_for_its_time_and_not_longer() {
        let cache = Cache::new(Duration::from_secs(30));
        let start = Instant::now();
        cache.put_at(1, "a", start);
        let after = |seconds| cache.get_at(&1, start + Duration::from_secs(seconds));
        assert_eq!(after(29), Some("a"));
        assert_eq!(after(30), None);
    }

    #[test]
    fn a_full_cache_keeps_the_newest_and_never_grows() {
        let cache = Cache::new(Duration::from_secs(30));
        let mut now = Instant::now();
        for key in 0..=CACHE_MAX {
            now += Duration::from_millis(1);
            cache.put_at(key, (), now);
        }
        assert_eq!(cache.entries.lock().unwrap().len(), CACHE_MAX);
        assert_eq!(cache.get_at(&0, now), None);
        assert_eq!(cache.get_at(&CACHE_MAX, now), Some(()));
    }
}
