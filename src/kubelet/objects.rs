//! The objects that a pod refers to, as somebody else can give them.
//!
//! Owns the face of the API server for environment and volumes, and the memory of one resolution:
//! an object that is named ten times is read once. What is made of the objects is decided elsewhere.

use std::collections::BTreeMap;
use std::future::Future;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service, ServiceAccount};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio::sync::Mutex;

use crate::pod::is_object_name;

/// The API server could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("{what} could not be read")]
pub struct Unreadable {
    /// What was asked for.
    pub what: String,
    /// Why there was no answer.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Gives objects by name; `None` for what does not exist.
pub trait Objects: Send + Sync {
    /// A ConfigMap.
    fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<ConfigMap>, Unreadable>> + Send;

    /// A Secret.
    fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> impl Future<Output = Result<Option<Secret>, Unreadable>> + Send;

    /// All Services of a namespace.
    fn services(
        &self,
        namespace: &str,
    ) -> impl Future<Output = Result<Vec<Service>, Unreadable>> + Send;

    /// A token of the pod's service account; `None` where none is to be had.
    fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_s: Option<i64>,
    ) -> impl Future<Output = Result<Option<String>, Unreadable>> + Send;
}

/// The objects of an API server. A pod may name what no object can be called: it is not asked for, for a name is part
/// of the path of a request.
#[derive(Clone)]
pub struct ApiObjects(pub Client);

fn unreadable(what: String) -> impl FnOnce(kube::Error) -> Unreadable {
    |error| Unreadable {
        what,
        source: Box::new(error),
    }
}

impl Objects for ApiObjects {
    async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ConfigMap>, Unreadable> {
        if !is_object_name(name) {
            return Ok(None);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.0.clone(), namespace);
        let found = api.get_opt(name).await;
        found.map_err(unreadable(format!("ConfigMap {namespace}/{name}")))
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Unreadable> {
        if !is_object_name(name) {
            return Ok(None);
        }
        let api: Api<Secret> = Api::namespaced(self.0.clone(), namespace);
        let found = api.get_opt(name).await;
        found.map_err(unreadable(format!("Secret {namespace}/{name}")))
    }

    async fn services(&self, namespace: &str) -> Result<Vec<Service>, Unreadable> {
        let api: Api<Service> = Api::namespaced(self.0.clone(), namespace);
        let list = api.list(&ListParams::default()).await;
        let list = list.map_err(unreadable(format!("the Services of {namespace}")))?;
        Ok(list.items)
    }

    /// Needs the right to create `serviceaccounts/token`; without it there is no token.
    async fn token(
        &self,
        pod: &Pod,
        audience: Option<&str>,
        expiration_s: Option<i64>,
    ) -> Result<Option<String>, Unreadable> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let account = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.service_account_name.as_deref());
        let account = account.unwrap_or("default");
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|audience| vec![audience.to_owned()]),
                // Bound to the pod, so that it ends with it.
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
                expiration_seconds: expiration_s,
            }),
            ..TokenRequest::default()
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.0.clone(), namespace);
        match api
            .create_token_request(account, &PostParams::default(), &request)
            .await
        {
            Ok(answer) => Ok(answer.status.and_then(|status| status.token)),
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => Ok(None),
            Err(error) => {
                let what = format!("a token of ServiceAccount {namespace}/{account}");
                Err(unreadable(what)(error))
            }
        }
    }
}

/// Objects of one namespace, each read once.
pub(super) struct Once<'a, O> {
    pub(super) objects: &'a O,
    namespace: &'a str,
    config_maps: Mutex<BTreeMap<String, Option<ConfigMap>>>,
    secrets: Mutex<BTreeMap<String, Option<Secret>>>,
}

impl<'a, O: Objects> Once<'a, O> {
    pub(super) fn new(objects: &'a O, namespace: &'a str) -> Self {
        Self {
            objects,
            namespace,
            config_maps: Mutex::default(),
            secrets: Mutex::default(),
        }
    }

    pub(super) fn namespace(&self) -> &'a str {
        self.namespace
    }

    pub(super) async fn config_map(&self, name: &str) -> Result<Option<ConfigMap>, Unreadable> {
        let mut known = self.config_maps.lock().await;
        if let Some(known) = known.get(name) {
            return Ok(known.clone());
        }
        let found = self.objects.config_map(self.namespace, name).await?;
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }

    pub(super) async fn secret(&self, name: &str) -> Result<Option<Secret>, Unreadable> {
        let mut known = self.secrets.lock().await;
        if let Some(known) = known.get(name) {
            return Ok(known.clone());
        }
        let found = self.objects.secret(self.namespace, name).await?;
        known.insert(name.to_owned(), found.clone());
        Ok(found)
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Objects in memory.
    #[derive(Debug, Default)]
    pub(in crate::kubelet) struct Memory {
        pub(in crate::kubelet) config_maps: Vec<ConfigMap>,
        pub(in crate::kubelet) secrets: Vec<Secret>,
        pub(in crate::kubelet) services: Vec<Service>,
        pub(in crate::kubelet) token: Option<String>,
        pub(in crate::kubelet) asked: AtomicUsize,
    }

    fn is(meta: &kube::api::ObjectMeta, namespace: &str, name: &str) -> bool {
        meta.namespace.as_deref() == Some(namespace) && meta.name.as_deref() == Some(name)
    }

    impl Objects for Memory {
        async fn config_map(
            &self,
            namespace: &str,
            name: &str,
        ) -> Result<Option<ConfigMap>, Unreadable> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut all = self.config_maps.iter();
            Ok(all.find(|one| is(&one.metadata, namespace, name)).cloned())
        }

        async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, Unreadable> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let mut all = self.secrets.iter();
            Ok(all.find(|one| is(&one.metadata, namespace, name)).cloned())
        }

        async fn services(&self, namespace: &str) -> Result<Vec<Service>, Unreadable> {
            let all = self.services.iter();
            let own = all.filter(|one| one.metadata.namespace.as_deref() == Some(namespace));
            Ok(own.cloned().collect())
        }

        async fn token(
            &self,
            _: &Pod,
            _: Option<&str>,
            _: Option<i64>,
        ) -> Result<Option<String>, Unreadable> {
            Ok(self.token.clone())
        }
    }
}
